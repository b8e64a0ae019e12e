"""What is asked of a running router, and what it answered: pure. The script itself is files/router/control.sh."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from metalserve.errors import MetalserveError
from metalserve.routing.paths import CONTROL
from metalserve.routing.status import RouterState, parse_state

Outcome = Literal["done", "time is up", "refused", "failed"]
_OUTCOMES: dict[int, Outcome] = {0: "done", 3: "time is up", 4: "refused"}
_STATUS = "@@router-control "
_TARGET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}(:[0-9]{1,5})?")


@dataclass(frozen=True)
class Answer:
    """What one router answered.

    Attributes:
        router: the host.
        outcome: how it went; "time is up" when requests still run after the deadline of a drain.
        said: its words, one line.
        state: the replicas as it sees them, where they were asked for.
    """

    router: str
    outcome: Outcome
    said: str
    state: RouterState = field(default_factory=RouterState)


def drain_script(targets: Sequence[str], *, wait_s: int, force: bool = False) -> str:
    """Return the script that takes replicas out of a router and waits until no request runs on them.

    Args:
        targets: HOST for all engines of a host, or HOST:PORT.
        wait_s: seconds to wait; what runs longer is left to end.
        force: also when nothing else that is up serves their model.

    Raises:
        MetalserveError: a target is neither.
    """
    return _script(["drain", str(wait_s), "1" if force else "0", *_checked(targets)])


def enable_script(targets: Sequence[str]) -> str:
    """Return the script that gives replicas requests again.

    Raises:
        MetalserveError: a target is neither HOST nor HOST:PORT.
    """
    return _script(["enable", *_checked(targets)])


def status_script() -> str:
    """Return the script that tells a router's state."""
    return _script(["state"])


def _script(words: Sequence[str]) -> str:
    return f"{shlex.join([CONTROL, *words])}\nprintf '\\n{_STATUS}%s\\n' \"$?\"\n"


def _checked(targets: Sequence[str]) -> Sequence[str]:
    for target in targets:
        if not _TARGET.fullmatch(target):
            raise MetalserveError(f"{target[:40]!r} is neither HOST nor HOST:PORT", where="router")
    if not targets:
        raise MetalserveError("no replica is named", where="router", remedy="give HOST or HOST:PORT")
    return targets


def read_answer(router: str, lines: Sequence[str]) -> Answer:
    """Read what a script printed; one that did not come to its end has failed."""
    status = next((line.removeprefix(_STATUS) for line in reversed(lines) if line.startswith(_STATUS)), "")
    said = [line.strip() for line in lines if line.strip() and not line.startswith(_STATUS)]
    outcome: Outcome = _OUTCOMES.get(int(status), "failed") if status.isdigit() else "failed"
    state = parse_state("\n".join(said))
    words = "" if state.replicas else " ".join(said)[-400:]
    return Answer(router, outcome, words, state)
