"""The kinds of tool output that `metalserve read` understands, each with its JSON form.

docs/read-schema.md documents the keys of each; a test holds both together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from metalserve.hardware.parsers.smi import smi_failure
from metalserve.hardware.parsers.text import ParseError, clean, first_line
from metalserve.hardware.readable.fabric import FABRIC_KINDS
from metalserve.hardware.readable.kind import Kind
from metalserve.hardware.readable.logs import LOG_KINDS
from metalserve.hardware.readable.machine import MACHINE_KINDS
from metalserve.hardware.readable.measured import MEASURED_KINDS
from metalserve.hardware.readable.smi import SMI_KINDS

__all__ = ["KINDS", "SCHEMA", "Kind", "candidates", "read_any"]

SCHEMA: Final = 1
"""Version of the JSON objects; raised when a key changes its meaning or goes away, not when one is added."""

_DETECTION = (*SMI_KINDS[:-1], *FABRIC_KINDS, *MEASURED_KINDS, *MACHINE_KINDS, *LOG_KINDS, SMI_KINDS[-1])
"""In the order in which kinds are tried: strict marks first, a CSV header last."""

_SHOWN = [
    "topo",
    "smi-q",
    "smi-xml",
    "smi-table",
    "smi-list",
    "smi-csv",
    "smi-version",
    "smi-fields",
    "nvlink-status",
    "nvlink-errors",
    "nvlink-caps",
    "p2p",
    "lspci",
    "sysfs-links",
    "nvme-list",
    "nvme-smart",
    "nvme-id-ctrl",
    "lsblk",
    "findmnt",
    "mdadm",
    "dcgm",
    "dcgm-nvlink",
    "nccl",
    "fio",
    "kernel-log",
    "fabric-log",
    "vllm-log",
    "vllm-metrics",
]

KINDS: Final[Mapping[str, Kind]] = {name: next(k for k in _DETECTION if k.name == name) for name in _SHOWN}
"""Name -> kind, in the order in which they are listed to people."""


def candidates(text: str) -> Iterator[Kind]:
    """Yield the kinds whose marks a text bears, the likeliest first."""
    cleaned = clean(text)
    return (kind for kind in _DETECTION if kind.looks(cleaned))


def read_any(text: str) -> tuple[Kind, dict[str, Any]]:
    """Read a text whose kind is not told: as the first of its candidates that can read it.

    Raises:
        ParseError: none can; it says what is wrong with the text as the likeliest kind.
    """
    first: ParseError | None = None
    for kind in candidates(text):
        try:
            return kind, kind.read(text)
        except ParseError as error:
            first = first or ParseError(f"as {kind.name}: {error.what}", remedy=error.remedy)
    if first:
        raise first
    failure = smi_failure(text)
    if failure:
        raise ParseError(f"nvidia-smi failed ({failure.state}): {failure.message}")
    raise ParseError(f"kind not recognised; the text begins with {first_line(text)!r}", remedy="name the kind")
