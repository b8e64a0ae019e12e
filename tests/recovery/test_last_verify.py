"""The last verify report in a host's bundle."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

from metalserve.recovery.last_verify import LOOKED_AT, NAME, last_verify, with_verify
from metalserve.recovery.reading import read_evidence
from metalserve.report.history import keep

KERNEL = "[   10.000001] NVRM: Xid (PCI:0000:41:00): 79, pid=1, name=python, GPU has fallen off the bus.\n"


def report(day: int, **hosts: Any) -> dict[str, Any]:
    return {"schema": 1, "started": f"2026-11-{day:02}T03:00:00Z", "complete": True, "hosts": hosts}


def bundle(*names: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in names:
            member = tarfile.TarInfo(f"evidence/{name}")
            text = KERNEL if name == "kernel.log" else "kernel.log\t0\t1\tdmesg\n"
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return stream.getvalue()


def test_the_newest_one_that_has_the_host(tmp_path: Path) -> None:
    keep(report(1, a={"status": "ok", "n": 1}, b={"status": "ok"}), tmp_path)
    keep(report(2, a={"status": "ok", "n": 2}), tmp_path)
    keep(report(3, c={"status": "ok"}), tmp_path)
    said = json.loads(last_verify("a", tmp_path) or b"")
    assert (said["report"], said["host"], said["verify"]) == ("20261102T030000Z.json", "a", {"status": "ok", "n": 2})
    assert json.loads(last_verify("b", tmp_path) or b"")["started"] == "2026-11-01T03:00:00Z"
    assert last_verify("d", tmp_path) is None
    assert last_verify("a", tmp_path / "none") is None


def test_old_ones_and_broken_ones_are_no_reason_to_lose_evidence(tmp_path: Path) -> None:
    keep(report(1, a={"status": "ok"}), tmp_path)
    for day in range(2, 2 + LOOKED_AT):
        keep(report(day, b={"status": "ok"}), tmp_path)
    assert last_verify("a", tmp_path) is None
    (tmp_path / "20261130T000000Z.json").write_text("{")
    assert with_verify(bundle("kernel.log"), "b", tmp_path) == bundle("kernel.log")


def test_it_stands_in_the_bundle_beside_what_the_host_said(tmp_path: Path) -> None:
    keep(report(5, a={"status": "ok", "proofs": {"soak": "good"}}), tmp_path / "history")
    whole = with_verify(bundle("manifest.tsv", "kernel.log"), "a", tmp_path / "history")
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        assert archive.getnames() == ["evidence/manifest.tsv", "evidence/kernel.log", f"evidence/{NAME}"]
        member = archive.extractfile(f"evidence/{NAME}")
        assert member is not None and json.loads(member.read())["verify"]["proofs"] == {"soak": "good"}
    path = tmp_path / "a.tar"
    path.write_bytes(whole)
    assert "fallen off the bus" in (read_evidence([str(path)]).kernel or "")


def test_a_bundle_that_was_cut_off_is_kept_as_it_came(tmp_path: Path) -> None:
    keep(report(5, a={"status": "ok"}), tmp_path)
    assert with_verify(b"not a tar", "a", tmp_path) == b"not a tar"
