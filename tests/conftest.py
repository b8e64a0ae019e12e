"""For every test: hypothesis that neither fails because the machine is busy nor, in CI, by a draw nobody can repeat."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("default", deadline=None)
# derandomised, the same examples come each time: more of them find nothing new, they only take time
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True, max_examples=40)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(autouse=True)
def _threads_stay_threads() -> Iterator[None]:
    """No test may leave gevent in place of threads: those after it would hang. pyinfra's reader of inventories does."""
    before = _gevent_is_in_place()
    yield
    assert before or not _gevent_is_in_place(), "read the inventory in a process of its own"


def _gevent_is_in_place() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return bool(monkey is not None and monkey.saved)
