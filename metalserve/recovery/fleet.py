"""Whom of the fleet to recover now, who waits, who is left alone, and what goes on serving. Pure.

A host in recovery serves nothing, whatever the step is: the ladder may go further up. An answer that is not known is
no replica that serves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from metalserve.recovery.memory import Memory, duration
from metalserve.recovery.values import Attempt, Mark
from metalserve.settings.recovery import RecoveryFleetSettings


@dataclass(frozen=True, slots=True)
class Member:
    """A host of the inventory.

    Attributes:
        name: the host's name.
        group: the inventory group that limits count by.
        asked: "named" by a person, as part of the "fleet", or "no": it only counts.
        unhealthy_since: seconds since the epoch; `None` for a host that is well, or was not looked at.
        evidence: there is evidence of what ails it; `False` for a host that does not answer.
        rung: the rung that the verdict names.
        automatic: `recovery.automatic` of its settings.
        unhealthy_s: seconds that it must have been unhealthy.
        unreachable_s: the same without any evidence.
        out: it is out of the router although it is well.
    """

    name: str
    group: str
    asked: Literal["named", "fleet", "no"] = "no"
    unhealthy_since: float | None = None
    evidence: bool = True
    rung: str = ""
    automatic: bool = True
    unhealthy_s: float = 0.0
    unreachable_s: float = 0.0
    out: bool = False


@dataclass(frozen=True, slots=True)
class Pool:
    """Replicas of a model on a host, or one that several hosts run together: it needs all of them.

    Attributes:
        model: the name that clients ask for.
        hosts: names of its hosts.
        wanted: replicas that there should be.
        serving: replicas that gave a token; what could not be asked is not counted.
    """

    model: str
    hosts: tuple[str, ...]
    wanted: int
    serving: int


@dataclass(frozen=True, slots=True)
class Pick:
    """A host and why it is taken, waits or is left alone; `resume` when an attempt goes on that had begun."""

    host: str
    why: str
    resume: bool = False


@dataclass(frozen=True, slots=True)
class Capacity:
    """Replicas of a model: wanted, serving now, serving when the chosen hosts are taken, and the least allowed."""

    model: str
    wanted: int
    serving: int
    remaining: int
    floor: int

    def in_words(self) -> str:
        """Return it for a plan."""
        line = f"{self.model}: {self.remaining} of {self.serving} serving replicas go on ({self.wanted} wanted"
        return f"{line}, floor {self.floor})"


@dataclass(frozen=True, slots=True)
class Choice:
    """What is done about the fleet.

    Attributes:
        take: hosts to recover now, in order.
        wait: hosts whose turn has not come.
        refuse: hosts that are left alone until a person changes something, or that need nothing.
        restore: hosts that healed by themselves and may go back into the router, also while the breaker is open.
        capacity: of each model.
    """

    take: tuple[Pick, ...]
    wait: tuple[Pick, ...]
    refuse: tuple[Pick, ...]
    restore: tuple[Pick, ...]
    capacity: tuple[Capacity, ...]


def choose(members: Sequence[Member], pools: Sequence[Pool], memory: Memory, rules: RecoveryFleetSettings) -> Choice:
    """Decide about every host that was asked for.

    Marks come first, and nothing lifts them. An attempt whose controller is gone goes on, whatever the limits say: its
    host counts already, and it was left in the middle of a step. Hosts that serve nothing come before those that do,
    the longest unhealthy first.
    """
    state = _State(members, pools, memory, rules)
    take: list[Pick] = []
    wait: list[Pick] = []
    refuse: list[Pick] = []
    restore: list[Pick] = []
    candidates: list[Member] = []
    for member in members:
        if member.asked == "no":
            continue
        mark, attempt, held = state.marks.get(member.name), state.open.get(member.name), state.held.get(member.name)
        if mark is not None and not (mark.kind == "quarantine" and attempt is not None):
            refuse.append(Pick(member.name, _marked(mark)))
        elif held is not None:
            wait.append(Pick(member.name, f"in recovery: {held}"))
        elif attempt is not None:
            take.append(Pick(member.name, _left(attempt, memory.now), resume=True))
        elif member.unhealthy_since is None:
            if member.out:
                restore.append(Pick(member.name, "well again, and still out of the router"))
            elif member.asked == "named":
                refuse.append(Pick(member.name, "well: nothing to recover"))
        elif member.rung == "nothing":
            refuse.append(Pick(member.name, "the verdict asks for no step: somebody should look"))
        elif member.asked == "fleet" and not member.automatic:
            refuse.append(Pick(member.name, "recovery.automatic is False: name the host to take it"))
        else:
            candidates.append(member)
    for member in sorted(
        candidates, key=lambda m: (sum(state.lost_with(m.name).values()), m.unhealthy_since or 0.0, m.name)
    ):
        why = state.hindrance(member)
        if why:
            wait.append(Pick(member.name, why))
        else:
            state.take(member)
            take.append(Pick(member.name, _unhealthy(member, memory.now)))
    return Choice(tuple(take), tuple(wait), tuple(refuse), tuple(restore), state.capacity())


class _State:
    """The fleet while hosts are chosen: each one that is taken changes what is left for the next."""

    def __init__(
        self, members: Sequence[Member], pools: Sequence[Pool], memory: Memory, rules: RecoveryFleetSettings
    ) -> None:
        self.rules, self.memory, self.pools = rules, memory, pools
        self.open: dict[str, Attempt] = {attempt.host: attempt for attempt in memory.open}
        self.held = {lock.host: lock.in_words(memory.now) for lock in memory.locks if lock.live}
        self.marks: dict[str, Mark] = {}
        for mark in memory.marks:  # the strongest of several
            other = self.marks.get(mark.host)
            if other is None or _STRENGTH[mark.kind] > _STRENGTH[other.kind]:
                self.marks[mark.host] = mark
        self.group = {member.name: member.group for member in members}
        self.sizes: dict[str, int] = {}
        for member in members:
            self.sizes[member.group] = self.sizes.get(member.group, 0) + 1
        # A person who marked a host took it over from an attempt whose controller is gone: it is no longer counted.
        theirs = {
            host for host, mark in self.marks.items() if mark.kind in ("do-not-touch", "maintenance")
        } - self.held.keys()
        self.busy = {host: self._group_of(host) for host in {*self.open, *self.held} - theirs}
        self.of_host: dict[str, list[int]] = {}
        for number, pool in enumerate(pools):
            for host in set(pool.hosts):
                self.of_host.setdefault(host, []).append(number)
        self.gone: set[int] = set()
        self.left: dict[str, int] = {}
        self.wanted: dict[str, int] = {}
        for pool in pools:
            self.left[pool.model] = self.left.get(pool.model, 0) + pool.serving
            self.wanted[pool.model] = self.wanted.get(pool.model, 0) + pool.wanted
        self.serving = dict(self.left)
        for host in {*self.open, *self.held}:
            self._away(host)

    def _group_of(self, host: str) -> str:
        attempt = self.open.get(host)
        return self.group.get(host) or (attempt.group if attempt is not None else "")

    def _away(self, host: str) -> None:
        for model, lost in self.lost_with(host).items():
            self.left[model] -= lost
        self.gone.update(self.of_host.get(host, ()))

    def take(self, member: Member) -> None:
        """Count a host as in recovery."""
        self.busy[member.name] = member.group
        self._away(member.name)

    def lost_with(self, host: str) -> dict[str, int]:
        """Return model -> serving replicas that are lost when a host is taken."""
        lost: dict[str, int] = {}
        for number in self.of_host.get(host, ()):
            pool = self.pools[number]
            if number not in self.gone and pool.serving:
                lost[pool.model] = lost.get(pool.model, 0) + pool.serving
        return lost

    def hindrance(self, member: Member) -> str:
        """Return why a host must wait; empty when it need not."""
        rules, memory = self.rules, self.memory
        if memory.breaker.open:
            return f"the breaker is open: {memory.breaker.why}"
        needed = member.unhealthy_s if member.evidence else member.unreachable_s
        lasted = memory.now - (member.unhealthy_since or memory.now)
        if member.asked != "named" and lasted < needed:
            seen = "unhealthy" if member.evidence else "without an answer"
            return f"{seen} for {duration(lasted)}, taken after {duration(needed)}"
        rest = memory.last_ended.get(member.group, -math.inf) + rules.pause_s - memory.now
        if rules.pause_s and rest > 0:
            return f"the group pauses for {duration(rest)} after its last recovery"
        same = sum(group == member.group for group in self.busy.values())
        most = group_limit(self.sizes[member.group], rules)
        if same >= most:
            return f"{same} of {self.sizes[member.group]} hosts of {member.group} are in recovery (limit {most})"
        if len(self.busy) >= rules.at_once:
            return f"{len(self.busy)} hosts are in recovery (limit {rules.at_once})"
        return self._below_floor(member.name)

    def _below_floor(self, host: str) -> str:
        for model, lost in sorted(self.lost_with(host).items()):
            floor = floor_of(model, self.wanted[model], self.rules)
            if self.left[model] - lost < floor:
                return f"{model}: {self.left[model]} replicas serve, {lost} of them here, and {floor} must stay"
        return ""

    def capacity(self) -> tuple[Capacity, ...]:
        """Return the capacity of each model as it will be."""
        return tuple(
            Capacity(model, wanted, self.serving[model], self.left[model], floor_of(model, wanted, self.rules))
            for model, wanted in sorted(self.wanted.items())
        )


_STRENGTH = {"quarantine": 0, "maintenance": 1, "do-not-touch": 2}


def group_limit(size: int, rules: RecoveryFleetSettings) -> int:
    """Return how many hosts of a group of `size` may be in recovery at once: a share rounded down, at least one."""
    return max(1, size * rules.percent // 100)


def floor_of(model: str, wanted: int, rules: RecoveryFleetSettings) -> int:
    """Return how many replicas of a model must go on serving; a share is rounded up."""
    return rules.floor[model] if model in rules.floor else math.ceil(wanted * rules.floor_percent / 100)


def _marked(mark: Mark) -> str:
    until = "" if mark.until is None else ", for a time"
    return f"marked {mark.kind} by {mark.by}{until}: {mark.why}"


def _left(attempt: Attempt, now: float) -> str:
    return f"goes on with attempt {attempt.id}, begun {duration(now - attempt.begun)} ago by {attempt.actor}"


def _unhealthy(member: Member, now: float) -> str:
    lasted = duration(now - (member.unhealthy_since or now))
    return f"unhealthy for {lasted}" if member.evidence else f"no evidence for {lasted}"


__all__ = ["Capacity", "Choice", "Member", "Pick", "Pool", "choose", "floor_of", "group_limit"]
