"""A run in waves: one pyinfra a wave, one report for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from metalserve.pyinfra_seam.cli_run import Outcome
from metalserve.pyinfra_seam.report import HostReport, RunReport

Ended = Literal["complete", "failed", "interrupted"]


@dataclass
class FleetRun:
    """The result of all waves.

    Attributes:
        report: every host of every wave, those that were not reached too.
        waves: the waves as planned.
        started: how many of them were started.
        ended: how it ended.
    """

    report: RunReport
    waves: Sequence[Sequence[str]]
    started: int = 0
    ended: Ended = "complete"
    notes: list[str] = field(default_factory=list)

    @property
    def not_reached(self) -> list[str]:
        """Hosts of the waves that were not started."""
        return [host for wave in self.waves[self.started :] for host in wave]


def run_waves(
    waves: Sequence[Sequence[str]],
    run: Callable[[Sequence[str]], Outcome],
    *,
    max_failures: int = 0,
    announce: Callable[[int, Sequence[str]], None] = lambda number, hosts: None,
) -> FleetRun:
    """Run waves one after the other; stop when one fails.

    Args:
        waves: the hosts of each wave.
        run: runs one wave.
        max_failures: how many hosts may fail, in all waves together, before no further wave is started.
        announce: called before each wave with its number (from 1) and its hosts.
    """
    result = FleetRun(RunReport(), waves)
    result.report.complete = True
    failures = 0
    for number, wave in enumerate(waves, start=1):
        announce(number, wave)
        result.started = number
        outcome = run(wave)
        failures += _take(result.report, wave, outcome)
        if outcome.interrupted:
            result.ended = "interrupted"
        elif failures > max_failures:
            result.ended = "failed"
        else:
            continue
        break
    for name in result.not_reached:
        result.report.hosts[name] = HostReport(name)
        result.report.settled[name] = "not reached"
    result.report.complete = result.ended != "interrupted" and not result.not_reached
    if result.ended == "complete" and failures:
        result.ended = "failed"
    return result


def _take(report: RunReport, wave: Sequence[str], outcome: Outcome) -> int:
    """Put a wave's outcome into the whole report; returns how many of its hosts failed."""
    failed = 0
    found = outcome.report
    if found is not None:
        report.executed |= found.executed
        report.verifies |= found.verifies
    for name in wave:
        if found is not None and name in found.hosts:
            report.hosts[name] = found.hosts[name]
            report.settled[name] = found.status(found.hosts[name])
        else:
            # It ended before this host's turn: an exception of pyinfra's, or Ctrl-C while connecting.
            report.hosts[name] = HostReport(name)
            report.settled[name] = "not reached"
        failed += report.settled[name] in ("failed", "unreachable", "interrupted", "not reached")
    return max(failed, 1) if outcome.rc != 0 and not failed else failed
