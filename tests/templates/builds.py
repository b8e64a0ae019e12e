"""Small builds for tests: a disk of a few kilobytes, compressed by the real zstd."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from metalserve.templates.manifest import (
    DISK,
    BaseSystem,
    FileEntry,
    Inputs,
    Kernel,
    Manifest,
    build_name,
    file_entries,
    file_entry,
    moment,
)
from metalserve.templates.signing import TrustedKey, make_key, trusted_keys

DIGEST = "0123456789abcdef" * 4
BEGIN = datetime(2026, 11, 26, 10, 0, tzinfo=UTC)


def some_inputs(**changed: Any) -> Inputs:
    data: dict[str, Any] = {
        "spec": DIGEST,
        "roles": {"base": DIGEST, "nvidia_driver": DIGEST},
        "release": DIGEST,
        "suites": {"trixie": DIGEST, "trixie-security": DIGEST},
        "tools": DIGEST,
    }
    return Inputs.model_validate({**data, **changed})


def make_build(directory: Path, number: int = 0, name: str = "debian-13", **inputs: Any) -> Manifest:
    """Fill `directory` with the files of a build, and return its manifest (not written)."""
    directory.mkdir(parents=True)
    raw = directory.parent / f".{directory.name}.raw"
    raw.write_bytes(f"disk {number} of {name}".encode() * 500)
    subprocess.run(["zstd", "-q", "-3", raw, "-o", directory / DISK], check=True)
    (directory / "packages.tsv").write_text("package\tversion\tarchitecture\tsource\nbash\t5.2-3\tamd64\tbash\n")
    return some_manifest(file_entries(directory), file_entry(raw), number, name, **inputs)


def some_manifest(
    files: dict[str, FileEntry], raw: FileEntry, number: int = 0, name: str = "debian-13", **inputs: Any
) -> Manifest:
    created, made_of = moment(BEGIN + timedelta(minutes=number)), some_inputs(**inputs)
    return Manifest(
        schema=1,
        name=name,
        build=build_name(created, made_of),
        created=created,
        source_date_epoch=1_763_000_000,
        inputs=made_of,
        os=BaseSystem(distribution="debian", release="13"),
        architecture="amd64",
        kernel=Kernel(package="linux-image-amd64", version="6.12.57+deb13-amd64"),
        release="2026.11-production",
        files=files,
        raw=raw,
        packages=1,
    )


def make_keys(directory: Path) -> tuple[Path, list[TrustedKey]]:
    """Make a pair of keys, and return the secret one's path and the public one as trusted."""
    secret, public = directory / "secret.key", directory / "public.pub"
    make_key(secret, public)
    return secret, trusted_keys([public])
