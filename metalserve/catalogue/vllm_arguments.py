"""A vLLM command line as a release's parser reads it: options, their values, and what it does not accept.

Values that may be secrets are never put into a message.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from metalserve.catalogue.vllm_flags import (
    Flag,
    FlagCatalogue,
    is_option,
    load_flags,
    lookup,
    normalise,
    past_of,
    version_key,
)

SECRET_FLAGS = frozenset({"--api-key", "--hf-token"})
"""Options whose value is a secret; their values never appear in a message."""

_HUMAN = re.compile(r"^\d+(?:\.\d+)?[kKmMgGtT]$")


@dataclass(frozen=True)
class ArgProblem:
    """What is wrong with one argument; `severity` warning means that vLLM starts all the same."""

    kind: Literal[
        "unknown", "removed", "renamed", "deprecated", "too-new", "ambiguous", "choice", "type", "missing-value",
        "extra", "model", "duplicate", "conflict", "secret", "image", "container", "environment",
    ]  # fmt: skip
    flag: str
    message: str
    remedy: str | None = None
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        """Return the problem and its remedy on one line."""
        return f"{self.message} -> {self.remedy}" if self.remedy else self.message


@dataclass(frozen=True)
class Argument:
    """An option with its values, or a bare word, as the parser reads it.

    Attributes:
        start: place of its first word among the arguments.
        end: place after its last word.
        name: the option's full spelling, with the keys behind a dot; empty for a bare word.
        flag: the catalogue's row; None when the release has no such option, and for bare words.
        values: what it takes.
        inline: the value stands behind a `=`.
        problem: what keeps the release from accepting it.
    """

    start: int
    end: int
    name: str
    flag: Flag | None
    values: tuple[str, ...]
    inline: bool = False
    problem: ArgProblem | None = None


def shown(flag: str, value: str) -> str:
    """Return a value as a message may show it: what may be a secret is hidden."""
    if flag in SECRET_FLAGS or re.match(r"(hf_|sk-|ghp_)", value):
        return "(hidden)"
    return repr(value if len(value) <= 60 else value[:57] + "...")


def _unknown(catalogue: FlagCatalogue, name: str) -> ArgProblem:
    release, past = catalogue.release, past_of(name)
    here = version_key(release)
    if past:
        absent = past.get("absent")
        gone = past.get("removed_by") or (absent[0] if absent else None)
        if gone and here >= version_key(gone):
            because = f" ({past['note']})" if "note" in past else ""
            back = f" and is back after {absent[1]}" if absent else ""
            use = past.get("replaced_by")
            remedy = f"use {use}" if use else None if because else "drop it"
            if "{values}" in past.get("becomes", ()):
                return ArgProblem("renamed", name, f"{name} is called otherwise since vLLM {gone}{because}", remedy)
            return ArgProblem("removed", name, f"{name} was removed in vLLM {gone}{back}{because}", remedy)
        if here < version_key(past["first_seen"]):
            first = past["first_seen"]
            message = f"{name} does not exist in vLLM {release}: it came with {first}"
            return ArgProblem("too-new", name, message, f"drop it, or pin vLLM {first} or newer")
    near = difflib.get_close_matches(name, list(catalogue.by_name), n=1, cutoff=0.75)
    remedy = f"did you mean {near[0]}?" if near else None
    return ArgProblem("unknown", name, f"vLLM {release} has no option {name}", remedy)


def _readable(kind: str, value: str) -> bool:
    """Return whether a value is of the type; the rules are those of vLLM's converter functions."""
    try:
        if kind == "int":
            int(value)
        elif kind == "float":
            float(value)
        elif kind == "json":
            json.loads(value)
        elif kind in {"human_int", "human_int_or_auto"}:
            if kind == "human_int_or_auto" and value.lower() in {"auto", "-1"}:
                return True
            if _HUMAN.match(value):
                return not (value[-1].isupper() and "." in value)
            int(value)
        elif kind == "json_or_str" and value.lstrip().startswith("{"):
            json.loads(value)
    except ValueError:
        return False
    return True


_TYPE_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "json": "JSON",
    "json_or_str": "JSON",
    "human_int": "a whole number such as 8192, 8k (8000) or 8K (8192)",
    "human_int_or_auto": "a whole number such as 8192, 8k (8000), 8K (8192), or auto",
}


