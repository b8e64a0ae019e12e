"""What a run keeps in a host's report for later: what launches taught the planner, how long starts took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from metalserve.planning.calibration import Learned
from metalserve.pyinfra_seam.hostrun import current


def learn(learned: Learned) -> None:
    """Keep, at the end of the run, what this host's launch taught the planner (`reports/calibration.json`)."""
    current().report.learned = asdict(learned)


def keep_loads(loads: Sequence[dict[str, Any]]) -> None:
    """Keep the starts of this host's engines in the report (`metalserve.weights.loads.Load.as_dict`), oldest first."""
    current().report.loads = list(loads)
