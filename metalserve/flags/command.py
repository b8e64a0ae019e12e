"""The parts of a pasted command: what starts the container, what starts vLLM, and what vLLM gets. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from metalserve.catalogue.vllm_check import Entry
from metalserve.flags.shell import Statement, Word, statements, word

ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")

_RUNNERS = frozenset({"docker", "podman", "nerdctl"})
_SHORT_WITH_VALUE = "acehlmpuvw"
_SHORT_ALONE = "ditPq"
# Options of `docker run` without a value; every other long one takes the next word unless it has a `=`.
_ALONE = frozenset({
    "--detach", "--disable-content-trust", "--help", "--init", "--interactive", "--no-healthcheck",
    "--oom-kill-disable", "--privileged", "--publish-all", "--quiet", "--read-only", "--replace", "--rm",
    "--sig-proxy", "--tty",
})  # fmt: skip


@dataclass(frozen=True)
class Option:
    """One option of `docker run`: `name` without its value, e.g. `-e`, `--gpus`."""

    name: str
    value: str | None
    words: tuple[Word, ...]


@dataclass(frozen=True)
class Command:
    """A command in its parts; joined again in this order they are the command.

    Attributes:
        before: the statements in front of it.
        prefix: what stands before the program: assignments, sudo, nohup, `docker exec ...`.
        runner: `docker run`, or nothing.
        options: the runner's options.
        image: the container's image.
        program: `vllm serve`, `python -m vllm.entrypoints.openai.api_server`, or nothing.
        args: what vLLM gets.
        rest: redirections and the like behind it.
        after: the statements behind it.
    """

    before: tuple[Statement, ...] = ()
    prefix: tuple[Word, ...] = ()
    runner: tuple[Word, ...] = ()
    options: tuple[Option, ...] = ()
    image: Word | None = None
    program: tuple[Word, ...] = ()
    args: tuple[Word, ...] = ()
    rest: str = ""
    after: tuple[Statement, ...] = ()

    @property
    def entry(self) -> Entry:
        """What gets the arguments."""
        said = [each.value for each in self.program]
        if said[-1:] == ["serve"]:
            return "serve"
        if said:
            return "api_server"
        entrypoint = self.value("--entrypoint") or ""
        if "api_server" in entrypoint:
            return "api_server"
        return "image" if self.image or not self.runner else "serve"

    @property
    def official(self) -> bool:
        """Whether the image is vLLM's own, of which the entry point is known."""
        name = self.image.value.partition("@")[0].rpartition(":")[0] or self.image.value if self.image else ""
        return name.removeprefix("docker.io/") in {"vllm/vllm-openai", "vllm/vllm-openai-cpu"}

    @property
    def values(self) -> list[str]:
        """What vLLM gets, as it gets it."""
        return [each.value for each in self.args]

    def having(self, *names: str) -> list[Option]:
        """Return the runner's options of these names."""
        return [option for option in self.options if option.name in names]

    def value(self, *names: str) -> str | None:
        """Return the value of the last of the runner's options of these names."""
        found = self.having(*names)
        return found[-1].value if found else None

    def with_option(
        self, name: str, value: str | None = None, *, raw: str | None = None, inline: bool = False
    ) -> Command:
        """Return the command with one more option of the runner."""
        if inline:
            return replace(self, options=(*self.options, Option(name, value, (word(f"{name}={value}"),))))
        words = [word(name)]
        if value is not None:
            words.append(Word(raw, value) if raw else word(value))
        return replace(self, options=(*self.options, Option(name, value, tuple(words))))

    def without_option(self, option: Option, instead: Sequence[Option] = ()) -> Command:
        """Return the command without an option of the runner, or with others in its place."""
        place = next(at for at, each in enumerate(self.options) if each is option)
        return replace(self, options=(*self.options[:place], *instead, *self.options[place + 1 :]))

    def with_args(self, start: int, end: int, words: Sequence[str | Word]) -> Command:
        """Return the command with the arguments from `start` to before `end` replaced."""
        new = tuple(each if isinstance(each, Word) else word(each) for each in words)
        return replace(self, args=(*self.args[:start], *new, *self.args[end:]))

    def spelled(self, spell: Callable[[str], str]) -> Command:
        """Return the command with every word's spelling put through a function; for hiding secrets."""

        def words(each: Sequence[Word]) -> tuple[Word, ...]:
            return tuple(Word(spell(one.raw), one.value) for one in each)

        def said(each: Sequence[Statement]) -> tuple[Statement, ...]:
            return tuple(replace(one, words=words(one.words), rest=spell(one.rest)) for one in each)

        return Command(
            before=said(self.before), prefix=words(self.prefix), runner=words(self.runner),
            options=tuple(replace(option, words=words(option.words)) for option in self.options),
            image=words([self.image])[0] if self.image else None, program=words(self.program),
            args=words(self.args), rest=spell(self.rest), after=said(self.after),
        )  # fmt: skip

    def text(self, *, width: int = 100) -> str:
        """Return the command as a shell reads it; over several lines where it is longer than `width` columns."""
        head = [_said(statement) for statement in self.before]
        tail = [_said(statement) for statement in self.after]
        return "".join([*head, self._own(width), *(["\n", *tail] if tail else [])]).rstrip("\n")

    def _own(self, width: int) -> str:
        groups = [self.prefix + self.runner] if self.prefix + self.runner else []
        groups += [option.words for option in self.options]
        groups += [(self.image,)] if self.image else []
        groups += [self.program] if self.program else []
        groups += _paired(self.args)
        pieces = [" ".join(each.raw for each in group) for group in groups] + ([self.rest] if self.rest else [])
        line = " ".join(pieces)
        if len(line) <= width or len(pieces) < 3:
            return line
        if self.prefix + self.runner == () and self.program and self.args:
            pieces = [f"{pieces[0]} {pieces[1]}", *pieces[2:]]
        return " \\\n  ".join(pieces)


