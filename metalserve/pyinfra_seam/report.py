"""What a run did, host by host: kept while it runs, printed and written when it ends."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from metalserve import __version__
from metalserve.errors import MetalserveError

Status = Literal["unchanged", "changed", "would change", "failed", "unreachable", "interrupted", "not reached"]


@dataclass
class Failure:
    """Why a host stopped: the role and stage, what is wrong, the lines that show it, what to do."""

    role: str
    stage: str
    what: str
    evidence: str = ""
    remedy: str = ""


@dataclass
class HostReport:
    """One host in a run.

    Attributes:
        changes: (role, stage, what changed or would change).
        unknown: what can only be known later ("serving: the plan, known after the driver is there").
        proofs: name -> one line that a role proved ("completion" -> the text that the engine answered).
        findings: everything that the checks said, good and bad, when a run was asked for just that (deploys/verify.py);
            in other runs what role next_boot foretells.
        sessions: SSH sessions that metalserve opened on this host.
        release: the pinned set of versions that it was held against.
        hardware: what was seen of the hardware (`metalserve.hardware.export`), when a run was asked to prove it.
        measurements: what was measured on it (`metalserve.verify.measurement`), likewise.
        learned: what its launch taught the planner (`metalserve.planning.calibration.Learned`); empty for nothing.
        loads: starts of its engines and where the time went (`metalserve.weights.loads`), oldest first.
    """

    name: str
    changes: list[tuple[str, str, str]] = field(default_factory=list)
    planned: list[tuple[str, str, str]] = field(default_factory=list)
    unknown: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    proofs: dict[str, str] = field(default_factory=dict)
    findings: list[dict[str, str]] = field(default_factory=list)
    failure: Failure | None = None
    connected: bool = True
    sessions: int = 0
    simulated: bool = False
    release: str = ""
    hardware: dict[str, Any] = field(default_factory=dict)
    measurements: dict[str, Any] = field(default_factory=dict)
    learned: dict[str, Any] = field(default_factory=dict)
    loads: list[dict[str, Any]] = field(default_factory=list)

    def status(self, *, executed: bool, complete: bool) -> Status:
        """Return the host's outcome in two words at most.

        Args:
            executed: whether the run went on to change hosts.
            complete: whether it went through to its end.
        """
        if not self.connected:
            return "unreachable"
        if self.failure is not None:
            return "failed"
        if not complete:
            return "interrupted"
        if self.changes:
            return "changed"
        if not executed and (self.planned or self.unknown):
            return "would change"
        return "unchanged"


class RunReport:
    """All hosts of one run of the controller.

    Attributes:
        executed: whether the run went on to change hosts (not with `--dry`).
        complete: whether it went through to its end: no Ctrl-C, no exception.
        verifies: whether it changes nothing by intent and only proves (deploys/verify.py): its report is kept.
        settled: host -> outcome, where that was decided elsewhere (a report that was read, a wave not reached).
    """

    def __init__(self) -> None:
        self.started = time.time()
        self.hosts: dict[str, HostReport] = {}
        self.executed = False
        self.complete = False
        self.verifies = False
        self.settled: dict[str, Status] = {}

    def host(self, name: str) -> HostReport:
        """Return the report of host `name`, made when first asked for."""
        return self.hosts.setdefault(name, HostReport(name))

    def status(self, host: HostReport) -> Status:
        """Return the outcome of one host of this run."""
        settled = self.settled.get(host.name)
        return settled or host.status(executed=self.executed, complete=self.complete)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RunReport:
        """Return the report that `as_dict` made `data` of.

        Raises:
            MetalserveError: it is no report of schema 1.
        """
        if not isinstance(data, Mapping) or data.get("schema") != 1 or not isinstance(data.get("hosts"), Mapping):
            raise MetalserveError("is no report of metalserve (schema 1)")
        report = cls()
        report.executed, report.complete = bool(data.get("executed")), bool(data.get("complete"))
        report.verifies = bool(data.get("verifies"))
        known = {f.name for f in fields(HostReport)}
        for name, values in data["hosts"].items():
            host = HostReport(**{k: v for k, v in values.items() if k in known})
            host.failure = Failure(**values["failure"]) if values.get("failure") else None
            for key in ("changes", "planned", "unknown"):
                setattr(host, key, [tuple(entry) for entry in values.get(key, ())])
            report.hosts[name] = host
            report.settled[name] = values["status"]
        return report

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON-ready values (schema version 1)."""
        return {
            "schema": 1,
            "metalserve": __version__,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "seconds": round(time.time() - self.started, 1),
            "executed": self.executed,
            "complete": self.complete,
            "verifies": self.verifies,
            "hosts": {n: {**asdict(host), "status": self.status(host)} for n, host in sorted(self.hosts.items())},
        }

    def write(self, path: Path, more: Mapping[str, Any] | None = None) -> None:
        """Write the report, and `more` beside it, as JSON, whole or not at all; readable by its owner only."""
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".report.")
        with os.fdopen(handle, "w") as stream:
            json.dump({**self.as_dict(), **(more or {})}, stream, indent=1)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)

    def print(self, console: Console) -> None:
        """Print the fleet's summary: a line a host, then each failure with its evidence and remedy."""
        hosts = sorted(self.hosts.values(), key=lambda h: h.name)
        shown = hosts if len(hosts) <= _ROWS else [h for h in hosts if self.status(h) not in _QUIET]
        table = Table(title="Fleet", title_justify="left", expand=False)
        table.add_column("Host", overflow="fold")
        table.add_column("Result", no_wrap=True)
        table.add_column("Changes", justify="right")
        table.add_column("SSH", justify="right")
        table.add_column("What it says", overflow="fold")
        for host in shown[:_ROWS]:
            count = len(host.changes) if self.executed else len(host.planned)
            status = self.status(host)
            words = Text(_words(host, status))
            table.add_row(
                Text(host.name),
                Text(status, style=_COLOURS.get(status, "bold red")),
                str(count),
                str(host.sessions),
                words,
            )
        if table.row_count or not hosts:
            console.print(table)
        if hosts:
            counts = Counter(self.status(h) for h in hosts)
            quiet = set(counts) == {"unchanged"}
            said = "nothing changed" if quiet else ", ".join(f"{n} {status}" for status, n in counts.items())
            console.print(
                Text(
                    f"{len(hosts)} host{'s' if len(hosts) > 1 else ''}: {said}", style="bold green" if quiet else "bold"
                )
            )
        warned: dict[str, list[str]] = {}
        for host in hosts:
            for warning in dict.fromkeys(host.warnings):
                warned.setdefault(warning, []).append(host.name)
        for warning, names in warned.items():
            console.print(Text(f"{_together(names)}: warning: {warning}", style="yellow"))
        _print_failures(console, hosts)
        if any(h.simulated for h in hosts):
            console.print(
                Text("simulated: true (lab hosts: the GPU hardware and the engine are stand-ins)", style="dim")
            )


