"""S3-compatible storage that checks signatures: a second, own implementation of signature version 4."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from urllib.parse import quote, urlsplit
from xml.sax.saxutils import escape

from tests.weights.standins.web import Answer, Asked, Web, serving


@dataclass
class Storage:
    """One bucket, `models`.

    Attributes:
        objects: key -> content.
        access, secret, token: what signs; an empty access lets everybody in.
        region: what requests must be signed for.
        page: keys of a page of the listing.
        checksums: keys whose SHA-256 the storage knows.
        composite: keys whose checksum is of an upload in parts.
        clock_s: what the storage's clock is ahead of this one.
        sizes: key -> what the listing says, where it is not the truth.
    """

    objects: dict[str, bytes]
    access: str = "AKIDEXAMPLE"
    secret: str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
    token: str = ""
    region: str = "eu-central-1"
    page: int = 1000
    checksums: set[str] = field(default_factory=set)
    composite: set[str] = field(default_factory=set)
    clock_s: float = 0.0
    sizes: dict[str, int] = field(default_factory=dict)
    web: Web = field(default_factory=Web)

    def answer(self, asked: Asked) -> Answer:
        date = {"Date": formatdate(time.time() + self.clock_s, usegmt=True)}
        wrong = self._wrong(asked) if self.access else ""
        if wrong:
            status = 400 if wrong == "AuthorizationHeaderMalformed" else 403
            region = f"<Region>{self.region}</Region>" if status == 400 else ""
            return Answer(status, f"<Error><Code>{wrong}</Code>{region}</Error>".encode(), date)
        if asked.path in ("/models", "/models/"):
            return Answer(200, self._listing(asked.query).encode(), date)
        key = asked.path.removeprefix("/models/")
        if key not in self.objects:
            return Answer(404, b"<Error><Code>NoSuchKey</Code></Error>", date)
        content = self.objects[key]
        headers = dict(date)
        if asked.header("x-amz-checksum-mode") == "ENABLED" and key in self.checksums | self.composite:
            digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
            headers["x-amz-checksum-sha256"] = f"{digest}-7" if key in self.composite else digest
            headers["x-amz-checksum-type"] = "COMPOSITE" if key in self.composite else "FULL_OBJECT"
        return Answer(200, content, headers)

    def _listing(self, query: dict[str, str]) -> str:
        assert query["list-type"] == "2"
        keys = [key for key in sorted(self.objects) if key.startswith(query.get("prefix", ""))]
        start = int(query.get("continuation-token", "at 0+/").split()[1].rstrip("+/"))
        rows = "".join(
            f"<Contents><Key>{escape(quote(key))}</Key><Size>{self.sizes.get(key, len(self.objects[key]))}</Size>"
            "</Contents>"
            for key in keys[start : start + self.page]
        )
        after = start + self.page
        more = after < len(keys)
        # a token with characters that must be encoded in a query and for the signature
        following = f"<NextContinuationToken>at {after}+/</NextContinuationToken>" if more else ""
        space = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
        return (
            f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult {space}><IsTruncated>{str(more).lower()}'
            f"</IsTruncated>{following}{rows}</ListBucketResult>"
        )

    def _wrong(self, asked: Asked) -> str:
        match = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request,\s?SignedHeaders=([^,]+),"
            r"\s?Signature=([0-9a-f]{64})",
            asked.header("authorization"),
        )
        if match is None:
            return "AccessDenied"
        access, day, region, names, signature = match.groups()
        if access != self.access:
            return "InvalidAccessKeyId"
        if region != self.region:
            return "AuthorizationHeaderMalformed"
        stamp = asked.header("x-amz-date")
        then = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
        if abs(then - time.time() - self.clock_s) > 900:
            return "RequestTimeTooSkewed"
        if asked.header("x-amz-security-token") != self.token or not {"host", "x-amz-date"} <= set(names.split(";")):
            return "InvalidToken"
        target = urlsplit(asked.target)
        canonical = f"{asked.method}\n{target.path}\n{'&'.join(sorted(target.query.split('&')))}\n"
        canonical += "".join(f"{name}:{asked.header(name).strip()}\n" for name in names.split(";"))
        canonical += f"\n{names}\n{asked.header('x-amz-content-sha256')}"
        scope = f"{day}/{region}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = hmac.digest(f"AWS4{self.secret}".encode(), day.encode(), "sha256")
        for part in (region, "s3", "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        right = hmac.digest(key, text.encode(), "sha256").hex()
        return "" if hmac.compare_digest(right, signature) else "SignatureDoesNotMatch"


@contextmanager
def serving_storage(storage: Storage) -> Iterator[Storage]:
    """Serve a bucket until the end of the block."""
    with serving(storage.answer, storage.web):
        yield storage
