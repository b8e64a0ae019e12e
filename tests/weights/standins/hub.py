"""A hub that speaks enough of the Hub API for the real `huggingface_hub`, and its CDN on another port."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from tests.weights.standins.web import Answer, Asked, Web, serving

_LFS = (".safetensors", ".bin", ".pth", ".gguf")


def blob_id(content: bytes) -> str:
    """Return the id that git gives to a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Hub:
    """One repository.

    Attributes:
        repository: ORGANISATION/NAME.
        commits: commit -> path -> content.
        branches: branch or tag -> commit.
        token: when set, the repository is gated: requests without it get 401, with another one 403.
        sizes: path -> what the tree says of its size, where it is not the truth.
        xet: paths in Xet storage whose SHA-256 the tree does not tell.
        page: entries of a page of the tree.
        after_resolve: called when a branch was resolved.
        corrupt: paths of which one bit is flipped when they are fetched.
    """

    repository: str
    commits: dict[str, dict[str, bytes]]
    branches: dict[str, str]
    token: str = ""
    sizes: dict[str, int] = field(default_factory=dict)
    xet: set[str] = field(default_factory=set)
    page: int = 1000
    after_resolve: Callable[[], None] = lambda: None
    corrupt: set[str] = field(default_factory=set)
    web: Web = field(default_factory=Web)
    cdn: Web = field(default_factory=Web)

    @property
    def url(self) -> str:
        return self.web.url

    def answer(self, asked: Asked) -> Answer:
        match = re.fullmatch(r"/api/models/(?P<repo>[^/]+/[^/]+)/(?P<what>revision|tree)/(?P<rev>.+)", asked.path)
        match = match or re.fullmatch(
            r"/(?P<repo>[^/]+/[^/]+)/(?P<what>resolve)/(?P<rev>[^/]+)/(?P<path>.+)", asked.path
        )
        if match is None or match["repo"] != self.repository:
            return _error(404, "RepoNotFound")
        if self.token:
            given = asked.header("authorization")
            if given != f"Bearer {self.token}":
                return _error(403 if given else 401, "GatedRepo")
        commit = self.branches.get(match["rev"], match["rev"])
        if commit not in self.commits:
            return _error(404, "RevisionNotFound")
        if match["what"] == "revision":
            answer = _json({"id": self.repository, "sha": commit, "siblings": [], "tags": [], "downloads": 0})
            self.after_resolve()
            return answer
        if match["what"] == "tree":
            return self._tree(asked, commit, match["rev"])
        return self._resolve(commit, match["path"])

    def _tree(self, asked: Asked, commit: str, revision: str) -> Answer:
        entries = [self._entry(path, content) for path, content in sorted(self.commits[commit].items())]
        folders = {path.rsplit("/", 1)[0] for path in self.commits[commit] if "/" in path}
        entries += [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]
        start = int(asked.query.get("cursor", "0"))
        answer = _json(entries[start : start + self.page])
        if start + self.page < len(entries):
            base = f"{self.url}/api/models/{self.repository}/tree/{revision}"
            answer.headers["Link"] = f'<{base}?recursive=true&cursor={start + self.page}>; rel="next"'
        return answer

    def _entry(self, path: str, content: bytes) -> dict[str, Any]:
        size = self.sizes.get(path, len(content))
        entry: dict[str, Any] = {"type": "file", "path": path, "size": size, "oid": blob_id(content)}
        if path in self.xet:
            entry["xetHash"] = "f" * 64
        elif path.endswith(_LFS):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 134}
        return entry

    def _resolve(self, commit: str, path: str) -> Answer:
        content = self.commits[commit].get(path)
        if content is None:
            return _error(404, "EntryNotFound")
        sha256 = hashlib.sha256(content).hexdigest()
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if path.endswith(_LFS):
            location = f"{self.cdn.url}/{commit}/{quote(path)}?Signature=secret-of-the-cdn"
            linked = {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(content)), "Location": location}
            return Answer(302, b"", {**headers, **linked, "ETag": f'"{sha256}"'})
        return Answer(200, self._sent(path, content), {**headers, "ETag": f'"{blob_id(content)}"'})

    def _sent(self, path: str, content: bytes) -> bytes:
        return bytes([content[0] ^ 1]) + content[1:] if path in self.corrupt else content

    def answer_cdn(self, asked: Asked) -> Answer:
        commit, _, path = asked.path[1:].partition("/")
        content = self.commits.get(commit, {}).get(path)
        if asked.header("authorization"):
            return Answer(400, b"a CDN refuses requests that are authorised twice")
        return Answer(404) if content is None else Answer(200, self._sent(path, content))


@contextmanager
def serving_hub(hub: Hub) -> Iterator[Hub]:
    """Serve a hub and its CDN until the end of the block."""
    with ExitStack() as stack:
        stack.enter_context(serving(hub.answer, hub.web))
        stack.enter_context(serving(hub.answer_cdn, hub.cdn))
        yield hub


def _json(data: Any) -> Answer:
    return Answer(200, json.dumps(data).encode(), {"Content-Type": "application/json"})


def _error(status: int, code: str) -> Answer:
    return Answer(status, b'{"error":"no"}', {"X-Error-Code": code, "X-Error-Message": code})
