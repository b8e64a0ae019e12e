"""Runs a function in a process of its own that is killed just before its n-th change of the file system."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

CHANGES = ("rename", "replace", "symlink", "unlink", "rmdir", "mkdir", "fsync", "remove")


def killed_at(number: int, function: Callable[[], object]) -> bool:
    """Run `function` in a child and tell whether it was killed; a child that failed otherwise is an error here."""
    child = os.fork()
    if child == 0:
        code = 3
        try:
            left = [number]
            for name in CHANGES:
                _count(name, left)
            function()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the child failed"
    return False


def _count(name: str, left: list[int]) -> None:
    real: Callable[..., Any] = getattr(os, name)

    def counted(*words: Any, **more: Any) -> Any:
        left[0] -= 1
        if left[0] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*words, **more)

    setattr(os, name, counted)
