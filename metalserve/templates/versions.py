"""Which of two package versions is newer, as dpkg and rpm decide it."""

from __future__ import annotations

import re
from itertools import zip_longest
from typing import Literal

_PARTS = re.compile(r"(\D*)(\d*)")

Order = Literal[-1, 0, 1]


def compare_debian(one: str, other: str) -> Order:
    """Return -1, 0 or 1: `one` is older than, the same as, newer than `other` (Debian policy 5.6.12)."""
    (epoch_1, upstream_1, revision_1), (epoch_2, upstream_2, revision_2) = _split(one), _split(other)
    return _sign(epoch_1, epoch_2) or _debian_part(upstream_1, upstream_2) or _debian_part(revision_1, revision_2)


def _split(version: str) -> tuple[int, str, str]:
    epoch, colon, rest = version.strip().partition(":")
    if not colon:
        epoch, rest = "0", version.strip()
    upstream, _, revision = rest.rpartition("-")
    return (int(epoch) if epoch.isascii() and epoch.isdigit() else 0), upstream or rest, revision if upstream else ""


def _debian_part(one: str, other: str) -> Order:
    for (text_1, number_1), (text_2, number_2) in zip_longest(
        _PARTS.findall(one), _PARTS.findall(other), fillvalue=("", "")
    ):
        for a, b in zip_longest(text_1, text_2, fillvalue=""):
            if order := _sign(_weight(a), _weight(b)):
                return order
        if order := _sign(int(number_1 or 0), int(number_2 or 0)):
            return order
    return 0


def _weight(character: str) -> int:
    if not character:
        return 0
    if character == "~":  # sorts before everything, even the end
        return -1
    return ord(character) if character.isalpha() else ord(character) + 256


def compare_rpm(one: str, other: str) -> Order:
    """Return -1, 0 or 1 for `[EPOCH:]VERSION[-RELEASE]` as rpm's `rpmvercmp` decides it."""
    (epoch_1, upstream_1, revision_1), (epoch_2, upstream_2, revision_2) = _split(one), _split(other)
    return _sign(epoch_1, epoch_2) or _rpm_part(upstream_1, upstream_2) or _rpm_part(revision_1, revision_2)


_SEGMENT = re.compile(r"~|\^|\d+|[A-Za-z]+")


def _rpm_part(one: str, other: str) -> Order:
    for a, b in zip_longest(_SEGMENT.findall(one), _SEGMENT.findall(other), fillvalue=""):
        if a == b:
            continue
        if order := _sign(_rank(a), _rank(b)):
            return order
        if order := _sign(int(a), int(b)) if a.isdigit() else _sign(a, b):
            return order
    return 0


def _rank(segment: str) -> int:
    """`~` is older than the end, which is older than `^`, than letters, than numbers."""
    if not segment:
        return 1
    if segment in "~^":
        return 0 if segment == "~" else 2
    return 4 if segment.isdigit() else 3


def _sign(a: int | str, b: int | str) -> Order:
    if a == b:
        return 0
    return -1 if a < b else 1  # type: ignore[operator]
