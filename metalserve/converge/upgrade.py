"""An upgrade over a fleet, in words: what each host would do, and which release each is on afterwards. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metalserve.pyinfra_seam.report import RunReport


@dataclass(frozen=True, slots=True)
class Planned:
    """What an upgrade would do on one host.

    Attributes:
        host: its name.
        way: `2026.10-lts -> 2026.11-lts`, or what an unfinished upgrade is at; "" when nothing is to be done.
        steps: (step, words).
        obstacle: why it would be refused, with what to do; "" when it would not.
        on: the release that it is on now, "" where that is not known.
    """

    host: str
    way: str = ""
    steps: tuple[tuple[str, str], ...] = ()
    obstacle: str = ""
    on: str = ""

    def as_dict(self) -> dict[str, object]:
        """Return JSON-ready values."""
        steps = [{"step": step, "what": what} for step, what in self.steps]
        return {"host": self.host, "on": self.on, "way": self.way, "steps": steps, "obstacle": self.obstacle}


def plans(report: RunReport, hosts: Sequence[str]) -> list[Planned]:
    """Read the report of a dry run of the upgrade.

    Args:
        report: of that run.
        hosts: the hosts that it was asked about, in the order in which they are to be told.
    """
    found = []
    for name in hosts:
        host = report.hosts.get(name)
        if host is None:
            found.append(Planned(name, obstacle="it was not looked at"))
            continue
        if host.failure is not None:
            remedy = f" -> {host.failure.remedy}" if host.failure.remedy else ""
            found.append(Planned(name, obstacle=host.failure.what + remedy))
            continue
        steps = tuple((step, words) for _, step, words in host.planned if step not in ("release", "resume"))
        way = next((words for _, step, words in host.planned if step in ("release", "resume")), "")
        if host.planned and not steps:
            steps = (("resume", way),) if host.planned[0][1] == "resume" else (("start", "engines, checked anew"),)
        on = host.proofs.get("release", way.partition(" -> ")[0] if " -> " in way else "")
        found.append(Planned(name, way, steps, on=on.removeprefix("unfinished: ")))
    return found


def alike(found: Sequence[Planned]) -> list[tuple[list[str], Planned]]:
    """Return the plans with the hosts that have each; what is the same on many hosts is told once."""
    same: dict[tuple[object, ...], tuple[list[str], Planned]] = {}
    for plan in found:
        names, _ = same.setdefault((plan.way, plan.steps, plan.obstacle), ([], plan))
        names.append(plan.host)
    return list(same.values())


def whereabouts(report: RunReport, before: Sequence[Planned]) -> dict[str, list[str]]:
    """Return release -> its hosts, after a run that may have been stopped.

    Args:
        report: of all waves.
        before: what was seen of the hosts before.
    """
    was = {plan.host: plan.on for plan in before}
    found: dict[str, list[str]] = {}
    for name in sorted(report.hosts):
        host = report.hosts[name]
        release = host.proofs.get("release")
        if release is None and report.status(host) == "not reached":
            release = f"{was[name]} (not reached)" if was.get(name) else "not known (not reached)"
        found.setdefault(release or "not known (look at its failure above)", []).append(name)
    return found
