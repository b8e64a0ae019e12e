"""An OCI artifact whose layers are the files: https://github.com/opencontainers/image-spec/blob/main/manifest.md."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from metalserve.weights.agent.web import SourceError
from metalserve.weights.manifest import ManifestError
from metalserve.weights.sources.origin import Access, Found, Listing, Stream

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
_ACCEPT = f"{_MANIFEST}, {_INDEX}, application/vnd.docker.distribution.manifest.v2+json"

TITLES = ("org.opencontainers.image.title", "org.cncf.model.filepath")
"""Annotations with the path of a layer's file: of the image specification (ORAS), and of the CNCF's model format."""

_UNPACK = "io.deis.oras.content.unpack"
"""ORAS' annotation of a layer that is a packed directory."""

_LONGEST = 8 << 20
"""Bytes that a manifest may have; registries take 4 MiB."""

_REFERENCE = re.compile(
    r"(?P<scheme>https?://)?(?P<host>[A-Za-z0-9.-]+(?::\d+)?)/(?P<name>[a-z0-9._/-]+)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


class OciOrigin:
    """One artifact of a registry. Its layers' digests are the SHA-256 of the files, so nothing needs to be fetched.

    Args:
        reference: REGISTRY/NAME:TAG, REGISTRY/NAME@sha256:DIGEST or both; http:// in front asks without TLS.
        asked: tag that the digest was asked for as, to be kept.
        access: user:password or a token.
    """

    def __init__(self, reference: str, asked: str, access: Access) -> None:
        match = _REFERENCE.fullmatch(reference)
        if match is None or not (match["tag"] or match["digest"]):
            raise ManifestError(
                "must be REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:DIGEST, in full", where=f"--oci {reference}"
            )
        host = "registry-1.docker.io" if match["host"] == "docker.io" else match["host"]
        self._short = f"{match['scheme'] or ''}{match['host']}/{match['name']}"
        self._base = f"{match['scheme'] or 'https://'}{host}/v2/{match['name']}"
        self._digest = match["digest"] or ""
        self._tag = match["tag"] or asked
        self._access = access
        self._client = access.connect("oci", self._base)

    def listing(self) -> Listing:
        """Read the manifest and list its layers."""
        digest, data = self._manifest(self._digest or self._tag)
        if "manifests" in data:
            entries = [entry for entry in data["manifests"] if isinstance(entry, dict)]
            if len(entries) != 1:
                what = f"is an index of {len(entries)} artifacts"
                raise ManifestError(what, where=self._short, remedy="name one of them by its @sha256: digest")
            digest, data = self._manifest(str(entries[0].get("digest")))
        layers = data.get("layers")
        if not isinstance(layers, list) or not layers:
            raise ManifestError("has no layers", where=self._short)
        files = [_layer(layer, f"{self._short}, layer {number}") for number, layer in enumerate(layers, 1)]
        return Listing(files, f"{self._short}@{digest}", asked=self._tag)

    def settled(self, found: Found) -> Found:
        """Return the file as it is: its layer said all."""
        return found

    def open(self, found: Found) -> Stream:
        """Refuse: the layers' digests are all that is needed."""
        raise AssertionError(found.path)

    def current(self) -> str:
        """Return the digest that the tag stands for now, or nothing without a tag."""
        return self._manifest(self._tag)[0] if self._tag else ""

    def _manifest(self, reference: str) -> tuple[str, dict[str, Any]]:
        where = f"{self._short}@{reference}" if ":" in reference else f"{self._short}:{reference}"
        try:
            with self._client.fetch(f"{self._base}/manifests/{reference}", headers={"Accept": _ACCEPT}) as answer:
                body = answer.read(_LONGEST)
                said = answer.headers.get("Docker-Content-Digest", "")
        except SourceError as error:
            self._access.explain(error)
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        for other in (said, reference):
            if other.startswith("sha256:") and other != digest:
                raise ManifestError(f"the registry's manifest hashes to {digest}", where=where)
        try:
            data = json.loads(body)
        except ValueError:
            data = None
        if not isinstance(data, dict):
            raise ManifestError("is no manifest in JSON", where=where)
        return digest, data


def _layer(layer: Any, where: str) -> Found:
    if not isinstance(layer, dict) or not isinstance(layer.get("size"), int):
        raise ManifestError("is no layer", where=where)
    notes = layer.get("annotations") or {}
    title = next((str(notes[name]) for name in TITLES if name in notes), "")
    packed = notes.get(_UNPACK) == "true" or re.search(r"[.+](tar|gzip|zstd)\b", str(layer.get("mediaType")))
    if not title or packed:
        what = "is a packed directory" if packed else f"has no annotation {TITLES[0]}"
        raise ManifestError(what, where=where, remedy="push the files one by one: `oras push REFERENCE FILE...`")
    digest = str(layer.get("digest"))
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise ManifestError("its digest is no SHA-256", where=where)
    return Found(title, layer["size"], digest.removeprefix("sha256:"))
