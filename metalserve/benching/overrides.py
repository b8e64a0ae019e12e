"""A launch plan as settings laid over a host's own: `engine.max_model_len=8192`. Pure."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from metalserve.errors import MetalserveError
from metalserve.yaml_text import read_yaml

SECTIONS = ("engine",)
"""What a plan may change: the launch, not what is staged or installed."""


def overrides_of(words: Sequence[str], option: str) -> dict[str, Any]:
    """Return KEY=VALUE words as key -> value; values are YAML (`true`, `8192`, `[--flag, x]`).

    Args:
        words: as given on the command line.
        option: the option's name, for messages.

    Raises:
        MetalserveError: a word has no key, a key that is not the engine's, or a value that is no YAML.
    """
    found: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise MetalserveError(f"{word!r} is not KEY=VALUE", where=option)
        section, _, name = key.partition(".")
        if section not in SECTIONS or not name:
            raise MetalserveError(f"{key} is no setting of the engine", where=option, remedy="engine.NAME=VALUE")
        if key in found:
            raise MetalserveError(f"{key} is given twice", where=option)
        try:
            found[key] = read_yaml(text)
        except yaml.YAMLError as error:
            raise MetalserveError(f"{key}: not YAML: {' '.join(str(error).split())}", where=option) from error
    return found


def laid_over(data: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sections of a host's data that the overrides touch, with them laid over.

    Raises:
        MetalserveError: the host has something other than settings where a key leads.
    """
    result: dict[str, Any] = {}
    for key, value in overrides.items():
        section, *path = key.split(".")
        if section not in result:
            result[section] = copy.deepcopy(dict(data.get(section) or {}))
        place = result[section]
        for part in path[:-1]:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise MetalserveError(f"{part} holds no settings", where=key)
        place[path[-1]] = value
    for section in SECTIONS:  # a plan without overrides is the host's own; it must be said to undo the other's
        result.setdefault(section, copy.deepcopy(dict(data.get(section) or {})))
    return result
