"""`metalserve top` on the lab: what it says is what nvidia-smi and the engines say; what hangs does not hold it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import Any

import pytest

from metalserve.hardware.parsers.smi import parse_smi_csv
from metalserve.hardware.parsers.text import number
from metalserve.paths import ROOT
from tests.lab.fleet import Fleet

pytestmark = [pytest.mark.lab, pytest.mark.fleet]

COUNTER = "curl -s http://127.0.0.1:{port}/metrics | sed -n 's/^vllm:generation_tokens_total{{.*}} //p'"


def top(fleet: Fleet, *arguments: str, rc: int = 0) -> dict[str, Any]:
    command = [sys.executable, "-m", "metalserve", "top", "inventories/lab.py", "--once", "--json", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=fleet.environment(), capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == rc, done.stdout[-3000:] + done.stderr
    told = json.loads(done.stdout)
    return {node["name"]: node for node in told["nodes"]}


def test_it_tells_the_truth_about_a_serving_node(serving: Fleet) -> None:
    host = serving.lab.hosts[0]
    assert serving.token(host)
    serving.lab.heal(host)
    serving.lab.fault(host, "thermal-throttle", gpu=1)
    try:
        node = top(serving, "--limit", host)[host]
        fields = "index,name,memory.used,memory.total,power.draw,power.limit,temperature.gpu,clocks.sm,clocks.max.sm"
        table = parse_smi_csv(serving.lab.ssh(host, f"nvidia-smi --query-gpu={fields} --format=csv").stdout)
    finally:
        serving.lab.heal(host)
    assert len(table.rows) == len(node["gpus"]) > 1
    for row, gpu in zip(table.rows, node["gpus"], strict=True):
        told = [gpu[key] for key in ("index", "memory_used_mib", "memory_total_mib", "power_w", "power_limit_w",
                                     "temperature_c", "sm_mhz", "sm_max_mhz")]  # fmt: skip
        assert told == [number(value) for key, value in row.items() if key != "name"]
        assert gpu["name"] == row["name"]
    assert node["state"] == "slowed" and node["said"].startswith("GPU 1: the hardware slows the clocks down")
    assert node["gpus"][1]["margin_c"] <= 0 and "hw_thermal_slowdown" in node["gpus"][1]["held"]
    assert node["gpus"][0]["held"] == ["gpu_idle"]
    assert node["engines"] and all(engine["answers"] for engine in node["engines"])
    for engine in node["engines"]:
        counted = serving.lab.ssh(host, COUNTER.format(port=engine["port"])).stdout
        assert engine["generation_tokens"] == float(counted)
    assert node["simulated"] is True


@pytest.mark.slow
def test_requests_that_run_are_seen_with_their_tokens(serving: Fleet) -> None:
    host = serving.lab.hosts[0]
    script = """
import json, urllib.request
body = {"model": "metalserve-lab/tiny-llama", "prompt": "a", "max_tokens": 2000}
data, kind = json.dumps(body).encode(), {"Content-Type": "application/json"}
for _ in range(5):
    request = urllib.request.Request("http://127.0.0.1:8000/v1/completions", data, kind)
    urllib.request.urlopen(request, timeout=60).read()
"""
    running = [threading.Thread(target=serving.lab.ssh, args=(host, "python3 -"), kwargs={"stdin": script})
               for _ in range(2)]  # fmt: skip
    for each in running:
        each.start()
    try:
        engine = top(serving, "--limit", host)[host]["engines"][0]
    finally:
        for each in running:
            each.join()
    assert engine["running"] >= 1 and engine["tokens_s"] > 50


@pytest.mark.slow
def test_a_nvidia_smi_that_hangs_and_a_host_that_is_gone(serving: Fleet) -> None:
    host = serving.lab.hosts[0]
    place = "p=$(command -v nvidia-smi); "
    hang = "printf '#!/bin/sh\\ntrap \"\" TERM\\nexec sleep 600\\n' >/run/hung; chmod +x /run/hung; "
    assert serving.lab.ssh(host, f"{place}{hang}mount --bind /run/hung $p").returncode == 0
    try:
        node = top(serving, "--limit", host, rc=1)[host]
    finally:
        serving.lab.ssh(host, f"{place}umount $p")
    assert node["state"] == "hung" and "nvidia-smi" in node["said"]
    assert node["engines"] and node["engines"][0]["answers"]
    serving.lab.stop(host, grace_s=0)
    try:
        node = top(serving, "--limit", host, rc=1)[host]
    finally:
        serving.lab.start(host)
    assert node["state"] == "down" and "no connection" in node["said"] and node["gpus"] == []
    serving.wait_for_tokens(host, range(8000, 8001))
