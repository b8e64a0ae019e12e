"""No text makes a kind of `metalserve read` raise anything but `ParseError`, give what is no JSON, or hang."""

from __future__ import annotations

import contextlib
import json
import time
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalserve.hardware.parsers.text import ParseError
from metalserve.hardware.readable import KINDS, read_any

from .kinds import SAMPLES
from .test_fuzz import PARSERS, damaged

KIND_TEXTS = {
    **{f"read {name}": (KINDS[name].read, texts) for name, texts in SAMPLES.items()},
    "recognise": (read_any, tuple(text for texts in SAMPLES.values() for text in texts)),
}


@st.composite
def mangled(draw: st.DrawFn, texts: tuple[str, ...]) -> str:
    """A sample as mail, terminals and web forms leave it: cut, wrapped, joined, doubled, coloured, without tabs."""
    text = draw(st.sampled_from(texts))
    for _ in range(draw(st.integers(1, 3))):
        lines = text.split("\n")
        at = draw(st.integers(0, len(lines) - 1))
        change = draw(st.sampled_from(["cut", "join", "wrap", "double", "drop", "swap", "tabs", "ansi", "cr", "flip"]))
        if change == "cut":
            text = text[: draw(st.integers(0, len(text)))]
        elif change == "join":
            text = "\n".join([*lines[:at], "".join(lines[at : at + 2]), *lines[at + 2 :]])
        elif change == "wrap":
            half = len(lines[at]) // 2
            text = "\n".join([*lines[:at], lines[at][:half], lines[at][half:], *lines[at + 1 :]])
        elif change == "double":
            text = "\n".join([*lines[:at], lines[at], *lines[at:]])
        elif change == "drop":
            text = "\n".join(lines[:at] + lines[at + 1 :])
        elif change == "swap":
            text = "\n".join([*lines[at:], *lines[:at]])
        elif change == "tabs":
            text = text.replace("\t", draw(st.sampled_from(["", " ", "        "])))
        elif change == "ansi":
            text = "\n".join([*lines[:at], f"\x1b[4m{lines[at]}\x1b[0m", *lines[at + 1 :]])
        elif change == "cr":
            text = text.replace("\n", "\r\n")
        else:
            text = draw(damaged(text))
    return text


@pytest.mark.parametrize("name", sorted(KIND_TEXTS))
@settings(max_examples=60, deadline=timedelta(seconds=3))
@given(data=st.data())
def test_kinds_raise_only_their_own_error_and_give_json(name: str, data: st.DataObject) -> None:
    read, texts = KIND_TEXTS[name]
    text = data.draw(st.one_of(mangled(texts), st.text(max_size=200)))
    try:
        found = read(text)
    except ParseError as error:
        assert str(error)
    else:
        json.dumps(found[1] if isinstance(found, tuple) else found, allow_nan=False)


HOSTILE = (
    "a" * 200_000,
    "[" * 50_000,
    "{" * 50_000,
    '{"a":' * 20_000,
    "GPU0 " * 40_000,
    "0000:" * 40_000,
    "Xid (" * 40_000,
    "| " * 60_000,
    " : " * 40_000,
    "1 " * 60_000,
    "\n" * 100_000,
    "NVIDIA-SMI 1.1 " * 8_000,
    "vllm:a{" * 20_000,
    "Link 0: " * 20_000,
)


@pytest.mark.parametrize("name", sorted({*PARSERS, *KIND_TEXTS}))
def test_nothing_hangs_on_long_hostile_text(name: str) -> None:
    parser, known = PARSERS[name] if name in PARSERS else KIND_TEXTS[name]
    sample = known if isinstance(known, str) else known[0]
    started = time.process_time()
    for text in (*HOSTILE, sample * 50, sample.replace("\n", " ") * 20):
        with contextlib.suppress(ParseError):
            parser(text)
    assert time.process_time() - started < 8
