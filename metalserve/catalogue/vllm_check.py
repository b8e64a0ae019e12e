"""What is wrong with a vLLM command line, or should be known of it: the model's place, deprecations, doubles."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Literal

from metalserve.catalogue.vllm_arguments import EXPANSION, ArgProblem, Argument, read_args, shown
from metalserve.catalogue.vllm_flags import FlagCatalogue, known_values, load_flags, past_of, version_key

FIRST_POSITIONAL_RELEASE = (0, 11, 2)
"""From here on the image starts `vllm serve MODEL`; before, `api_server --model MODEL` (vLLM's Dockerfiles)."""

Entry = Literal["image", "serve", "api_server"]
"""What gets the arguments: the release's image, `vllm serve`, or `python -m vllm.entrypoints.openai.api_server`."""


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
    data = known_values()
    if flag is None or flag.choices is not None or version_key(release) < version_key(data["since"]):
        return None
    known = next((data["values"][name] for name in flag.names if name in data["values"]), None)
    value = argument.values[0] if argument.values else ""
    if known is None or value in {"", "None", *known} or EXPANSION.search(value):
        return None
    near = difflib.get_close_matches(value, known, n=1, cutoff=0.6)
    message = f"vLLM {data['since']} itself knows no {argument.name} {shown(argument.name, value)}; a plugin might"
    remedy = f"did you mean {near[0]}?" if near else f"one of {', '.join(known)}"
    return ArgProblem("choice", argument.name, message, remedy, "warning")


def _habits(catalogue: FlagCatalogue, arguments: Sequence[Argument]) -> list[ArgProblem]:
    """Return what the release accepts and yet should be known: deprecated options, and options given twice."""
    problems = []
    last: dict[str, Argument] = {}
    for argument in arguments:
        if argument.flag is None or argument.problem:
            continue
        past = past_of(argument.name.partition(".")[0])
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
