"""What the tests of rendered scripts share."""

from __future__ import annotations

import pytest

from metalserve.desired.diff import Change, difference
from metalserve.desired.model import Desired
from metalserve.desired.observed import Observation
from tests.desired.shells import SHELLS

shells = pytest.mark.parametrize("shell", SHELLS)


def changes(desired: Desired) -> list[Change]:
    return list(difference(desired, Observation()))
