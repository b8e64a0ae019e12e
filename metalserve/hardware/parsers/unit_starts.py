"""Starts of a systemd unit, as the journal tells them (`journalctl -o short-unix`, message "unit started")."""

from __future__ import annotations

import re

from metalserve.hardware.parsers.text import ParseError, clean, first_line

READABLE = "journal readable"
"""What the command prints before the lines of the journal: an empty journal and an unreadable one look alike else."""

_LINE = re.compile(r"(\d{9,11}(?:\.\d{1,9})?) \S{1,255} systemd\[\d{1,10}\]: ")


def unit_starts_command(unit: str, minutes: int) -> str:
    """Return the shell command that lists when `unit` was started in the last `minutes` of this boot."""
    # 39f5...: SD_MESSAGE_UNIT_STARTED, "a start job for a unit has finished" (systemd, sd-messages.h).
    return (
        f"timeout 20 journalctl -q -b -n 1 -o cat >/dev/null && echo '{READABLE}' && timeout 20 journalctl -q -b "
        f"-u {unit} --since=-{minutes}min -o short-unix MESSAGE_ID=39f53479d3a045ac8e11786248231fbf | tail -n 200"
    )


def parse_unit_starts(text: str) -> tuple[float, ...]:
    """Read what `unit_starts_command` printed.

    Returns:
        Times of the starts, seconds since the epoch by the host's clock, oldest first.

    Raises:
        ParseError: the journal could not be read.
    """
    lines = clean(text).splitlines()
    if READABLE not in (line.strip() for line in lines):
        raise ParseError(f"the journal could not be read: {first_line(text)!r}")
    return tuple(sorted(float(found.group(1)) for line in lines if (found := _LINE.match(line))))
