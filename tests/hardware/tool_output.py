"""Reading one tool's output by the name of its kind."""

from __future__ import annotations

from typing import Any

import pytest

from metalserve.hardware.parsers.text import ParseError
from metalserve.hardware.readable import KINDS


def read(kind: str, text: str) -> dict[str, Any]:
    return KINDS[kind].read(text)


def refused(kind: str, text: str, words: str) -> None:
    with pytest.raises(ParseError, match=words):
        read(kind, text)
