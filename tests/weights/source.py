"""A small model source for tests: byte ranges, and faults on demand."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


@dataclass
class Source:
    """What is served under `/ORG/NAME/resolve/REV/`, and what goes wrong.

    Attributes:
        files: path -> bytes.
        cut: path -> bytes after which the connection is cut, once per entry of the list.
        corrupt: path -> how many times a byte of it is flipped on the way.
        token: when set, requests without it get 401.
        ranges: whether a `Range` is heeded.
        requests: (path, first byte asked for) in the order they came.
        slow_s: seconds between two blocks of 64 KiB.
    """

    files: dict[str, bytes]
    cut: dict[str, list[int]] = field(default_factory=dict)
    corrupt: dict[str, int] = field(default_factory=dict)
    token: str = ""
    ranges: bool = True
    requests: list[tuple[str, int]] = field(default_factory=list)
    url: str = ""
    slow_s: float = 0.0


@contextmanager
def serving(source: Source) -> Iterator[Source]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            path = unquote(self.path).split("/resolve/", 1)[1].split("/", 1)[1]
            if source.token and self.headers.get("Authorization") != f"Bearer {source.token}":
                return self.send_error(401)
            if path not in source.files:
                return self.send_error(404)
            body = source.files[path]
            first = 0
            asked = self.headers.get("Range", "")
            if asked.startswith("bytes=") and source.ranges:
                first = int(asked[6:].split("-")[0])
            source.requests.append((path, first))
            if first and first >= len(body):
                return self.send_error(416)
            if source.corrupt.get(path, 0) > 0:
                source.corrupt[path] -= 1
                middle = len(body) // 2
                body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
            self.send_response(206 if first else 200)
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Length", str(len(body) - first))
            self.end_headers()
            end = len(body)
            if source.cut.get(path):
                end = min(end, first + source.cut[path].pop(0))
            try:
                for at in range(first, end, 65536):
                    self.wfile.write(body[at : min(end, at + 65536)])
                    if source.slow_s:
                        threading.Event().wait(source.slow_s)
            except OSError:
                pass
            if end < len(body):
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    source.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield source
    finally:
        server.shutdown()
        server.server_close()
