"""YAML that is safe to read, by the faster of PyYAML's two readers, and what was read laid over one another."""

from __future__ import annotations

from typing import Any

import yaml

try:  # the C reader is ten times faster; PyYAML without libyaml lacks it
    from yaml import CSafeLoader as _Loader
except ImportError:  # pragma: no cover
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]


def read_yaml(text: str) -> Any:
    """Return what a YAML text says; only plain values, never objects.

    Raises:
        yaml.YAMLError: it is no YAML.
    """
    return yaml.load(text, Loader=_Loader)


def merged(below: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return `below` with `over` laid on it: maps are merged, a null removes the key, all else replaces."""
    result = dict(below)
    for key, value in over.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result
