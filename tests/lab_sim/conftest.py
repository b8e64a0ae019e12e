from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from metalserve.lab.sim import smi_apps
from tests.lab_sim.machine import Machine


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Machine]]:
    # engines of a lab that is up beside these tests are in this machine's /proc, and hold no GPU of these machines
    monkeypatch.setattr(smi_apps, "holders", dict)
    made: list[Machine] = []

    def make(profile: str) -> Machine:
        made.append(Machine(tmp_path / f"m{len(made)}", profile))
        return made[-1]

    yield make
    for each in made:
        each.stop()
