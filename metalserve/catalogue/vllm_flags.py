"""Which options a vLLM release has: the flag catalogue.

The data in `catalogue/vllm/flags-*.json` are the actions of each release's own argument parser; `history.json`
says since when an option exists, when it went and what took its place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from metalserve.errors import MetalserveError
from metalserve.paths import CATALOGUE

_DIRECTORY = CATALOGUE / "vllm"

_NEGATIVE_NUMBER = re.compile(r"^-\d+$|^-\d*\.\d+$")


@dataclass(frozen=True)
class Flag:
    """One option of a release's parser.

    `type` is how its value is read: str, int, float, bool, json, json_or_str, human_int (4096, 8k, 8K) or
    human_int_or_auto. `nargs` is argparse's: None (one value), "?", "+" or "*". `names` holds every accepted spelling.
    """

    dest: str
    names: tuple[str, ...]
    action: Literal["store", "append", "boolean", "help"]
    type: str = "str"
    optional: bool = False
    nargs: str | int | None = None
    choices: tuple[Any, ...] | None = None
    folded: bool = False
    default: object = None


@dataclass(frozen=True)
class FlagCatalogue:
    """All options of one vLLM release."""

    release: str
    source: str
    flags: tuple[Flag, ...]
    by_name: Mapping[str, Flag] = field(repr=False)


def version_key(version: str) -> tuple[int, ...]:
    """Return a release as numbers that compare, e.g. "0.33.0" -> (0, 33, 0); what follows the numbers is ignored."""
    found = re.match(r"v?(\d+(?:\.\d+)*)", version)
    if not found:
        raise MetalserveError(f"'{version}' is not a vLLM release", remedy="write it like 0.33.0")
    return tuple(int(part) for part in found.group(1).split("."))


def known_releases() -> list[str]:
    """Return the releases of the catalogue, oldest first."""
    names = (path.stem.removeprefix("flags-") for path in _DIRECTORY.glob("flags-*.json"))
    return sorted(names, key=version_key)


def _nearest(release: str) -> list[str]:
    """Return the known releases around one that is not known, or the newest ones when it is no number at all."""
    known = known_releases()
    if not re.match(r"\d", release):
        return known[-2:]
    below = [name for name in known if version_key(name) < version_key(release)]
    above = [name for name in known if version_key(name) > version_key(release)]
    return [*below[-1:], *above[:1]]


@cache
def load_flags(version: str) -> FlagCatalogue:
    """Return the flag catalogue of a release; raises MetalserveError when the release is not in it."""
    release = version.removeprefix("v")
    path = _DIRECTORY / f"flags-{release}.json"
    if not re.fullmatch(r"[\w.+-]+", release) or not path.is_file():
        raise MetalserveError(
            f"no flag catalogue for vLLM {version}",
            remedy=f"pin one of {', '.join(_nearest(release))} (`metalserve vllm releases` lists all), or add it "
            "(metalserve/catalogue/vllm/trim.py)",
        )
    data = json.loads(path.read_text(encoding="utf-8"))
    flags = tuple(
        Flag(
            dest=entry["dest"],
            names=(*entry["flags"], *entry.get("also", ())),
            action=entry["action"],
            type=entry.get("type", "str"),
            optional=entry.get("optional", False),
            nargs=entry.get("nargs"),
            choices=tuple(entry["choices"]) if "choices" in entry else None,
            folded=entry.get("folded", False),
            default=entry.get("default"),
        )
        for entry in data["flags"]
    )
    return FlagCatalogue(release, data["source"], flags, {name: flag for flag in flags for name in flag.names})


@cache
def _history() -> dict[str, dict[str, Any]]:
    options: dict[str, dict[str, Any]] = json.loads((_DIRECTORY / "history.json").read_text())["options"]
    return options


def past_of(option: str) -> Mapping[str, Any]:
    """Return what the history says of an option, without the keys behind a dot; nothing where it says nothing."""
    return _history().get(option, {})


def normalise(argument: str) -> str:
    """Return an argument with the underscores of its option name as dashes, as vLLM's parser does first."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    head, dot, rest = name.partition(".")  # the keys behind a dot are JSON keys, their underscores count
    return f"{head.replace('_', '-')}{dot}{rest}{equals}{value}"


def lookup(catalogue: FlagCatalogue, name: str) -> tuple[Flag | None, tuple[str, ...]]:
    """Return the flag of a spelling or unique prefix, and the candidates where the prefix is ambiguous."""
    exact = catalogue.by_name.get(name)
    if exact or not name.startswith("--") or len(name) < 3:
        return exact, ()
    matches = tuple(known for known in catalogue.by_name if known.startswith(name))
    return (catalogue.by_name[matches[0]], ()) if len(matches) == 1 else (None, matches)


def is_option(catalogue: FlagCatalogue, argument: str) -> bool:
    """Return whether argparse takes the argument for an option rather than a value."""
    if len(argument) < 2 or not argument.startswith("-") or _NEGATIVE_NUMBER.match(argument):
        return False
    if " " not in argument:
        return True
    found, candidates = lookup(catalogue, argument.partition("=")[0])  # a value may hold spaces: --a='{"b": 1}'
    return found is not None or bool(candidates)


@cache
def known_values() -> dict[str, Any]:
    """Return the values that vLLM itself knows for options which its parser leaves open, and since which release."""
    data: dict[str, Any] = json.loads((_DIRECTORY / "known_values.json").read_text(encoding="utf-8"))
    return data


def words_instead(name: str, values: Sequence[str]) -> list[str] | None:
    """Return the words that say the same in newer releases; an empty list where nothing is lost, None when unknown."""
    past = past_of(name.partition(".")[0])
    becomes = past.get("becomes_by_value", {}).get(values[0] if values else "", past.get("becomes"))
    if becomes is None:
        return None
    words: list[str] = []
    for each in becomes:
        words += values if each == "{values}" else [each]
    return words