def _check_value(flag: Flag, name: str, value: str) -> ArgProblem | None:
    if flag.optional and value in {"", "None"} and (flag.choices is None or None in flag.choices):
        return None
    if not _readable(flag.type, value):
        words = _TYPE_WORDS[flag.type]
        return ArgProblem("type", name, f"{name} needs {words}, not {shown(name, value)}")
    if flag.choices is None:
        return None
    wanted = value.lower().replace("-", "_") if flag.folded else value
    # Where None is allowed vLLM makes it of the word, and argparse then misses it among choices that are words.
    if wanted in {str(choice) for choice in flag.choices} and not (flag.optional and value == "None"):
        return None
    remedy = None
    if name == "--dtype" and value.startswith("fp8"):
        remedy = "use --quantization fp8, or a checkpoint that is already FP8 (no flag needed)"
    choices = ", ".join(str(choice) for choice in flag.choices)
    return ArgProblem("choice", name, f"{name} cannot be {shown(name, value)} (one of {choices})", remedy)


EXPANSION = re.compile(r"\$(\w+|\{[^}]*\}|\([^)]*\))")
"""What a shell fills in: of such a value nothing can be said."""


def read_args(args: Sequence[str], version: str, *, expanding: bool = False) -> list[Argument]:
    """Return the options and bare words of a command line in order, each with what is wrong with it.

    Raises:
        MetalserveError: the release is not in the catalogue.
    """
    catalogue = load_flags(version)
    words = [normalise(word) for word in args]
    found: list[Argument] = []
    place = 0
    while place < len(words):
        start, word = place, words[place]
        place += 1
        if not is_option(catalogue, word):
            found.append(Argument(start, place, "", None, (word,)))
            continue
        if re.fullmatch(r"-O=?\d", word) and "-O" not in catalogue.by_name:
            # vLLM's parser rewrites -O3 to --optimization-level 3 before argparse sees it
            flag = catalogue.by_name.get("--optimization-level")
            found.append(Argument(start, place, "--optimization-level", flag, (word[-1],), inline=True))
            continue
        name, equals, inline = word.partition("=")
        values = [inline] if equals else []
        if not equals:
            while place < len(words) and not is_option(catalogue, words[place]):
                values.append(words[place])
                place += 1
        argument, used = _check_option(catalogue, name, values, bool(equals), expanding)
        end = start + 1 if equals else start + 1 + used
        taken = tuple(values[:used]) if not (equals or argument.values) else argument.values
        found.append(replace(argument, start=start, end=end, values=taken))
        if not equals:
            found.extend(Argument(at, at + 1, "", None, (words[at],)) for at in range(end, place))
    return found


def _check_option(
    catalogue: FlagCatalogue, name: str, values: list[str], inline: bool, expanding: bool
) -> tuple[Argument, int]:
    """Check one option; return it (its places are the caller's) and how many of the values it takes."""
    base, dot, keys = name.partition(".")
    flag, candidates = lookup(catalogue, base)

    def said(problem: ArgProblem | None, used: int, full: str) -> tuple[Argument, int]:
        return Argument(0, 0, full, flag, tuple(values) if inline else (), inline, problem), used

    if flag is None and not name.startswith("--") and len(name) > 2:
        flag = catalogue.by_name.get(name[:2])  # -qfp8 is argparse's -q fp8
        if flag and flag.action in {"store", "append"}:
            problem = _check_value(flag, name[:2], name[2:])
            return Argument(0, 0, name[:2], flag, (name[2:],), True, problem), 0
        flag = None
    if flag is None:
        if candidates:
            some = ", ".join(candidates[:4]) + (", ..." if len(candidates) > 4 else "")
            message = f"{base} is ambiguous in vLLM {catalogue.release}: {some}"
            return said(ArgProblem("ambiguous", base, message, "write the option in full"), len(values), base)
        return said(_unknown(catalogue, base), len(values), base)
    full = base if base in catalogue.by_name else next(n for n in flag.names if n.startswith(base))
    if flag.action in {"boolean", "help"}:
        if inline:
            return said(ArgProblem("extra", full, f"{full} takes no value", f"write {full} alone"), 0, full)
        return said(None, 0, full)
    if dot:
        if flag.type not in {"json", "json_or_str"}:
            return said(ArgProblem("unknown", name, f"{full} has no keys, so {name} means nothing"), len(values), full)
        missing = ArgProblem("missing-value", name, f"{name} needs a value") if not values else None
        return said(missing, min(len(values), 1), f"{full}.{keys}")
    if not values:
        if flag.nargs in {"?", "*"}:
            return said(None, 0, full)
        return said(ArgProblem("missing-value", full, f"{full} needs a value"), 0, full)
    count = len(values) if flag.nargs in {"+", "*"} else 1
    for value in values[:count]:
        if expanding and EXPANSION.search(value):
            continue
        if problem := _check_value(flag, full, value):
            return said(problem, count, full)
    return said(None, count, full)
