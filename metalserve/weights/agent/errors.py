"""How the agent says that something is wrong: what, where, what to do, in one line."""

from __future__ import annotations

from typing import Any


class AgentError(Exception):
    """An error for the user's eyes; `str()` of it is one line.

    Args:
        what: what is wrong, in words.
        remedy: what to do about it.
        where: the file or directory it is about.
    """

    def __init__(self, what: str, remedy: str = "", *, where: str = "") -> None:
        self.what = f"{where}: {what}" if where else what
        self.remedy = remedy
        super().__init__(" ".join((f"{self.what} -> {remedy}" if remedy else self.what).split()))


class Found(AgentError):
    """A check's bad outcome: what is published is not what was proved.

    Attributes:
        data: what is printed as JSON.
    """

    def __init__(self, what: str, remedy: str, data: dict[str, Any], *, where: str) -> None:
        super().__init__(what, remedy, where=where)
        self.data = data


class Stopped(AgentError):
    """The agent was told to stop; what came is kept."""

    def __init__(self) -> None:
        super().__init__("told to stop; what came is kept", "run it again, it goes on where it stopped")
