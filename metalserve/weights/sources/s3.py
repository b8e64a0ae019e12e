"""S3-compatible storage, asked with the agent's own signatures."""

from __future__ import annotations

import base64
import binascii
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any
from urllib.parse import quote, unquote_plus, urlencode, urlsplit

from metalserve.weights.agent.web import SourceError
from metalserve.weights.manifest import ManifestError
from metalserve.weights.sources.origin import Access, Found, Listing, Stream

_LONGEST = 16 << 20
"""Bytes that one page of a listing may have: 1,000 keys of 1,024 bytes need less."""

_MOST_PAGES = 1000
"""Pages after which a listing counts as endless: a million objects."""


class S3Origin:
    """The objects below a prefix.

    Args:
        base: ENDPOINT/BUCKET or ENDPOINT/BUCKET/PREFIX with http(s)://.
        region: for signing; empty for us-east-1.
        access: ACCESS:SECRET[:TOKEN]; none asks without a signature, as public buckets allow.
    """

    def __init__(self, base: str, region: str, access: Access) -> None:
        parts = urlsplit(base if "://" in base else f"https://{base}")
        bucket, _, prefix = parts.path.strip("/").partition("/")
        if parts.scheme not in ("http", "https") or not parts.netloc or not bucket or "@" in parts.netloc:
            raise ManifestError("must be ENDPOINT/BUCKET/PREFIX, such as https://s3.example/models/llama", where="--s3")
        self._bucket = f"{parts.scheme}://{parts.netloc}/{bucket}"
        self._prefix = f"{prefix}/" if prefix else ""
        self._base = f"{self._bucket}/{prefix}".rstrip("/")
        self._access = access
        self._client = access.connect("s3", self._base, region)

    def listing(self) -> Listing:
        """List the objects, page by page (ListObjectsV2)."""
        files: list[Found] = []
        token = ""
        for _ in range(_MOST_PAGES):
            query = {"encoding-type": "url", "list-type": "2", "prefix": self._prefix}
            if token:
                query["continuation-token"] = token
            page = self._page(f"{self._bucket}?{urlencode(query, quote_via=quote)}")
            for entry in page.iter():
                if _name(entry) == "Contents" and (found := self._found(entry)) is not None:
                    files.append(found)
            token = _text(page, "NextContinuationToken")
            if _text(page, "IsTruncated") != "true":
                break
            if not token:
                raise ManifestError("its listing breaks off without a token for the next page", where=self._bucket)
        else:
            raise ManifestError(f"its listing has more than {_MOST_PAGES} pages", where=self._bucket)
        if not files:
            raise ManifestError("holds no objects", where=self._base)
        return Listing(files, self._base)

    def settled(self, found: Found) -> Found:
        """Ask for the SHA-256 that the storage may have checked when the object came."""
        try:
            headers = {"x-amz-checksum-mode": "ENABLED"}
            with self._client.fetch(found.url, method="HEAD", headers=headers) as answer:
                sha256 = answer.headers.get("x-amz-checksum-sha256", "")
                kind = answer.headers.get("x-amz-checksum-type", "FULL_OBJECT")
                length = answer.headers.get("Content-Length", "")
        except SourceError as error:
            self._access.explain(error)
        if length != str(found.size):
            raise ManifestError(f"has {length} bytes now and had {found.size} when it was listed", where=found.path)
        # one of an upload in parts is the hash of hashes, "...-7"
        if not sha256 or kind != "FULL_OBJECT":
            return found
        try:
            digest = base64.b64decode(sha256, validate=True)
        except binascii.Error:
            return found
        return replace(found, sha256=digest.hex()) if len(digest) == 32 else found

    def open(self, found: Found) -> Stream:
        """Fetch an object."""
        try:
            return self._client.fetch(found.url)
        except SourceError as error:
            if not error.permanent:
                raise
            self._access.explain(error)

    def _found(self, entry: Any) -> Found | None:
        key, size = unquote_plus(_text(entry, "Key")), _text(entry, "Size")
        if not key.startswith(self._prefix) or not size.isdigit():
            raise ManifestError("lists something that was not asked for", where=self._bucket)
        if key.endswith("/") and size == "0":
            return None  # what consoles put for a folder
        return Found(key.removeprefix(self._prefix), int(size), url=f"{self._bucket}/{quote(key)}")

    def _page(self, url: str) -> Any:
        try:
            with self._client.fetch(url) as answer:
                body = answer.read(_LONGEST)
        except SourceError as error:
            self._access.explain(error)
        try:
            if b"<!DOCTYPE" in body or b"<!ENTITY" in body:
                raise ValueError("it declares entities")  # which may expand without end
            return ET.fromstring(body)  # noqa: S314 - without entities
        except (ET.ParseError, ValueError) as error:
            raise ManifestError(f"is no listing of S3: {error}", where=self._bucket) from None


def _name(entry: Any) -> str:
    return str(entry.tag).rpartition("}")[2]


def _text(entry: Any, name: str) -> str:
    return next((child.text or "" for child in entry if _name(child) == name), "")