def _said(statement: Statement) -> str:
    words = " ".join([each.raw for each in statement.words] + ([statement.rest] if statement.rest else []))
    return words + (f" {statement.end} " if statement.end.strip() else "\n")


def _paired(args: Sequence[Word]) -> list[tuple[Word, ...]]:
    """Return the arguments, an option and what follows it together."""
    groups: list[tuple[Word, ...]] = []
    for each in args:
        if groups and not each.value.startswith("-") and groups[-1][0].value.startswith("-"):
            groups[-1] = (*groups[-1], each)
        else:
            groups.append((each,))
    return groups


def read_text(text: str) -> Command:
    """Return the command in a pasted text: the first one that starts vLLM, else the whole first one as arguments.

    Raises:
        MetalserveError: a quote is not closed.
    """
    found = statements(text)
    for place, statement in enumerate(found):
        command = read_words(statement.words)
        if command.runner or command.program:
            joins = statement.end if statement.end in {"&", "&&", "|", "||"} else ""
            rest = f"{statement.rest} {joins}"
            return replace(command, before=tuple(found[:place]), after=tuple(found[place + 1 :]), rest=rest.strip())
    return read_words([each for statement in found for each in statement.words])


def read_words(words: Sequence[Word | str]) -> Command:
    """Return a command from its words.

    Understands `docker run`, `podman run`, `nerdctl run`, `vllm serve`, `python -m
    vllm.entrypoints.openai.api_server` with anything before them, and bare arguments.
    """
    line = [each if isinstance(each, Word) else word(each) for each in words]
    line = [each for each in line if each.value.strip() not in {"", "\\"} or each.raw in {"''", '""'}]
    values = [each.value for each in line]
    for place, value in enumerate(values):
        if (
            value in _RUNNERS
            and "run" in values[place : place + 5]
            and not any(v.endswith("vllm") for v in values[:place])
        ):
            run = values.index("run", place)
            return _container(line[:place], line[place : run + 1], line[run + 1 :])
    program = _program(values)
    if program is not None:
        start, end = program
        return Command(prefix=tuple(line[:start]), program=tuple(line[start:end]), args=tuple(line[end:]))
    return Command(args=tuple(line))


def _program(values: Sequence[str]) -> tuple[int, int] | None:
    """Return where the program that is vLLM begins and ends among the words."""
    for place, value in enumerate(values):
        if value.rpartition("/")[2] == "vllm" and values[place + 1 : place + 2] == ["serve"]:
            return place, place + 2
        if value.startswith("vllm.entrypoints.") and place and values[place - 1] == "-m":
            start = place - 2 if place > 1 and "python" in values[place - 2] else place - 1
            return start, place + 1
    return None


def _container(prefix: Sequence[Word], runner: Sequence[Word], words: Sequence[Word]) -> Command:
    options: list[Option] = []
    place = 0
    while place < len(words) and words[place].value.startswith("-"):
        option, place = _option(words, place)
        options.append(option)
    image = words[place] if place < len(words) else None
    inside = list(words[place + 1 :])
    program = _program([each.value for each in inside])
    start, end = program if program is not None and program[0] == 0 else (0, 0)
    return Command(
        prefix=tuple(prefix), runner=tuple(runner), options=tuple(options), image=image,
        program=tuple(inside[start:end]), args=tuple(inside[end:]),
    )  # fmt: skip


def _option(words: Sequence[Word], place: int) -> tuple[Option, int]:
    first = words[place]
    name, equals, value = first.value.partition("=")
    following = words[place + 1] if place + 1 < len(words) else None
    if not name.startswith("--"):
        if set(name[1:]) <= set(_SHORT_ALONE):
            return Option(name, None, (first,)), place + 1
        if len(name) > 2 and name[1] in _SHORT_WITH_VALUE:  # -p8000:8000
            return Option(name[:2], first.value[2:], (first,)), place + 1
    if equals:
        return Option(name, value, (first,)), place + 1
    if name in _ALONE or following is None:
        return Option(name, None, (first,)), place + 1
    return Option(name, following.value, (first, following)), place + 2
