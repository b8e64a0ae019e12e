"""vLLM's HTTP API over the stand-in engine: the same paths, status codes and shapes, with `simulated: true` in them."""

from __future__ import annotations

import hmac
import json
import os
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from .engine import Engine, EngineStoppedError, count_tokens, fault

PROTECTED = ("/v1", "/v2", "/inference", "/cohere")
"""What --api-key protects; all else stays open, /invocations too (vLLM 0.33 docs/usage/security.md)."""


class ApiError(Exception):
    """A refusal with vLLM's error shape."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": status}, "simulated": True}


class Server(ThreadingHTTPServer):
    """The listening socket, with what the handlers need."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], engine: Engine, *, version: str, model: str, keys: list[str]) -> None:
        self.engine = engine
        self.version = version
        self.model = model
        self.keys = keys
        self.created = int(time.time())
        super().__init__(address, Handler)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version = "uvicorn"
    sys_version = ""
    timeout = 65
    disable_nagle_algorithm = True  # as uvicorn does; else the first token waits for an acknowledgement
    server: Server
    _status = 0
    _raw = b""
    _gets: ClassVar[dict[str, str]] = {
        "/health": "_health",
        "/ping": "_health",
        "/version": "_version",
        "/load": "_load",
        "/metrics": "_metrics",
        "/v1/models": "_models",
    }
    _posts: ClassVar[dict[str, str]] = {
        "/ping": "_health",
        "/v1/completions": "_completions",
        "/v1/chat/completions": "_chat",
        "/invocations": "_invocations",
        "/tokenize": "_tokenize",
    }

    def log_message(self, format: str, *args: Any) -> None:
        """Print the access line as uvicorn does, without the probes' noise."""
        if self.path.split("?")[0] not in {"/health", "/metrics"}:
            client = f"{self.client_address[0]}:{self.client_address[1]}"
            request = f'"{self.command} {self.path} HTTP/1.1" {self._status}'
            print(f"(APIServer pid={os.getpid()}) INFO:     {client} - {request}", flush=True)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log once, with the status that was sent."""
        self._status = int(code)
        self.log_message("")

    def _send(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Metalserve-Simulated", "true")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: object, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode())

    def do_GET(self) -> None:
        """Answer a GET."""
        self._route(self._gets, self._posts)

    def do_HEAD(self) -> None:
        """Answer a HEAD."""
        self._route(self._gets, self._posts)

    def do_POST(self) -> None:
        """Answer a POST; the body is read whatever the answer will be, or it would be taken for the next request."""
        self._raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._route(self._posts, self._gets)

    def _route(self, table: dict[str, str], other: dict[str, str]) -> None:
        path = self.path.split("?")[0]
        try:
            if self._refused(path):
                self._json({"error": "Unauthorized"}, 401)
            elif path in table:
                getattr(self, table[path])()
            elif path in other:
                self._json({"detail": "Method Not Allowed"}, 405)
            else:
                self._json({"detail": "Not Found"}, 404)
        except ApiError as error:
            self._json(error.body, error.status)
        except EngineStoppedError as error:
            body = ApiError(500, "InternalServerError", str(error)).body
            self._json(body, 500)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        if self.command == "POST":
            group = f"{self._status // 100}xx"
            self.server.engine.metrics.add("http_requests_total", handler=path, method="POST", status=group)

    def _refused(self, path: str) -> bool:
        if not self.server.keys or not path.startswith(PROTECTED):
            return False
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        return scheme.lower() != "bearer" or not any(hmac.compare_digest(given, key) for key in self.server.keys)

    def _body(self) -> dict[str, Any]:
        try:
            value = json.loads(self._raw)
        except ValueError as error:
            raise ApiError(
                400, "Bad Request", f"[{{'type': 'json_invalid', 'msg': 'JSON decode error: {error}'}}]"
            ) from None
        if not isinstance(value, dict):
            raise ApiError(400, "Bad Request", "the body must be a JSON object")
        return value

    def _health(self) -> None:
        self._send(503 if fault() == "dead" else 200, b"")

    def _version(self) -> None:
        self._json({"version": self.server.version, "simulated": True})

    def _load(self) -> None:
        self._json({"server_load": self.server.engine.in_flight})

    def _metrics(self) -> None:
        text = self.server.engine.metrics.render()
        self._send(200, text.encode(), "text/plain; version=0.0.4; charset=utf-8")

    def _models(self) -> None:
        settings = self.server.engine.settings
        models = [
            {
                "id": name,
                "object": "model",
                "created": self.server.created,
                "owned_by": "vllm",
                "root": self.server.model,
                "parent": None,
                "max_model_len": settings.max_model_len,
                "simulated": True,
            }
            for name in settings.served_names
        ]
        self._json({"object": "list", "data": models, "simulated": True})

    def _tokenize(self) -> None:
        text = str(self._body().get("prompt", ""))
        self._json({"count": count_tokens(text), "max_model_len": self.server.engine.settings.max_model_len})

    def _invocations(self) -> None:
        body = self._body()
        self._answer(body, chat="messages" in body)

    def _completions(self) -> None:
        self._answer(self._body(), chat=False)

    def _chat(self) -> None:
        self._answer(self._body(), chat=True)

    def _admit(self, body: dict[str, Any], *, chat: bool) -> tuple[str, str, int]:
        """Return (model name, prompt, tokens to generate), or refuse as vLLM does."""
        settings = self.server.engine.settings
        name = body.get("model") or settings.served_names[0]
        if name not in settings.served_names:
            raise ApiError(404, "NotFoundError", f"The model `{name}` does not exist.", "model")
        if chat:
            messages = body.get("messages")
            if not isinstance(messages, list) or not messages:
                raise ApiError(400, "BadRequestError", "messages must be a list with at least one message", "messages")
            prompt = "\n".join(f"{m.get('role')}: {m.get('content')}" for m in messages if isinstance(m, dict))
        else:
            given = body.get("prompt", "")
            prompt = given if isinstance(given, str) else " ".join(map(str, given))
            if not prompt:
                raise ApiError(400, "BadRequestError", "prompt must not be empty", "prompt")
        length = count_tokens(prompt)
        room = settings.max_model_len - length
        wanted = body.get("max_completion_tokens") or body.get("max_tokens")
        if wanted is None:
            wanted = max(1, min(room, 64)) if chat else 16
        if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1:
            raise ApiError(400, "BadRequestError", f"max_tokens must be at least 1, got {wanted}.", "max_tokens")
        if wanted > room:
            message = (
                f"This model's maximum context length is {settings.max_model_len} tokens. However, you requested "
                f"{wanted} output tokens and your prompt contains at least {length} input tokens, for a total of at "
                f"least {length + wanted} tokens. Please reduce the length of the input prompt or the number of "
                f"requested output tokens. (parameter=input_tokens, value={length})"
            )
            raise ApiError(400, "BadRequestError", message, "input_tokens")
        return str(name), prompt, wanted

    def _answer(self, body: dict[str, Any], *, chat: bool) -> None:
        name, prompt, wanted = self._admit(body, chat=chat)
        identity = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex[:16]}"
        frame: dict[str, Any] = {"id": identity, "created": int(time.time()), "model": name, "simulated": True}
        tokens = self.server.engine.generate(prompt, wanted)
        length = count_tokens(prompt)
        usage = {"prompt_tokens": length, "total_tokens": length + wanted, "completion_tokens": wanted}
        if body.get("stream"):
            with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
            self._stream(tokens, frame, chat=chat, usage=usage if with_usage else None)
            return
        text = "".join(tokens)
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": "length", "stop_reason": None}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        kind = "chat.completion" if chat else "text_completion"
        self._json({**frame, "object": kind, "choices": [choice], "usage": usage})

    def _stream(
        self, tokens: Iterator[str], frame: dict[str, Any], *, chat: bool, usage: dict[str, int] | None
    ) -> None:
        """Send server-sent events, one a token, chunked."""
        first = next(tokens)  # an engine that cannot run is a 500, not a broken stream
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("X-Metalserve-Simulated", "true")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        kind = "chat.completion.chunk" if chat else "text_completion"

        def event(data: str) -> None:
            block = f"data: {data}\n\n".encode()
            self.wfile.write(f"{len(block):x}\r\n".encode() + block + b"\r\n")
            self.wfile.flush()

        def choice(text: str, finish: str | None) -> str:
            value: dict[str, Any] = {"index": 0, "finish_reason": finish, "logprobs": None}
            value |= {"delta": {"content": text}} if chat else {"text": text}
            return json.dumps({**frame, "object": kind, "choices": [value]})

        try:
            event(choice(first, None))
            for word in tokens:
                event(choice(word, None))
            event(choice("", "length"))
            if usage:
                event(json.dumps({**frame, "object": kind, "choices": [], "usage": usage}))
        except EngineStoppedError as error:
            event(json.dumps(ApiError(500, "InternalServerError", str(error)).body))
        event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")
