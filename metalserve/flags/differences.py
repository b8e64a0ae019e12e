"""What changed in vLLM's options between two releases. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from metalserve.catalogue.vllm_flags import Flag, load_flags, words_instead


@dataclass(frozen=True)
class Difference:
    """One difference: an option that is there only in one of two releases, or says something else by itself."""

    kind: Literal["added", "removed", "renamed", "default", "choices", "type"]
    flag: str
    before: str | None = None
    after: str | None = None


def _by_option(release: str) -> dict[str, Flag]:
    return {name: flag for name, flag in load_flags(release).by_name.items() if name.startswith("--")}


def differences(old: str, new: str) -> list[Difference]:
    """Return what changed from one release to another, by option; negations (`--no-x`) count with their option.

    Raises:
        MetalserveError: a release is not in the catalogue.
    """
    return sorted(_differences(old, new), key=lambda each: (each.flag, each.kind))


def _differences(old: str, new: str) -> Iterator[Difference]:
    before, after = _by_option(old), _by_option(new)
    for name in before.keys() - after.keys():
        if _is_negation(name, before):
            continue
        instead = words_instead(name, ["VALUE"])
        if instead and instead[0].partition(".")[0] in after:
            yield Difference("renamed", name, name, " ".join(instead))
        else:
            yield Difference("removed", name)
    for name in after.keys() - before.keys():
        if not _is_negation(name, after):
            yield Difference("added", name)
    for name in before.keys() & after.keys():
        if name == before[name].names[0] or name == after[name].names[0]:
            yield from _changed(name, before[name], after[name])


def _is_negation(name: str, flags: dict[str, Flag]) -> bool:
    first = next((each for each in flags[name].names if each.startswith("--")), name)
    return flags[name].action == "boolean" and name != first


def _changed(name: str, old: Flag, new: Flag) -> Iterator[Difference]:
    if (old.action == "boolean") != (new.action == "boolean") or old.type != new.type:
        kinds = ["switch" if flag.action == "boolean" else flag.type for flag in (old, new)]
        yield Difference("type", name, *kinds)
    if old.default != new.default:
        yield Difference("default", name, str(old.default), str(new.default))
    if old.choices is not None and new.choices is not None and set(old.choices) != set(new.choices):
        gone = ", ".join(sorted(map(str, set(old.choices) - set(new.choices))))
        come = ", ".join(sorted(map(str, set(new.choices) - set(old.choices))))
        yield Difference("choices", name, gone or None, come or None)
