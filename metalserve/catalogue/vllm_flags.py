"""Which arguments a vLLM release accepts: the flag catalogue and the check of a command line against it.

The data in `catalogue/vllm/flags-*.json` are the actions of each release's own argument parser; `history.json`
says since when an option exists, when it went and what took its place. Values that may be secrets are never put
into a message.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal

from metalserve.errors import MetalserveError
from metalserve.paths import CATALOGUE

_DIRECTORY = CATALOGUE / "vllm"
SECRET_FLAGS = frozenset({"--api-key", "--hf-token"})
"""Options whose value is a secret; their values never appear in a message."""

FIRST_POSITIONAL_RELEASE = (0, 11, 2)
"""From here on the image starts `vllm serve MODEL`; before, `api_server --model MODEL` (vLLM's Dockerfiles)."""

_HUMAN = re.compile(r"^\d+(?:\.\d+)?[kKmMgGtT]$")
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


def normalise(argument: str) -> str:
    """Return an argument with the underscores of its option name as dashes, as vLLM's parser does first."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    head, dot, rest = name.partition(".")  # the keys behind a dot are JSON keys, their underscores count
    return f"{head.replace('_', '-')}{dot}{rest}{equals}{value}"


def _lookup(catalogue: FlagCatalogue, name: str) -> tuple[Flag | None, tuple[str, ...]]:
    """Return the flag of a spelling or unique prefix, and the candidates where the prefix is ambiguous."""
    exact = catalogue.by_name.get(name)
    if exact or not name.startswith("--") or len(name) < 3:
        return exact, ()
    matches = tuple(known for known in catalogue.by_name if known.startswith(name))
    return (catalogue.by_name[matches[0]], ()) if len(matches) == 1 else (None, matches)


def _is_option(catalogue: FlagCatalogue, argument: str) -> bool:
    """Return whether argparse takes the argument for an option rather than a value."""
    if len(argument) < 2 or not argument.startswith("-") or _NEGATIVE_NUMBER.match(argument):
        return False
    if " " not in argument:
        return True
    found, candidates = _lookup(catalogue, argument.partition("=")[0])  # a value may hold spaces: --a='{"b": 1}'
    return found is not None or bool(candidates)


def _shown(flag: str, value: str) -> str:
    if flag in SECRET_FLAGS or re.match(r"(hf_|sk-|ghp_)", value):
        return "(hidden)"
    return repr(value if len(value) <= 60 else value[:57] + "...")


def _unknown(catalogue: FlagCatalogue, name: str) -> ArgProblem:
    release, past = catalogue.release, _history().get(name)
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
        return ArgProblem("type", name, f"{name} needs {words}, not {_shown(name, value)}")
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
    return ArgProblem("choice", name, f"{name} cannot be {_shown(name, value)} (one of {choices})", remedy)


Entry = Literal["image", "serve", "api_server"]
"""What gets the arguments: the release's image, `vllm serve`, or `python -m vllm.entrypoints.openai.api_server`."""

EXPANSION = re.compile(r"\$(\w+|\{[^}]*\}|\([^)]*\))")
"""What a shell fills in: of such a value nothing can be said."""


def takes_positional(version: str, entry: Entry) -> bool:
    """Return whether the model is named first (`vllm serve MODEL`) rather than by `--model`."""
    return entry == "serve" or (entry == "image" and version_key(version) >= FIRST_POSITIONAL_RELEASE)


def _model_problems(version: str, entry: Entry, arguments: Sequence[Argument]) -> list[ArgProblem]:
    """Return what is wrong with how the model is named."""
    problems = []
    serve = takes_positional(version, entry)
    named = serve and any(argument.name == "--model" for argument in arguments)
    bare = [argument for argument in arguments if not argument.name]
    # vLLM moves the value of --model to the front, where the one bare word would stand: any other is one too many.
    extra = bare if named else [each for each in bare if _answers_switch(each, arguments)]
    models = [] if named else [each for each in bare if each not in extra]
    if named:
        message = "--model is deprecated with `vllm serve`"
        problems.append(ArgProblem("model", "--model", message, "name the model first, without --model", "warning"))
    if models and not serve:
        program = f"the image of vLLM {version} starts api_server" if entry == "image" else "this is api_server"
        problems.append(ArgProblem("model", "MODEL", f"{program}, which takes no bare MODEL", "use --model MODEL"))
    elif models and models[0].start != 0:
        message = "MODEL does not stand first; an option with several values before it swallows it"
        problems.append(ArgProblem("model", "MODEL", message, "put MODEL before every option"))
    for argument in sorted([*extra, *models[1:]], key=lambda each: each.start):
        name = f"argument {argument.start + 1}"
        remedy = "remove it, or quote the value it is part of"
        if before := _answers_switch(argument, arguments):
            remedy = f"{before.name} takes no value: write it alone, or its opposite"
        problems.append(ArgProblem("extra", name, f"{name} belongs to no option", remedy))
    return problems


def _answers_switch(bare: Argument, arguments: Sequence[Argument]) -> Argument | None:
    """Return the switch that a bare `true` or `false` stands behind."""
    if bare.values[0].lower() not in {"true", "false", "1", "0", "yes", "no", "on", "off"}:
        return None
    return next((a for a in arguments if a.end == bare.start and a.flag and a.flag.action == "boolean"), None)


def _odd_value(release: str, argument: Argument) -> ArgProblem | None:
    """Return a word about a value that the parser takes and that vLLM itself does not know; a plugin might."""
    flag = argument.flag
    data = _known_values()
    if flag is None or flag.choices is not None or version_key(release) < version_key(data["since"]):
        return None
    known = next((data["values"][name] for name in flag.names if name in data["values"]), None)
    value = argument.values[0] if argument.values else ""
    if known is None or value in {"", "None", *known} or EXPANSION.search(value):
        return None
    near = difflib.get_close_matches(value, known, n=1, cutoff=0.6)
    message = f"vLLM {data['since']} itself knows no {argument.name} {_shown(argument.name, value)}; a plugin might"
    remedy = f"did you mean {near[0]}?" if near else f"one of {', '.join(known)}"
    return ArgProblem("choice", argument.name, message, remedy, "warning")


@cache
def _known_values() -> dict[str, Any]:
    data: dict[str, Any] = json.loads((_DIRECTORY / "known_values.json").read_text(encoding="utf-8"))
    return data


def _habits(catalogue: FlagCatalogue, arguments: Sequence[Argument]) -> list[ArgProblem]:
    """Return what the release accepts and yet should be known: deprecated options, and options given twice."""
    problems = []
    last: dict[str, Argument] = {}
    for argument in arguments:
        if argument.flag is None or argument.problem:
            continue
        past = _history().get(argument.name.partition(".")[0], {})
        since, here = past.get("deprecated_since"), version_key(catalogue.release)
        back = "absent" in past and here > version_key(past["absent"][1])
        if since and here >= version_key(since) and not back:
            use, note = past.get("replaced_by"), past.get("note")
            message = f"{argument.name} is deprecated since vLLM {since}" + (f" ({note})" if note else "")
            remedy = f"use {use}" if use else None
            problems.append(ArgProblem("deprecated", argument.name, message, remedy, "warning"))
        if problem := _odd_value(catalogue.release, argument):
            problems.append(problem)
        if argument.flag.action != "append" and "." not in argument.name:
            if earlier := last.get(argument.flag.dest):
                message = f"{earlier.name} is given twice" if earlier.name == argument.name else (
                    f"{earlier.name} and {argument.name} are the same setting"
                )  # fmt: skip
                remedy = "give it once; the last one counts"
                problems.append(ArgProblem("duplicate", argument.name, message, remedy, "warning"))
            last[argument.flag.dest] = argument
    return problems


def check_args(
    args: Sequence[str], version: str, *, entry: Entry = "image", expanding: bool = False
) -> list[ArgProblem]:
    """Return what is wrong with the arguments of `vllm serve` for a release, in order; an empty list is a clean bill.

    Args:
        args: what follows the image name (MODEL first, then options), as the container gets it.
        version: the vLLM release, e.g. "0.33.0".
        entry: what gets the arguments.
        expanding: a shell still fills in `$NAME`: such values are not judged.

    Raises:
        MetalserveError: the release is not in the catalogue.
    """
    catalogue = load_flags(version)
    arguments = read_args(args, version, expanding=expanding)
    problems = [argument.problem for argument in arguments if argument.problem]
    return problems + _model_problems(catalogue.release, entry, arguments) + _habits(catalogue, arguments)


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
        if not _is_option(catalogue, word):
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
            while place < len(words) and not _is_option(catalogue, words[place]):
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
    flag, candidates = _lookup(catalogue, base)

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


def words_instead(name: str, values: Sequence[str]) -> list[str] | None:
    """Return the words that say the same in newer releases; an empty list where nothing is lost, None when unknown."""
    past = _history().get(name.partition(".")[0], {})
    becomes = past.get("becomes_by_value", {}).get(values[0] if values else "", past.get("becomes"))
    if becomes is None:
        return None
    words: list[str] = []
    for each in becomes:
        words += values if each == "{values}" else [each]
    return words
