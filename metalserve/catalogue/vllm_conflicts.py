"""Options of vLLM that contradict or need one another (`catalogue/vllm/conflicts.yaml`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from metalserve.catalogue.vllm_arguments import ArgProblem, Argument
from metalserve.catalogue.vllm_flags import load_flags
from metalserve.paths import CATALOGUE
from metalserve.yaml_text import read_yaml


@dataclass(frozen=True)
class Conflict:
    """A contradiction: the problem, the argument to take away, and what to add instead of taking it away."""

    problem: ArgProblem
    argument: Argument
    add: tuple[str, ...] = ()


@cache
def _rules() -> dict[str, list[dict[str, Any]]]:
    rules: dict[str, list[dict[str, Any]]] = read_yaml((CATALOGUE / "vllm/conflicts.yaml").read_text("utf-8"))
    return rules


def conflicts(arguments: Sequence[Argument], release: str) -> Iterator[Conflict]:
    """Yield the contradictions between arguments that a release accepts one by one."""
    known = load_flags(release).by_name
    given = {each.name: each for each in arguments if each.flag and not each.problem}

    def has(*names: str) -> bool:
        return all(name.partition(".")[0] in known for name in names)

    for rule in _rules()["together"]:
        first, second = rule["options"]
        if has(first, second) and first in given and second in given:
            message = f"{first} and {second} do not go together: {rule['what']}"
            yield Conflict(ArgProblem("conflict", first, message, f"drop {first}", rule["severity"]), given[first])
    for rule in _rules()["needs"]:
        name, other = rule["option"], rule["other"]
        if has(name, other) and name in given and other not in given:
            message = f"{name} needs {other}: {rule['what']}"
            add = tuple(rule.get("add", ()))
            remedy = f"add {' '.join(add) or other}, or drop {name}"
            yield Conflict(ArgProblem("conflict", name, message, remedy, rule["severity"]), given[name], add)
    for rule in _rules()["order"]:
        larger, smaller = rule["larger"], rule["smaller"]
        if larger not in given or smaller not in given:
            continue
        high, low = _number(given[larger]), _number(given[smaller])
        if high is not None and low is not None and high < low:
            message = f"{larger} {high} is less than {smaller} {low}: {rule['what']}"
            remedy = f"raise {larger} or lower {smaller}"
            yield Conflict(ArgProblem("conflict", smaller, message, remedy, rule["severity"]), given[smaller])


def _number(argument: Argument) -> int | None:
    """Return the number of an argument as vLLM reads it (8k is 8000, 8K is 8192); None for `auto` and the like."""
    text = argument.values[0] if argument.values else ""
    scale = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    try:
        if text[-1:] in scale:
            return int(float(text[:-1]) * scale[text[-1]])
        return int(text) if int(text) >= 0 else None
    except ValueError:
        return None
