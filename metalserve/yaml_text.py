"""YAML that is safe to read, by the faster of PyYAML's two readers."""

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
