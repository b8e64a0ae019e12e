"""What is made beside something else: all of it is there at the end, and a failure of either is the build's."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import cast

import pytest

from metalserve.errors import MetalserveError
from metalserve.templates import pack
from metalserve.templates.manifest import DISK, FileEntry
from metalserve.templates.packing import pack_all
from metalserve.templates.spec import TemplateSpec
from metalserve.templates.steps import no_step
from tests.templates.standin_build import small_spec

ENTRY = FileEntry(size=4, sha256="0" * 64)


class Packs:
    """A packer whose parts wait for each other where they may run together, and fail when told to."""

    def __init__(self, place: Path, spec: TemplateSpec, fails: str = "") -> None:
        self.place, self.spec, self.fails = place, spec, fails
        self.together, self.done = threading.Barrier(2, timeout=20), list[str]()

    def _made(self, what: str, *names: str) -> None:
        if self.fails == what:
            raise MetalserveError(f"{what} failed", where="here")
        for name in names:
            (self.place / name).write_text(what)
        self.done.append(what)

    def tar(self) -> None:
        if not self.fails:
            self.together.wait()
        self._made("tar", pack.ROOT_TAR)

    def disk(self) -> None:
        if not self.fails:
            self.together.wait()
        self._made("disk", pack.RAW)

    def compress(self) -> FileEntry:
        if not self.fails:
            self.together.wait()
        self._made("compress", DISK)
        return ENTRY

    def qcow2(self) -> None:
        assert (self.place / pack.RAW).exists()
        if not self.fails:
            self.together.wait()
        self._made("qcow2", pack.QCOW2)


def test_what_may_run_together_does_and_all_is_handed_on(tmp_path: Path) -> None:
    (out := tmp_path / "out").mkdir()
    packs = Packs(tmp_path, small_spec())
    assert pack_all(cast(pack.Packer, packs), out, no_step) == ENTRY
    assert {path.name for path in out.iterdir()} == {DISK, pack.QCOW2, pack.ROOT_TAR}
    assert sorted(packs.done) == ["compress", "disk", "qcow2", "tar"] and not (tmp_path / pack.RAW).exists()


@pytest.mark.parametrize("what", ["tar", "disk", "compress", "qcow2"])
def test_a_part_that_fails_is_the_failure_of_all(tmp_path: Path, what: str) -> None:
    (out := tmp_path / "out").mkdir()
    with pytest.raises(MetalserveError, match=f"{what} failed"):
        pack_all(cast(pack.Packer, Packs(tmp_path, small_spec(), what)), out, no_step)
    assert not list(out.iterdir())
