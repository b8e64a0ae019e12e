"""Measures a host during execution: begun on the host as a unit of its own, followed from here, judged at its end.

The connection is only an onlooker. When it breaks, or this controller dies, the measurement goes on; the next run
finds it and follows it, or takes its answer when it has ended.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyinfra import logger
from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation

from metalserve.desired.node import Node
from metalserve.errors import MetalserveError
from metalserve.paths import ROOT
from metalserve.pyinfra_seam.hostrun import HostRun, current
from metalserve.pyinfra_seam.judging import note, revise
from metalserve.verify.baseline import accept, acceptable, check_fleet, compare, load_baseline, save_baseline
from metalserve.verify.finding import Finding
from metalserve.verify.measurement import Measurement

FOLLOW_S = 15
"""Seconds that one session follows: short enough that no idle limit on the way ends it, few enough sessions."""


@dataclass(frozen=True)
class Probe:
    """What the role decides, for the seam to carry out.

    Attributes:
        obstacle: why the host cannot be measured now, or None.
        excuse: a finding noted before, seen in the light of a measurement that runs already.
        attach: script that looks whether a measurement runs.
        start: script that begins one, or finds the one that runs.
        follow: script that says how far it is, after that many seconds at most.
        result: script that prints what was measured.
        assemble: (node, lines, started) -> the value.
        judge: the findings of one host by itself.
        kind: hosts of one kind are compared.
        gpus: UUIDs of the GPUs.
    """

    obstacle: Callable[[Node], Finding | None]
    excuse: Callable[[Node, Finding], Finding]
    attach: Callable[[Node], str]
    start: Callable[[Node], str]
    follow: Callable[[int], str]
    result: str
    assemble: Callable[[Node, Sequence[str], str], Measurement]
    judge: Callable[[Node, Measurement], list[Finding]]
    kind: Callable[[Node], str]
    gpus: Callable[[Node], tuple[str, ...]]


_FLEET: dict[str, tuple[str, Measurement]] = {}
"""What this run measured: host -> (kind, measurement). The fleet is compared when all of it is there."""


def baselines_directory() -> Path:
    """Return where baselines are kept on the controller (`METALSERVE_BASELINES_DIR`, or `reports/baselines`)."""
    return Path(os.environ.get("METALSERVE_BASELINES_DIR") or ROOT / "reports" / "baselines").absolute()


def measured(probe: Probe) -> None:
    """Have the host measured, as deep as its settings say; nothing for depth `quick`."""
    run = current()
    if run.failed or run.node is None or not run.node.observed.live:
        return
    revise(run, [probe.excuse(run.node, finding) for finding in run.noted])
    if run.node.settings.verify.depth == "quick":
        return
    obstacle = probe.obstacle(run.node)
    if obstacle is not None:
        depth, started = run.node.settings.verify.depth, _utc()
        simulated, why = run.node.settings.simulated, obstacle.observed
        skipped = Measurement(schema=1, simulated=simulated, depth=depth, started=started, skipped=why)
        run.report.measurements = skipped.as_dict()
        note(run, "measurement", [obstacle])
        return
    run.measuring = True
    words = f"load on all GPUs (depth {run.node.settings.verify.depth})"
    run.host.log(f"{run.role_name} / measure: {words}", logger.info)
    run.report.planned.append((run.role_name, "measure", words))
    _measure(name="measure", role_name=run.role_name, probe=probe)
    _compare(name="compare", role_name=run.role_name, probe=probe)


def _utc() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@operation(is_idempotent=True)
def _measure(role_name: str, probe: Probe) -> Generator[FunctionCommand, None, None]:
    run = current()
    if not run.executing:
        yield FunctionCommand(_nothing, (), {})
        return
    run.run.executed = True
    run.role_name = role_name
    # An exception here would end the run for every host, so everything is caught and fails this host alone.
    try:
        assert run.node is not None
        _FLEET[run.host.name] = (probe.kind(run.node), _carry_out(run, probe))
    except Exception as error:
        run.fail("measure", error)
        yield FunctionCommand(_refuse, (), {})


def _carry_out(run: HostRun, probe: Probe) -> Measurement:
    node = run.node
    assert node is not None
    started = _utc()
    _, lines = run.shell(probe.attach(node), timeout_s=60)
    if lines[:1] and lines[0].strip() in ("active", "activating", "deactivating"):
        _say(run, "a measurement runs already: following it")
        node = _as_running(node, lines)
    else:
        # Held only while it is begun: from then on the measurement itself keeps other runs away.
        run.hold_lock()
        try:
            ok, lines = run.shell(probe.start(node), timeout_s=120)
        finally:
            run.release_lock()
        mark = next((line.split()[1] for line in lines if line.startswith("@@measure ")), "")
        if not ok or not mark:
            raise MetalserveError(f"the measurement did not begin: {' | '.join(lines[-3:])[:300]}")
        if mark != "started":
            _say(run, "a measurement runs already: following it" if mark == "attached" else "it has ended: reading it")
            node = _as_running(node, lines)
    _follow(run, probe)
    _, lines = run.shell(probe.result, timeout_s=120)
    measurement = probe.assemble(node, lines, started)
    run.report.measurements = measurement.as_dict()
    note(run, "measure", probe.judge(node, measurement))
    return measurement


def _as_running(node: Node, lines: Sequence[str]) -> Node:
    """Return the node with the depth of the measurement that is followed, whatever this run asked for."""
    depth = next((line.partition("=")[2].strip("'\"") for line in lines if line.startswith("MS_DEPTH=")), "")
    if depth not in ("standard", "deep"):
        return node
    verify = node.settings.verify.model_copy(update={"depth": depth})
    return replace(node, settings=node.settings.model_copy(update={"verify": verify}))


def _follow(run: HostRun, probe: Probe) -> None:
    said = ""
    while True:
        ok, lines = run.shell(probe.follow(FOLLOW_S), timeout_s=FOLLOW_S + 120)
        told = {key: rest for key, _, rest in (line.partition(" ") for line in lines if line.startswith("@@"))}
        words = _progress(told)
        if words and words != said:
            _say(run, words)
            said = words
        if told.get("@@measure") == "ended":
            return
        if not ok or told.get("@@measure") != "running":
            raise MetalserveError(
                f"the host no longer says how far the measurement is: {' | '.join(lines[-3:])[:300] or 'no answer'}",
                remedy="run again: a measurement that still runs is followed",
            )


def _progress(told: dict[str, str]) -> str:
    phase = told.get("@@phase", "").partition(" ")[2]
    if phase != "soak" or "@@progress" not in told:
        return phase
    try:
        progress: dict[str, Any] = json.loads(told["@@progress"])
        heats = [g["temperature_c"] for g in progress["gpus"] if g.get("temperature_c") is not None]
        rates = [g["tflops"] for g in progress["gpus"] if g.get("tflops") is not None]
        words = f"soak {progress['t_s']:.0f} of {progress['seconds']:.0f} s"
        words += f", {min(rates):.4g} to {max(rates):.4g} TFLOP/s" if rates else ""
        return words + (f", up to {max(heats):g} C" if heats else "")
    except (ValueError, KeyError, TypeError):
        return phase


def _say(run: HostRun, words: str) -> None:
    run.host.log(f"{run.role_name} / measure: {words}", logger.info)


@operation(is_idempotent=True)
def _compare(role_name: str, probe: Probe) -> Generator[FunctionCommand, None, None]:
    """With its own baseline, and with its peers: all of them were measured by now, since pyinfra goes in lock-step."""
    run = current()
    if not run.executing or run.failed or run.host.name not in _FLEET or run.node is None:
        return
    run.role_name = role_name
    try:
        measurement, gpus = _FLEET[run.host.name][1], probe.gpus(run.node)
        findings = check_fleet(run.host.name, _FLEET)
        path = baselines_directory() / f"{run.host.name.replace('/', '_')}.json"
        baseline = load_baseline(path)
        if baseline is not None:
            findings += compare(measurement, baseline, gpus, str(path))
        elif measurement.skipped is None and acceptable([*run.noted, *findings]):
            baseline = accept(measurement, gpus)
            save_baseline(path, baseline)
            _say(run, f"accepted as this host's baseline: {path}")
        run.report.measurements["baseline"] = baseline.model_dump(mode="json") if baseline else None
        note(run, "compare", findings)
    except Exception as error:
        run.fail("compare", error)
        yield FunctionCommand(_refuse, (), {})


def _nothing(state: object, host: object) -> bool:
    return True


def _refuse(state: object, host: object) -> bool:
    return False
