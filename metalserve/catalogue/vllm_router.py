"""The options of vllm-router, as its own help lists them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

from metalserve.yaml_text import read_yaml


@dataclass(frozen=True)
class RouterOption:
    """One option: how many values follow it, and which, where the help names them."""

    value: Literal["none", "one", "many"]
    choices: tuple[str, ...] = ()


VERSION = "0.1.17"
"""The version of vllm-router that is known."""


@cache
def router_options() -> Mapping[str, RouterOption]:
    """Return option -> what it takes, of `VERSION`."""
    text = (resources.files("metalserve.catalogue") / "vllm" / f"router-{VERSION}.yaml").read_text("utf-8")
    data = read_yaml(text)
    return {
        name: RouterOption(entry["value"], tuple(entry.get("choices", ()))) for name, entry in data["options"].items()
    }


def router_problem(arguments: Sequence[str]) -> str:
    """Return what vllm-router would not take of a command line, "" when it takes all of it."""
    known = router_options()
    words = list(arguments)
    while words:
        name = words.pop(0)
        option = known.get(name)
        if option is None:
            return f"vllm-router {VERSION} has no option {name}"
        values: list[str] = []
        while words and not words[0].startswith("--") and option.value != "none":
            values.append(words.pop(0))
            if option.value == "one":
                break
        if option.value != "none" and not values:
            return f"{name} needs a value"
        if option.choices and not set(values) <= set(option.choices):
            return f"{name} takes one of {', '.join(option.choices)}, not {values[0]}"
    return ""
