"""What reports say of each host, sorted into what it proves: verified, changed, compared, upgraded. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from metalserve.report.model import Host
from metalserve.report.reading import mapping_of_hosts, report_from
from metalserve.report.values import flag, items, line, mapping, utc

_MAIN = ("base: ", "nvidia_driver: ", "vllm: ", "weights: ", "storage: ")
"""How changes of the main job begin."""


@dataclass(frozen=True)
class Evidence:
    """One host in one report.

    Attributes:
        file: the report.
        started: when its run began; None when it does not say.
        host: what the report pages read of it.
        raw: the host's whole entry.
        verifies: the run only proved things.
        executed: the run went on to change hosts.
        complete: the run came to its end.
    """

    file: str
    started: datetime | None
    host: Host
    raw: Mapping[str, Any]
    verifies: bool
    executed: bool
    complete: bool

    @property
    def proofs(self) -> dict[str, str]:
        """What roles proved, one line each."""
        return dict(self.host.proofs)

    @property
    def changes(self) -> list[str]:
        """What was changed, in words."""
        return [": ".join(map(line, items(entry))) for entry in items(self.raw.get("changes"))]

    @property
    def planned(self) -> list[str]:
        """What would change, in words; what is only known later too."""
        entries = [*items(self.raw.get("planned")), *items(self.raw.get("unknown"))]
        return [": ".join(map(line, items(entry))) for entry in entries]

    @property
    def main_job(self) -> bool:
        """The run was of the roles that make a node, not of the router's or another deploy alone.

        Reports do not name their deploy; the main job foretells the next boot and proves the GPUs.
        """
        if "gpus" in self.proofs or any(entry.role == "next_boot" for entry in self.host.entries):
            return True
        return any(words.startswith(_MAIN) for words in (*self.changes, *self.planned))

    @property
    def by_upgrade(self) -> bool:
        """The run brought the host to a release (deploys/upgrade.py)."""
        return "upgrade" in self.proofs or any(words.startswith("upgrade: ") for words in self.changes)


def evidence_of(data: Any, *, file: str) -> list[Evidence]:
    """Return what a report's JSON says of each of its hosts.

    Raises:
        MetalserveError: it is no report of schema 1.
    """
    raw, report, whole = mapping_of_hosts(data, where=file), report_from(data, where=file), mapping(data)
    executed = flag(whole.get("executed")) is True
    found = []
    for host, entry in zip(report.hosts, raw.values(), strict=True):
        # Reports from before the key say it by what they hold: hardware is noted by runs that only prove.
        verifies = flag(whole.get("verifies"))
        proving = verifies if verifies is not None else bool(host.hardware) and not executed
        found.append(
            Evidence(file, utc(report.started), host, mapping(entry), proving, executed, report.complete is True)
        )
    return found


@dataclass(frozen=True)
class Latest:
    """The newest evidence of a host of each kind; None where there is none.

    Attributes:
        verified: a run that proved things, and reached the host.
        changed: a run that was allowed to change it, and did.
        compared: a run of the main job, which tells whether it is as wanted: a dry one, or one that changed hosts.
        upgraded: a run of an upgrade that did something.
        recovered: a report with a recovery in it.
    """

    verified: Evidence | None = None
    changed: Evidence | None = None
    compared: Evidence | None = None
    upgraded: Evidence | None = None
    recovered: Evidence | None = None
    newest: Evidence | None = None


def latest(evidence: Iterable[Evidence]) -> Latest:
    """Return the newest evidence of one host; a report without a time counts as the oldest."""

    def newest(found: list[Evidence]) -> Evidence | None:
        return max(found, key=_age, default=None)

    everything = list(evidence)
    reached = [e for e in everything if e.host.outcome not in ("unreachable", "not reached")]
    return Latest(
        verified=newest([e for e in everything if e.verifies]),
        changed=newest([e for e in reached if e.executed and e.changes]),
        compared=newest([e for e in reached if not e.verifies and e.main_job and (e.complete or e.changes)]),
        upgraded=newest([e for e in reached if e.executed and e.by_upgrade and e.changes]),
        recovered=newest([e for e in everything if mapping(e.raw.get("recovery"))]),
        newest=newest(everything),
    )


def _age(evidence: Evidence) -> tuple[bool, float]:
    return evidence.started is not None, evidence.started.timestamp() if evidence.started else 0.0
