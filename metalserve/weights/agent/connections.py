"""Connections that serve for one request after another: a model of a thousand small files is not a thousand handshakes.

`urllib` closes each connection after its answer. These handlers of it keep one whose answer was read to its end.
"""

from __future__ import annotations

import http.client
import threading
import time
import urllib.request
from typing import Any

_IDLE_S = 10.0
"""Seconds after which a kept connection is not used again: many servers close theirs after 15."""

_MOST = 32
"""Connections to one host that are kept."""

_Kept = Any  # an HTTPConnection; its class differs between http and https


class Pool:
    """Connections that wait for their next request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[tuple[str, str], list[tuple[float, _Kept]]] = {}

    def take(self, key: tuple[str, str]) -> _Kept | None:
        """Return a connection that was used a moment ago, or None."""
        with self._lock:
            waiting = self._waiting.get(key, [])
            while waiting:
                since, connection = waiting.pop()
                if time.monotonic() - since < _IDLE_S:
                    return connection
                connection.close()
        return None

    def give(self, key: tuple[str, str], connection: _Kept) -> None:
        """Keep a connection whose answer was read to its end."""
        with self._lock:
            waiting = self._waiting.setdefault(key, [])
            if len(waiting) < _MOST:
                waiting.append((time.monotonic(), connection))
                return
        connection.close()


class _Answer(http.client.HTTPResponse):
    """An answer that gives its connection back when it is closed after its end, and else closes it."""

    kept: tuple[Pool, tuple[str, str], _Kept] | None = None

    def close(self) -> None:
        # cut off in the middle, `length` is what lacks; after a body in chunks it is None
        whole = (self.isclosed() or self.length == 0) and not self.length and not self.will_close
        super().close()
        kept, self.kept = self.kept, None
        if kept is not None:
            pool, key, connection = kept
            if whole:
                pool.give(key, connection)
            else:
                connection.close()


class _Keeping(urllib.request.AbstractHTTPHandler):
    pool: Pool

    def do_open(self, http_class: Any, req: Any, **http_conn_args: Any) -> Any:
        if getattr(req, "_tunnel_host", None):
            return super().do_open(http_class, req, **http_conn_args)  # through a proxy: one tunnel a request
        key = (req.type, req.host)
        headers = {name.title(): value for name, value in {**req.headers, **req.unredirected_hdrs}.items()}
        connection = self.pool.take(key)
        if connection is not None:
            try:
                return self._ask(connection, key, req, headers)
            except (ConnectionError, http.client.BadStatusLine):
                connection.close()  # the server has closed it meanwhile; GET and HEAD may be asked twice
        connection = http_class(req.host, timeout=req.timeout, **http_conn_args)
        connection.response_class = _Answer
        return self._ask(connection, key, req, headers)

    def _ask(self, connection: _Kept, key: tuple[str, str], req: Any, headers: dict[str, str]) -> Any:
        try:
            if connection.sock is not None:
                connection.sock.settimeout(req.timeout)
            connection.request(req.get_method(), req.selector, None, headers)
            answer = connection.getresponse()
        except BaseException:
            connection.close()
            raise
        answer.kept = None if answer.will_close else (self.pool, key, connection)
        answer.url, answer.msg = req.get_full_url(), answer.reason  # as urllib leaves them
        return answer


class KeepingHttp(_Keeping, urllib.request.HTTPHandler):
    """http."""


class KeepingHttps(_Keeping, urllib.request.HTTPSHandler):
    """https."""


def handlers() -> tuple[urllib.request.BaseHandler, ...]:
    """Return handlers for `urllib.request.build_opener`, with a pool of their own."""
    made = (KeepingHttp(), KeepingHttps())
    made[0].pool = made[1].pool = Pool()
    return made
