"""The boot server: tells a machine what to boot, gives an installer its one permission, takes its result, sends files.

    GET  /v1/boot/ipxe?mac=...&serial=...&uuid=...   a script for iPXE: the installer when an order waits, else the disk
    GET  /v1/boot/grub?...                           the same for GRUB, which machines with Secure Boot start
    POST /v1/permission {identity, disks}            {write: true, order, token, disk, image, ...} or {write: false, reason}
    POST /v1/result {order, token, status, words,    {taken: true} or {taken: false, reason}
                     host_keys (if any)}
    GET  /v1/files/NAME/BUILD/FILE                   what the shelf has of a build; ranges are answered
    GET  /boot/...                                   the boot tree (`metalserve template publish`)

Nobody logs in here, since a bare machine knows no secret. What keeps a disk from being wiped by mistake is the order
(one machine, one disk, one permission); what keeps a wrong image off it is the signature, which the installer checks.
"""  # noqa: E501 - a table

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, ClassVar, Final
from urllib.parse import parse_qsl, urlsplit

from pydantic import ValidationError

from metalserve.errors import MetalserveError
from metalserve.templates.manifest import DISK, MANIFEST, SIGNATURE, Manifest
from metalserve.templates.order import Disk, Order, Refused
from metalserve.templates.orders import Orders
from metalserve.templates.serving_requests import BOOT, FILE, HOST, Asked, Result, asked_range
from metalserve.templates.serving_scripts import LOADERS, Loader, boot_script, who
from metalserve.templates.signing import TrustedKey, verified_manifest

BODY_LIMIT: Final = 256 * 1024
"""Bytes of a request's body: a machine with a hundred disks says less."""

SILENCE_S: Final = 60.0
"""Seconds that a peer may say nothing before its connection is closed."""


@dataclass(frozen=True)
class Served:
    """What a boot server serves.

    Attributes:
        shelf: directory of the templates.
        orders: the orders.
        keys: public keys, one of which must have signed what is given out.
        boot: the boot tree, or None when there is none.
        url: the server's URL as machines reach it; empty: the one that they ask by.
        arguments: further kernel arguments of the installer (`console=ttyS1,115200`).
        log: where each request is written, a line of JSON each.
    """

    shelf: Path
    orders: Orders
    keys: tuple[TrustedKey, ...]
    boot: Path | None = None
    url: str = ""
    arguments: str = ""
    log: IO[str] = field(default_factory=lambda: sys.stdout)


def boot_server(served: Served, address: str = "0.0.0.0", port: int = 0) -> ThreadingHTTPServer:  # noqa: S104
    """Return the server, listening; `serve_forever()` serves, each request in its thread.

    Args:
        served: what it serves.
        address: where it listens.
        port: its port; 0: a free one (`server_address` tells).

    Raises:
        MetalserveError: it cannot listen there.
    """
    handler = type("Handler", (_Handler,), {"served": served})
    try:
        return _Server((address, port), handler)
    except OSError as error:
        raise MetalserveError(f"cannot listen: {error.strerror}", where=f"{address}:{port}") from error


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # a rack that is powered on at once


