"""A whole build of a template on a tree of a few kilobytes: every step of build.py in order, none of its slow tools.

What is stood in for is what comes from elsewhere (archive, bootstrapper, tool root, SBOM); each has tests of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from metalserve.templates import build as building
from metalserve.templates import pack
from metalserve.templates.archive import Archive
from metalserve.templates.manifest import DISK, FileEntry, file_entry, moment
from metalserve.templates.spec import TemplateSpec, load_spec
from metalserve.templates.steps import Step
from metalserve.templates.toolroot import ToolRoot
from metalserve.trees.mirrors import Mirrors
from metalserve.trees.system import run
from tests.templates.builds import BEGIN
from tests.templates.trees import listed, small_tree

TOOLS = ToolRoot(Path("/nonexistent"), {"mtools": "4"})
ARCHIVE = Archive(Mirrors("http://mirror.invalid/debian"), {"trixie": "0" * 64}, 1_795_486_335)
STATUS = "Package: bash\nStatus: install ok installed\nVersion: 5.2-3\nArchitecture: amd64\n\n"


def small_spec(name: str = "small") -> TemplateSpec:
    """Return a template without roles."""
    value = load_spec("debian-13-base").model_dump(mode="json")
    return TemplateSpec.model_validate({**value, "name": name, "roles": []})


def stand_in(monkeypatch: pytest.MonkeyPatch, *, fill: Callable[[Path], object] = lambda root: None) -> None:
    """Have `build_template` make and pack a small tree; `fill` puts more into it."""
    numbers = itertools.count()

    def make_rootfs(spec: TemplateSpec, archive: Archive, root: Path, *, cache: Path, log: Path) -> None:
        cache.mkdir(parents=True, exist_ok=True)
        small_tree(root)
        (root / "var/lib/dpkg/status").write_text(STATUS)
        fill(root)

    def sbom(root: Path, packages: Any, subject: Any, directory: Path) -> None:
        for name in ("sbom.cdx.json", "sbom.spdx.json"):
            (directory / name).write_text("{}\n")

    def packed(packer: pack.Packer, out: Path, step: Step) -> FileEntry:
        raw = packer.place / pack.RAW
        raw.write_bytes(b"disk" * 1000)
        run(["zstd", "-q", "-3", raw, "-o", packer.place / DISK])
        for name in (pack.QCOW2, pack.ROOT_TAR, pack.UKI):
            (packer.place / name).write_text(f"{name}\n")
        for name in (DISK, pack.QCOW2, pack.ROOT_TAR, pack.UKI):
            (packer.place / name).rename(out / name)
        entry = file_entry(raw)
        raw.unlink()
        return entry

    monkeypatch.setattr(building, "check_machine", lambda spec: None)
    monkeypatch.setattr(building, "mirrors_for", lambda system: ARCHIVE.mirrors)
    monkeypatch.setattr(building, "read_archive", lambda system, mirrors: ARCHIVE)
    monkeypatch.setattr(building, "make_rootfs", make_rootfs)
    monkeypatch.setattr(building, "write_sbom", sbom)
    monkeypatch.setattr(building, "runner", lambda root: listed)
    monkeypatch.setattr(building, "pack_all", packed)
    # builds are named by the second
    monkeypatch.setattr(building, "moment", lambda: moment(BEGIN + timedelta(seconds=next(numbers))))
