"""What is wrong with vLLM's own arguments, and how each is put right. Pure."""

from __future__ import annotations

import ast
import difflib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from metalserve.catalogue.vllm_arguments import SECRET_FLAGS, Argument, read_args
from metalserve.catalogue.vllm_check import check_args, takes_positional
from metalserve.catalogue.vllm_flags import Flag, load_flags, words_instead
from metalserve.flags.command import Command
from metalserve.flags.found import Found, looks_secret
from metalserve.flags.shell import Word

_TRUE, _FALSE = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}


def engine_findings(command: Command, release: str) -> Iterator[Found]:
    """Yield what the release's parser refuses, in the order of the arguments, then what it only warns of."""
    arguments = read_args(command.values, release, expanding=True)
    for argument in arguments:
        if argument.problem:
            yield _put_right(command, release, argument, arguments)
    known = [argument.problem for argument in arguments if argument.problem]
    for problem in check_args(command.values, release, entry=command.entry, expanding=True):
        if problem in known:
            continue
        if problem.kind == "model":
            yield Found(problem, partial(_name_model, release=release), "the model is named as this release wants it")
        elif problem.kind == "extra":
            bare = arguments[_place(arguments, problem.flag)]
            before = next((each for each in arguments if each.end == bare.start), None)
            yield Found(problem, *_drop_extra(bare, before))
        elif problem.kind == "duplicate":
            same = [each for each in arguments if each.flag and each.name == problem.flag]
            dest = same[-1].flag.dest if same and same[-1].flag else ""
            first = next(each for each in arguments if each.flag and each.flag.dest == dest and "." not in each.name)
            yield Found(problem, partial(_replace, at=first, words=()), f"the earlier {first.name} is dropped")
        elif problem.kind == "deprecated":
            argument = next(each for each in arguments if each.name == problem.flag)
            yield Found(problem, *_instead(argument, release))
        else:
            yield Found(problem)


def secret_findings(command: Command, release: str) -> Iterator[Argument]:
    """Yield the options whose value is a secret that stands in the command."""
    for argument in read_args(command.values, release, expanding=True):
        if argument.name in SECRET_FLAGS and any(value and not value.startswith("$") for value in argument.values):
            yield argument


def _place(arguments: Sequence[Argument], name: str) -> int:
    number = int(name.removeprefix("argument ")) - 1
    return next(place for place, each in enumerate(arguments) if each.start == number)


def _replace(command: Command, at: Argument, words: Sequence[str | Word]) -> Command:
    return command.with_args(at.start, at.end, words)


def _drop(argument: Argument) -> tuple[partial[Command], str]:
    return partial(_replace, at=argument, words=()), f"{argument.name} is dropped"


def _put_right(command: Command, release: str, argument: Argument, arguments: Sequence[Argument]) -> Found:
    problem = argument.problem
    assert problem is not None
    repair = None
    if problem.kind == "unknown":
        repair = _nearest(argument, release) or _unknown(command, release, argument, arguments)
    elif problem.kind in {"removed", "renamed"}:
        repair = _instead(argument, release)
    elif problem.kind == "ambiguous":
        repair = _only_one(argument, release)
    elif problem.kind == "extra":
        repair = _switch(argument)
    elif problem.kind == "choice" and argument.flag:
        repair = _choice(command, argument, argument.flag, arguments)
    elif problem.kind == "type" and argument.flag:
        repair = _retyped(argument, argument.flag, release)
    return Found(problem, *(repair or _drop(argument)))


def _accepted(words: Sequence[str], release: str) -> bool:
    return not any(problem.severity == "error" for problem in check_args(["MODEL", *words], release, entry="serve"))


def _nearest(argument: Argument, release: str) -> tuple[partial[Command], str] | None:
    base, dot, keys = argument.name.partition(".")
    if argument.flag is not None:  # `--port.x 1`: the option is there, its key is not
        return None
    near = difflib.get_close_matches(base, list(load_flags(release).by_name), n=1, cutoff=0.75)
    if not near or near[0] in SECRET_FLAGS:
        return None
    flag = load_flags(release).by_name[near[0]]
    takes = 0 if flag.action == "boolean" else len(argument.values) if flag.nargs in {"+", "*"} else 1
    words = [near[0] + dot + keys, *argument.values[:takes]]
    kept = replace(argument, end=argument.end - len(argument.values[takes:]))
    return _as(kept, words, release, f"{argument.name} is written {near[0]}")


def _unknown(
    command: Command, release: str, argument: Argument, arguments: Sequence[Argument]
) -> tuple[partial[Command], str] | None:
    """Drop an option that nothing is like, and its value; but not the model, where it may stand behind a switch."""
    named = any(not each.name or each.name == "--model" for each in arguments)
    if named or argument.inline or not takes_positional(release, command.entry) or not argument.values:
        return None
    first = argument.values[0]
    keep = len(argument.values) - (0 if "/" in first and not looks_secret(first) else 1)
    return partial(_replace, at=replace(argument, end=argument.end - keep), words=()), f"{argument.name} is dropped"


def _as(argument: Argument, words: list[str], release: str, change: str) -> tuple[partial[Command], str] | None:
    if not _accepted(words, release) or any(looks_secret(value) for value in words):
        return None
    return partial(_replace, at=argument, words=words), change


