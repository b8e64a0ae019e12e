"""`metalserve top` as a user runs it: this machine as one host, and one that nobody can reach."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from metalserve.cli.top import command
from metalserve.errors import MetalserveError
from metalserve.paths import ROOT
from tests.watching.samples import Card, gpu_csv

INVENTORY = """
here = [("@local", {"release": "2026.11-lts", "simulated": True})]
gone = [("gone", {"release": "2026.11-lts", "ssh_hostname": "127.0.0.1", "ssh_port": 9, "ssh_allow_agent": False,
                  "ssh_look_for_keys": False})]
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "inventory.py").write_text(INVENTORY)
    (tmp_path / "smi.csv").write_text(gpu_csv([Card(0), Card(1, {"temperature.gpu.tlimit": "-1"})]))
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    tools = {
        "nvidia-smi": f'#!/bin/sh\ncase "$*" in *nvlink*) exit 0 ;; esac\ncat {tmp_path}/smi.csv\n',
        "dmesg": "#!/bin/sh\necho '[ 1.5] NVRM: Xid (PCI:0000:1a:00): 94, pid=7, Contained ECC error'\n",
    }
    for name, text in tools.items():
        (bin_ / name).write_text(text)
        (bin_ / name).chmod(0o755)
    return tmp_path


def top(place: Path, *words: str, columns: str = "80") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{place}/bin:{os.environ['PATH']}", "COLUMNS": columns}
    words_ = [sys.executable, "-m", "metalserve", "top", str(place / "inventory.py"), *words]
    return subprocess.run(
        words_, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )


def test_once_as_json_with_a_host_that_is_gone(place: Path) -> None:
    done = top(place, "--once", "--json", "--interval", "0.5")
    assert done.returncode == 1, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    nodes = {node["name"]: node for node in told["nodes"]}
    assert [node["name"] for node in told["nodes"]] == ["gone", "@local"]  # the worst first
    assert nodes["gone"]["state"] == "down" and "no connection" in nodes["gone"]["said"]
    here = nodes["@local"]
    assert [gpu["margin_c"] for gpu in here["gpus"]] == [26, -1] and here["simulated"] is True
    assert here["xids"][0]["code"] == 94 and here["xids"][0]["remedy"]


def test_once_as_a_screen_of_one_host(place: Path) -> None:
    done = top(place, "--once", "--limit", "here", "--interval", "0.5", columns="100")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "\x1b" not in done.stdout and max(map(len, lines)) <= 100
    assert "SIMULATED" in lines[0] and any(line.split()[:2] == ["1", "97"] for line in lines)
    assert "94 " in done.stdout


def test_what_cannot_be_shown_is_refused_before_any_host_is_asked() -> None:
    done = CliRunner().invoke(command, ["no-such-inventory.py"])
    assert done.exit_code == 2 and "no terminal" in done.output
    done = CliRunner().invoke(command, ["no-such-inventory.py", "--once", "--filter", "heat>1"])
    assert isinstance(done.exception, MetalserveError) and "no figure 'heat'" in str(done.exception)
