"""Write the kept configurations anew: `python -m tests.routing.write`."""

from __future__ import annotations

from tests.routing.fleets import FLEETS, text_of
from tests.routing.test_haproxy import DATA

for fleet in FLEETS:
    (DATA / f"{fleet}.cfg").write_text(text_of(fleet))
