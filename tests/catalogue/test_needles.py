"""The literals that a line must hold for a pattern to fit it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalserve.catalogue.causes import load_causes
from metalserve.catalogue.needles import needles

SIGNS = load_causes().signs


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("NVRM: Xid", ("nvrm: xid",)),
        (r"(?:one two|three) \d+", ("one two", "three")),
        (r"(?:one|x\d)", ()),
        (r"abc(?:defgh)?", ("abc",)),
        (r"(?P<subject>nvme\d+): gone", (": gone",)),
        (r".{0,40}", ()),
    ],
)
def test_needles_of_a_pattern(pattern: str, words: tuple[str, ...]) -> None:
    assert needles(pattern) == words


@given(st.sampled_from(SIGNS), st.data())
def test_every_line_that_fits_holds_a_needle(sign: object, data: st.DataObject) -> None:
    pattern = getattr(sign, "pattern")  # noqa: B009
    line = data.draw(st.from_regex(re.compile(pattern, re.ASCII), fullmatch=False))
    low = line.lower()
    assert not needles(pattern) or any(word in low for word in needles(pattern))
