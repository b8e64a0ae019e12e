"""The engine's image in a template: the archive that its nodes are to load, as a file that they find by its SHA-256.

As a file and not loaded into Docker's store: the same archive loaded on two hosts by the same Docker 26.1 gave other
names of layers on each and an identity of the daemon (`engine-id`) that all nodes of an image would share; and a node
may keep the store on another disk. The archive is one file whose every byte is known beforehand. A node still unpacks
it; it fetches nothing.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import tarfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from metalserve.errors import MetalserveError
from metalserve.releases import load_release
from metalserve.settings import HostSettings
from metalserve.templates.clean import inside
from metalserve.templates.spec import TemplateSpec

ARCHIVES: Final = "var/cache/metalserve/images"
"""Where roles.vllm looks for it, below the root (roles/vllm/paths.py)."""

_MIB = 1 << 20
_CHUNK = 4 << 20
_SLACK = 1.06
"""What ext4 takes beside the content: 5 of 100 blocks are root's, and its own tables."""


@dataclass(frozen=True)
class EngineImage:
    """The archive that a template is to carry.

    Attributes:
        url: where it is fetched from.
        sha256: of the archive.
        repository: of the image, as the release names it.
        tag: of the image.
    """

    url: str
    sha256: str
    repository: str
    tag: str

    @property
    def file_name(self) -> str:
        """Its name, in the cache and on a node."""
        return f"{self.sha256}.tar"


def engine_image(spec: TemplateSpec) -> EngineImage | None:
    """Return the archive that a template is to carry: the one that its settings name; None where it carries none."""
    if not spec.engine_image:
        return None
    settings = HostSettings.from_data(spec.host_data, host=spec.name, source=spec.name).engine
    vllm = load_release(spec.release).vllm
    return EngineImage(settings.image_archive or "", settings.image_archive_sha256 or "", vllm.repository, vllm.tag)


def fetch_archive(image: EngineImage, cache: Path) -> Path:
    """Return the archive in the cache, fetched unless it is there; in both cases every byte is hashed.

    Args:
        image: which.
        cache: directory of archives, kept from build to build.

    Raises:
        MetalserveError: it cannot be fetched, is another file, does not hold the release's image, or the disk is full.
    """
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / image.file_name
    if not (target.is_file() and _sha256(target) == image.sha256):
        _fetch(image, target)
    _holds(image, target)
    return target


def _fetch(image: EngineImage, target: Path) -> None:
    new = target.with_name(target.name + ".new")
    hashed = hashlib.sha256()
    try:
        with urllib.request.urlopen(image.url, timeout=60) as answer, new.open("wb") as stream:  # noqa: S310 - http(s)
            size, free = int(answer.headers.get("Content-Length") or 0), shutil.disk_usage(target.parent).free
            if size > free:
                raise MetalserveError(
                    f"the engine's image has {size // _MIB} MiB, and {free // _MIB} MiB are free",
                    where=str(target.parent),
                    remedy="make room, or name another directory: METALSERVE_TEMPLATES_DIR",
                )
            while piece := answer.read(_CHUNK):
                hashed.update(piece)
                stream.write(piece)
            if stream.tell() < size:
                raise ConnectionError(f"broke off after {stream.tell()} of {size} bytes")
        if hashed.hexdigest() != image.sha256:
            raise MetalserveError(
                f"has SHA-256 {hashed.hexdigest()}, and the specification says {image.sha256}",
                where=image.url,
                remedy="correct settings.engine.image_archive_sha256, or the file behind settings.engine.image_archive",
            )
        new.replace(target)
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise MetalserveError(
            f"cannot be fetched: {error}", where=image.url, remedy="see settings.engine.image_archive"
        ) from error
    finally:
        new.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _holds(image: EngineImage, path: Path) -> None:
    """Refuse an archive that would be loaded and then not hold what the release names."""
    wanted = f"{image.repository}:{image.tag}"
    found: list[str] = []
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name == "manifest.json" and (stream := archive.extractfile(member)) is not None:
                    found = [tag for each in json.load(stream) for tag in each.get("RepoTags") or ()]
                    break
    except (tarfile.TarError, ValueError, TypeError, AttributeError, EOFError) as error:
        raise MetalserveError(f"is no archive of `docker save`: {error}", where=image.url) from error
    if not any(tag == wanted or tag.endswith(f"/{wanted}") for tag in found):
        raise MetalserveError(
            f"does not hold {wanted}, which the release names; it holds {', '.join(found) or 'no named image'}",
            where=image.url,
            remedy=f"make it with: docker save {wanted}; or take another release",
        )


def check_room(spec: TemplateSpec, archive: Path, tree_bytes: int = 0) -> None:
    """Refuse an image whose root has no room for the archive.

    Args:
        spec: the template.
        archive: the engine's.
        tree_bytes: what else is in the tree, as far as it is known.

    Raises:
        MetalserveError: there is too little; says how much is needed.
    """
    size = archive.stat().st_size
    needed = int((size + tree_bytes) * _SLACK) // _MIB + 1
    if needed > spec.disk.root_mib:
        raise MetalserveError(
            f"the engine's image has {size // _MIB} MiB: with it the root needs {needed} MiB, and it has "
            f"{spec.disk.root_mib}",
            where=spec.name,
            remedy=f"disk.root_mib: {-(-needed // 1024) * 1024}, or engine_image: false",
        )


def tree_bytes(root: Path) -> int:
    """Return what the files of a tree take, in bytes; hard links count once."""
    seen: dict[tuple[int, int], int] = {}
    for directory, _, files in os.walk(root):
        for name in files:
            status = os.lstat(os.path.join(directory, name))
            seen[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(seen.values())


def place_archive(image: EngineImage, archive: Path, root: Path, epoch: int) -> None:
    """Put the archive into a cleaned tree, without a copy where cache and tree are on one file system.

    Args:
        image: which.
        archive: its file in the cache.
        root: the tree.
        epoch: seconds since 1970 that it bears as its time, whenever it was fetched.
    """
    target = inside(root, f"{ARCHIVES}/{image.file_name}")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(archive, target)
    except OSError:  # another file system
        shutil.copyfile(archive, target)
    target.chmod(0o644)
    os.utime(target, (epoch, epoch))
