"""A plain HTTP mirror: files, SHA256SUMS, index pages as web servers make them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from urllib.parse import quote

from tests.weights.standins.web import Answer, Asked, Web, serving


def sums_of(files: dict[str, bytes]) -> bytes:
    """Return what `sha256sum` prints of files."""
    return "".join(f"{hashlib.sha256(body).hexdigest()}  {path}\n" for path, body in files.items()).encode()


@dataclass
class Mirror:
    """Files below /models/m/.

    Attributes:
        files: path -> content.
        secret: the Authorization header that requests must have.
        cut: path -> bytes after which the connection is cut, once per entry.
        silent: whether answers lack Content-Length.
        extra: links that the index has as well.
        redirect: URL that everything is redirected to (its path is kept).
        ranges: whether `Range` is heeded.
    """

    files: dict[str, bytes]
    secret: str = ""
    cut: dict[str, list[int]] = field(default_factory=dict)
    silent: bool = False
    extra: tuple[str, ...] = ()
    redirect: str = ""
    ranges: bool = True
    web: Web = field(default_factory=Web)

    @property
    def base(self) -> str:
        return f"{self.web.url}/models/m"

    def answer(self, asked: Asked) -> Answer:
        if self.redirect:
            return Answer(302, b"", {"Location": self.redirect + quote(asked.path)})
        if self.secret and asked.header("authorization") != self.secret:
            return Answer(401)
        path = asked.path.removeprefix("/models/m/")
        if path in self.files:
            cut = self.cut[path].pop(0) if asked.method == "GET" and self.cut.get(path) else None
            headers = {} if self.ranges else {"Accept-Ranges": "none"}
            return Answer(200, self.files[path], {**headers, **({"Content-Length": ""} if self.silent else {})}, cut)
        if path == "" or path.endswith("/"):
            below = [name.removeprefix(path) for name in self.files if name.startswith(path)]
            if below:
                names = sorted({name.split("/")[0] + ("/" if "/" in name else "") for name in below})
                links = ["?C=N;O=D", "../", "/", *(quote(name) for name in names), *self.extra]
                rows = "".join(f'<a href="{escape(link)}">{escape(link)}</a>\n' for link in links)
                return Answer(200, f"<html><h1>Index of</h1><pre>{rows}</pre></html>".encode())
        return Answer(404)


@contextmanager
def serving_mirror(mirror: Mirror) -> Iterator[Mirror]:
    """Serve a mirror until the end of the block."""
    with serving(mirror.answer, mirror.web):
        yield mirror
