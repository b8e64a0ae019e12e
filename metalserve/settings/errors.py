"""The error of refused settings: every problem at once, one a line."""

from __future__ import annotations

from collections.abc import Iterable

from metalserve.errors import MetalserveError


class SettingsError(MetalserveError):
    """Settings of one or more hosts are refused.

    `str()` is one line for each problem, `SOURCE: HOST: KEY: WHAT`: the one error of metalserve that may have
    several lines, since fixing an inventory one message at a time is a waste of its owner's time.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        """Take the problems, each made one line."""
        self.problems: tuple[str, ...] = tuple(" ".join(line.split()) for line in problems)
        super().__init__("\n".join(self.problems))

    def __str__(self) -> str:
        """Return the problems, one a line."""
        return "\n".join(self.problems)
