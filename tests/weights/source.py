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
        status: path -> statuses that are answered first, one a request.
        stall: path -> how many times the body stands still after its first half.
        chunked: whether the length is left open.
        redirect: base URL that every request is sent on to, or empty.
        authorised: authorisation that came with each request.
        sent: bytes of bodies.
    """

    files: dict[str, bytes]
    cut: dict[str, list[int]] = field(default_factory=dict)
    corrupt: dict[str, int] = field(default_factory=dict)
    token: str = ""
    ranges: bool = True
    requests: list[tuple[str, int]] = field(default_factory=list)
    url: str = ""
    slow_s: float = 0.0
    status: dict[str, list[int]] = field(default_factory=dict)
    stall: dict[str, int] = field(default_factory=dict)
    chunked: bool = False
    redirect: str = ""
    authorised: list[str | None] = field(default_factory=list)
    sent: int = 0


@contextmanager
def serving(source: Source, port: int = 0) -> Iterator[Source]:
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            path = unquote(self.path).split("/resolve/", 1)[1].split("/", 1)[1]
            source.authorised.append(self.headers.get("Authorization"))
            if source.redirect:
                self.send_response(302)
                self.send_header("Location", source.redirect + self.path)
                self.send_header("Content-Length", "0")
                return self.end_headers()
            if source.token and self.headers.get("Authorization") != f"Bearer {source.token}":
                return self.send_error(401)
            if path not in source.files:
                return self.send_error(404)
            if source.status.get(path):
                source.requests.append((path, -1))
                return self.send_error(source.status[path].pop(0))
            body = source.files[path]
            first = 0
            asked = self.headers.get("Range", "")
            last = None
            if asked.startswith("bytes=") and source.ranges:
                first, last = int(asked[6:].split("-")[0]), asked[6:].split("-")[1]
            source.requests.append((path, first))
            if first and first >= len(body):
                return self.send_error(416)
            if source.corrupt.get(path, 0) > 0:
                source.corrupt[path] -= 1
                middle = len(body) // 2
                body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
            whole = len(body)
            if last:
                body = body[: int(last) + 1]
            self.send_response(206 if first or last else 200)
            if first or last:
                self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{whole}")
            if source.chunked:
                self.send_header("Transfer-Encoding", "chunked")
            else:
                self.send_header("Content-Length", str(len(body) - first))
            self.end_headers()
            end = len(body)
            if source.cut.get(path):
                end = min(end, first + source.cut[path].pop(0))
            try:
                for at in range(first, end, 65536):
                    if at - first >= (end - first) // 2 and source.stall.get(path, 0) > 0:
                        source.stall[path] -= 1
                        ended.wait(30)
                        self.close_connection = True
                        return None
                    part = body[at : min(end, at + 65536)]
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part) if source.chunked else part)
                    source.sent += len(part)
                    if source.slow_s:
                        threading.Event().wait(source.slow_s)
                if source.chunked and end == len(body):
                    self.wfile.write(b"0\r\n\r\n")
            except OSError:
                self.close_connection = True
            if end < len(body):
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    source.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield source
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
