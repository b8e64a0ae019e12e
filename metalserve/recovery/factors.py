"""What hosts that failed together have in common, against what the whole fleet has. Pure.

That all bad hosts have one release says nothing when every host has it. So each factor's share among the bad hosts is
held against its share in the fleet: how likely is it that so many hosts with the factor would be among the bad ones if
these had been drawn blindly (the upper tail of the hypergeometric distribution). Many factors are looked at, and the
more are looked at, the likelier one of them stands out by chance: the probability is multiplied by their number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

KINDS = ("release", "driver", "rack", "switch", "model", "xid")
"""In the order in which they are blamed where the numbers cannot tell them apart: what people change first, then what
hosts hang on, then what they serve; last what they show. Our own."""

SYMPTOMS = ("xid",)
"""Kinds that only hosts in trouble have: compared with other hosts that were in trouble, not with the whole fleet."""

SURE = 0.01
"""Probability of a chance, corrected for the number of factors, below which a factor is named."""

Factors = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Factor:
    """A value that bad hosts share.

    Attributes:
        kind: one of `KINDS`.
        value: as the inventory or the evidence gives it.
        bad: bad hosts with it.
        bad_known: bad hosts of which the kind is known.
        fleet: hosts of the fleet with it, the bad ones too; for symptoms: hosts seen unhealthy before, and these.
        fleet_known: such hosts of which the kind is known.
        p: probability that as many or more would be among the bad ones by chance.
        chance: the same, corrected for the number of factors looked at; at most 1. On a fleet of a few hosts it is 1
            for all of them.
        alike: other factors of exactly the same hosts: they cannot be told apart.
    """

    kind: str
    value: str
    bad: int
    bad_known: int
    fleet: int
    fleet_known: int
    p: float
    chance: float
    alike: tuple[str, ...] = ()

    @property
    def explains(self) -> bool:
        """Whether it is far commoner among the bad hosts than chance would make it, and more than one has it."""
        return self.bad > 1 and self.chance < SURE

    def in_words(self) -> str:
        """Return the factor with its numbers."""
        name = " = ".join([f"{self.kind} {self.value}", *self.alike])
        where = "hosts seen unhealthy before" if self.kind in SYMPTOMS else "fleet"
        share = f"{self.bad} of {self.bad_known} bad hosts, {self.fleet} of {self.fleet_known} of the {where}"
        if self.explains:
            return f"{name} ({share}; by chance: {_probability(self.chance)})"
        if self.fleet == self.fleet_known:
            compared = self.kind not in SYMPTOMS or self.fleet > self.bad
            return f"{name} ({share}: {'that explains nothing' if compared else 'nothing earlier to compare with'})"
        return f"{name} ({share}; chance alone does that: {_probability(self.chance)})"


def common(
    bad: Mapping[str, Factors], fleet: Mapping[str, Factors], earlier: Mapping[str, Factors] | None = None
) -> list[Factor]:
    """Return every factor of the bad hosts, what explains most first.

    Args:
        bad: host -> factors of the hosts that failed, as they were seen.
        fleet: host -> factors of every host; for bad ones `bad` is believed.
        earlier: host -> factors of hosts that were unhealthy before, to compare symptoms with.
    """
    whole = _over(fleet, bad)
    troubled = _over(earlier or {}, bad)
    pairs = sorted({(kind, value) for factors in bad.values() for kind, value in factors.items()}, key=_rank)
    found: dict[tuple[bool, frozenset[str], frozenset[str]], Factor] = {}
    for kind, value in pairs:
        symptom = kind in SYMPTOMS
        pool = troubled if symptom else whole
        bad_known, bad_with = _having(bad, kind, value)
        known, having = _having(pool, kind, value)
        p = tail(len(bad_with), len(bad_known), len(having), len(known))
        chance = min(1.0, len(pairs) * p)
        factor = Factor(kind, value, len(bad_with), len(bad_known), len(having), len(known), p, chance)
        first = found.setdefault((symptom, bad_with, having), factor)
        if first is not factor:
            alike = (*first.alike, f"{kind} {value}")
            found[symptom, bad_with, having] = replace(
                first, p=max(first.p, p), chance=max(first.chance, chance), alike=alike
            )
    return sorted(found.values(), key=lambda f: (not f.explains, _alike(f.p), -f.bad, _rank((f.kind, f.value))))


def in_common(factors: Iterable[Factor]) -> str:
    """Return in words what explains the failures, or the nearest to it and why it does not."""
    listed = list(factors)
    if not listed:
        return "nothing is known that they could have in common"
    explaining = [factor for factor in listed if factor.explains]
    shown = [factor for factor in listed if factor.kind in SYMPTOMS and not factor.explains and factor.bad > 1]
    signs = "".join(f"; most show {factor.in_words()}" for factor in shown if 2 * factor.bad > factor.bad_known)
    if explaining:
        return f"in common: {'; '.join(factor.in_words() for factor in explaining[:3])}{signs}"
    others = [factor for factor in listed if factor.kind not in SYMPTOMS]
    if not others:
        return f"nothing in common that sets them apart{signs}"
    nearest = max(others, key=lambda f: (f.bad / f.bad_known, -_alike(f.p)))
    return f"nothing in common that sets them apart; the nearest: {nearest.in_words()}{signs}"


def tail(drawn: int, draws: int, marked: int, total: int) -> float:
    """Return the probability that at least `drawn` of `draws` are marked, when `marked` of all `total` are."""
    if drawn <= max(0, draws - (total - marked)):
        return 1.0
    whole = _ln_choose(total, draws)
    upper = min(draws, marked)
    terms = (
        math.exp(_ln_choose(marked, k) + _ln_choose(total - marked, draws - k) - whole) for k in range(drawn, upper + 1)
    )
    return min(1.0, math.fsum(terms))


def _ln_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _over(fleet: Mapping[str, Factors], bad: Mapping[str, Factors]) -> dict[str, Factors]:
    return {**fleet, **{host: {**fleet.get(host, {}), **factors} for host, factors in bad.items()}}


def _having(hosts: Mapping[str, Factors], kind: str, value: str) -> tuple[frozenset[str], frozenset[str]]:
    known = frozenset(host for host, factors in hosts.items() if kind in factors)
    return known, frozenset(host for host in known if hosts[host][kind] == value)


def _rank(factor: tuple[str, str]) -> tuple[int, str, str]:
    kind, value = factor
    return KINDS.index(kind) if kind in KINDS else len(KINDS), kind, value


def _alike(p: float) -> float:
    """Return a probability by which to order: equal ones are equal, however they were computed."""
    return float(f"{p:.9g}")


def _probability(chance: float) -> str:
    if chance >= SURE:
        return f"{100 * chance:.0f} %"
    return f"1 in {1 / chance:.0f}" if chance > 1e-6 else "less than 1 in a million"
