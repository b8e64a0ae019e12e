"""Signature version 4 of AWS, which every S3-compatible storage understands. Pure.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlsplit

EMPTY = hashlib.sha256(b"").hexdigest()
"""SHA-256 of a request without a body."""


@dataclass(frozen=True, repr=False)
class Keys:
    """What signs: the access key's name, its secret, and the token of temporary credentials or nothing."""

    access: str
    secret: str
    token: str = ""


def parse_keys(text: str) -> Keys:
    """Read `ACCESS:SECRET` or `ACCESS:SECRET:TOKEN`.

    Raises:
        ValueError: it is not of that form; the message does not hold the text.
    """
    parts = text.strip().split(":", 2)
    if len(parts) < 2 or not parts[0] or not parts[1]:
        raise ValueError("the secret of S3 storage must be ACCESS:SECRET or ACCESS:SECRET:TOKEN")
    return Keys(*parts)


def signed(
    method: str,
    url: str,
    headers: Mapping[str, str],
    keys: Keys,
    *,
    region: str,
    unix_time: float,
    service: str = "s3",
    payload: str = EMPTY,
) -> dict[str, str]:
    """Return the headers that sign a request, to be sent with `headers`, all of which are signed too.

    Args:
        method: GET or HEAD.
        url: with the query, percent-encoded.
        headers: without Host, which is taken from the URL.
        keys: what signs.
        region: of the storage, such as `us-east-1`.
        unix_time: now, in seconds; the storage refuses a time that is more than 15 minutes off its own.
        service: `s3`, whose paths are encoded once; it alone wants the hash of the body as a header.
        payload: SHA-256 of the body.
    """
    parts = urlsplit(url)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(unix_time))
    added = {"x-amz-date": stamp}
    if service == "s3":
        added["x-amz-content-sha256"] = payload
    if keys.token:
        added["x-amz-security-token"] = keys.token
    every = {"host": parts.netloc}
    every.update((name.lower(), " ".join(value.split())) for name, value in {**headers, **added}.items())
    names = ";".join(sorted(every))
    query = sorted(
        (quote(key, safe="~"), quote(value, safe="~")) for key, value in parse_qsl(parts.query, keep_blank_values=True)
    )
    request = "\n".join(
        [
            method,
            quote(unquote(parts.path), safe="/~") or "/",
            "&".join(f"{key}={value}" for key, value in query),
            *(f"{name}:{every[name]}" for name in sorted(every)),
            "",
            names,
            payload,
        ]
    )
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(request.encode()).hexdigest()])
    key = f"AWS4{keys.secret}".encode()
    for word in scope.split("/"):
        key = hmac.new(key, word.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    added["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={keys.access}/{scope},SignedHeaders={names},Signature={signature}"
    )
    return added
