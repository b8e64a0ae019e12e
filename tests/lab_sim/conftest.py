from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab_sim.machine import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Callable[[str], Machine]]:
    made: list[Machine] = []

    def make(profile: str) -> Machine:
        made.append(Machine(tmp_path / f"m{len(made)}", profile))
        return made[-1]

    yield make
    for each in made:
        each.stop()
