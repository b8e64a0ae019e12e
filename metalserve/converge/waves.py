"""Which hosts a run takes, and in which waves. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from metalserve.errors import MetalserveError

TO_RETRY = ("failed", "unreachable", "interrupted", "not reached")
"""Outcomes of a host after which a retry makes sense."""


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a wave: a number of hosts, or a percentage of all that were chosen."""

    number: int
    percent: bool = False

    @classmethod
    def parse(cls, text: str) -> Size:
        """Read "4" or "25%".

        Raises:
            MetalserveError: it is neither, or zero, or more than 100 %.
        """
        digits = text.strip().removesuffix("%")
        size = cls(int(digits), text.strip().endswith("%")) if digits.isascii() and digits.isdigit() else None
        if size is None or size.number < 1 or (size.percent and size.number > 100):
            raise MetalserveError(
                f"{text!r} is no size of a wave", remedy="give a number of hosts (4) or a share (25%)"
            )
        return size

    def of(self, total: int) -> int:
        """Return the number of hosts of `total`, at least one; a share is rounded up."""
        return max(1, math.ceil(total * self.number / 100)) if self.percent else self.number


def plan_waves(hosts: Sequence[str], *, canary: int = 0, then: Size | None = None) -> list[list[str]]:
    """Cut `hosts` into waves, in their order.

    Args:
        hosts: all hosts of the run.
        canary: size of the first wave; 0 for no such wave.
        then: size of each further wave; None for one wave with all that is left.
    """
    waves = [list(hosts[:canary])] if canary else []
    rest = list(hosts[canary:])
    step = then.of(len(hosts)) if then is not None else max(1, len(rest))
    waves += [rest[i : i + step] for i in range(0, len(rest), step)]
    return [wave for wave in waves if wave]


def choose(hosts: Sequence[str], groups: Mapping[str, Iterable[str]], limits: Sequence[str]) -> list[str]:
    """Return the hosts that `limits` name, in the inventory's order; all of them without limits.

    Args:
        hosts: every host of the inventory.
        groups: group -> its hosts.
        limits: names of groups or hosts, or shell patterns of host names.

    Raises:
        MetalserveError: one of the limits names nothing.
    """
    if not limits:
        return list(hosts)
    chosen: set[str] = set()
    for limit in limits:
        named = set(groups.get(limit, ())) or {h for h in hosts if h == limit or fnmatchcase(h, limit)}
        if not named:
            known = ", ".join(hosts[:12]) + (f" and {len(hosts) - 12} more" if len(hosts) > 12 else "")
            more = f"; groups: {', '.join(sorted(groups))}" if groups else ""
            raise MetalserveError(f"--limit {limit}: no such host or group", remedy=f"hosts: {known}{more}")
        chosen |= named
    return [h for h in hosts if h in chosen]


def to_retry(statuses: Mapping[str, str], hosts: Sequence[str]) -> list[str]:
    """Return the hosts of the inventory that a former run did not bring to its end, in the inventory's order.

    Args:
        statuses: host -> outcome in the former run's report.
        hosts: every host of the inventory.

    Raises:
        MetalserveError: the report names a failed host that the inventory does not have.
    """
    wanted = {name for name, status in statuses.items() if status in TO_RETRY}
    gone = sorted(wanted - set(hosts))
    if gone:
        raise MetalserveError(
            f"failed in that run but not in this inventory: {', '.join(gone[:12])}",
            remedy="give the inventory and --limit of that run",
        )
    return [h for h in hosts if h in wanted]
