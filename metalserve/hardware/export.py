"""`NodeHardware` as JSON-ready values, for reports: one form (schema 1) that pages and other programs may rely on."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from typing import Any, Final

from metalserve.hardware.node import NodeHardware

SCHEMA: Final = 1
"""Raised when a key changes its meaning or goes away; new keys do not raise it."""


def hardware_dict(hardware: NodeHardware) -> dict[str, Any]:
    """Return all fields of `hardware`; pairs of GPUs become keys such as "GPU0,GPU1"."""
    found = {"schema": SCHEMA}
    for name in hardware.__dataclass_fields__:
        found[name] = _plain(getattr(hardware, name))
    return found


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(v) for v in value)
    if hasattr(value, "items"):
        return {_key(k): _plain(v) for k, v in value.items()}
    return value


def _key(key: Any) -> str:
    if isinstance(key, tuple):
        return ",".join(f"GPU{part}" if isinstance(part, int) else str(part) for part in key)
    return str(key)
