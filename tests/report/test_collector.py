from __future__ import annotations

import gc

import pytest

from metalserve.report.collector import no_collection


def test_the_collector_is_off_within_and_as_it_was_after() -> None:
    assert gc.isenabled()
    with no_collection():
        assert not gc.isenabled()
        with no_collection():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_an_error_leaves_it_on() -> None:
    @no_collection()
    def fails() -> None:
        raise ValueError("told")

    for _ in range(2):
        with pytest.raises(ValueError, match="told"):
            fails()
        assert gc.isenabled()
