"""Clients of the router: requests one after the other from many threads, and what became of each."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType

UNCHECKED = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""The lab's certificate is its own. One for all: making one reads every authority of the machine."""
UNCHECKED.check_hostname = False
UNCHECKED.verify_mode = ssl.CERT_NONE


@dataclass
class Got:
    """What one request got: HTTP status (0: none), whether all of it came, seconds, what went wrong."""

    status: int
    whole: bool
    seconds: float
    stream: bool
    error: str = ""


@dataclass
class Door:
    """The address of a router, and what its clients send."""

    host: str
    port: int
    model: str
    key: str | None = None

    def ask(
        self, method: str, path: str, body: object = None, *, key: str | None = None, timeout_s: float = 60
    ) -> tuple[int, dict[str, str], bytes]:
        """Send one request; returns status, headers in small letters, body."""
        connection = http.client.HTTPSConnection(self.host, self.port, timeout=timeout_s, context=UNCHECKED)
        headers = {"Content-Type": "application/json"}
        given = self.key if key is None else key
        if given:
            headers["Authorization"] = f"Bearer {given}"
        try:
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def complete(self, tokens: int = 8, *, stream: bool = False, timeout_s: float = 60) -> Got:
        """Complete a prompt and see whether all of the answer came."""
        began = time.monotonic()
        body = {"model": self.model, "prompt": "one two three", "max_tokens": tokens, "stream": stream}
        try:
            status, _, answer = self.ask("POST", "/v1/completions", body, timeout_s=timeout_s)
        except (OSError, http.client.HTTPException) as error:
            return Got(0, False, time.monotonic() - began, stream, f"{type(error).__name__}: {error}")
        ended = b"data: [DONE]" in answer and b'"error"' not in answer if stream else b'"choices"' in answer
        said = "" if status == 200 and ended else answer[-200:].decode(errors="replace")
        return Got(status, status == 200 and ended, time.monotonic() - began, stream, said)


@dataclass
class Load:
    """Clients that ask one request after the other while the block runs.

    Attributes:
        plain: threads that ask for whole answers.
        streams: threads that ask for streams.
        tokens: length of each answer.
    """

    door: Door
    plain: int = 6
    streams: int = 0
    tokens: int = 150
    got: list[Got] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._stop = threading.Event()
        kinds = [False] * self.plain + [True] * self.streams
        self._threads = [threading.Thread(target=self._ask, args=(stream,)) for stream in kinds]
        for thread in self._threads:
            thread.start()
        return self

    def _ask(self, stream: bool) -> None:
        while not self._stop.is_set():
            self.got.append(self.door.complete(self.tokens, stream=stream))
            time.sleep(0.05)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def lost(self, *, streams: bool) -> list[Got]:
        """Return the requests of one kind that did not get a whole answer."""
        return [got for got in self.got if got.stream == streams and not got.whole]

    def told(self) -> str:
        """Return what was seen, for a failing test's words."""
        counted = Counter((got.stream, got.status, got.whole, got.error[:120]) for got in self.got)
        return "\n".join(f"{count} x {what}" for what, count in counted.most_common())
