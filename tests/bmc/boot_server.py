"""A stand-in for metalserve's boot server: one permission an order, as the installer's protocol says."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from metalserve.lab.bmc.machine import disk_of, serial_of


class BootServer:
    """Serves until stopped.

    Attributes:
        permissions: how many machines may still be written.
        asked: bodies of the permissions that were asked for.
        results: what was reported.
        scripts: queries for the iPXE script.
    """

    def __init__(self, host: str, *, address: str = "127.0.0.1", image: bytes = b"an image") -> None:
        self.host = host
        self.image = image
        self.files: dict[str, dict[str, Any]] = {"disk.raw.zst": {"sha256": hashlib.sha256(image).hexdigest()}}
        self.contents: dict[str, bytes] = {"disk.raw.zst": image}
        self.disk = disk_of(host)
        self.permissions = 1
        self.asked: list[dict[str, Any]] = []
        self.results: list[dict[str, Any]] = []
        self.scripts: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                """Keep still."""

            def do_GET(self) -> None:
                if self.path.startswith("/v1/boot/ipxe"):
                    outer.scripts.append(self.path)
                    return self._send(200, b"#!ipxe\nexit\n")
                name = self.path.rsplit("/", 1)[-1]
                if name == "manifest.json":
                    return self._send(200, json.dumps({"files": outer.files}).encode())
                found = outer.contents.get(name)
                return self._send(200 if found is not None else 404, found or b"")

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path == "/v1/result":
                    outer.results.append(body)
                    return self._send(200, b'{"taken": true}')
                outer.asked.append(body)
                if not outer.permissions or body["identity"]["serial"] != serial_of(outer.host):
                    return self._send(200, b'{"write": false, "reason": "no order waits for this machine"}')
                outer.permissions -= 1
                files = f"{outer.url}/v1/files/debian/20261126T000000Z-abc"
                answer = {
                    "write": True,
                    "order": "7",
                    "token": "t",
                    "disk": outer.disk,
                    "image": f"{files}/disk.raw.zst",
                    "size": 1,
                    "raw_sha256": "0" * 64,
                    "manifest": f"{files}/manifest.json",
                    "signature": f"{files}/manifest.json.minisig",
                }
                return self._send(200, json.dumps(answer).encode())

            def _send(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.server = ThreadingHTTPServer((address, 0), Handler)
        self.url = f"http://{address}:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.1,), daemon=True).start()

    def offer(self, name: str, content: bytes) -> None:
        """Have the build hold one more file."""
        self.contents[name] = content
        self.files[name] = {"sha256": hashlib.sha256(content).hexdigest()}

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
