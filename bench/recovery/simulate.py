"""A simulated fleet in recovery: 2,000 hosts for 30 days, the project's ladder against two naive policies.

    python bench/recovery/simulate.py [--seed 1] [--hosts 2000] [--days 30] [--svg FILE] [--json FILE]

It is a simulation: nobody's hosts were broken for it. Rates, cures and times stand in rates.yaml, each with its source
or with the word `assumed`. The conductor, the ladder, the fleet's limits and the breaker are the real ones; hosts,
hands and time are simulated, and the memory is held in this process. The same seed brings the same faults to all.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.recovery.events import Events
from bench.recovery.fleet import DAY_S, Fleet
from bench.recovery.plot import plot
from bench.recovery.policies import POLICIES
from bench.recovery.rates import Rates, load_rates

START = 1_700_006_400.0
"""Midnight of a day, seconds since the epoch."""


@dataclass(frozen=True)
class Result:
    """What became of the fleet under one policy.

    Attributes:
        policy: its name.
        seed: of the dice.
        hosts: in the fleet.
        days: simulated.
        figures: name -> value, see `COLUMNS`.
        away: time in days and hosts that did not serve then.
        breaker: time in days, and why it opened.
        wall_s: real seconds that it took.
    """

    policy: str
    seed: int
    hosts: int
    days: float
    figures: dict[str, float]
    away: tuple[tuple[float, int], ...]
    breaker: tuple[tuple[float, str], ...]
    wall_s: float


COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("availability", "availability, %", "{:.3f}"),
    ("availability_own", "  of what no part was waited for, %", "{:.3f}"),
    ("recovery_p50_min", "time to recovery p50, min", "{:.1f}"),
    ("recovery_p95_min", "time to recovery p95, min", "{:.1f}"),
    ("faults", "faults", "{:.0f}"),
    ("steps", "steps of the ladder", "{:.0f}"),
    ("wrong", "steps that destroy and were not needed", "{:.0f}"),
    ("serving_touched", "hosts that served and were disturbed", "{:.0f}"),
    ("needless_reboots", "needless boots", "{:.0f}"),
    ("quarantined_right", "quarantines: right", "{:.0f}"),
    ("quarantined_wrong", "quarantines: wrong", "{:.0f}"),
    ("breaker", "breaker opened", "{:.0f}"),
    ("lost_to_rollout", "hosts lost to a bad release", "{:.0f}"),
    ("pages", "people called", "{:.0f}"),
    ("person_hours", "hours of people", "{:.0f}"),
)


def run(policy: Any, seed: int, hosts: int, days: float, rates: Rates) -> Result:
    """Let one policy look after one fleet."""
    began = time.monotonic()
    events = Events(START)
    fleet = Fleet.of(events, rates, seed, hosts, days)
    policy(fleet)
    fleet.schedule(seed)
    events.run(fleet.end)
    for host in fleet.hosts.values():
        host.settle(fleet.end)
    count, total = fleet.count, hosts * days * DAY_S
    out = sum(host.out_s for host in fleet.hosts.values())
    parts = sum(host.parts_s for host in fleet.hosts.values())
    cured = sorted(count.cured_s)
    figures = {
        "availability": 100 * (1 - out / total),
        "availability_own": 100 * (1 - (out - parts) / (total - parts)),
        "recovery_p50_min": median(cured) / 60 if cured else 0.0,
        "recovery_p95_min": quantiles(cured, n=20)[-1] / 60 if len(cured) > 1 else 0.0,
        "faults": count.faults, "steps": count.steps, "wrong": count.wrong,
        "serving_touched": count.serving_touched, "needless_reboots": count.needless_reboots,
        "quarantined_right": count.quarantined_right, "quarantined_wrong": count.quarantined_wrong,
        "breaker": len(count.breaker), "lost_to_rollout": len(count.lost_to_rollout), "pages": count.pages,
        "person_hours": count.person_hours,
    }  # fmt: skip
    away = tuple(((at - START) / DAY_S, number) for at, number in fleet.away)
    openings = tuple(((at - START) / DAY_S, why) for at, why in count.breaker)
    return Result(policy.title, seed, hosts, days, figures, away, openings, time.monotonic() - began)


def table(results: Sequence[Result]) -> str:
    """Return the figures of the policies side by side."""
    lines = [f"{'':<42}" + "".join(f"{result.policy:>16}" for result in results)]
    for key, words, form in COLUMNS:
        lines.append(f"{words:<42}" + "".join(f"{form.format(result.figures[key]):>16}" for result in results))
    return "\n".join(lines)


def main() -> int:
    """Print table, breaker openings and one JSON line; write the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hosts", type=int, default=2000)
    parser.add_argument("--days", type=float, default=30.0)
    parser.add_argument("--svg", type=Path, help="file for the plot")
    parser.add_argument("--json", type=Path, help="file for the figures, instead of the last line")
    arguments = parser.parse_args()
    rates = load_rates()
    results = [run(policy, arguments.seed, arguments.hosts, arguments.days, rates) for policy in POLICIES]
    print(
        f"simulated: {arguments.hosts} hosts, {arguments.days:g} days, seed {arguments.seed}; "
        f"{rates.total:.1f} faults per 1,000 node-days (rates.yaml), {len(rates.rollouts)} bad releases"
    )
    print(table(results))
    for result in results:
        for day, why in result.breaker:
            print(f"breaker, day {day:.1f}: {why}")
    what = {"simulated": True, "seed": arguments.seed, "hosts": arguments.hosts, "days": arguments.days}
    figures = {result.policy: {key: round(value, 3) for key, value in result.figures.items()} for result in results}
    said = json.dumps(what | figures | {"wall_s": round(sum(result.wall_s for result in results), 1)})
    if arguments.json:
        arguments.json.write_text(f"{said}\n")
    else:
        print(said)
    if arguments.svg:
        arguments.svg.write_text(plot(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