class _Handler(BaseHTTPRequestHandler):
    served: ClassVar[Served]
    protocol_version = "HTTP/1.1"
    server_version = "metalserve"
    sys_version = ""
    timeout = SILENCE_S

    def handle(self) -> None:
        """Answer until the peer is gone: firmware that starts a kernel resets its connections, which is no error."""
        with contextlib.suppress(ConnectionResetError):
            super().handle()

    def do_GET(self) -> None:
        """Answer GET (and HEAD, without the body)."""
        self._guarded(self._get)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Answer POST."""
        self._guarded(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing: `_note` has one line a request, with what was decided."""

    def _guarded(self, answer: Any) -> None:
        try:
            answer()
        except _Bad as error:
            self.close_connection = True  # what is left of the body would be read as the next request
            self._json({"reason": str(error)}, error.status)
        except MetalserveError as error:
            # Something of ours is broken: the machine must not write, and boots its disk.
            self._json({"write": False, "taken": False, "reason": str(error)}, HTTPStatus.INTERNAL_SERVER_ERROR)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            self.close_connection = True
            self._note(499, "the machine went away")

    def _get(self) -> None:
        split = urlsplit(self.path)
        if (loader := split.path.removeprefix("/v1/boot/")) in LOADERS:
            self._script(loader, parse_qsl(split.query, max_num_fields=64))
        elif found := FILE.fullmatch(split.path):
            name, build, file = found.groups()
            self._file(self.served.shelf / name / build / file, self.served.shelf)
        elif (found := BOOT.fullmatch(split.path)) and self.served.boot is not None:
            self._file(self.served.boot / found[1].lstrip("/"), self.served.boot)
        else:
            raise _Bad(HTTPStatus.NOT_FOUND, "there is nothing here")

    def _post(self) -> None:
        body = self._body()
        try:
            if self.path == "/v1/permission":
                self._permission(Asked.model_validate(body))
            elif self.path == "/v1/result":
                self._result(Result.model_validate(body))
            else:
                raise _Bad(HTTPStatus.NOT_FOUND, "there is nothing here")
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the body"
            raise _Bad(HTTPStatus.BAD_REQUEST, f"{where}: {first['msg']}") from None

    def _script(self, loader: Loader, query: list[tuple[str, str]]) -> None:
        served = self.served
        script, note = boot_script(
            loader, who(query), served.orders, served.shelf, url=self._url(), arguments=served.arguments
        )
        self._text(script, note=note)

    def _permission(self, asked: Asked) -> None:
        found: list[Manifest] = []

        def fits(order: Order, disk: Disk) -> None:
            manifest = verified_manifest(self.served.shelf / order.template / order.build, self.served.keys)
            if disk.size_bytes < manifest.raw.size:
                raise Refused(f"disk {disk.serial} has {disk.size_bytes} bytes, the image {manifest.raw.size}")
            found.append(manifest)

        try:
            order = self.served.orders.permit(asked.identity, asked.disks, check=fits)
        except Refused as refused:
            self._json({"write": False, "reason": str(refused)}, note=f"refused: {refused}")
            return
        files = f"{self._url()}/v1/files/{order.template}/{order.build}"
        answer = {
            "write": True,
            "order": order.number,
            "node": order.node,
            "token": order.token,
            "template": order.template,
            "build": order.build,
            "disk": order.disk.serial,
            "image": f"{files}/{DISK}",
            "size": found[0].raw.size,
            "raw_sha256": found[0].raw.sha256,
            "manifest": f"{files}/{MANIFEST}",
            "signature": f"{files}/{SIGNATURE}",
        }
        self._json(answer, note=f"permitted: {order.node}, disk {order.disk.serial}")

    def _result(self, result: Result) -> None:
        try:
            order = self.served.orders.finish(
                result.order, result.token, result.status, result.words, host_keys=result.host_keys
            )
        except Refused as refused:
            self._json({"taken": False, "reason": str(refused)}, HTTPStatus.CONFLICT, note=f"result refused: {refused}")
            return
        self._json({"taken": True}, note=f"{order.node}: {order.state}: {order.words}")

    def _url(self) -> str:
        if self.served.url:
            return self.served.url.rstrip("/")
        host = self.headers.get("Host", "")
        # It goes into a script that a machine runs.
        if HOST.fullmatch(host) is None:
            raise _Bad(HTTPStatus.BAD_REQUEST, "the request names no host")
        return f"http://{host}"

    def _body(self) -> Any:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise _Bad(HTTPStatus.LENGTH_REQUIRED, "the request has no length")
        if int(length) > BODY_LIMIT:
            raise _Bad(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {BODY_LIMIT} bytes")
        try:
            return json.loads(self.rfile.read(int(length)))
        except ValueError:
            raise _Bad(HTTPStatus.BAD_REQUEST, "the body is not JSON") from None

    def _file(self, path: Path, below: Path) -> None:
        # A channel (`stable`) is a link to a build beside it; nothing may lead out.
        if not path.resolve().is_relative_to(below.resolve()) or not path.is_file():
            raise _Bad(HTTPStatus.NOT_FOUND, "no such file")
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            first, last = asked_range(self.headers.get("Range", ""), size)
            if first > last and size:
                self._head(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, 0, {"Content-Range": f"bytes */{size}"})
                return
            part = (first, last) != (0, size - 1)
            extra = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
            if part:
                extra["Content-Range"] = f"bytes {first}-{last}/{size}"
            began = time.monotonic()
            self._head(HTTPStatus.PARTIAL_CONTENT if part else HTTPStatus.OK, last - first + 1, extra, quiet=True)
            if self.command != "HEAD" and size:
                self.wfile.flush()
                stream.seek(0)
                self.connection.sendfile(stream, first, last - first + 1)
            self._note(HTTPStatus.OK, f"{last - first + 1} bytes in {time.monotonic() - began:.1f} s")

    def _text(self, text: str, *, note: str) -> None:
        self._send(text.encode(), "text/plain; charset=utf-8", HTTPStatus.OK, note)

    def _json(self, value: Mapping[str, Any], status: HTTPStatus = HTTPStatus.OK, *, note: str = "") -> None:
        self._send(json.dumps(value).encode() + b"\n", "application/json", status, note or str(value.get("reason", "")))

    def _send(self, body: bytes, kind: str, status: HTTPStatus, note: str) -> None:
        self._head(status, len(body), {"Content-Type": kind, "Cache-Control": "no-store"}, quiet=True)
        if self.command != "HEAD":
            self.wfile.write(body)
        self._note(status, note)

    def _head(self, status: HTTPStatus, length: int, extra: Mapping[str, str], *, quiet: bool = False) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(length), **extra}.items():
            self.send_header(key, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if not quiet:
            self._note(status, "")

    def _note(self, status: int, words: str) -> None:
        line = {
            "at": round(time.time(), 1),
            "from": self.client_address[0],
            "asked": f"{self.command} {urlsplit(self.path).path[:200]}",
            "status": int(status),
            "words": words,
        }
        self.served.log.write(json.dumps(line) + "\n")
        self.served.log.flush()


class _Bad(Exception):
    """A request that no installer of ours would make."""

    def __init__(self, status: HTTPStatus, words: str) -> None:
        self.status = status
        super().__init__(words)