_COLOURS = {"unchanged": "green", "changed": "yellow", "would change": "yellow"}
_ROWS = 40
"""More hosts than fit a screen are told by number, and only those with something to say by line."""
_QUIET = ("unchanged", "not reached")


def _words(host: HostReport, status: Status) -> str:
    if host.failure is not None:
        return _short(f"{host.failure.role}: {host.failure.what}")
    if not host.connected:
        return "no connection: see the SSH error above"
    lines = [f"{name}: {said}" for name, said in host.proofs.items()]
    if status == "would change":
        lines += [f"{role}: {what}" for role, what in host.unknown]
    return "\n".join(lines)


def _short(words: str) -> str:
    # The whole of it stands below the table, with its evidence.
    return words if len(words) <= 70 else words[:69].rstrip() + "…"


def _together(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    return f"{len(names)} hosts ({', '.join(names[:6])}{', ...' if len(names) > 6 else ''})"


def _print_failures(console: Console, hosts: Sequence[HostReport]) -> None:
    # What went wrong on a hundred hosts in the same way is one thing to understand.
    same: dict[tuple[str, str, str], list[HostReport]] = {}
    for host in hosts:
        if host.failure is not None:
            same.setdefault((host.failure.role, host.failure.stage, host.failure.what), []).append(host)
    for failing in same.values():
        failure = failing[0].failure
        assert failure is not None
        names = _together([h.name for h in failing])
        console.print(Text(f"\n{names}: {failure.role} / {failure.stage} failed: {failure.what}", style="bold red"))
        for line in failure.evidence.strip().splitlines()[-15:]:
            console.print(Text(f"    {line}", style="dim"))
        if failure.remedy:
            console.print(Text(f"    do: {failure.remedy}"))
