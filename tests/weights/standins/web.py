"""What all stand-ins share: a server in a thread, byte ranges, a record of what was asked for."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Asked:
    """One request."""

    method: str
    target: str
    headers: dict[str, str]

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, str]:
        parsed = parse_qs(urlsplit(self.target).query, keep_blank_values=True)
        return {name: values[0] for name, values in parsed.items()}

    def header(self, name: str) -> str:
        return self.headers.get(name.lower(), "")


@dataclass
class Answer:
    """One answer. A 200 with a body heeds `Range`; `cut` ends the connection after so many bytes of the body."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None


@dataclass
class Web:
    """A running stand-in.

    Attributes:
        url: http://127.0.0.1:PORT.
        asked: every request, in the order they came.
        connections: how many were made.
        rude: end connections after each answer without a word.
    """

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    rude: bool = False

    def paths(self, method: str = "GET") -> list[str]:
        return [each.path for each in self.asked if each.method == method]


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client may go away, which is no fault of the server
            super().handle_error(request, client_address)


@contextmanager
def serving(
    answer: Callable[[Asked], Answer], web: Web | None = None, *, host: str = "127.0.0.1", port: int = 0
) -> Iterator[Web]:
    """Serve what `answer` says, on a free port of the loopback where no other is given, until the end of the block."""
    web = web or Web()
    sockets: list[socket.socket] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def setup(self) -> None:
            super().setup()
            web.connections += 1
            sockets.append(self.connection)

        def _any(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, self.path, headers)
            web.asked.append(asked)
            self._send(asked, answer(asked))

        do_GET = do_HEAD = _any

        def _send(self, asked: Asked, given: Answer) -> None:
            body, status, headers = given.body, given.status, dict(given.headers)
            ranged = asked.header("range")
            if status == 200 and ranged.startswith("bytes=") and headers.get("Accept-Ranges") != "none":
                first, _, last = ranged[6:].partition("-")
                start, end = int(first), min(int(last) + 1 if last else len(body), len(body))
                if start >= len(body):
                    status, body = 416, b""
                else:
                    headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}"
                    status, body = 206, body[start:end]
            headers.setdefault("Content-Length", str(len(body)))
            self.send_response_only(status)
            headers.setdefault("Date", self.date_time_string())
            for name, value in headers.items():
                if value:
                    self.send_header(name, value)
            self.end_headers()
            if asked.method == "HEAD":
                return
            with suppress(OSError):
                self.wfile.write(body if given.cut is None else body[: given.cut])
            if given.cut is not None or not headers["Content-Length"] or web.rude:
                self.close_connection = True

    server = _Server((host, port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    web.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        for each in sockets:  # a kept connection would lead to this server when the next one gets its port
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
