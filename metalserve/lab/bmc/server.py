"""A lab BMC on the network: HTTPS, sessions, ETags, and the faults that are those of a service. SIMULATED."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import json
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from metalserve.lab.bmc import certificate, faults, tree
from metalserve.lab.bmc.board import TARGETS, Board
from metalserve.lab.bmc.listener import TlsServer

MOST_SESSIONS = 8
"""Sessions that there is room for: clients that do not end theirs find it full."""
LARGEST = 1 << 20


class BmcServer:
    """Serves one BMC until it is stopped."""

    def __init__(self, board: Board, address: str, port: int, user: str, password: str) -> None:
        """Listen; the certificate lies in the BMC's directory, and is made there when it is missing."""
        self.board = board
        self.user = user
        self.password = password
        self.tokens: dict[str, str] = {}
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        usual, other = board.directory / "server.pem", board.directory / "other.pem"
        certificate.make(usual, board.machine.name, address)
        self._contexts = {usual: certificate.context(usual)}

        def context() -> ssl.SSLContext:
            path = other if board.faulty("certificate-changed") else usual
            if path not in self._contexts:
                certificate.make(other, board.machine.name, address)
                self._contexts[path] = certificate.context(path)
            return self._contexts[path]

        handler = type("Handler", (_Handler,), {"service": self})
        self.server = TlsServer((address, port), handler, context)
        self.port = int(self.server.server_address[1])

    def start(self) -> None:
        """Serve in a thread."""
        threading.Thread(target=self.server.serve_forever, args=(0.2,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        self.server.shutdown()
        self.server.server_close()


class _Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str, message: str) -> None:
        self.status, self.code, self.message = status, code, message
        super().__init__(message)


class _Handler(BaseHTTPRequestHandler):
    service: BmcServer
    protocol_version = "HTTP/1.1"
    server_version = "metalserve-lab-bmc"
    sys_version = ""

    def log_message(self, format: str, *args: Any) -> None:
        """Keep still."""

    def do_GET(self) -> None:
        self._answered(self._get)

    def do_POST(self) -> None:
        self._answered(self._post)

    def do_PATCH(self) -> None:
        self._answered(self._patch)

    def do_DELETE(self) -> None:
        self._answered(self._delete)

    # -- around every request -----------------------------------------------------------------------------------
    def _answered(self, answer: Callable[[str, dict[str, Any]], None]) -> None:
        board = self.service.board
        path = self.path.split("?", 1)[0].rstrip("/")
        with self.service.lock:
            self.service.requests.append((self.command, path))
            del self.service.requests[:-500]
        try:
            body = self._body()
            if board.faulty("hang"):
                self._hang()
                return
            if board.faulty("slow"):
                time.sleep(faults.SLOW_S)
            if not self._open(path):
                self._allowed()
            reason = tree.unavailable(board, path)
            if reason and not path.startswith(f"{tree.ROOT}/SessionService"):
                raise _Refused(503, reason, "The service is temporarily unavailable. Retry later.")
            answer(path, body)
        except _Refused as refused:
            error = {"code": refused.code, "message": refused.message,
                     "@Message.ExtendedInfo": [{"MessageId": refused.code, "Message": refused.message,
                                                "Severity": "Critical"}]}  # fmt: skip
            self._send(refused.status, {"error": error})

    def _open(self, path: str) -> bool:
        return (self.command == "GET" and path in ("/redfish", tree.ROOT)) or (
            self.command == "POST" and path == f"{tree.ROOT}/SessionService/Sessions"
        )

    def _hang(self) -> None:
        self.close_connection = True
        deadline = time.monotonic() + 600
        while self.service.board.faulty("hang") and time.monotonic() < deadline:
            time.sleep(0.2)

    def _body(self) -> dict[str, Any]:
        length = int(self.headers.get("Content-Length") or 0)
        if length > LARGEST:
            raise _Refused(413, "Base.1.8.GeneralError", "too large")
        try:
            value = json.loads(self.rfile.read(length) or b"{}")
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise _Refused(400, "Base.1.8.MalformedJSON", "The request body is no JSON object.")
        return value

    def _allowed(self) -> None:
        token = self.headers.get("X-Auth-Token")
        kind, _, rest = (self.headers.get("Authorization") or "").partition(" ")
        if token and token in self.service.tokens and not self.service.board.faulty("wrong-credentials"):
            return
        if kind == "Basic":
            with contextlib.suppress(binascii.Error, UnicodeDecodeError):
                user, _, password = base64.b64decode(rest).decode().partition(":")
                if self._knows(user, password):
                    return
        raise _Refused(401, "Base.1.8.NoValidSession", "There is no valid session established.")

    def _knows(self, user: object, password: object) -> bool:
        right = hmac.compare_digest(str(user), self.service.user)
        right &= hmac.compare_digest(str(password), self.service.password)
        return right and not self.service.board.faulty("wrong-credentials")

    # -- requests -----------------------------------------------------------------------------------------------
    def _get(self, path: str, _: dict[str, Any]) -> None:
        board = self.service.board
        if path == "/redfish":
            return self._send(200, {"v1": "/redfish/v1/"})
        if path == f"{tree.ROOT}/SessionService/Sessions":
            with self.service.lock:
                members = [f"{path}/{number}" for number in self.service.tokens.values()]
            return self._send(200, {"@odata.id": path, **tree.collection(path, members)})
        body = tree.resource(board, path)
        if body is None:
            raise _Refused(404, "Base.1.8.ResourceMissingAtURI", f"The resource at {path} was not found.")
        if "$expand" in self.path and "Members" in body:
            whole = []
            for member in body["Members"]:
                missing = len(member) == 1 and not tree.unavailable(board, member["@odata.id"])
                whole.append((tree.resource(board, member["@odata.id"]) if missing else None) or member)
            body["Members"] = whole
        self._send(200, body, {"ETag": _etag(body)})

    def _post(self, path: str, body: dict[str, Any]) -> None:
        board = self.service.board
        if path == f"{tree.ROOT}/SessionService/Sessions":
            return self._session(path, body)
        if path == f"{tree.SYSTEM}/Actions/ComputerSystem.Reset":
            try:
                board.reset(str(body.get("ResetType")))
            except ValueError:
                raise _Refused(
                    400, "Base.1.8.ActionParameterNotSupported", "ResetType is not one that is offered."
                ) from None
            return self._changed()
        if path == f"{tree.MEDIA}/Actions/VirtualMedia.InsertMedia":
            image = body.get("Image")
            if not isinstance(image, str) or not image.startswith(("http://", "https://")):
                raise _Refused(400, "Base.1.8.PropertyValueFormatError", "Image is no URL.")
            if board.state()["media"]["Inserted"]:
                raise _Refused(409, "Base.1.8.ResourceInUse", "The drive has an image already.")
            board.remember(media={"Image": image, "Inserted": True})
            board.note("Virtual media inserted", code="OpenBMC.0.1.VirtualMediaInserted")
            return self._changed()
        if path == f"{tree.MEDIA}/Actions/VirtualMedia.EjectMedia":
            board.remember(media={"Image": None, "Inserted": False})
            return self._changed()
        raise _Refused(405, "Base.1.8.OperationNotAllowed", "Nothing can be posted here.")

    def _session(self, path: str, body: dict[str, Any]) -> None:
        if not self._knows(body.get("UserName"), body.get("Password")):
            raise _Refused(401, "Base.1.8.ResourceAtUriUnauthorized", "Wrong user name or password.")
        with self.service.lock:
            if len(self.service.tokens) >= MOST_SESSIONS or self.service.board.faulty("sessions-full"):
                raise _Refused(503, "Base.1.8.SessionLimitExceeded", "There is no room for one more session.")
            token, number = secrets.token_hex(16), secrets.token_hex(4)
            self.service.tokens[token] = number
        self._send(
            201,
            {"@odata.id": f"{path}/{number}", "Id": number},
            {"X-Auth-Token": token, "Location": f"{path}/{number}"},
        )

    def _patch(self, path: str, body: dict[str, Any]) -> None:
        board = self.service.board
        if path != tree.SYSTEM:
            raise _Refused(405, "Base.1.8.OperationNotAllowed", "This cannot be changed.")
        wanted = self.headers.get("If-Match")
        if wanted not in (None, "*", _etag(tree.resource(board, path) or {})):
            raise _Refused(412, "Base.1.8.PreconditionFailed", "The ETag is not that of the resource.")
        change = body.get("Boot")
        if not isinstance(change, dict):
            raise _Refused(400, "Base.1.8.PropertyMissing", "Boot is missing.")
        boot = dict(board.state()["boot"])
        for name, allowed in (
            ("Target", TARGETS),
            ("Enabled", ("Once", "Continuous", "Disabled")),
            ("Mode", ("UEFI", "Legacy")),
        ):
            value = change.get(f"BootSourceOverride{name}", boot[name])
            if value not in allowed:
                raise _Refused(400, "Base.1.8.PropertyValueNotInList", f"BootSourceOverride{name} cannot be {value}.")
            boot[name] = value
        boot["HttpBootUri"] = change.get("HttpBootUri", boot["HttpBootUri"])
        if boot["Enabled"] == "Disabled":
            boot["Target"] = "None"
        if boot["Enabled"] == "Once" and board.faulty("once-ignored"):
            boot["Enabled"] = "Continuous"
        if not board.faulty("boot-ignored"):
            board.remember(boot=boot)
        self._changed()

    def _delete(self, path: str, _: dict[str, Any]) -> None:
        number = path.removeprefix(f"{tree.ROOT}/SessionService/Sessions/")
        with self.service.lock:
            found = [token for token, each in self.service.tokens.items() if each == number]
            for token in found:
                del self.service.tokens[token]
        if not found:
            raise _Refused(404, "Base.1.8.ResourceMissingAtURI", "There is no such session.")
        self._send(204, None)

    # -- answers ------------------------------------------------------------------------------------------------
    def _changed(self) -> None:
        if self.service.board.faulty("answer-lost"):
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._send(204, None)

    def _send(self, status: int, body: dict[str, Any] | None, headers: dict[str, str] | None = None) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        with contextlib.suppress(OSError):  # whoever asked may have gone
            self.send_response(status)
            self.send_header("OData-Version", "4.0")
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            if body is not None:
                self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)


def _etag(body: dict[str, Any]) -> str:
    return f'"{hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]}"'
