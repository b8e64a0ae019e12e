"""Tar files that come out the same every time, and the archive format that `docker load` reads."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

EPOCH = 1793577600
"""Time stamp of everything in the archive (2026-11-02, the day of vLLM 0.33.0): the content decides the digest."""


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime = EPOCH
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.pax_headers = {}
    return member


def _replace(temporary: Path, target: Path) -> None:
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.replace(target)


def write_tar(target: Path, root: Path) -> None:
    """Write the tree below `root` as a tar, sorted and without times and owners, atomically."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.new")
    with tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted(root.rglob("*")):
            tar.add(path, arcname=str(path.relative_to(root)), recursive=False, filter=_plain)
    _replace(temporary, target)


def tar_of(files: Mapping[str, tuple[bytes, int]], links: Mapping[str, str]) -> bytes:
    """Return a tar of files (path -> content and mode) and symbolic links (path -> target), parents included."""
    buffer = io.BytesIO()
    parents = sorted({str(parent) for name in (*files, *links) for parent in Path(name).parents} - {"."})
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in parents:
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(_plain(directory))
        for name, (content, mode) in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), mode
            tar.addfile(_plain(member), io.BytesIO(content))
        for name, place in sorted(links.items()):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, place
            tar.addfile(_plain(member))
    return buffer.getvalue()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_docker_archive(
    target: Path, *, tag: str, architecture: str, config: Mapping[str, Any], layers: list[Path | bytes]
) -> str:
    """Write an archive for `docker load`, bottom layer first, atomically; return its SHA-256."""
    digests = [file_digest(layer) if isinstance(layer, Path) else hashlib.sha256(layer).hexdigest() for layer in layers]
    image = {
        "architecture": architecture,
        "os": "linux",
        "created": "2026-11-02T00:00:00Z",
        "config": dict(config),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
        "history": [{"created": "2026-11-02T00:00:00Z", "created_by": "metalserve (simulated)"} for _ in layers],
    }
    image_bytes = json.dumps(image, sort_keys=True).encode()
    image_name = f"{hashlib.sha256(image_bytes).hexdigest()}.json"
    names = [f"{digest}/layer.tar" for digest in digests]
    manifest = json.dumps([{"Config": image_name, "RepoTags": [tag], "Layers": names}]).encode()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.new")
    with tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, layer in zip(names, layers, strict=True):
            member = tarfile.TarInfo(name)
            if isinstance(layer, Path):
                member.size = layer.stat().st_size
                with layer.open("rb") as stream:
                    tar.addfile(_plain(member), stream)
            else:
                member.size = len(layer)
                tar.addfile(_plain(member), io.BytesIO(layer))
        for name, content in ((image_name, image_bytes), ("manifest.json", manifest)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(_plain(member), io.BytesIO(content))
    _replace(temporary, target)
    return file_digest(target)
