"""Certificates of a swarm, all from one secret: nothing is kept on the controller, and hosts may join later.

The authority's key and every host's are Ed25519 keys derived from the fleet's secret (HKDF-SHA256, the name of the
host as context). So two controllers, or two runs, give the same certificates, a run that changes nothing stays one,
and a new secret is a new fleet. Validity has no use as a defence here and a wrong clock must not stop staging: the
certificates are valid from 2020 to 2099.
"""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import NameOID

from metalserve.errors import MetalserveError

SHORTEST_SECRET = 32
"""Characters: 32 hexadecimal digits are 128 bits, which nobody guesses."""

_FROM = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_TO = datetime.datetime(2099, 12, 31, tzinfo=datetime.UTC)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one host shows the others of its fleet, as PEM.

    Attributes:
        authority: certificate of the fleet's authority; no secret.
        certificate: of the host; no secret.
        key: of the host; a secret.
    """

    authority: str
    certificate: str
    key: str

    def __repr__(self) -> str:
        """Return a text without the key."""
        return "Credentials(****)"


def authority_of(secret: str) -> str:
    """Return the certificate (PEM) of the authority of the fleet that `secret` makes.

    Raises:
        MetalserveError: `secret` is too short.
    """
    return _pem(_authority(_key(secret, "authority")))


def credentials_of(secret: str, host: str) -> Credentials:
    """Return what `host` shows the others of the fleet that `secret` makes.

    Raises:
        MetalserveError: `secret` is too short.
    """
    signer, key = _key(secret, "authority"), _key(secret, f"host {host}")
    authority = _authority(signer)
    # libtorrent compares the name with that of the torrent; '*' fits every torrent of this authority
    certificate = (
        _begin("*", key)
        .issuer_name(authority.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("*")]), critical=False)
        .sign(signer, None)
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Credentials(_pem(authority), _pem(certificate), private.decode())


def _key(secret: str, purpose: str) -> Ed25519PrivateKey:
    if len(secret) < SHORTEST_SECRET:
        raise MetalserveError(
            f"the swarm's secret has {len(secret)} characters, at least {SHORTEST_SECRET} are needed",
            remedy="make one: openssl rand -hex 32",
        )
    derive = HKDF(hashes.SHA256(), length=32, salt=b"metalserve swarm 1", info=purpose.encode())
    return Ed25519PrivateKey.from_private_bytes(derive.derive(secret.encode()))


def _authority(key: Ed25519PrivateKey) -> x509.Certificate:
    return (
        _begin("metalserve swarm", key)
        .issuer_name(_name("metalserve swarm"))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, None)
    )


def _begin(name: str, key: Ed25519PrivateKey) -> x509.CertificateBuilder:
    public = key.public_key()
    raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    serial = int.from_bytes(hashlib.sha256(raw).digest()[:19], "big") | 1
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(_FROM)
        .not_valid_after(_TO)
    )


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
