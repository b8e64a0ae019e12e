"""One round of a recovery, and rounds for ever: look, plan, act, tell."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import click
from rich.console import Console

from metalserve.cli.recover_print import line, show_attempts, show_plan
from metalserve.errors import MetalserveError
from metalserve.pyinfra_seam.recovery_fleet import FleetRecovery, Plan
from metalserve.recovery.crew import Ended, FleetOutcome
from metalserve.recovery.notify import News, Notifier, parse_target
from metalserve.recovery.store import Store
from metalserve.recovery.values import Attempt

SCHEMA = 1
OK, FAILED, REFUSED, WANTS_YES, INTERRUPTED = 0, 1, 2, 3, 130


@dataclass
class Job:
    """What a run works with.

    Attributes:
        fleet: the hosts.
        notifier: tells people; None when nobody asked for it.
        keep: directory of the state.
        console: where plans and results go.
    """

    fleet: FleetRecovery
    notifier: Notifier | None
    keep: Path
    console: Console = field(default_factory=Console)

    def tell(self, news: News) -> None:
        """Tell people."""
        if self.notifier is not None:
            self.notifier.tell(news)


def prepared(
    inventory: str, hosts: Sequence[str], *, fleet: bool, notify: Sequence[str], keep: Path, quiet: bool
) -> Job:
    """Read inventory, memory and targets of notifications; no host is contacted.

    Raises:
        MetalserveError: one of them is wrong.
    """
    targets = [parse_target(text) for text in notify]

    def say(host: str, words: str) -> None:
        click.echo(line(host, words), err=True)

    recovery = FleetRecovery(inventory, hosts, fleet=fleet, store=Store(), keep=keep, say=say)
    notifier = None
    if targets:
        notifier = Notifier(
            targets, simulated=recovery.simulated, complain=lambda words: click.echo(f"metalserve: {words}", err=True)
        )
    return Job(recovery, notifier, keep, Console(stderr=quiet))


def once(job: Job, *, act: bool, observe: bool, as_json: bool) -> int:
    """Look, show the plan, and act on it when asked to; returns the exit status."""
    with _interruptible():
        looks = job.fleet.survey()
        if act or observe:
            job.fleet.note(looks)
        plan = job.fleet.plan(looks)
        if observe:
            _write_down(job, plan)
        if not as_json or act:
            show_plan(plan, job.console, simulated=job.fleet.simulated)
        if not act:
            if as_json:
                click.echo(json.dumps(_plan_dict(plan, job.fleet.simulated), indent=1))
            return _planned(plan, observe)
        if not plan.choice.take and not plan.choice.restore:
            if as_json:  # why nobody is taken stands in the plan
                click.echo(json.dumps({**_plan_dict(plan, job.fleet.simulated), "attempts": {}}, indent=1))
            return _left(plan)
        outcome = job.fleet.act(looks, lambda host, ended: _told(job, host, ended))
        if as_json:
            click.echo(json.dumps(_outcome_dict(outcome, job.fleet.simulated), indent=1))
        show_attempts(list(outcome.attempts.values()), job.console)
        for host, why in (*outcome.errors.items(), *outcome.wait.items()):
            job.console.print(f"{host}: not recovered: {why}", markup=False)
        return _status(outcome)


def watching(job: Job, *, every_s: float, act: bool) -> int:
    """Rounds for ever; without `act` what would be done is only written down. Ends with Ctrl-C or a request to end."""
    opened = False
    while True:
        began = time.monotonic()
        with _interruptible():
            try:
                looks = job.fleet.survey()
                breaker = job.fleet.note(looks)
                if breaker.open and not opened:
                    job.tell(News("breaker-open", "", breaker.why))
                    click.echo(line("fleet", f"the breaker is open: {breaker.why}"), err=True)
                opened = breaker.open
                plan = job.fleet.plan(looks)
                if plan.choice.take or plan.choice.restore or plan.choice.wait:
                    show_plan(plan, job.console, simulated=job.fleet.simulated)
                    if act:
                        job.fleet.act(looks, lambda host, ended: _told(job, host, ended))
                    else:
                        _write_down(job, plan)
            except MetalserveError as error:  # the next round tries again
                click.echo(line("fleet", str(error)), err=True)
        time.sleep(max(1.0, every_s - (time.monotonic() - began)))


def _told(job: Job, host: str, ended: Ended) -> None:
    if isinstance(ended, Attempt):
        click.echo(line(host, f"{ended.result}: {ended.words}"), err=True)
        if ended.steps or ended.result != "recovered":
            steps = [f"{s.step.rung} {s.outcome}" for s in ended.steps]
            job.tell(News(str(ended.result), host, ended.words, {"causes": list(ended.causes), "steps": steps}))
    else:
        click.echo(line(host, f"not recovered: {ended}"), err=True)
        job.tell(News("not-begun", host, str(ended)))


def _planned(plan: Plan, observe: bool) -> int:
    if plan.choice.take or plan.choice.restore:
        return OK if observe else WANTS_YES
    return _left(plan)


def _left(plan: Plan) -> int:
    hosts = {pick.host for pick in (*plan.choice.wait, *plan.choice.refuse)}
    return REFUSED if hosts & set(plan.unhealthy) else OK


def _status(outcome: FleetOutcome) -> int:
    bad = [a for a in outcome.attempts.values() if a.result != "recovered"]
    return FAILED if bad or outcome.errors or outcome.wait else OK


def _plan_dict(plan: Plan, simulated: bool) -> dict[str, Any]:
    choice = plan.choice
    return {
        "schema": SCHEMA,
        "simulated": simulated,
        "take": [each.as_dict() for each in plan.previews if each.host in {p.host for p in choice.take}],
        "wait": {pick.host: pick.why for pick in choice.wait},
        "refuse": {pick.host: pick.why for pick in choice.refuse},
        "restore": {pick.host: pick.why for pick in choice.restore},
        "capacity": [asdict(each) for each in choice.capacity],
        "breaker": plan.breaker.why if plan.breaker.open else "",
        "well": sorted(set(plan.looks) - set(plan.unhealthy)),
    }


def _outcome_dict(outcome: FleetOutcome, simulated: bool) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "simulated": simulated,
        "attempts": {host: asdict(attempt) for host, attempt in outcome.attempts.items()},
        "errors": dict(outcome.errors),
        "wait": dict(outcome.wait),
        "refuse": dict(outcome.refuse),
    }


def _write_down(job: Job, plan: Plan) -> None:
    """Keep what would have been done, a line of JSON each time."""
    value = {"at": time.time(), "actor": job.fleet.actor, **_plan_dict(plan, job.fleet.simulated)}
    path = job.keep / "observed.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(value) + "\n")
    for pick in plan.choice.take:
        job.tell(News("would-recover", pick.host, next(p.what for p in plan.previews if p.host == pick.host)))


class _interruptible:
    """Ctrl-C and a request to end stop at once: what is open in the store, the next run goes on with."""

    def __enter__(self) -> None:
        self._before = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *stop: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    click.echo("\nmetalserve: interrupted; the same command goes on from what it finds", err=True)
    os._exit(INTERRUPTED)
