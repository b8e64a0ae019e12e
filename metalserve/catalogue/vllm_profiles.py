"""Ready-made sets of vLLM flags for a purpose (`catalogue/vllm/profiles.yaml`), with their reasons."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from metalserve.errors import MetalserveError
from metalserve.paths import CATALOGUE
from metalserve.yaml_text import read_yaml


@dataclass(frozen=True)
class ProfileFlag:
    """A flag of a profile. `rule` says what the value follows: "chunk", "concurrency", or nothing (as it stands)."""

    flag: str
    reason: str
    source: str
    value: str | None = None
    rule: str | None = None
    since: str | None = None
    until: str | None = None
    measured: str | None = None


@dataclass(frozen=True)
class Avoided:
    """A flag that works against a profile: with this value, above this number, or at all."""

    flag: str
    reason: str
    source: str
    value: str | None = None
    above: float | None = None


@dataclass(frozen=True)
class Profile:
    """A set of flags, what works against it, and what may help and is to be measured (what, when, source)."""

    name: str
    what: str
    arguments: tuple[ProfileFlag, ...]
    avoid: tuple[Avoided, ...]
    advice: tuple[tuple[str, str, str], ...]


@cache
def load_profile(name: str) -> Profile:
    """Return a profile of the catalogue; raises MetalserveError when there is none of this name."""
    data: dict[str, Any] = read_yaml((CATALOGUE / "vllm/profiles.yaml").read_text(encoding="utf-8"))
    if name not in data:
        raise MetalserveError(f"no profile '{name}'", where="engine.profile", remedy=f"one of {', '.join(data)}")
    row = data[name]
    return Profile(
        name=name,
        what=row["what"],
        arguments=tuple(ProfileFlag(**_texts(each)) for each in row["arguments"]),
        avoid=tuple(Avoided(**_texts(each)) for each in row["avoid"]),
        advice=tuple((each["what"], each["when"], each["source"]) for each in row["advice"]),
    )


def _texts(row: dict[str, Any]) -> dict[str, Any]:
    return {key: str(value) if key in {"value", "since", "until"} else value for key, value in row.items()}
