"""How often a systemd unit died by itself, as the journal tells it (`journalctl -o short-unix`).

A stop that somebody asked for, as upgrades and repairs do, is none: systemd then says "Deactivated successfully".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from metalserve.hardware.parsers.text import ParseError, clean, first_line

READABLE = "journal readable"
"""What the command prints before the lines of the journal: an empty journal and an unreadable one look alike else."""

# sd-messages.h of systemd: a unit has failed (SD_MESSAGE_UNIT_FAILURE_RESULT), its restart was scheduled
# (SD_MESSAGE_UNIT_RESTART_SCHEDULED).
_MESSAGES = "MESSAGE_ID=d9b373ed55a64feb8242e02dbe79a49c MESSAGE_ID=5eb03494b6584870a536b337290809b3"
_LINE = re.compile(r"(\d{9,11}(?:\.\d{1,9})?) \S{1,255} systemd\[\d{1,10}\]: .{0,300}?(Failed with|Scheduled restart)")


@dataclass(frozen=True)
class UnitDeaths:
    """Times, seconds since the epoch by the host's clock, oldest first.

    Attributes:
        failed: the unit ended in a failure, or could not be started.
        restarted: systemd brought it back by itself.
    """

    failed: tuple[float, ...]
    restarted: tuple[float, ...]


def unit_deaths_command(unit: str, minutes: int) -> str:
    """Return the shell command that lists when `unit` died in the last `minutes` of this boot."""
    return (
        f"timeout 20 journalctl -q -b -n 1 -o cat >/dev/null && echo '{READABLE}' && "
        f"timeout 20 journalctl -q -b -u {unit} --since=-{minutes}min -o short-unix {_MESSAGES} | tail -n 200"
    )


def parse_unit_deaths(text: str) -> UnitDeaths:
    """Read what `unit_deaths_command` printed.

    Raises:
        ParseError: the journal could not be read.
    """
    lines = clean(text).splitlines()
    if READABLE not in (line.strip() for line in lines):
        raise ParseError(f"the journal could not be read: {first_line(text)!r}")
    found = sorted((float(m.group(1)), m.group(2)) for line in lines if (m := _LINE.match(line)))
    return UnitDeaths(
        tuple(at for at, what in found if what == "Failed with"),
        tuple(at for at, what in found if what == "Scheduled restart"),
    )