def _instead(argument: Argument, release: str) -> tuple[partial[Command], str]:
    words = words_instead(argument.name, argument.values)
    if words:
        repair = _as(argument, words, release, f"{argument.name} becomes {words[0]}")
        if repair:
            return repair
    return _drop(argument)


def _only_one(argument: Argument, release: str) -> tuple[partial[Command], str] | None:
    """An abbreviation that is short for several spellings of one option is that option."""
    by_name = load_flags(release).by_name
    options = {by_name[name].dest: by_name[name] for name in by_name if name.startswith(argument.name)}
    if len(options) != 1:
        return None
    name = next(each for each in next(iter(options.values())).names if each.startswith(argument.name))
    return _as(argument, [name, *argument.values], release, f"{argument.name} is written {name}")


def _opposite(flag: Flag, name: str) -> str | None:
    turned = f"--no-{name[2:]}"
    return turned if turned in flag.names else None


def _switch(argument: Argument) -> tuple[partial[Command], str] | None:
    """`--enable-x=true` is `--enable-x`."""
    value = argument.values[0].lower() if argument.values else ""
    if argument.flag is None or value not in _TRUE | _FALSE:
        return None
    name = argument.name if value in _TRUE else _opposite(argument.flag, argument.name)
    if name is None:
        return None
    return partial(_replace, at=argument, words=[name]), f"{argument.name}={value} is written {name}"


def _drop_extra(bare: Argument, before: Argument | None) -> tuple[partial[Command], str]:
    off = bare.values[0].lower() in _FALSE
    name = _opposite(before.flag, before.name) if off and before and before.flag else None
    if before and name:
        both = Argument(before.start, bare.end, before.name, before.flag, ())
        return partial(_replace, at=both, words=[name]), f"{before.name} {bare.values[0]} is written {name}"
    return partial(_replace, at=bare, words=()), "a word that belongs to no option is dropped"


def _choice(
    command: Command, argument: Argument, flag: Flag, arguments: Sequence[Argument]
) -> tuple[partial[Command], str] | None:
    value = argument.values[0]
    if argument.name == "--dtype" and value.lower().startswith("fp8"):
        given = any(each.name in {"--quantization", "-q"} for each in arguments)
        words = [] if given else ["--quantization", "fp8"]
        return partial(_replace, at=argument, words=words), "--dtype fp8 becomes --quantization fp8"
    choices = [str(choice) for choice in flag.choices or ()]
    same = [choice for choice in choices if choice.lower() == value.lower()]
    near = same or difflib.get_close_matches(value, choices, n=1, cutoff=0.75)
    if not near or len(argument.values) > 1:
        return None
    return partial(_replace, at=argument, words=[argument.name, near[0]]), f"{argument.name} is {near[0]}"


def _retyped(argument: Argument, flag: Flag, release: str) -> tuple[partial[Command], str] | None:
    """A value that only is written wrongly: `90%`, `65,536`, a Python dict where JSON is wanted."""
    if len(argument.values) != 1 or argument.name in SECRET_FLAGS:
        return None
    value = argument.values[0].strip()
    written: str | None = None
    if flag.type == "float" and (found := re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", value)):
        written = f"{float(found.group(1)) / 100:g}"
    elif flag.type in {"int", "human_int", "human_int_or_auto"}:
        if re.fullmatch(r"\d{1,3}(,\d{3})+", value):
            written = value.replace(",", "")
        elif re.fullmatch(r"\d+\.0+", value):
            written = value.partition(".")[0]
        elif found := re.fullmatch(r"(\d+)\.(\d+)K", value):
            written = str(int(float(value[:-1]) * 1024))
    elif flag.type in {"json", "json_or_str"}:
        written = _as_json(value)
    if written is None:
        return None
    return _as(argument, [argument.name, written], release, f"the value of {argument.name} is written as vLLM reads it")


def _as_json(value: str) -> str | None:
    """Return JSON of what is nearly JSON: a Python literal, or an object whose quotes the shell took away."""
    try:
        return json.dumps(ast.literal_eval(value))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass
    quoted = re.sub(r"([{,:\[]\s*)([A-Za-z_][\w.\-/]*)", r'\1"\2"', value)
    quoted = re.sub(r'"(true|false|null)"', r"\1", quoted)
    try:
        return json.dumps(json.loads(quoted))
    except ValueError:
        return None


def _name_model(command: Command, release: str) -> Command:
    """Return the command with the model where the release looks for it."""
    arguments = read_args(command.values, release, expanding=True)
    option = next((each for each in arguments if each.name == "--model" and each.values), None)
    bare = [each for each in arguments if not each.name]
    if not takes_positional(release, command.entry):
        if not bare:
            return command
        words = () if option else ("--model", command.args[bare[0].start])
        return _replace(command, bare[0], words)
    if option is not None:
        return _replace(command, option, ()).with_args(0, 0, [_value_word(command, option)])
    if not bare or bare[0].start == 0:
        return command
    model = command.args[bare[0].start]
    return _replace(command, bare[0], ()).with_args(0, 0, [model])


def _value_word(command: Command, argument: Argument) -> str | Word:
    return argument.values[0] if argument.inline else command.args[argument.end - 1]
