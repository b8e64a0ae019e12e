"""The collector as it runs on a host, over a made-up root with made-up tools."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from metalserve.monitoring.model import Options
from metalserve.monitoring.rules import alerts
from metalserve.paths import FILES
from tests.monitoring.names import metrics

SMI = """\
==============NVSMI LOG==============

GPU 00000000:1B:00.0
    GPU UUID                                           : GPU-aaaa
    Minor Number                                       : 0
    Fabric
        State                                          : Completed
        Status                                         : Success
        Health
            Summary                                    : N/A
    Performance State                                  : P0
GPU 00000000:29:00.0
    GPU UUID                                           : GPU-bbbb
    Minor Number                                       : 1
    Fabric
        State                                          : In Progress
        Status                                         : N/A
GPU 00000000:3A:00.0
    GPU UUID                                           : [Unknown Error]
"""
DMESG = """\
[  12.1] NVRM: loading NVIDIA UNIX Open x86_64 Kernel Module  580.178.04
[ 100.2] NVRM: Xid (PCI:0000:1b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.
[ 100.3] NVRM: Xid (PCI:0000:1b:00): 31, pid=4242, name=python3, MMU Fault
[ 101.3] NVRM: Xid (PCI:0000:1b:00): 31, pid=4243, name=python3, MMU Fault
"""
JOURNAL = DMESG.split("\n")[1].split("] ")[1] + "\n" + DMESG.split("\n")[1].split("] ")[1] + "\n"
WEIGHTS = 'model="organisation/\\"model\\"",revision="0123"'
UNITS = """\
ExecStartPre={ path=/usr/bin/docker ; argv[]=/usr/bin/docker rm ; code=exited ; status=1 }
ExecStartPre={ path=/usr/local/lib/metalserve/engine-gate ; argv[]=/x ; pid=1 ; code=(null) ; status=0/0 }
NRestarts=0
Id=metalserve-vllm-0.service
ActiveState=active
SubState=running

ExecStartPre={ path=/usr/local/lib/metalserve/engine-gate ; argv[]=/x ; pid=1 ; code=exited ; status=1 }
NRestarts=4
Id=metalserve-vllm-1.service
ActiveState=activating
SubState=auto-restart

NRestarts=0
Id=metalserve-vllm-2.service
ActiveState=active
SubState=running
"""


class Host:
    """A root directory and tools before all others in PATH."""

    def __init__(self, place: Path) -> None:
        self.root = place / "root"
        self.tools = place / "bin"
        self.tools.mkdir(parents=True)
        self.config: dict[str, Any] = {
            "output": "/var/lib/prometheus/node-exporter/metalserve.prom",
            "gpus": 4,
            "release": "2026.11-lts",
            "simulated": True,
            "components": [
                {"name": "driver", "version": "580.178.04"},
                {"name": "container toolkit", "package": "nvidia-container-toolkit", "version": "1.20.0-1"},
                {"name": "DCGM", "package": "datacenter-gpu-manager-4-core", "version": "1:4.6.0-1"},
            ],
            "weights": [{"model": 'organisation/"model"', "revision": "0123", "marker": "/srv/models/m/.marker"}],
        }
        self.tool("nvidia-smi", SMI)
        self.tool("dmesg", DMESG)
        self.tool("journalctl", JOURNAL)
        self.tool("systemctl", UNITS)
        self.tool("nvme", json.dumps({"temperature": 310}))
        self.tool(
            "dpkg-query", "ii \tnvidia-container-toolkit\t1.19.1-1\nrc \tdatacenter-gpu-manager-4-core\t1:4.6.0-1\n", 1
        )
        self.file(
            "/proc/driver/nvidia/version", "NVRM version: NVIDIA Open Kernel Module for x86_64  580.178.04  Release\n"
        )
        link = {"current_link_speed": "8.0 GT/s PCIe", "max_link_speed": "16.0 GT/s PCIe"}
        for name, text in {"class": "0x010802", **link, "current_link_width": "4", "max_link_width": "4"}.items():
            self.file(f"/sys/bus/pci/devices/0000:57:00.0/{name}", f"{text}\n")
        self.file("/sys/bus/pci/devices/0000:57:00.0/nvme/nvme0/address", "0000:57:00.0\n")
        self.file("/sys/bus/pci/devices/0000:1b:00.0/class", "0x030200\n")
        self.file("/dev/nvme0", "")
        self.file("/dev/nvme0n1", "")
        self.file("/srv/models/m/.marker", "metalserve-manifest 1\n")
        os.utime(self.root / "srv/models/m/.marker", (1_700_000_000, 1_700_000_000))
        for number in (0, 1, 2):
            self.file(f"/etc/systemd/system/metalserve-vllm-{number}.service", "[Unit]\n")
        self.file("/etc/systemd/system/metalserve-vllm-watch.service", "[Unit]\n")
        self.file("/run/metalserve/engines/0", "ready\n")
        self.file("/run/metalserve/engines/2", "stalled: no step for 120 s\n")

    def tool(self, name: str, says: str, status: int = 0) -> None:
        path = self.tools / name
        path.write_text(f"#!/bin/sh\ncat <<'END'\n{says}END\nexit {status}\n" if says.endswith("\n") else
                        f"#!/bin/sh\nprintf '%s' '{says}'\nexit {status}\n")  # fmt: skip
        path.chmod(0o755)

    def file(self, path: str, text: str) -> None:
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def collect(self) -> dict[str, float]:
        """Run it once; returns series -> value."""
        config = self.root / "config.json"
        config.write_text(json.dumps(self.config))
        done = subprocess.run(
            [sys.executable, "-I", "-S", FILES / "monitoring" / "collect.py", config],
            env={"PATH": f"{self.tools}:{os.environ['PATH']}", "MS_ROOT": str(self.root)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        self.said = done.stderr
        output = self.root / "var/lib/prometheus/node-exporter"
        assert [path.name for path in output.iterdir()] == ["metalserve.prom"], "nothing is left beside it"
        assert (output / "metalserve.prom").stat().st_mode & 0o777 == 0o644
        lines = (output / "metalserve.prom").read_text().splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_what_it_tells_of_a_host_with_much_to_tell(host: Host) -> None:
    told = host.collect()
    expected = {
        "metalserve_gpus_expected": 4,
        "metalserve_gpus_answering": 2,
        'metalserve_gpu_fabric_completed{UUID="GPU-aaaa",gpu="0"}': 1,
        'metalserve_gpu_fabric_completed{UUID="GPU-bbbb",gpu="1"}': 0,
        # the ring buffer has seen more of the one, the journal of the other
        'metalserve_xid_events{xid="31"}': 2,
        'metalserve_xid_events{xid="79"}': 2,
        'metalserve_nvme_link_speed_gts{device="nvme0",pci="0000:57:00.0"}': 8,
        'metalserve_nvme_link_speed_gts_max{device="nvme0",pci="0000:57:00.0"}': 16,
        'metalserve_nvme_link_width{device="nvme0",pci="0000:57:00.0"}': 4,
        'metalserve_nvme_link_width_max{device="nvme0",pci="0000:57:00.0"}': 4,
        'metalserve_nvme_temperature_celsius{device="nvme0"}': 37,
        f"metalserve_weights_verified_timestamp_seconds{{{WEIGHTS}}}": 1_700_000_000,
        'metalserve_release_info{release="2026.11-lts",simulated="true"}': 1,
        'metalserve_release_drift{component="driver",installed="580.178.04",wanted="580.178.04"}': 0,
        'metalserve_release_drift{component="container toolkit",installed="1.19.1-1",wanted="1.20.0-1"}': 1,
        'metalserve_engine_state{replica="0",state="ready"}': 1,
        'metalserve_engine_state{replica="1",state="down"}': 1,
        'metalserve_engine_state{replica="2",state="stalled"}': 1,
        'metalserve_engine_state{replica="2",state="ready"}': 0,
        'metalserve_engine_gate_open{replica="0"}': 1,
        'metalserve_engine_gate_open{replica="1"}': 0,
        'metalserve_engine_restarts{replica="1"}': 4,
        "metalserve_reboot_pending": 0,
    }
    assert {name: told.get(name) for name in expected} == expected
    assert not any("DCGM" in name for name in told), "a package that only left its configuration is not installed"
    assert all(value == 1 for name, value in told.items() if name.startswith("metalserve_collector_success"))


def test_every_metric_of_the_rules_is_told(host: Host) -> None:
    told = {name.partition("{")[0] for name in host.collect()}
    named = {name for alert in alerts(Options()) for name in metrics(alert.expr) if name.startswith("metalserve_")}
    assert len(named) > 12
    assert named <= told


def test_a_part_that_cannot_be_read_is_left_out_and_says_so(host: Host) -> None:
    host.tool("dmesg", "dmesg: read kernel buffer failed: Operation not permitted\n", 1)
    host.tool("journalctl", "", 1)
    told = host.collect()
    assert told['metalserve_collector_success{part="xids"}'] == 0
    assert told['metalserve_collector_success{part="gpus"}'] == 1
    assert not any("xid_events" in name for name in told)
    assert "xids: " in host.said and "not permitted" in host.said


def test_a_driver_that_does_not_answer_is_news_and_no_failure_to_read(host: Host) -> None:
    host.tool("nvidia-smi", "Failed to initialize NVML: Driver/library version mismatch\n", 18)
    (host.root / "proc/driver/nvidia/version").unlink()
    told = host.collect()
    assert told["metalserve_gpus_answering"] == 0
    assert told['metalserve_collector_success{part="gpus"}'] == 1
    assert told['metalserve_release_drift{component="driver",installed="none",wanted="580.178.04"}'] == 1


def test_an_xid_is_as_old_as_its_count(host: Host) -> None:
    """The time of an Xid is that of the first look that saw it: looks after that do not make it younger."""
    series = 'metalserve_xid_last_timestamp_seconds{xid="31"}'
    output = host.root / "var/lib/prometheus/node-exporter/metalserve.prom"
    first = host.collect()
    assert time.time() - first[series] < 60
    output.write_text(output.read_text().replace(str(int(first[series])), "1700000000"))
    assert host.collect()[series] == 1_700_000_000
    host.tool("dmesg", DMESG + DMESG)
    again = host.collect()
    assert again['metalserve_xid_events{xid="31"}'] == 4 and time.time() - again[series] < 60
    assert again['metalserve_xid_last_timestamp_seconds{xid="79"}'] == 1_700_000_000, "its count is the journal's"


@pytest.mark.parametrize(
    ("checked", "expected"),
    [
        (None, 1_800_000_000),
        ({"at": 1_800_000_500, "problems": {}}, 1_800_000_500),
        ({"at": 1_700_000_000, "problems": {}}, 1_800_000_000),
        ({"at": 1_800_000_500, "problems": {"a.safetensors": "SHA-256"}}, 0),
    ],
)
def test_weights_are_as_old_as_their_last_full_check(
    host: Host, checked: dict[str, object] | None, expected: int
) -> None:
    host.file("/srv/models/m/.marker", json.dumps({"format": 2, "published_at": 1_800_000_000}))
    if checked is not None:
        host.file("/srv/models/.checked-m", json.dumps(checked))
    told = host.collect()
    assert [v for name, v in told.items() if "weights_verified" in name] == [expected]


def test_nothing_is_made_up_on_a_host_without_gpus_weights_or_engines(host: Host) -> None:
    host.config |= {"gpus": 0, "components": [], "weights": []}
    for path in (host.root / "etc/systemd/system").iterdir():
        path.unlink()
    told = host.collect()
    names = {name.partition("{")[0] for name in told}
    assert not any(word in name for name in names for word in ("gpu", "xid", "weights", "drift", "engine_"))
    host.file("/run/reboot-required", "")
    assert host.collect()["metalserve_reboot_pending"] == 1


def test_a_damaged_configuration_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    done = subprocess.run(
        [sys.executable, "-I", "-S", FILES / "monitoring" / "collect.py", tmp_path / "config.json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "run roles.node_metrics again" in done.stderr and "Traceback" not in done.stderr
