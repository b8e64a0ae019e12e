"""What a kind of tool output is, and how parsed values become JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

from metalserve.hardware.parsers.smi import smi_failure
from metalserve.hardware.parsers.text import ParseError


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of tool output.

    Attributes:
        name: what the user types.
        command: the command that prints it.
        read: text -> JSON-ready object; raises `ParseError` only.
        looks: cleaned text -> whether it may be of this kind; `read` decides.
    """

    name: str
    command: str
    read: Callable[[str], dict[str, Any]]
    looks: Callable[[str], bool]


def marks(pattern: str) -> Callable[[str], bool]:
    """Return a test for texts in which a line matches `pattern`."""
    compiled = re.compile(pattern, re.MULTILINE)
    return lambda text: compiled.search(text) is not None


def plain(value: Any) -> Any:
    """Return `value` as JSON knows it: data classes and mappings as objects with text keys, tuples as lists."""
    if value is None or isinstance(value, str | int | float):
        return value
    if is_dataclass(value):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def of_smi(read: Callable[[str], dict[str, Any]]) -> Callable[[str], dict[str, Any]]:
    """Wrap a reader of nvidia-smi's output: text that only holds its error message gives that as the error."""

    def reader(text: str) -> dict[str, Any]:
        try:
            return read(text)
        except ParseError as error:
            failure = smi_failure(text)
            if failure is None:
                raise
            raise ParseError(f"nvidia-smi failed ({failure.state}): {failure.message}") from error

    return reader
