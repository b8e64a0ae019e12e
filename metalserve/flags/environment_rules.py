"""Environment variables of a pasted command: old names, unknown ones, wrong values, and secrets in sight. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from metalserve.catalogue.vllm_arguments import SECRET_FLAGS, ArgProblem, Argument, read_args
from metalserve.catalogue.vllm_environment import NAMES_OF_OLD, SECRET_NAME, check_variable
from metalserve.flags.command import ASSIGNMENT, Command, Option
from metalserve.flags.found import Found, looks_secret
from metalserve.flags.shell import Statement, Word, word

ENV_FILE = "/etc/vllm/vllm.env"
"""Where the corrected command looks for the secrets that it took out of the command line."""

VARIABLE_OF = {"--api-key": "VLLM_API_KEY", "--hf-token": "HF_TOKEN"}
"""The variables that vLLM and huggingface_hub read in place of these options."""


@dataclass(frozen=True)
class Variable:
    """A variable that a command sets, and where: an option of the container, a word before the program or elsewhere."""

    name: str
    value: str | None
    option: Option | None = None
    place: int | None = None


def variables(command: Command) -> Iterator[Variable]:
    """Yield the variables that reach vLLM."""
    for place, each in enumerate(command.prefix):
        if ASSIGNMENT.match(each.value):
            name, _, value = each.value.partition("=")
            yield Variable(name, value, place=place)
    for option in command.having("-e", "--env"):
        name, equals, value = (option.value or "").partition("=")
        yield Variable(name, value if equals else None, option=option)


def environment_findings(command: Command, release: str) -> Iterator[Found]:
    """Yield what is wrong with the variables, secrets first."""
    yield from _secrets(command)
    strict = any(each.name == "--fail-on-environ-validation" for each in read_args(command.values, release))
    for variable in variables(command):
        value = None if variable.value is None or "$" in variable.value else variable.value
        problem = check_variable(variable.name, value, release, strict=strict)
        if problem is None:
            continue
        if variable.name in NAMES_OF_OLD:
            new = NAMES_OF_OLD[variable.name]
            yield Found(problem, partial(_rename, variable=variable, new=new), f"{variable.name} is called {new}")
        else:
            yield Found(problem, partial(_remove, variable=variable), f"{variable.name} is dropped")


def secret_values(command: Command, release: str) -> set[str]:
    """Return every value of a command that is a secret by its name, wherever it stands."""
    found = {variable.value for variable in variables(command) if _is_secret(variable) and variable.value}
    for statement in (*command.before, *command.after):
        for name, value in map(_assigned, statement.words):
            if name and SECRET_NAME.search(name) and value and "$" not in value:
                found.add(value)
    for argument in read_args(command.values, release, expanding=True):
        if SECRET_NAME.search(argument.name.replace("-", "_")) or argument.name in SECRET_FLAGS:
            found.update(argument.values)
        if argument.problem and argument.flag is None:
            found.update(value for value in argument.values if looks_secret(value))
    return {value for value in found if not value.startswith("$")}


def without_secret(command: Command, argument: Argument) -> Command:
    """Return the command without an option whose value is a secret; a variable brings it instead."""
    command = command.with_args(argument.start, argument.end, ())
    return _bring(command, VARIABLE_OF[argument.name])


def _bring(command: Command, name: str) -> Command:
    """Return a command that gets a variable from a file of root's."""
    if command.runner:
        return command if command.having("--env-file") else command.with_option("--env-file", ENV_FILE)
    if not command.program:
        return command  # bare arguments: there is nothing that could set it
    have = {variable.name for variable in variables(command)}
    value = f'$(sed -n "s/^{name}=//p" {ENV_FILE})'
    assignment = Word(f'{name}="{value}"'.replace(f'"s/^{name}=//p"', f"'s/^{name}=//p'"), f"{name}={value}")
    return command if name in have else replace(command, prefix=(assignment, *command.prefix))


def _is_secret(variable: Variable) -> bool:
    if not variable.value:
        return False
    reference = "$" in variable.value and variable.option is None
    by_name = bool(SECRET_NAME.search(variable.name)) and not variable.value.startswith("/")
    return (by_name or looks_secret(variable.value)) and not reference


def _secrets(command: Command) -> Iterator[Found]:
    for variable in variables(command):
        if not _is_secret(variable):
            continue
        name = NAMES_OF_OLD.get(variable.name, variable.name)
        message = f"{variable.name} stands on the command line: `ps` and the shell's history show it to everybody"
        remedy = "put it into a file of mode 0600 and give --env-file" if command.runner else "read it from a file"
        problem = ArgProblem("secret", variable.name, message, remedy)
        yield Found(
            problem, partial(_out_of_sight, variable=variable, name=name), f"{name} comes from {ENV_FILE}", name
        )
    for part, listed in (("before", command.before), ("after", command.after)):
        for number, statement in enumerate(listed):
            for place, each in enumerate(statement.words):
                name, value = _assigned(each)
                if name and SECRET_NAME.search(name) and value and "$" not in value and not value.startswith("/"):
                    message = f"{name} stands in the shell's history"
                    problem = ArgProblem("secret", name, message, "read it from a file of mode 0600")
                    fix = partial(_exported, part=part, number=number, place=place, name=name)
                    yield Found(problem, fix, f"{name} comes from {ENV_FILE}", name)


def _assigned(each: Word) -> tuple[str, str]:
    if not ASSIGNMENT.match(each.value):
        return "", ""
    name, _, value = each.value.partition("=")
    return name, value


def _exported(command: Command, part: str, number: int, place: int, name: str) -> Command:
    listed: list[Statement] = list(getattr(command, part))
    words = list(listed[number].words)
    value = f"$(sed -n 's/^{name}=//p' {ENV_FILE})"
    words[place] = Word(f'{name}="{value}"', f"{name}={value}")
    listed[number] = replace(listed[number], words=tuple(words))
    if part == "before":
        return replace(command, before=tuple(listed))
    return replace(command, after=tuple(listed))


def _out_of_sight(command: Command, variable: Variable, name: str) -> Command:
    return _bring(_remove(command, variable), name)


def _rename(command: Command, variable: Variable, new: str) -> Command:
    if any(each.name == new for each in variables(command)):
        return _remove(command, variable)
    text = new if variable.value is None else f"{new}={variable.value}"
    if variable.option is not None:
        first = variable.option.words[0]
        if len(variable.option.words) == 1:  # -eNAME=VALUE
            first = word(variable.option.name)
        option = Option(variable.option.name, text, (first, _like(variable.option.words[-1], text)))
        return command.without_option(variable.option, [option])
    place = variable.place or 0
    prefix = (*command.prefix[:place], _like(command.prefix[place], text), *command.prefix[place + 1 :])
    return replace(command, prefix=prefix)


def _like(old: Word, text: str) -> Word:
    """Return a new assignment that keeps what the shell was to fill in."""
    name, _, value = text.partition("=")
    filled = "$" in old.value and "'" not in old.raw and '"' not in value
    return Word(f'{name}="{value}"', text) if filled else word(text)


def _remove(command: Command, variable: Variable) -> Command:
    if variable.option is not None:
        return command.without_option(variable.option)
    place = variable.place or 0
    return replace(command, prefix=(*command.prefix[:place], *command.prefix[place + 1 :]))
