"""Whether fabric manager lives, and lives on: judged apart from the fabric's state, which does not tell. Pure.

A manager that died left the fabric's state at Completed for two and a half weeks (NVIDIA/NVSentinel issue 883): the
state is latched in the driver, and no program notices until a GPU is reset.
"""

from __future__ import annotations

from datetime import UTC, datetime

from metalserve.catalogue.loader import threshold
from metalserve.desired.model import Watch
from metalserve.desired.node import Node
from metalserve.desired.observed import ObservedUnit
from metalserve.hardware.parsers.text import ParseError
from metalserve.hardware.parsers.unit_deaths import UnitDeaths, parse_unit_deaths, unit_deaths_command
from metalserve.verify.finding import Finding

UNIT = "nvidia-fabricmanager.service"
SECTION = "fabric-manager-deaths"
GUIDE = "Fabric Manager User Guide"

WINDOW_MIN = 30
"""Minutes in which deaths are counted (guessed: a manager that cannot live dies within one or two)."""

SETTLED_S = 300.0
"""Seconds after which a manager that died often counts as settled (guessed: ten times what it takes to come
up on a board of eight): a warning from then on, no failure any more."""


def watch() -> Watch:
    """What an observation must look at beside the unit itself."""
    return Watch(units=(UNIT,), commands={SECTION: unit_deaths_command(UNIT, WINDOW_MIN)})


def alive(node: Node) -> Finding:
    """Judge whether the service runs."""
    unit = node.observed.units.get(UNIT)
    good = unit is not None and unit.active == "active"
    observed = f"{unit.active} ({unit.result or unit.sub})" if unit is not None else "absent"
    if not good and any(gpu.fabric_state == "Completed" for gpu in node.hardware.gpus):
        observed += ", while the fabric's state is still Completed: it outlives its manager"
    return Finding(
        check="fabric-manager-alive",
        status="ok" if good else "fail",
        subject=node.name,
        expected=f"{UNIT} active",
        observed=observed,
        impact="GPUs of this host cannot reach each other after the next reset (CUDA error 802)",
        remedy=f"`journalctl -u {UNIT}` and /var/log/fabricmanager.log tell why it stopped; run roles.fabric_manager",
        source=GUIDE,
        evidence=_evidence(unit),
    )


def flapping(node: Node) -> Finding:
    """Judge whether the service dies and comes back again and again, from the journal and systemd's own count.

    A stop or restart that somebody asked for, as an upgrade does, does not count.
    """
    unit, now = node.observed.units.get(UNIT), float(node.observed.facts.get("now", "0"))
    limit = threshold("fabric-manager-deaths")
    expected = f"fewer than {limit.value:g} deaths in {WINDOW_MIN} minutes"
    try:
        journal: UnitDeaths | None = parse_unit_deaths(node.observed.text(SECTION))
    except ParseError:
        journal = None
    deaths, last = _deaths(unit, journal, now)
    if deaths is None:
        return Finding(
            check="fabric-manager-flapping",
            status="inconclusive",
            subject=node.name,
            expected=expected,
            observed="neither the journal nor systemd tells how often it died",
            impact="a manager that dies and comes back would not be seen",
            remedy="see that journald runs (`journalctl -b -n 1`)",
            source=GUIDE,
            evidence=_evidence(unit),
        )
    bad = deaths >= limit.value
    settled = last is not None and now - last >= SETTLED_S
    told = ", ".join(map(_time, journal.failed or journal.restarted)) if journal is not None else "not readable"
    return Finding(
        check="fabric-manager-flapping",
        status=("warn" if settled else "fail") if bad else "ok",
        subject=node.name,
        expected=expected,
        observed=f"died {deaths} time(s) in {WINDOW_MIN} minutes"
        + (f", last seen at {_time(last)}" if bad and last else ""),
        impact="each time programs that use several GPUs fail (CUDA error 802)" if bad else "",
        remedy=f"`journalctl -u {UNIT}` and /var/log/fabricmanager.log tell why it dies" if bad else "",
        source=limit.source,
        evidence=f"{_evidence(unit)}; deaths in the journal: {told or 'none'}",
        threshold=limit,
    )


def _deaths(unit: ObservedUnit | None, journal: UnitDeaths | None, now: float) -> tuple[int | None, float | None]:
    """Return the deaths in the window (None: nobody tells), and when the manager was last seen to die or to start."""
    counts, times = [], []
    if journal is not None:
        # One death has both: a failure, and the restart that systemd schedules where it is told to.
        counts += [sum(now - at <= WINDOW_MIN * 60 for at in kind) for kind in (journal.failed, journal.restarted)]
        times += [*journal.failed, *journal.restarted]
    if unit is not None and unit.started is not None:
        times.append(unit.started)
    last = max(times, default=None)
    if unit is not None and unit.restarts is not None:
        counts.append(unit.restarts if last is not None and now - last <= WINDOW_MIN * 60 else 0)
    return (max(counts) if counts else None), last


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S UTC")


def _evidence(unit: ObservedUnit | None) -> str:
    if unit is None:
        return f"systemctl show {UNIT}: nothing"
    started = _time(unit.started) if unit.started is not None else "never"
    restarts = "unknown" if unit.restarts is None else unit.restarts
    return (
        f"systemctl show {UNIT}: ActiveState={unit.active} SubState={unit.sub} Result={unit.result or '-'} "
        f"NRestarts={restarts}, last start {started}"
    )
