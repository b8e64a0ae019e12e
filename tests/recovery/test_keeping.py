"""How evidence is packed and named: by one way, whoever keeps it."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path

import pytest

from metalserve.errors import MetalserveError
from metalserve.recovery.keeping import file_name, keep_bmc, keep_bundle, tar_of
from metalserve.recovery.last_verify import NAME
from metalserve.report.history import HISTORY, keep


def contents(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        files = {member.name: archive.extractfile(member) for member in archive}
        return {name: file.read() for name, file in files.items() if file is not None}


def test_a_bundle_is_named_after_host_and_time_and_has_the_last_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keep({"schema": 1, "started": "2026-11-01T03:00:00Z", "hosts": {"@chroot/a": {"status": "ok"}}}, Path(HISTORY))
    path = keep_bundle(tmp_path / "new", "@chroot/a", tar_of("evidence", {"kernel.log": b"[1.0] well\n"}))
    assert path.parent == tmp_path / "new"
    assert re.fullmatch(r"_chroot_a-\d{8}T\d{6}\.\d{3}Z\.tar\.gz", path.name)
    found = contents(path)
    assert found["evidence/kernel.log"] == b"[1.0] well\n" and b'"ok"' in found[f"evidence/{NAME}"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_a_bmc_says_has_a_name_of_its_own(tmp_path: Path) -> None:
    path = keep_bmc(tmp_path, "a", {"events.txt": "Xid 79 – lost\n", "a.txt": ""})
    assert path.name.startswith("a-") and path.name.endswith("Z-bmc.tar.gz")
    assert contents(path) == {"evidence/a.txt": b"", "evidence/events.txt": "Xid 79 – lost\n".encode()}


def test_the_same_values_give_the_same_bytes() -> None:
    one = tar_of("top", {"b": b"2", "a": b"1"}, 1_790_000_000)
    assert one == tar_of("top", {"a": b"1", "b": b"2"}, 1_790_000_000)
    with tarfile.open(fileobj=io.BytesIO(one)) as archive:
        assert [(m.name, m.mtime, m.mode) for m in archive] == [
            ("top/a", 1_790_000_000, 0o644),
            ("top/b", 1_790_000_000, 0o644),
        ]


@pytest.mark.parametrize(
    ("name", "file"), [("gpu-01.example", "gpu-01.example"), ("../../etc", "_.._etc"), ("..", "_"), ("", "_")]
)
def test_a_name_cannot_leave_its_directory(name: str, file: str) -> None:
    assert file_name(name) == file


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MetalserveError, match="cannot be written"):
        keep_bundle(tmp_path / "file", "a", b"")
