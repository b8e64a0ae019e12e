"""HTTPS whose certificate may change from one connection to the next, and whose slow clients hold up nobody."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HANDSHAKE_S = 10.0


class TlsServer(ThreadingHTTPServer):
    """A thread for each connection, the handshake in it."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(
        self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], context: Callable[[], ssl.SSLContext]
    ) -> None:
        self.context = context
        super().__init__(address, handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread: a client that says nothing must not hold up the others."""
        request.settimeout(HANDSHAKE_S)
        with self.context().wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that refuse the certificate or go away: some tests are about those."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)
