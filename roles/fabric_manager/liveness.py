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
from metalserve.hardware.parsers.unit_starts import parse_unit_starts, unit_starts_command
from metalserve.verify.finding import Finding

UNIT = "nvidia-fabricmanager.service"
SECTION = "fabric-manager-starts"
GUIDE = "Fabric Manager User Guide"

WINDOW_MIN = 30
"""Minutes in which restarts are counted (guessed: a manager that cannot live dies within one or two)."""

SETTLED_S = 300.0
"""Seconds after which a manager that was restarted often counts as settled (guessed: ten times what it takes to come
up on a board of eight): a warning from then on, no failure any more."""


def watch() -> Watch:
    """What an observation must look at beside the unit itself."""
    return Watch(units=(UNIT,), commands={SECTION: unit_starts_command(UNIT, WINDOW_MIN)})


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
    """Judge whether the service dies and comes back again and again, from the journal and systemd's own count."""
    unit, now = node.observed.units.get(UNIT), _now(node)
    limit = threshold("fabric-manager-restarts")
    expected = f"fewer than {limit.value:g} restarts in {WINDOW_MIN} minutes"
    try:
        starts: tuple[float, ...] | None = parse_unit_starts(node.observed.text(SECTION))
    except ParseError:
        starts = None
    counted, last = _restarts(unit, starts, now)
    if counted is None:
        return Finding(
            check="fabric-manager-flapping",
            status="inconclusive",
            subject=node.name,
            expected=expected,
            observed="neither the journal nor systemd tells how often it was started",
            impact="a manager that dies and comes back would not be seen",
            remedy="see that journald runs (`journalctl -b -n 1`)",
            source=GUIDE,
            evidence=_evidence(unit),
        )
    bad = counted >= limit.value
    settled = last is not None and now - last >= SETTLED_S
    return Finding(
        check="fabric-manager-flapping",
        status=("warn" if settled else "fail") if bad else "ok",
        subject=node.name,
        expected=expected,
        observed=f"{counted} restart(s) in {WINDOW_MIN} minutes"
        + (f", the last at {_time(last)}" if bad and last else ""),
        impact="each time, programs that use several GPUs fail (CUDA error 802) and NVLinks are trained anew"
        if bad
        else "",
        remedy=f"`journalctl -u {UNIT}` and /var/log/fabricmanager.log tell why it dies" if bad else "",
        source=limit.source,
        evidence=f"{_evidence(unit)}; starts: {', '.join(map(_time, starts)) if starts else 'none in the journal'}",
        threshold=limit,
    )


def _restarts(
    unit: ObservedUnit | None, starts: tuple[float, ...] | None, now: float
) -> tuple[int | None, float | None]:
    """Return the restarts in the window, None when nobody tells, and the time of the last start."""
    last = max(
        [*(starts or ()), *([unit.started] if unit is not None and unit.started is not None else [])], default=None
    )
    counts = []
    if starts is not None:
        # The first start of a window may be the first of the boot; it is no restart, and the limit leaves room for it.
        counts.append(max(0, sum(now - start <= WINDOW_MIN * 60 for start in starts) - 1))
    if unit is not None and unit.restarts is not None:
        counts.append(unit.restarts if last is not None and now - last <= WINDOW_MIN * 60 else 0)
    return (max(counts) if counts else None), last


def _now(node: Node) -> float:
    """Return the host's own time, with which its journal is to be compared."""
    return float(node.observed.facts.get("now", "0"))


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
