"""The one way metalserve tells a user that something is wrong: what, where, what to do."""

from __future__ import annotations


class MetalserveError(Exception):
    """An error for the user's eyes; `str()` of it is one line.

    Args:
        what: what is wrong, in words.
        where: the file, host, key or command it is about.
        remedy: what to do about it.
    """

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        super().__init__(what)

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        if self.remedy:
            line = f"{line} -> {self.remedy}"
        return " ".join(line.split())
