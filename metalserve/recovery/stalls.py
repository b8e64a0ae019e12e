"""Finds in an engine's log that requests run and no token comes. Pure.

vLLM prints its throughput every ten seconds. Nothing computed and nothing generated while requests run is a step that
does not end; five such lines in a row are longer than any prefill or compilation of a step that an engine still does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_STATE: Final = re.compile(
    r"Avg prompt throughput: (?P<prompt>[\d.]{1,12}) tokens/s, "
    r"Avg generation throughput: (?P<tokens>[\d.]{1,12}) tokens/s,.{0,80}Running: (?P<running>\d{1,6}) reqs"
)
_IN_A_ROW: Final = 5


def stalled(lines: Iterable[str]) -> str:
    """Return the last of the lines that say so; empty when the engine made progress at the end of its log."""
    row = 0
    last = ""
    for line in lines:
        found = _STATE.search(line)
        if found is None:
            continue
        still = float(found["prompt"]) == 0 and float(found["tokens"]) == 0 and int(found["running"]) > 0
        row, last = (row + 1, line) if still else (0, "")
    return last if row >= _IN_A_ROW else ""
