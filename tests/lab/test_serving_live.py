"""Engines that die, stall, are replaced, or run over two hosts: what a fleet's hosts do about it by themselves."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.fleet import Fleet
from tests.lab.test_main_job import BRIDGED, ENGINES

pytestmark = [pytest.mark.lab, pytest.mark.fleet, pytest.mark.slow]

QUICK: dict[str, Any] = {"stall_timeout_s": 6, "start_timeout_s": 60, "restart_delay_s": 1}
PID = "docker inspect -f '{{.State.Pid}}' metalserve-vllm-%d"
BREAK = f"d=/proc/$({PID})/root/run/metalserve-lab; mkdir -p $d; echo %s >$d/fault"
"""The stand-in engine reads its faults from a file in its container; `docker exec` needs rights that the lab lacks."""


@pytest.fixture(scope="module")
def quick(serving: Fleet) -> Iterator[Fleet]:
    """The bridged host with times that suit a test; afterwards it is as the other tests want it."""
    run = serving.run("--limit", BRIDGED, overrides={BRIDGED: {"engine": QUICK}})
    assert run.rc == 0, run.out
    yield serving
    back = serving.run("--limit", BRIDGED)
    assert back.rc == 0, back.out


def container(fleet: Fleet, replica: int, host: str = BRIDGED) -> str:
    return fleet.lab.ssh(host, f"docker inspect -f '{{{{.Id}}}}' metalserve-vllm-{replica}").stdout.strip()


def journal(fleet: Fleet, unit: str, host: str = BRIDGED) -> str:
    return fleet.lab.ssh(host, f"journalctl -q -o cat --no-pager -n 80 -u {unit}").stdout


def ask_in_background(fleet: Fleet, port: int, host: str = BRIDGED) -> threading.Thread:
    thread = threading.Thread(target=fleet.token, args=(host, port), daemon=True)
    thread.start()
    return thread


@pytest.mark.slow
def test_a_stalled_engine_is_found_and_restarted_with_what_showed_it(quick: Fleet) -> None:
    before, other = container(quick, 0), container(quick, 1)
    assert quick.lab.ssh(BRIDGED, BREAK % (0, "hang")).returncode == 0
    ask_in_background(quick, 8000)
    quick.wait_until(BRIDGED, "grep -q stalled /run/metalserve/engines/0", 60)
    quick.wait_until(BRIDGED, "[ $(systemctl is-active metalserve-vllm-0) != active ]", 30)
    quick.wait_for_tokens(BRIDGED, range(8000, 8001))
    assert container(quick, 0) != before and container(quick, 1) == other
    said = journal(quick, "metalserve-vllm-watch")
    assert re.search(r"engine 0 stalled: \d+ requests run and no step was made for \d+ s.*restarted \(1 of 3", said)
    assert "engine 0 said: " in said and "GPU (index, busy, memory, state): 0, " in said
    quick.wait_until(BRIDGED, "grep -q ready /run/metalserve/engines/0", 30)


@pytest.mark.slow
def test_an_engine_whose_core_died_ends_with_status_0_and_comes_back(quick: Fleet) -> None:
    before = container(quick, 1)
    quick.lab.ssh(BRIDGED, BREAK % (1, "dead"))
    quick.wait_until(BRIDGED, "[ $(systemctl is-active metalserve-vllm-1) != active ]", 40)
    quick.wait_for_tokens(BRIDGED, range(8001, 8002))
    assert container(quick, 1) != before
    assert "Result=success" in quick.lab.ssh(BRIDGED, "systemctl show -p Result metalserve-vllm-1").stdout


@pytest.mark.slow
def test_the_gate_names_who_holds_port_and_gpu(quick: Fleet) -> None:
    """Asked directly, as a unit would: a refused start is tried again, which only takes time here."""
    ask = (
        "systemctl show -p Environment --value metalserve-vllm-1 >/run/env; "
        "env MS_PATIENCE=0 MS_LISTEN='0.0.0.0 18000' $(grep -o 'MS_[A-Z]*=[^ \"]*' /run/env | grep -v MS_LISTEN) "
        "/usr/local/lib/metalserve/engine-gate"
    )
    told = quick.lab.ssh(BRIDGED, ask).stderr
    assert re.search(r"another process holds memory of its GPUs: GPU-\S+, \d+, .*container metalserve-vllm-1\)", told)
    hold = "systemd-run -q --unit=squatter sh -c 'exec 7</dev/nvidia1; exec sleep 300'"
    listen = "systemd-run -q --unit=listener python3 -m http.server 18000"
    quick.lab.ssh(BRIDGED, f"systemctl stop metalserve-vllm-1; {hold}; {listen}")
    try:
        quick.wait_until(BRIDGED, "ss -Hltn sport = :18000 | grep -q .", 20)
        assert re.search(r"port 18000 is taken: \S+ by .*python3", quick.lab.ssh(BRIDGED, ask).stderr)
        quick.lab.ssh(BRIDGED, "systemctl stop listener")
        told = quick.lab.ssh(BRIDGED, ask).stderr
        assert re.search(r"holds memory of its GPUs: .*\(sleep 300 of squatter\.service\) -> end it", told), told
    finally:
        quick.lab.ssh(BRIDGED, "systemctl stop listener squatter; systemctl start --no-block metalserve-vllm-1")
    quick.wait_for_tokens(BRIDGED, range(8001, 8002))


class Sampler:
    """Asks both engines all the time; `dark` are the moments at which neither answered."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.dark, self.asked = fleet, 0, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        command = (
            "for p in 8000 8001; do curl -sf -m 5 http://127.0.0.1:$p/v1/models >/dev/null && exit 0; done; exit 1"
        )
        while not self._stop.is_set():
            self.asked += 1
            self.dark += self.fleet.lab.ssh(BRIDGED, command).returncode != 0
            time.sleep(0.2)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def test_a_new_version_comes_engine_by_engine_and_a_bad_one_goes_back(quick: Fleet) -> None:
    shorter = {BRIDGED: {"engine": {**QUICK, "max_model_len": 1024}}}
    with Sampler(quick) as sampler:
        run = quick.run("--limit", BRIDGED, overrides=shorter)
    assert run.rc == 0, run.out
    assert any("replace engine 0, 1: one by one" in change for _, _, change in run.report["hosts"][BRIDGED]["changes"])
    assert sampler.asked > 3 and sampler.dark == 0
    assert "KV cache" in run.report["hosts"][BRIDGED]["proofs"]["launch"]
    record = json.loads(quick.lab.ssh(BRIDGED, "cat /var/lib/metalserve/launch/1.json").stdout)
    assert any("Using max model len 1024" in line for line in record["lines"])

    other = container(quick, 1)
    # longer than the model's own context: the plan cannot know better than who sets it, the engine refuses
    with Sampler(quick) as sampler:
        bad = quick.run("--limit", BRIDGED, overrides={BRIDGED: {"engine": {**QUICK, "max_model_len": 4096}}})
    assert bad.rc == 1
    assert re.search(
        r"engine 0 did not answer as it is wanted now: .*max_model_len.*; the one before serves again",
        bad.failure(BRIDGED).replace("\n", " "),
    ), bad.failure(BRIDGED)
    assert sampler.dark == 0
    assert container(quick, 1) == other, "the others were not touched"
    for replica in (0, 1):  # a reboot would start both as they answered before
        unit = quick.lab.ssh(BRIDGED, f"cat /etc/systemd/system/metalserve-vllm-{replica}.service").stdout
        assert "--max-model-len 1024" in unit
    assert quick.token(BRIDGED, 8000) and quick.token(BRIDGED, 8001)


