"""One section of an observation: what a command printed, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Section:
    """Output of one command of the observation script.

    Attributes:
        text: standard output and standard error, folded together.
        rc: exit status of the command (124: it ran into its time limit; 127: no such command).
    """

    text: str
    rc: int = 0
