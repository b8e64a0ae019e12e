"""What shows a step of long work while it runs. Pure."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

Step = Callable[[str], AbstractContextManager[object]]
"""Shows a step of the work while it runs."""


def no_step(title: str) -> AbstractContextManager[object]:
    """Show nothing."""
    return nullcontext()
