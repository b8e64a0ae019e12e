"""Faults of the lab's BMCs: written into the BMC's directory, looked at with each request."""

from __future__ import annotations

import difflib
import time
from pathlib import Path
from typing import Any

from metalserve.errors import MetalserveError
from metalserve.lab.system import read_json, write_json

KINDS: dict[str, str] = {
    "once-ignored": "a boot override for one boot is stored as Continuous, as sushy-emulator does",
    "boot-ignored": "a boot override is accepted and not stored",
    "wrong-boot-order": "the host boots from its disk, whatever the override says and the BMC shows",
    "power-ignored": "power actions are accepted and not done",
    "graceful-ignored": "the host does not shut down when asked in order",
    "answer-lost": "changes are made, but the connection breaks before the answer",
    "unavailable-when-off": "everything but the service root answers 503 while the host is off",
    "slow": "every answer takes two seconds",
    "hang": "no request is answered",
    "sessions-full": "no session can be opened: 503 SessionLimitExceeded; basic authentication works",
    "certificate-changed": "another certificate is shown",
    "wrong-credentials": "user and password are refused",
}
"""All kinds of faults."""

SLOW_S = 2.0
"""Seconds that an answer takes under the fault `slow`."""


def inject(directory: Path, kind: str) -> None:
    """Begin a fault of a BMC; MetalserveError for a kind that there is not."""
    _check(kind)
    kept = [each for each in active(directory) if each["kind"] != kind]
    write_json(directory / "faults.json", {"faults": [*kept, {"kind": kind, "at": time.time()}]})


def heal(directory: Path, kind: str | None = None) -> list[str]:
    """End a BMC's faults, or those of one kind; return the kinds that ended."""
    if kind is not None:
        _check(kind)
    before = active(directory)
    ended = [each["kind"] for each in before if kind in (None, each["kind"])]
    if ended:
        write_json(directory / "faults.json", {"faults": [each for each in before if each["kind"] not in ended]})
    return ended


def active(directory: Path) -> list[dict[str, Any]]:
    """Return a BMC's faults."""
    value = read_json(directory / "faults.json") or {}
    return list(value.get("faults", []))


def _check(kind: str) -> None:
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else f"one of: {', '.join(KINDS)}"
        raise MetalserveError(f"no fault {kind!r}", where="lab bmc-fault", remedy=remedy)
