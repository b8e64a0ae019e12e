"""A plain HTTP mirror: a directory of files, with SHA256SUMS, index pages, or a list of names that the user has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from typing import Literal
from urllib.parse import quote, unquote, urljoin, urlsplit

from metalserve.weights.agent.web import SourceError
from metalserve.weights.manifest import ManifestError
from metalserve.weights.sources.origin import Access, Found, Listing, Stream

SUMS = "SHA256SUMS"
"""The file that says what the others hash to, as `sha256sum *` writes it."""

_LONGEST = 16 << 20
"""Bytes that a list or an index page may have."""

_MOST_PAGES = 2000
"""Index pages that are read before a mirror counts as endless."""

_GNU = re.compile(r"(\\?)([0-9a-fA-F]{64}) [ *](.+)")
_BSD = re.compile(r"SHA256 \((.+)\) = ([0-9a-fA-F]{64})")

How = Literal["", "sums", "index", "list"]


class HttpOrigin:
    """The files below a base URL.

    Args:
        base: URL; files are BASE/PATH.
        how: how they become known: `list` (given), `index` (the server's own pages), or `sums` and empty (SHA256SUMS,
            which must be there). Hashes of SHA256SUMS are taken wherever it is there.
        names: the list, for `list`.
        access: token or user:password.
    """

    def __init__(self, base: str, how: How, names: Sequence[str], access: Access) -> None:
        if urlsplit(base).scheme not in ("http", "https") or "@" in urlsplit(base).netloc:
            raise ManifestError("must be an http(s) URL without credentials", where="--url")
        self._base = base.rstrip("/")
        self._how = how
        self._names = names
        self._access = access
        self._client = access.connect("http", self._base)

    def listing(self) -> Listing:
        """Read SHA256SUMS, and the index pages when asked to."""
        sums = self._sums()
        if self._how == "list":
            paths: Sequence[str] = self._names
        elif self._how == "index":
            paths = [path for path in self._index() if path != SUMS]
        elif sums is None:
            raise ManifestError(
                f"has no {SUMS}",
                where=self._base,
                remedy="--index reads the server's index pages, --files takes a list of names; either fetches all",
            )
        else:
            paths = list(sums)
        known = sums or {}
        files = [Found(path, sha256=known.get(path)) for path in paths]
        return Listing(files, self._base, listing=self._how or "sums")

    def settled(self, found: Found) -> Found:
        """Ask for the size."""
        try:
            with self._client.fetch(self._url(found.path), method="HEAD") as answer:
                length = answer.headers.get("Content-Length", "")
                encoded = answer.headers.get("Content-Encoding", "identity") != "identity"
        except SourceError as error:
            if error.status in (405, 501):
                return found
            self._access.explain(error)
        return replace(found, size=int(length)) if length.isdigit() and not encoded else found

    def open(self, found: Found) -> Stream:
        """Fetch a file."""
        try:
            return self._client.fetch(self._url(found.path))
        except SourceError as error:
            if not error.permanent:
                raise
            self._access.explain(error)

    def _url(self, path: str) -> str:
        return f"{self._base}/{quote(path)}"

    def _sums(self) -> dict[str, str] | None:
        try:
            text = self._text(f"{self._base}/{SUMS}")
        except SourceError as error:
            if error.status in (404, 410):
                return None
            self._access.explain(error)
        # a server that answers everything with a page has none either
        return None if text.lstrip().startswith("<") else read_sums(text, f"{self._base}/{SUMS}")

    def _index(self) -> list[str]:
        found: list[str] = []
        root = f"{self._base}/"
        pages, seen = [root], {root}
        while pages:
            page = pages.pop()
            try:
                hrefs = _hrefs(self._text(page))
            except SourceError as error:
                self._access.explain(error)
            for href in hrefs:
                url = urljoin(page, href.partition("#")[0].partition("?")[0])
                if not url.startswith(page) or url in seen:
                    continue  # the parent, the sort links, other servers
                seen.add(url)
                if len(seen) > _MOST_PAGES * 50 or len(pages) > _MOST_PAGES:
                    raise ManifestError("its index pages have no end", where=self._base)
                if url.endswith("/"):
                    pages.append(url)
                else:
                    found.append(unquote(url.removeprefix(root)))
        if not found:
            raise ManifestError("is no index page with links to files", where=root)
        return found

    def _text(self, url: str) -> str:
        with self._client.fetch(url) as answer:
            body = answer.read(_LONGEST + 1)
        if len(body) > _LONGEST:
            raise ManifestError(f"is larger than {_LONGEST >> 20} MiB", where=url)
        return body.decode("utf-8", errors="replace")


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hrefs += [value for name, value in attrs if tag == "a" and name == "href" and value]


def _hrefs(text: str) -> list[str]:
    links = _Links()
    links.feed(text)
    links.close()
    return links.hrefs


def read_sums(text: str, where: str) -> dict[str, str]:
    """Read what `sha256sum` wrote, in its own form or that of `--tag`: path -> SHA-256.

    Raises:
        ManifestError: a line is neither, or a path is listed twice.
    """
    sums: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if match := _GNU.fullmatch(line):
            escaped, sha256, path = match.groups()
            if escaped:
                path = path.replace("\\n", "\n").replace("\\r", "\r").replace("\\\\", "\\")
        elif match := _BSD.fullmatch(line):
            path, sha256 = match.groups()
        else:
            raise ManifestError("is no line of sha256sum", where=f"{where}:{number}")
        path = path.removeprefix("./")
        if path in sums:
            raise ManifestError(f"{path} is listed twice", where=f"{where}:{number}")
        sums[path] = sha256.lower()
    if not sums:
        raise ManifestError("lists no files", where=where)
    return sums
