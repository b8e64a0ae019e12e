"""Every alert fires on its fault, alone, reaches the receiver, and ends: real Prometheus, simulated GPUs."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Iterator

import pytest

from metalserve.catalogue.dcgm_metrics import load_dcgm_metrics
from metalserve.errors import MetalserveError
from metalserve.lab.api import Lab
from metalserve.monitoring.dashboards import dashboard_text, load_dashboards, queries
from metalserve.monitoring.model import Options
from metalserve.monitoring.rules import alerts, recorded
from tests.lab.conftest import beside
from tests.lab.fleet import Fleet
from tests.lab.watching import HOSTS, MOUNT, NODE, SECRET, WATCHER, Receiver, Watching
from tests.monitoring.names import metrics

pytestmark = [pytest.mark.lab, pytest.mark.slow]

SEEN: set[str] = set()
"""Alerts that fired on their fault so far; the last test says which never did."""


@pytest.fixture(scope="module")
def watching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watching]:
    own = Lab()
    try:
        ours = set(own.hosts) == {WATCHER, NODE}
    except MetalserveError:
        ours = False
    lab = own if ours else beside(tmp_path_factory.mktemp("watching") / "lab", 50 + os.getpid() % 50, HOSTS)
    receiver = Receiver(lab.layout.controller_address)
    found = Watching(Fleet(lab, tmp_path_factory.mktemp("watching")), receiver)
    try:
        for name in lab.hosts:
            lab.heal(name)
        # A lab that was used before serves already; its kernel log tells of faults that the main job would refuse.
        if not found.fleet.token(NODE, 8007):
            serving = found.run("--limit", NODE, deploy="deploys/gpu_node.py", timeout_s=2400)
            assert serving.rc == 0, serving.out
        run = found.run()
        assert run.rc == 0, run.out
        yield found
    finally:
        receiver.server.shutdown()
        if not ours:
            lab.down()


def seen(*names: str) -> None:
    SEEN.update(names)


def fault(watching: Watching, kind: str, names: set[str], also: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """Inject a fault of the lab on the node, see its alerts fire alone, and see them end."""
    lab = watching.fleet.lab
    try:
        with watching.fires(names, also):
            lab.fault(NODE, kind)
    finally:
        lab.heal(NODE)
    watching.wait_quiet()
    seen(*names)


def test_a_second_run_changes_nothing_in_one_session(watching: Watching) -> None:
    run = watching.run()
    assert run.rc == 0, run.out
    assert set(run.statuses.values()) == {"unchanged"}
    assert {host["sessions"] for host in run.report["hosts"].values()} == {1}
    assert "13 of 13 targets up" in run.report["hosts"][WATCHER]["proofs"]["targets"]


def test_a_scrape_has_every_metric_that_a_rule_or_dashboard_names(watching: Watching) -> None:
    watching.wait_for(lambda: "engine:tokens_generated:rate" in watching.metric_names(), "recorded")
    have = watching.metric_names()
    rules = [each.expr for each in (*alerts(Options()), *recorded(Options()))]
    panels = [query for board in load_dashboards() for query in queries(board)]
    named = set().union(*(metrics(expr) for expr in rules + panels))
    # What today's exporters do not print: other spellings, and what is told of only once it has happened.
    spellings = {name for f in load_dcgm_metrics().fields for name in f.spellings[1:]}
    older = {n for n in named if n.startswith(("vllm:gpu_", "vllm:time_per_output_token"))}
    only_then = {
        "metalserve_xid_events",
        "metalserve_xid_last_timestamp_seconds",
        "ALERTS",
        "engine:prefix_cache_hits:ratio",
    }
    assert len(named) > 60
    assert named - have - spellings - older - only_then == set()


QUIET = {"alerts", "alerts firing", "Xids since boot", "units that do not run"}
"""Panels that show what has happened, and nothing where nothing has."""


def test_every_panel_draws_what_it_promises(watching: Watching) -> None:
    """All queries of all dashboards as Grafana asks them: for all hosts, several, and each; over time and for now."""
    (variable,) = json.loads(dashboard_text(load_dashboards()[0]))["templating"]["list"]
    assert variable["query"]["query"] == 'label_values(up{job="node"}, host)'
    assert sorted(row["metric"]["host"] for row in watching.query('up{job="node"}')) == [NODE, WATCHER]
    empty: list[str] = []
    for board in load_dashboards():
        for panel in board.panels:
            for query, _ in panel.queries:
                for chosen in (variable["allValue"], f"({NODE}|{WATCHER})", NODE, WATCHER):
                    asked = query.replace("$host", chosen)
                    found = watching.query(asked) if panel.kind != "timeseries" else watching.over_time(asked)
                    if not found and chosen != WATCHER and panel.title not in QUIET:
                        empty.append(f"{board.uid} / {panel.title}: {asked}")
    assert empty == []


def test_nothing_fires_while_nothing_is_wrong(watching: Watching) -> None:
    watching.wait_quiet()


def test_what_listens_listens_on_the_private_address_alone(watching: Watching) -> None:
    for host, ports in ((WATCHER, (9090, 9093, 9100)), (NODE, (9100, 9400))):
        for port in ports:
            listening = watching.ssh(host, f"ss -Hltn sport = :{port} | awk '{{print $4}}'").split()
            assert listening == [f"{watching.fleet.lab.address(host)}:{port}"]


def test_the_receivers_secret_is_alertmanagers_alone(watching: Watching) -> None:
    held = watching.ssh(
        WATCHER, f"grep -rlF {SECRET} /etc /var/lib/prometheus /run 2>/dev/null | xargs stat -c '%a %U %G %n'"
    )
    assert held.splitlines() == ["640 root prometheus /etc/metalserve/monitoring/alertmanager.yml"]


@pytest.mark.parametrize(
    ("kind", "names", "also"),
    [
        (
            "thermal-throttle",
            {"GpuHardwareThermalSlowdown", "GpuSoftwareThermalSlowdown", "GpuThermalMarginLow"},
            set(),
        ),
        ("power-brake", {"GpuPowerBrake"}, set()),
        ("hw-slowdown", {"GpuHardwareSlowdown"}, set()),
        ("remap-pending", {"GpuRowRemapPending", "GpuXidWarning"}, {"GpuXidFatal"}),
        ("remap-failed", {"GpuRowRemapFailed", "GpuXidFatal"}, {"GpuXidWarning"}),
        ("nvlink-degraded", {"GpuNvlinkErrors", "GpuNvlinkReplays"}, {"GpuXidFatal"}),
        ("gpu-off-bus", {"GpuMissing", "GpuXidFatal"}, set()),
        ("nvme-hot", {"NvmeHot"}, set()),
        ("nvme-downgraded", {"NvmeLinkDegraded"}, set()),
        ("disk-full", {"DiskFull"}, {"DiskFilling"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_fault_of_the_hardware_is_told_and_ends(
    watching: Watching, kind: str, names: set[str], also: set[str]
) -> None:
    fault(watching, kind, names, also)


def test_what_fired_has_reached_the_receiver_and_its_end_too(watching: Watching) -> None:
    told = {"GpuHardwareThermalSlowdown", "GpuPowerBrake", "DiskFull"}
    watching.wait_for(lambda: told <= watching.receiver.names("resolved"), "told of the end")
    assert told <= watching.receiver.names("firing")
    alert = next(a for a in watching.receiver.told if a["labels"]["alertname"] == "GpuPowerBrake")
    assert alert["labels"]["host"] == NODE and alert["labels"]["gpu"] == "0"
    assert alert["labels"]["release"] == "2026.11-lts"
    assert "deploys/verify.py" in alert["annotations"]["description"]


XID = textwrap.dedent(
    """\
    python3 -I -S - <<'END'
    import sys
    sys.path.insert(0, "/opt/metalserve-lab")
    from lib.state import Lab
    Lab().log("NVRM: Xid (PCI:0000:1b:00): 31, pid=4242, name=python3, Ch 00000008, MMU Fault", level=4)
    END
    """
)


def test_a_fault_of_the_program(watching: Watching) -> None:
    with watching.fires({"GpuXidApplication"}):
        watching.ssh(NODE, XID)
    watching.wait_quiet()
    seen("GpuXidApplication")


def test_fabric_manager_dies_and_later_the_fabric(watching: Watching) -> None:
    with watching.fires({"FabricManagerDown"}):
        watching.fleet.lab.fault(NODE, "fabric-manager-dead")
    # The state is latched: nothing but the unit tells, until the driver forgets what was configured.
    watching.ssh(NODE, "systemctl stop 'metalserve-vllm-*'; nvidia-smi --gpu-reset -i 0")
    watching.wait_for(lambda: {"FabricManagerDown", "FabricNotCompleted"} <= watching.firing(), "not completed")
    watching.fleet.lab.heal(NODE)
    watching.ssh(NODE, "systemctl reset-failed nvidia-fabricmanager; systemctl restart nvidia-fabricmanager")
    units = "$(systemctl list-unit-files -q 'metalserve-vllm-[0-9].service' | awk '{print $1}')"
    watching.ssh(NODE, f"systemctl start {units}")
    watching.wait_for(lambda: watching.firing() == set(), "quiet", timeout_s=400)
    seen("FabricManagerDown", "FabricNotCompleted")


MARKER = f"$(echo {MOUNT}/*/*/.metalserve-manifest)"
OLD_WEIGHTS = f"""\
cp -p {MARKER} /root/marker && python3 - {MARKER} <<'END'
import json, sys, time
marker = json.load(open(sys.argv[1]))
marker["published_at"] = time.time() - 10 * 86400
json.dump(marker, open(sys.argv[1], "w"))
END
"""


@pytest.mark.parametrize(
    ("name", "begin", "end", "also"),
    [
        (
            "GpuExporterDown",
            "systemctl stop nvidia-dcgm-exporter",
            "systemctl start nvidia-dcgm-exporter",
            set(),
        ),
        (
            "CollectorStale",
            "systemctl stop metalserve-metrics.timer",
            "systemctl start metalserve-metrics.timer",
            set(),
        ),
        ("CollectorPartFailed", "mknod /dev/nvme9 c 1 3", "rm /dev/nvme9", set()),
        ("RebootPending", "touch /run/reboot-required", "rm /run/reboot-required", set()),
        ("WeightsVerificationOld", OLD_WEIGHTS, f"cp -p /root/marker {MARKER}", set()),
        (
            "DiskFilling",
            # three quarters at once, which is no trend, and then a little every second
            f"set -- $(df --output=avail -B1 {MOUNT} | tail -1); fallocate -l $(($1 * 3 / 4)) {MOUNT}/.filler; "
            f"systemd-run -q --unit=filler sh -c 'while sleep .3; do head -c 3000000 /dev/zero >>{MOUNT}/.more; done'",
            f"systemctl stop filler; rm -f {MOUNT}/.filler {MOUNT}/.more",
            {"DiskFull"},
        ),
        (
            "ReleaseDrift",
            "apt-get -q -y --allow-downgrades install nvidia-container-toolkit=1.19.1-1 "
            "nvidia-container-toolkit-base=1.19.1-1 libnvidia-container-tools=1.19.1-1 libnvidia-container1=1.19.1-1",
            "apt-get -q -y install nvidia-container-toolkit=1.20.0-1 nvidia-container-toolkit-base=1.20.0-1 "
            "libnvidia-container-tools=1.20.0-1 libnvidia-container1=1.20.0-1",
            set(),
        ),
        (
            "EngineNotReady",
            "systemctl stop metalserve-vllm-6",
            "systemctl start metalserve-vllm-6",
            {"EngineDown"},
        ),
        (
            "EngineGateRefuses",
            "systemctl stop metalserve-vllm-6; mv /usr/local/lib/metalserve/engine-gate /root/gate; "
            "printf '#!/bin/sh\\nexit 1\\n' >/usr/local/lib/metalserve/engine-gate; "
            "chmod 755 /usr/local/lib/metalserve/engine-gate; systemctl start --no-block metalserve-vllm-6",
            "mv /root/gate /usr/local/lib/metalserve/engine-gate; systemctl reset-failed metalserve-vllm-6; "
            "systemctl start metalserve-vllm-6",
            {"EngineDown", "EngineNotReady"},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_a_fault_of_the_host_is_told_and_ends(
    watching: Watching, name: str, begin: str, end: str, also: set[str]
) -> None:
    try:
        with watching.fires({name}, also):
            watching.ssh(NODE, begin)
    finally:
        watching.ssh(NODE, end)
    watching.wait_for(lambda: watching.firing() == set(), "quiet", timeout_s=400)
    seen(name)


FAKE = """\
import http.server, sys, time
began = time.time()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        n = time.time() - began
        labels = 'engine="0",model_name="m"'
        rows = [f'vllm:kv_cache_usage_perc{{{labels}}} 0.99', f'vllm:num_requests_waiting{{{labels}}} {50 + n}']
        for bound, share in (("1", 0.2), ("2.5", 0.5), ("10", 1), ("+Inf", 1)):
            rows.append(f'vllm:time_to_first_token_seconds_bucket{{{labels},le="{bound}"}} {n * 100 * share}')
        body = ("\\n".join(rows) + "\\n").encode()
        self.send_response(200); self.end_headers(); self.wfile.write(body)
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("0.0.0.0", 8007), Handler).serve_forever()
"""


def test_an_engine_that_is_gone_and_one_that_is_overrun(watching: Watching) -> None:
    """What a busy engine would tell comes from a few lines in its place: no load of the stand-in fills a KV cache."""
    with watching.fires({"EngineDown"}, {"EngineNotReady"}):
        watching.ssh(NODE, "systemctl stop metalserve-vllm-7")
    watching.ssh(
        NODE, f"cat >/root/fake.py <<'END'\n{FAKE}END\nsystemd-run -q --unit=fake-engine python3 /root/fake.py"
    )
    full = {"EngineKvCacheFull", "EngineQueueGrowing", "EngineTtftAboveObjective"}
    watching.wait_for(lambda: full <= watching.firing(), f"firing {sorted(full)}")
    assert watching.firing() <= {*full, "EngineNotReady"}
    watching.ssh(NODE, "systemctl stop fake-engine; systemctl start metalserve-vllm-7")
    watching.wait_for(lambda: watching.firing() == set(), "quiet", timeout_s=400)
    seen("EngineDown", *full)


def test_a_router_that_is_gone(watching: Watching) -> None:
    address = watching.fleet.lab.address(WATCHER)
    watching.more = {
        "router": {"address": address, "port": 9443, "metrics_address": address, "hosts": [NODE]},
    }
    try:
        for deploy in ("deploys/router.py", "deploys/monitoring.py"):
            run = watching.run(deploy=deploy)
            assert run.rc == 0, run.out
        watching.wait_for(lambda: bool(watching.query('up{job="router"} == 1')), "router scraped")
        with watching.fires({"RouterDown"}):
            watching.ssh(WATCHER, "systemctl stop metalserve-router")
        watching.ssh(WATCHER, "systemctl start metalserve-router")
        watching.wait_quiet()
    finally:
        watching.more = {}
        for deploy in ("deploys/router.py", "deploys/monitoring.py"):
            assert watching.run(deploy=deploy).rc == 0
    seen("RouterDown")


def test_a_host_that_is_down_is_one_piece_of_news(watching: Watching) -> None:
    lab = watching.fleet.lab
    watching.wait_quiet()
    lab.fault(NODE, "unreachable")
    try:
        down = {"NodeDown", "GpuExporterDown", "EngineDown"}
        watching.wait_for(lambda: down <= watching.firing(), f"firing {sorted(down)}")

        def held_back() -> bool:
            states = {
                alert["labels"]["alertname"]: alert["status"]["state"]
                for alert in watching.ask("/api/v2/alerts", port=9093)
                if alert["labels"].get("host") == NODE and "mountpoint" not in alert["labels"]
            }
            return states.get("NodeDown") == "active" and states.get("GpuExporterDown") == "suppressed"

        watching.wait_for(held_back, "held back")
        # the run of the monitoring host alone is not failed by a host that is down
        run = watching.run("--limit", WATCHER)
        assert run.rc == 0, run.out
        assert any("targets-up" in warning for warning in run.report["hosts"][WATCHER]["warnings"])
    finally:
        lab.heal(NODE)
    watching.wait_for(lambda: watching.firing() == set(), "quiet", timeout_s=400)
    seen("NodeDown")


def test_every_alert_has_fired_on_its_fault() -> None:
    missing = {alert.name for alert in alerts(Options())} - SEEN
    assert missing == set(), json.dumps(sorted(missing))