@pytest.mark.slow
def test_gpus_that_are_cut_anew_change_hands_and_come_back(quick: Fleet) -> None:
    wide = {BRIDGED: {"engine": {**QUICK, "tensor_parallel": 2, "max_model_len": 4096}}}
    bad = quick.run("--limit", BRIDGED, overrides=wide)
    assert bad.rc == 1
    assert "serve again" in bad.failure(BRIDGED), bad.failure(BRIDGED)
    quick.wait_for_tokens(BRIDGED, ENGINES[BRIDGED])
    wide[BRIDGED]["engine"]["max_model_len"] = 1024
    run = quick.run("--limit", BRIDGED, overrides=wide)
    assert run.rc == 0, run.out
    assert quick.token(BRIDGED, 8000)
    units = quick.lab.ssh(BRIDGED, "ls /etc/systemd/system/metalserve-vllm-[0-9]*").stdout.split()
    assert [path.rpartition("/")[2] for path in units] == ["metalserve-vllm-0.service"]


@pytest.mark.slow
def test_engines_come_back_after_the_container_runtime_was_restarted(quick: Fleet) -> None:
    assert quick.lab.ssh(BRIDGED, "systemctl restart docker").returncode == 0
    quick.wait_for_tokens(BRIDGED, range(8000, 8001))
