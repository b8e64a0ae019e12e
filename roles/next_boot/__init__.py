"""Role next_boot: says whether the next reboot would break the node, and why. Changes nothing."""

from __future__ import annotations

from metalserve.pyinfra_seam.foretelling import foretell
from metalserve.pyinfra_seam.role import role
from metalserve.verify.next_boot import VERDICT
from roles.next_boot import desired


@role("Next boot", watch=desired.watch)
def next_boot() -> None:
    """The kernel that boots next, its driver, and what will change either before; a warning, never a failure."""
    foretell(VERDICT, desired.findings)


__all__ = ["desired", "next_boot"]
