"""What a stage only begins on a host and what goes on there by itself: how it is looked at until it has ended. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from metalserve.desired.node import Node


@dataclass(frozen=True)
class Look:
    """How far the work on one host is.

    Attributes:
        running: whether it still runs.
        words: how far it is, a line for people.
        failed: why it ended without its result; "" while it runs or when it ended well.
        remedy: what to do then.
        data: the same for programs.
    """

    running: bool
    words: str = ""
    failed: str = ""
    remedy: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Follow:
    """What is to be followed.

    Attributes:
        script: seconds -> shell that says how far it is, at its end or after that many seconds.
        read: the shell's lines -> the look; raises `MetalserveError` where they say nothing of it.
    """

    script: Callable[[int], str]
    read: Callable[[Sequence[str]], Look]


FollowOf = Callable[[Node], Follow]
"""How what a stage begins on a host is followed."""
