"""TLS towards a BMC: verified by authorities or by a pinned certificate, never not at all; and nowhere else."""

from __future__ import annotations

import hashlib
import socket
import ssl
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from metalserve.settings.bmc import BmcTlsSettings


class PinnedAdapter(HTTPAdapter):
    """Speaks only to a server that shows the certificate with this SHA-256; compared before anything is sent."""

    def __init__(self, pin: str) -> None:
        """Take the fingerprint, 64 hex digits."""
        self.pin = pin
        super().__init__(max_retries=0)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **keywords: Any) -> None:
        """Have every connection of the pool compare the fingerprint."""
        # a context of our own: urllib3 would load all authorities of the system anew for each connection
        super().init_poolmanager(
            connections, maxsize, block, assert_fingerprint=self.pin, ssl_context=_trusting_nobody(), **keywords
        )

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        """Leave authorities and names out of it: the fingerprint is the whole check."""
        return super().build_connection_pool_key_attributes(request, False, cert)

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """As above, for the pool that is there already."""
        super().cert_verify(conn, url, False, cert)


class _Nowhere(HTTPAdapter):
    """Refuses: a BMC's answer must not lead its password or token to another server, nor onto plain HTTP."""

    def send(self, request: Any, *arguments: Any, **keywords: Any) -> Any:
        """Refuse."""
        raise requests.exceptions.InvalidURL(f"led away from the BMC, to {request.url}")


def secure(session: requests.Session, base_url: str, tls: BmcTlsSettings) -> None:
    """Have a session speak to one BMC only, with its certificate checked as the settings say.

    Proxies, .netrc and authorities of the environment are left out of account.
    """
    session.trust_env = False
    session.mount("http://", _Nowhere())
    session.mount("https://", _Nowhere())
    session.mount(f"{base_url}/", PinnedAdapter(tls.pin) if tls.pin else HTTPAdapter(max_retries=0))


def seen_fingerprint(host: str, port: int, timeout_s: float = 5.0) -> str:
    """Return the SHA-256 of the certificate that a server shows, "" when it shows none. Nothing is sent to it."""
    try:
        with (
            socket.create_connection((host, port), timeout=timeout_s) as plain,
            _trusting_nobody().wrap_socket(plain, server_hostname=host) as secured,
        ):
            certificate = secured.getpeercert(binary_form=True)
    except OSError:
        return ""
    return hashlib.sha256(certificate).hexdigest() if certificate else ""


def _trusting_nobody() -> ssl.SSLContext:
    """Return a context that takes any certificate: for who compares its fingerprint, or sends nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
