"""The same over TLS: connections serve again, and a certificate that nobody vouches for is refused."""

from __future__ import annotations

import datetime
import hashlib
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from metalserve.paths import ROOT
from metalserve.weights.agent.config import SourceConfig, WantedFile
from metalserve.weights.agent.source import Source
from metalserve.weights.agent.web import SourceError

BODY = b"content"
READ = """
import sys
from metalserve.weights.agent.config import SourceConfig, WantedFile
from metalserve.weights.agent.source import Source
source = Source(SourceConfig("http", sys.argv[1]), "token")
for _ in range(5):
    with source.open(WantedFile("f", 7, sys.argv[2])) as opened:
        assert opened.stream.read() == b"content"
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path, list[int]]]:
    """A server with a certificate of its own: its URL, the certificate, the ports that connections came from."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stand-in")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path, pem = tmp_path / "server.pem", serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + certificate.public_bytes(pem))
    (tmp_path / "ca.pem").write_bytes(certificate.public_bytes(pem))
    ports: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            ports.append(self.client_address[1])
            self.send_response(200 if self.headers["Authorization"] == "Bearer token" else 401)
            self.send_header("Content-Length", str(len(BODY)))
            self.end_headers()
            self.wfile.write(BODY)

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass  # a client that refuses the certificate

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    web = Quiet(("127.0.0.1", 0), Handler)
    web.socket = context.wrap_socket(web.socket, server_side=True)
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{web.server_port}", tmp_path / "ca.pem", ports
    finally:
        web.shutdown()
        web.server_close()


def test_one_connection_serves_for_many_files(server: tuple[str, Path, list[int]]) -> None:
    url, ca, ports = server
    done = subprocess.run(  # SSL_CERT_FILE is read when a process makes its first connection
        [sys.executable, "-c", READ, url, hashlib.sha256(BODY).hexdigest()],
        env={**os.environ, "SSL_CERT_FILE": str(ca)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(ports) == 5
    assert len(set(ports)) == 1


def test_a_certificate_that_nobody_vouches_for(server: tuple[str, Path, list[int]]) -> None:
    url, _, ports = server
    with pytest.raises(SourceError, match="its certificate is refused: self-signed certificate") as caught:
        Source(SourceConfig("http", url), "token").open(WantedFile("f", 7, "0" * 64))
    assert caught.value.permanent
    assert "check the clock" in str(caught.value)
    assert ports == [], "no secret was sent"
