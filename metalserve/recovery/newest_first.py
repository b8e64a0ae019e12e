"""Turns a list that stands newest first into the order of time: what is over must be judged in that order. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final

_FORMS: Final = (
    (re.compile(r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d)(?::(\d\d))?"), ("YmdHMS",)),
    (re.compile(r"(\d\d)/(\d\d)/(\d{4})[ |,T]{1,5}(\d\d):(\d\d)(?::(\d\d))?"), ("mdYHMS", "dmYHMS")),
    (re.compile(r"([A-Z][a-z]{2}) +(\d{1,2})() +(\d\d):(\d\d)(?::(\d\d))?(?= )"), ("bdYHMS",)),
)
"""Stamps of event logs and journals, and the orders of their parts: of a date with slashes nobody knows which it is.

Seconds since boot are none of them: they fall where a log goes on after a reboot.
"""
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_AT: Final = 48
"""Characters at the start of a line in which its stamp stands: numbers of records and names of fields precede it."""
_HEAD: Final = 400
"""Lines that are looked at first: a log whose stamps rise in them is left alone, however long it is."""
_NO_YEAR: Final = 1904
"""Stands for the year where a stamp has none: a leap year."""
_HALF_A_YEAR: Final = timedelta(days=183)


def in_order_of_time(text: str) -> str:
    """Return the text with its entries the oldest first, where all stamps in it fall; else as it is.

    An entry is a line with a stamp, and the lines without one that follow it.
    """
    lines = text.splitlines()
    if _falling(lines[:_HEAD], timedelta(0)) is None:
        return text
    stamps = _falling(lines, timedelta(microseconds=1))
    return "\n".join(_turned(lines, stamps)) if stamps is not None else text


def _falling(lines: Sequence[str], least: timedelta) -> list[re.Match[str] | None] | None:
    """Return the stamp of each line, if all are of one form, and fall from the first to the last by `least` or more.

    They must do so in every order of their parts that makes dates of all of them.
    """
    starts = [line[:_AT] for line in lines]
    found = [(orders, [form.search(start) for start in starts]) for form, orders in _FORMS]
    stamped = [(orders, stamps) for orders, stamps in found if any(stamps)]
    if len(stamped) != 1:
        return None
    orders, stamps = stamped[0]
    told = [each for each in stamps if each is not None]
    read = [times for order in orders if (times := _times(told, order)) is not None]
    return stamps if read and all(_fall(times, least) for times in read) else None


def _fall(times: Sequence[datetime], least: timedelta) -> bool:
    over = times[0] - times[-1]
    of_a_new_year = times[0].year == _NO_YEAR and over > _HALF_A_YEAR
    return all(later <= earlier for earlier, later in pairwise(times)) and over >= least and not of_a_new_year


def _times(stamps: Sequence[re.Match[str]], order: str) -> list[datetime] | None:
    try:
        return [_time(dict(zip(order, stamp.groups(), strict=True))) for stamp in stamps]
    except ValueError:
        return None


def _time(part: dict[str, str | None]) -> datetime:
    month = _MONTHS.index(part["b"] or "") + 1 if "b" in part else int(part["m"] or 0)
    hour, minute, second = (int(part[each] or 0) for each in "HMS")
    return datetime(int(part["Y"] or _NO_YEAR), month, int(part["d"] or 0), hour, minute, second)


def _turned(lines: Sequence[str], stamps: Sequence[re.Match[str] | None]) -> list[str]:
    starts = [number for number, stamp in enumerate(stamps) if stamp is not None]
    entries = [lines[start:end] for start, end in zip(starts, [*starts[1:], len(lines)], strict=True)]
    return [*lines[: starts[0]], *(line for entry in reversed(entries) for line in entry)]
