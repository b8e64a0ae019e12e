"""Whether a step whose controller died may still be at work on the host. Acting before would break it off."""

from __future__ import annotations

from typing import Final

from metalserve.recovery.case import BOOTS
from metalserve.recovery.ports import Hands
from metalserve.recovery.values import StepRecord

GOES_DOWN_S: Final = 180.0
"""Seconds within which a host that was told to boot is down: systemd gives its units 90 s to stop."""

ON_ITS_WAY_S: Final = 20.0
"""Seconds in which a script that was sent to a host has begun there and holds its locks (guessed: a login takes 1)."""


def in_flight(record: StepRecord, host: str, hands: Hands, now: float) -> bool:
    """Say whether a step that nobody saw end may not have ended.

    Past its deadline it has. A host that is up in the boot before, long after it was to go down, was never told to. A
    step made by a script has ended, or never began, when nothing holds the host's locks.

    Args:
        record: the step.
        host: the host.
        hands: what reaches it.
        now: seconds since the epoch.
    """
    if now >= record.begun + record.step.deadline_s:
        return False
    if record.step.rung not in BOOTS:
        return now < record.begun + ON_ITS_WAY_S or hands.idle(host) is not True
    if not record.step.boot or now < record.begun + GOES_DOWN_S:
        return True
    look = hands.look(host, since=record.begun)
    return not (look.reachable and look.boot == record.step.boot)
