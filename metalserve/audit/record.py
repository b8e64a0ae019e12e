"""What the audit says of a node: each item as it is wanted and as it was seen. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final, Literal

State = Literal["proved", "seen", "wanted", "differs", "none", "unknown"]
STATES: Final[dict[State, str]] = {
    "proved": "was seen as it is wanted",
    "seen": "was seen; nothing says what is wanted",
    "wanted": "is wanted; no report says that it was seen",
    "differs": "was seen otherwise than it is wanted",
    "none": "there is none, or none is recorded",
    "unknown": "nobody knows",
}
SCHEMA: Final = 1
"""Raised when a key of the JSON changes its meaning or goes away; new keys do not raise it."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing of a node.

    Attributes:
        name: what it is about, a stable key.
        wanted: what the inventory and its release want; "" when they do not say.
        seen: what a report says was there; "" when none does.
        source: where `seen` is from.
        note: what is to be known of it beside.
    """

    name: str
    label: str
    state: State
    wanted: str = ""
    seen: str = ""
    source: str = ""
    note: str = ""

    @property
    def value(self) -> str:
        """What there is to show: what was seen, else what is wanted, else the state's own word."""
        return self.seen or self.wanted or ("none recorded" if self.state == "none" else "unknown")

    def as_dict(self) -> dict[str, str | None]:
        """Return it for JSON; what is not known is null."""
        return {key: value or None for key, value in asdict(self).items()}


def item(
    name: str,
    label: str,
    wanted: str = "",
    seen: str = "",
    *,
    same: bool | None = None,
    source: str = "",
    note: str = "",
) -> Item:
    """Return an item with the state that its two sides give.

    Args:
        name: a stable key.
        label: for people.
        wanted: what is wanted, or "".
        seen: what was seen, or "".
        same: whether what was seen is what is wanted, where the words alone do not tell; None: by the words.
        source: where `seen` is from.
        note: what is to be known beside.
    """
    state: State
    if wanted and seen:
        state = "proved" if (seen == wanted if same is None else same) else "differs"
    else:
        state = "seen" if seen else "wanted" if wanted else "unknown"
    return Item(name, label, state, wanted, seen, source, note)


def nothing(name: str, label: str, note: str = "") -> Item:
    """Return an item of which there is none."""
    return Item(name, label, "none", note=note)


@dataclass(frozen=True)
class Verified:
    """The last verification of a node.

    Attributes:
        verdict: ok, warn, fail, unknown; `never` where no report has one.
        started: when.
        days: its age; None when the report has no time.
        depth: quick, standard or deep; "" unknown.
        counts: findings by status.
        failed: what was bad, one line a finding.
    """

    verdict: str = "never"
    started: datetime | None = None
    days: float | None = None
    depth: str = ""
    counts: Counter[str] | None = None
    failed: tuple[str, ...] = ()
    source: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "verdict": self.verdict,
            "started": self.started.isoformat() if self.started else None,
            "days": round(self.days, 2) if self.days is not None else None,
            "depth": self.depth or None,
            "findings": dict(self.counts or {}),
            "failed": list(self.failed),
            "source": self.source or None,
        }


@dataclass(frozen=True)
class NodeRecord:
    """One node.

    Attributes:
        inventory: it is in the inventory; False: only reports know it; None: no inventory was given.
        exceptions: what is off the rule and was let pass: settings, warnings, findings below fail.
    """

    name: str
    inventory: bool | None
    simulated: bool
    items: tuple[Item, ...]
    verified: Verified
    exceptions: tuple[str, ...] = ()

    @property
    def states(self) -> Counter[State]:
        """Items by state."""
        return Counter(item.state for item in self.items)

    def get(self, name: str) -> Item:
        """Return one item.

        Raises:
            KeyError: there is none of this name.
        """
        found = {item.name: item for item in self.items}
        return found[name]

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "name": self.name,
            "in_inventory": self.inventory,
            "simulated": self.simulated,
            "items": {item.name: item.as_dict() for item in self.items},
            "verified": self.verified.as_dict(),
            "exceptions": list(self.exceptions),
        }


@dataclass(frozen=True)
class Audit:
    """All nodes.

    Attributes:
        made: when the audit was made.
        inventory: the inventory file; "" without one.
        reports: files that were read.
        problems: what could not be read.
    """

    made: datetime
    nodes: tuple[NodeRecord, ...]
    inventory: str = ""
    reports: Sequence[str] = ()
    problems: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "schema": SCHEMA,
            "made": self.made.isoformat(),
            "inventory": self.inventory or None,
            "reports": list(self.reports),
            "problems": list(self.problems),
            "simulated": any(node.simulated for node in self.nodes),
            "states": dict(STATES),
            "nodes": {node.name: node.as_dict() for node in self.nodes},
        }
