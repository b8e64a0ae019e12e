"""Checks over real `nvidia-smi -q` captures: the sound ones raise no alarm, the bad one is found on its GPUs.

The captures are not part of the repository: see tests/hardware/test_captures.py.
"""

from __future__ import annotations

import pytest

from metalserve.catalogue.loader import load_gpus
from metalserve.hardware.node import node_hardware
from metalserve.hardware.section import Section
from metalserve.verify.finding import Finding
from metalserve.verify.health import check_gpus
from tests.hardware.captures import INDEX, ROOT

pytestmark = pytest.mark.skipif(not INDEX, reason="the captures are not here (METALSERVE_CAPTURES)")

REPORTS = sorted(name for name, row in INDEX.items() if row["kind"] == "nvidia-smi-q" and "MANGLED" not in name)
BAD = "nvidia-smi-q/azure-8gpu-page-retirement-bad.txt"


def findings(name: str) -> list[Finding]:
    text = (ROOT / name).read_text(encoding="utf-8", errors="replace")
    refused = Section("not asked", 2)
    return check_gpus(node_hardware({"smi-csv": refused, "smi-q": Section(text)}), load_gpus())


@pytest.mark.parametrize("name", [n for n in REPORTS if n != BAD])
def test_sound_gpus_raise_no_alarm(name: str) -> None:
    found = findings(name)
    assert [str(f) for f in found if f.status == "fail"] == []
    assert {f.check for f in found if f.status == "warn"} <= {"persistence"}


def test_retired_pages_are_found_on_their_gpus() -> None:
    pages = {f.subject.split()[1]: f.status for f in findings(BAD) if f.check == "memory-pages"}
    assert pages == {"0": "ok", "1": "fail", "2": "ok", "3": "warn", "4": "ok", "5": "warn", "6": "ok", "7": "warn"}
