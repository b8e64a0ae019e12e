"""An OCI registry with a token server of its own, whose blobs lie on another host."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.weights.standins.web import Answer, Asked, Web, serving

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
TITLE = "org.opencontainers.image.title"


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass
class Registry:
    """One repository, `org/model`.

    Attributes:
        blobs: digest -> content.
        manifests: tag or digest -> bytes.
        login: user:password; empty gives tokens to everybody.
        life: requests that a token is good for.
        tokens: given out, with what is left of them.
    """

    login: str = "robot:secret"
    life: int = 1000
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    web: Web = field(default_factory=Web)
    auth: Web = field(default_factory=Web)
    storage: Web = field(default_factory=Web)

    @property
    def host(self) -> str:
        return self.web.url.removeprefix("http://")

    def push(self, tag: str, files: dict[str, bytes], **changes: Any) -> str:
        """Put files under a tag, one layer each, as `oras push` does; `changes` replace parts of the manifest."""
        layers = [
            {
                "mediaType": "application/octet-stream",
                "digest": digest_of(content),
                "size": len(content),
                "annotations": {TITLE: path},
            }
            for path, content in files.items()
        ]
        self.blobs.update({digest_of(content): content for content in files.values()})
        data = {"schemaVersion": 2, "mediaType": MANIFEST, "layers": layers, **changes}
        body = json.dumps(data).encode()
        self.manifests[tag] = self.manifests[digest_of(body)] = body
        return digest_of(body)

    def answer(self, asked: Asked) -> Answer:
        token = asked.header("authorization").removeprefix("Bearer ")
        if self.tokens.get(token, 0) <= 0:
            realm = f'Bearer realm="{self.auth.url}/token",service="registry.test",scope="repository:org/model:pull"'
            return Answer(401, b"{}", {"WWW-Authenticate": realm})
        self.tokens[token] -= 1
        match = re.fullmatch(r"/v2/org/model/(manifests|blobs)/(.+)", asked.path)
        if match is None:
            return Answer(404)
        if match[1] == "manifests":
            body = self.manifests.get(match[2])
            if body is None:
                return Answer(404)
            assert MANIFEST in asked.header("accept")
            return Answer(200, body, {"Content-Type": MANIFEST, "Docker-Content-Digest": digest_of(body)})
        if match[2] not in self.blobs:
            return Answer(404)
        return Answer(307, b"", {"Location": f"{self.storage.url}/{match[2]}?sig=secret-of-the-storage"})

    def answer_auth(self, asked: Asked) -> Answer:
        wanted = f"Basic {base64.b64encode(self.login.encode()).decode()}" if self.login else ""
        if asked.header("authorization") != wanted:
            return Answer(401, b"{}")
        assert asked.query == {"service": "registry.test", "scope": "repository:org/model:pull"}
        token = f"token-{len(self.tokens)}"
        self.tokens[token] = self.life
        return Answer(200, json.dumps({"token": token}).encode())

    def answer_storage(self, asked: Asked) -> Answer:
        if asked.header("authorization"):
            return Answer(400, b"the storage refuses requests that are authorised twice")
        return Answer(200, self.blobs[asked.path[1:]])


@contextmanager
def serving_registry(registry: Registry) -> Iterator[Registry]:
    """Serve a registry, its token server and its storage until the end of the block."""
    with ExitStack() as stack:
        stack.enter_context(serving(registry.answer, registry.web))
        stack.enter_context(serving(registry.answer_auth, registry.auth))
        stack.enter_context(serving(registry.answer_storage, registry.storage))
        yield registry
