"""Monitoring on a bare host of the lab: real Prometheus, Alertmanager and node_exporter of Debian, twice.

What GPUs and engines tell is asked of the lab's stand-ins directly: the whole of it, on a node that serves, with every
alert, is test_monitoring_faults (slow).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from metalserve.catalogue.dcgm_metrics import load_dcgm_metrics
from metalserve.errors import MetalserveError
from metalserve.lab import distribution, rootfs
from metalserve.lab.engine.standin.metrics import Metrics
from metalserve.lab.fleet import running_fleet
from metalserve.lab.layout import Layout
from metalserve.lab.sim import dcgm_exporter
from metalserve.monitoring.dashboards import load_dashboards, queries
from metalserve.monitoring.exporters import counters_text
from metalserve.monitoring.model import Options
from metalserve.monitoring.rules import alerts, recorded
from metalserve.trees.mirrors import machine_mirrors
from tests.lab.conftest import beside
from tests.lab.fleet import Fleet
from tests.lab.watching import WATCHER, Receiver, Watching
from tests.lab_sim.machine import Machine
from tests.monitoring.names import metrics

pytestmark = [pytest.mark.lab, pytest.mark.slow]

ALONE = """\
release: 2026.11-lts
also: [monitoring]
hosts:
  watcher: {profile: none, suite: bookworm}
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watching]:
    """One bare host that watches itself."""
    running = Layout.current()
    try:
        running_fleet(running)
    except MetalserveError as error:
        pytest.skip(str(error))
    base = rootfs.base_path(running, "bookworm")
    if base.is_dir():  # kept by the lab that is up, so that they are fetched once on a machine
        distribution.fetch(running, "bookworm", base, machine_mirrors(), extra="monitoring")
    lab = beside(tmp_path_factory.mktemp("alone") / "lab", 20 + os.getpid() % 30, ALONE)
    receiver = Receiver(lab.layout.controller_address)
    try:
        yield Watching(Fleet(lab, tmp_path_factory.mktemp("alone")), receiver)
    finally:
        receiver.server.shutdown()
        lab.down()


def test_it_comes_up_watches_and_a_second_run_changes_nothing(alone: Watching) -> None:
    run = alone.run()
    assert run.rc == 0, run.out
    assert "3 of 3 targets up" in run.report["hosts"][WATCHER]["proofs"]["targets"]
    again = alone.run()
    assert again.rc == 0, again.out
    assert again.statuses == {WATCHER: "unchanged"}
    assert again.report["hosts"][WATCHER]["sessions"] == 1


def test_every_metric_that_a_rule_or_dashboard_names_is_there(alone: Watching, tmp_path: Path) -> None:
    alone.wait_for(lambda: "metalserve_reboot_pending" in alone.metric_names(), "told by the collector")
    have = alone.metric_names()
    # the stand-ins of the GPUs and the engine, as a node of the lab serves them
    machine = Machine(tmp_path, "h100-sxm-8")
    machine.ready()
    try:
        counters = tmp_path / "counters.csv"
        counters.write_text(counters_text())
        scraped = dcgm_exporter.render(machine.lab, dcgm_exporter.read_counters(str(counters)))
    finally:
        machine.stop()
    assert scraped.startswith("# SIMULATED")
    scraped += Metrics("m", {}).render()
    have |= {line.split("{")[0].split(" ")[0] for line in scraped.splitlines() if not line.startswith("#")}
    own = {rule.name for rule in recorded(Options())}
    rules = [each.expr for each in (*alerts(Options()), *recorded(Options()))]
    named = set().union(*(metrics(expr) for expr in rules + [q for b in load_dashboards() for q in queries(b)]))
    spellings = {name for field in load_dcgm_metrics().fields for name in field.spellings[1:]}
    older = {name for name in named if name.startswith(("vllm:gpu_", "vllm:time_per_output_token"))}
    # tests/monitoring/test_collector.py has the collector tell of all that a bare host does not have
    collector = {name for name in named if name.startswith("metalserve_")}
    assert named - have - own - spellings - older - collector <= {"ALERTS"}
    assert len(named & have) > 30


def test_an_alert_travels_to_the_receiver_and_so_does_its_end(alone: Watching) -> None:
    with alone.fires({"CollectorPartFailed"}):
        alone.ssh(WATCHER, "mknod /dev/nvme9 c 1 3")
    alone.ssh(WATCHER, "rm /dev/nvme9")
    alone.wait_for(lambda: "CollectorPartFailed" in alone.receiver.names("resolved"), "told of the end")
    told = next(a for a in alone.receiver.told if a["labels"]["alertname"] == "CollectorPartFailed")
    assert told["labels"]["host"] == WATCHER and told["labels"]["part"] == "drives"
