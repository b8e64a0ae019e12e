"""A finding about a command and the step that mends it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from metalserve.catalogue.vllm_arguments import ArgProblem
from metalserve.flags.command import Command

Fix = Callable[[Command], Command]


@dataclass(frozen=True)
class Found:
    """What is wrong, the step that mends it, and what that step does in words; neither where nothing can be done.

    `variable` is what the file of secrets must hold after that step.
    """

    problem: ArgProblem
    fix: Fix | None = None
    change: str = ""
    variable: str = ""


_TOKEN = re.compile(
    r"\b(hf_|sk-|ghp_|gho_|github_pat_|glpat-|nvapi-|xox[bp]-|AKIA)[A-Za-z0-9_\-]{3,}|(?<=Bearer )[^\s\"']+"
)
_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s:]+:[^/@\s]+(?=@)")
_BY_NAME = re.compile(
    r"(?i)((?:token|api_?key|secret|password|passwd)[\"']?\s*[=:]\s*[\"']?)([^\s\"',}$/][^\s\"',}]{2,})"
)
HIDDEN = "HIDDEN"


def mask(text: str, secrets: Iterable[str]) -> str:
    """Return a text without the secrets given and without whatever looks like one."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= 4:
            text = text.replace(secret, HIDDEN)
    text = _IN_ADDRESS.sub(HIDDEN, _TOKEN.sub(HIDDEN, text))
    return _BY_NAME.sub(lambda found: found.group(1) + HIDDEN, text)


def looks_secret(value: str) -> bool:
    """Return whether a value has the form of a token."""
    return bool(_TOKEN.search(value) or _IN_ADDRESS.search(value))
