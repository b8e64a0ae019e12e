"""The check of a pasted command, and the command put right: findings first, then one step after another. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial

from metalserve.catalogue.vllm_arguments import ArgProblem, read_args
from metalserve.catalogue.vllm_conflicts import Conflict, conflicts
from metalserve.catalogue.vllm_flags import known_releases, version_key
from metalserve.errors import MetalserveError
from metalserve.flags.command import Command
from metalserve.flags.compose import read_pasted
from metalserve.flags.container_rules import container_findings, image_version
from metalserve.flags.engine_rules import engine_findings, secret_findings
from metalserve.flags.environment_rules import (
    ENV_FILE,
    VARIABLE_OF,
    environment_findings,
    secret_values,
    without_secret,
)
from metalserve.flags.found import Found, mask

_STEPS = 200
"""Steps after which putting right gives up; a command of a hundred flags, all wrong, needs about as many."""


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Attributes:
        release: the vLLM release that was checked for.
        problems: what is wrong, errors and warnings.
        corrected: the command put right, ready to paste; the command itself where nothing is to be done.
        changes: what was changed, in words, in order.
        secrets: variables that the corrected command reads from `ENV_FILE`, which is to be written by hand.
    """

    release: str
    problems: tuple[ArgProblem, ...]
    corrected: str
    changes: tuple[str, ...]
    secrets: tuple[str, ...] = ()

    @property
    def errors(self) -> int:
        """How many problems keep vLLM from starting, or show a secret."""
        return sum(problem.severity == "error" for problem in self.problems)

    def as_dict(self) -> dict[str, object]:
        """Return the result for JSON; docs/vllm-check.md documents it."""
        return {
            "version": 1,
            "vllm": self.release,
            "ok": not self.errors,
            "problems": [asdict(problem) for problem in self.problems],
            "corrected": self.corrected,
            "changes": list(self.changes),
            "secrets": {ENV_FILE: list(self.secrets)} if self.secrets else {},
        }


def version_for(command: Command, asked: str | None) -> tuple[str, ArgProblem | None]:
    """Return the release whose flags decide: the one asked for, else the image's, else the newest known.

    Where the image's is not in the catalogue, the newest known one before it stands in, with a warning.
    """
    if asked is not None:
        return asked, None
    given = image_version(command)
    known = known_releases()
    if given is None or given in known:
        return given or known[-1], None
    before = [name for name in known if version_key(name) <= version_key(given)]
    stand_in = before[-1] if before else known[0]
    message = f"the flags of vLLM {given} are not known; those of {stand_in} were taken"
    return stand_in, ArgProblem("image", "image", message, f"pin v{stand_in}, or ask with --release", "warning")


def check_command(command: Command, release: str | None = None) -> Checked:
    """Check a command for a vLLM release and put it right.

    No message, no change and no word of the corrected command holds the value of a token or a key.

    Args:
        command: what `read_pasted` or `read_words` returned.
        release: a vLLM version of the catalogue; None takes the image's, or the newest.

    Raises:
        MetalserveError: the release is not in the catalogue.
    """
    version, unsure = version_for(command, release)
    secrets = secret_values(command, version)
    found = list(_findings(command, version))
    if unsure is not None:
        found = [Found(unsure), *(each for each in found if each.problem.kind != "image")]
    corrected, steps = _put_right(command, version)
    hide = partial(mask, secrets=secrets)
    return Checked(
        release=version,
        problems=tuple(_hidden(each.problem, secrets) for each in found),
        corrected=hide(corrected.spelled(hide).text()),
        changes=tuple(dict.fromkeys(hide(step.change) for step in steps)),
        secrets=tuple(dict.fromkeys(step.variable for step in steps if step.variable)),
    )


def _hidden(problem: ArgProblem, secrets: set[str]) -> ArgProblem:
    remedy = mask(problem.remedy, secrets) if problem.remedy else None
    return replace(problem, flag=mask(problem.flag, secrets), message=mask(problem.message, secrets), remedy=remedy)


def _put_right(command: Command, release: str) -> tuple[Command, list[Found]]:
    """Return the command after every step that mends something, and the steps."""
    steps: list[Found] = []
    for _ in range(_STEPS):
        step = next((each for each in _findings(command, release) if each.fix is not None), None)
        if step is None or step.fix is None:
            return command, steps
        command = step.fix(command)
        steps.append(step)
    raise MetalserveError("has more mistakes than can be put right", where="the command", remedy="correct some of them")


def _findings(command: Command, release: str) -> Iterator[Found]:
    for argument in secret_findings(command, release):
        message = f"the value of {argument.name} stands on the command line: `ps` shows it to everybody on the host"
        variable = VARIABLE_OF[argument.name]
        problem = ArgProblem("secret", argument.name, message, f"drop it and set {variable} in a file of mode 0600")
        yield Found(problem, partial(without_secret, argument=argument), f"{variable} comes from {ENV_FILE}", variable)
    yield from environment_findings(command, release)
    yield from container_findings(command, release)
    yield from engine_findings(command, release)
    for conflict in conflicts(read_args(command.values, release, expanding=True), release):
        yield _conflict(conflict)


def _conflict(conflict: Conflict) -> Found:
    argument = conflict.argument
    if conflict.add:
        words = list(conflict.add)

        def add(command: Command) -> Command:
            return command.with_args(len(command.args), len(command.args), words)

        return Found(conflict.problem, add, f"{' '.join(words)} is added")
    return Found(
        conflict.problem, lambda c: c.with_args(argument.start, argument.end, ()), f"{argument.name} is dropped"
    )


def check_text(text: str, release: str | None = None) -> Checked:
    """Check a pasted text; see `check_command`."""
    return check_command(read_pasted(text), release)
