"""The router on the lab: what a client sees while replicas die, stall, are drained, and come back."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from metalserve.paths import ROOT
from tests.lab.fleet import Fleet, Ran
from tests.lab.load import Door, Load
from tests.lab.test_main_job import BRIDGED, PCIE

pytestmark = [pytest.mark.lab, pytest.mark.fleet]

MODEL = "metalserve-lab/tiny-llama"
CLIENT_KEY = "client-key-5f0c2d7e91"
CONTROL = "/usr/local/lib/metalserve/router-control"
SETTINGS: dict[str, Any] = {
    "port": 9443,
    "redirect_port": 9080,
    "tls": {"self_signed": True},
    "keys": [
        {"name": "team-a", "key": {"env": "TEST_CLIENT_KEY"}},
        {"name": "slow", "key": {"env": "TEST_SLOW_KEY"}, "requests_per_minute": 3},
    ],
    "hosts": [BRIDGED, PCIE],
    "check_interval_s": 1,
    "check_timeout_s": 2,
    "response_timeout_s": 8,
}
SECRETS = {"TEST_CLIENT_KEY": CLIENT_KEY, "TEST_SLOW_KEY": "slow-key-77"}
INSIDE = "cd /proc/$(docker inspect -f '{{{{.State.Pid}}}}' metalserve-vllm-{0})/root/run"
STALL = f"{INSIDE} && mkdir -p metalserve-lab && echo hang >metalserve-lab/fault"
HEAL = f"{INSIDE} && rm -f metalserve-lab/fault"


@dataclass
class Routed:
    """The fleet with a router on one of its hosts."""

    fleet: Fleet
    door: Door

    def run(self, *arguments: str, **changes: Any) -> Ran:
        overrides = {BRIDGED: {"router": {**SETTINGS, **changes}}}
        return self.fleet.run(*arguments, deploy="deploys/router.py", overrides=overrides, extra=SECRETS)

    def control(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `metalserve router` as a user does."""
        return subprocess.run(
            [sys.executable, "-m", "metalserve", "router", words[0], "inventories/lab.py", *words[1:]],
            cwd=ROOT,
            env=self.fleet.environment({BRIDGED: {"router": SETTINGS}}, SECRETS),
            capture_output=True,
            text=True,
            timeout=120,
        )

    def states(self) -> Mapping[str, str]:
        """Return each replica's state as the router has it now."""
        said = self.fleet.lab.ssh(BRIDGED, f"{CONTROL} state").stdout
        rows = [line.split(",") for line in said.splitlines() if line.startswith("model-")]
        return {row[1]: row[17] for row in rows if row[1] != "BACKEND"}

    def moved(self) -> int:
        """Return how many requests were tried again on another replica since the router began."""
        said = self.fleet.lab.ssh(BRIDGED, f"{CONTROL} state").stdout
        rows = [line.split(",") for line in said.splitlines() if line.startswith("model-")]
        return sum(int(row[15]) + int(row[16]) for row in rows if row[1] != "BACKEND")

    def wait_for(self, state: str, *replicas: str, timeout_s: float = 30) -> float:
        """Wait until replicas are in a state; returns the seconds that it took."""
        began = time.monotonic()
        while not all(self.states().get(replica, "").startswith(state) for replica in replicas):
            assert time.monotonic() - began < timeout_s, f"{replicas} never {state}: {self.states()}"
            time.sleep(0.1)
        return time.monotonic() - began


@pytest.fixture(scope="module")
def routed(serving: Fleet) -> Iterator[Routed]:
    door = Door(serving.lab.address(BRIDGED), SETTINGS["port"], MODEL, CLIENT_KEY)
    routed = Routed(serving, door)
    try:
        run = routed.run()
        assert run.rc == 0, run.out
        assert run.statuses[BRIDGED] == "changed"
        assert "6 of 6 up" in run.report["hosts"][BRIDGED]["proofs"]["routes"]
        yield routed
    finally:
        for host, replica in ((PCIE, 0), (PCIE, 1)):
            serving.lab.ssh(host, HEAL.format(replica))
        gone = serving.run(deploy="deploys/router.py")
    assert gone.rc == 0, gone.out
    assert serving.lab.ssh(BRIDGED, "ls /etc/metalserve/router; ss -Hltn sport = :9443").stdout == ""


def test_a_second_run_changes_nothing(routed: Routed) -> None:
    run = routed.run()
    assert run.rc == 0, run.out
    assert set(run.statuses.values()) == {"unchanged"}
    assert all(host["sessions"] <= 2 for host in run.report["hosts"].values())


def test_clients_reach_the_listed_paths_with_a_key_and_nothing_else(routed: Routed) -> None:
    door = routed.door
    assert door.complete().whole and door.complete(stream=True).whole
    status, headers, body = door.ask("GET", "/v1/models")
    assert status == 200 and json.loads(body)["data"][0]["id"] == MODEL and "x-metalserve-simulated" in headers
    assert door.ask("GET", "/health", key="")[0] == 200
    for path in (
        "/invocations",
        "/metrics",
        "/load",
        "/tokenize",
        "/v1/load_lora_adapter",
        "/version",
        "/",
        "//v1/models",
    ):
        for method in ("GET", "POST"):
            assert door.ask(method, path, {"prompt": "x"} if method == "POST" else None)[0] == 404, path
    assert door.ask("GET", "/v1/completions")[0] == 405
    for wrong in ("", "client-key", CLIENT_KEY + "x", CLIENT_KEY.upper(), "team-a"):
        status, _, body = door.ask("POST", "/v1/completions", {"model": MODEL, "prompt": "x"}, key=wrong)
        assert status == 401, wrong
        assert json.loads(body)["error"]["code"] == 401
    assert door.ask("POST", "/v1/completions", b"x" * (1024 * 1024 + 1))[0] == 413
    statuses = [door.ask("GET", "/v1/models", key="slow-key-77") for _ in range(5)]
    assert [status for status, _, _ in statuses] == [200, 200, 200, 429, 429]
    assert statuses[-1][1]["retry-after"] == "10"


def test_no_secret_and_no_prompt_is_told(routed: Routed) -> None:
    lab = routed.fleet.lab
    routed.door.ask("POST", "/v1/completions", {"model": MODEL, "prompt": "needle-in-the-prompt", "max_tokens": 2})
    log = lab.ssh(BRIDGED, "journalctl -q -o cat -u metalserve-router -n 2000").stdout
    assert re.search(
        r"key=team-a pool=model-\S+ replica=\S+:80\d\d path=/v1/completions status=200 .*first_byte_ms=\d+", log
    )
    assert "needle" not in log and CLIENT_KEY not in log
    assert lab.ssh(BRIDGED, f"grep -rl -- {CLIENT_KEY} /etc /usr/local /var/lib/metalserve-router").stdout == ""
    modes = lab.ssh(BRIDGED, "stat -c '%a %U' /etc/metalserve/router/*.map /etc/metalserve/router/*.cfg").stdout
    assert set(modes.splitlines()) == {"600 root"}
    metrics = lab.ssh(BRIDGED, "curl -s http://127.0.0.1:8405/metrics").stdout
    assert f'server="{PCIE}:8003"' in metrics
    outside = subprocess.run(["curl", "-sm2", f"http://{routed.door.host}:8405/metrics"], capture_output=True)
    assert outside.returncode != 0


def test_a_replica_that_is_killed_under_load_costs_no_whole_answer(routed: Routed) -> None:
    lab = routed.fleet.lab
    before = routed.moved()
    with Load(routed.door) as load:
        time.sleep(1)
        assert lab.ssh(PCIE, "docker kill metalserve-vllm-1").returncode == 0
        time.sleep(1.5)
        assert (
            lab.ssh(BRIDGED, "systemctl kill -s KILL metalserve-vllm-1; docker kill metalserve-vllm-1").returncode == 0
        )
        time.sleep(1.5)
    assert load.lost(streams=False) == [], load.told()
    assert routed.moved() > before, "a request was on the replica when it died"
    routed.wait_for("UP", f"{PCIE}:8001", f"{BRIDGED}:8001", timeout_s=60)


def test_a_drained_replica_ends_what_it_has_and_gets_nothing_more(routed: Routed) -> None:
    with Load(routed.door, plain=4, streams=4) as load:
        time.sleep(1)
        drained = routed.control("drain", f"{PCIE}:8002", "--wait", "30")
        assert drained.returncode == 0, drained.stderr
        assert re.search(rf"drained in \d+ s: {PCIE}:8002", drained.stdout)
        stopped = routed.fleet.lab.ssh(PCIE, "systemctl restart metalserve-vllm-2")
        assert stopped.returncode == 0
        # until the engine answers again HAProxy calls it down; never may it be up
        assert not routed.states()[f"{PCIE}:8002"].startswith("UP")
        # neither a reload nor a new process forgets it, and neither breaks a stream
        assert routed.fleet.lab.ssh(BRIDGED, "systemctl reload metalserve-router").returncode == 0
        routed.wait_for("DRAIN", f"{PCIE}:8002", timeout_s=60)
        assert routed.control("enable", f"{PCIE}:8002").returncode == 0
    assert load.lost(streams=False) == [] and load.lost(streams=True) == [], load.told()
    routed.wait_for("UP", f"{PCIE}:8002")
    shown = routed.control("status", "--json")
    assert shown.returncode == 0, shown.stderr
    replicas = json.loads(shown.stdout)["routers"][0]["replicas"]
    assert {each["name"]: each["state"] for each in replicas}[f"{PCIE}:8002"] == "up"


def test_a_replica_that_gives_no_token_is_taken_out_though_its_health_is_200(routed: Routed) -> None:
    lab = routed.fleet.lab
    with Load(routed.door) as load:
        assert lab.ssh(PCIE, STALL.format(0)).returncode == 0
        seconds = routed.wait_for("DOWN", f"{PCIE}:8000")
        health = lab.ssh(PCIE, "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8000/health").stdout
        time.sleep(1)
        assert lab.ssh(PCIE, HEAL.format(0)).returncode == 0
    assert health == "200"
    assert seconds < 15
    assert load.lost(streams=False) == [], load.told()
    routed.wait_for("UP", f"{PCIE}:8000")


@pytest.mark.slow
def test_every_replica_is_restarted_under_load_and_nothing_is_lost(routed: Routed) -> None:
    """What a rolling update does: drain, stop, start, wait for a token, enable; streams included."""
    with Load(routed.door, plain=4, streams=3) as load:
        for host, count in ((BRIDGED, 2), (PCIE, 4)):
            for number in range(count):
                replica = f"{host}:{8000 + number}"
                drained = routed.control("drain", replica, "--wait", "60")
                assert drained.returncode == 0, drained.stderr
                restarted = routed.fleet.lab.ssh(host, f"systemctl restart metalserve-vllm-{number}", timeout_s=300)
                assert restarted.returncode == 0, restarted.stderr
                assert routed.control("enable", replica).returncode == 0
                routed.wait_for("UP", replica)
    assert load.lost(streams=False) == [] and load.lost(streams=True) == [], load.told()
    assert len(load.got) > 50


@pytest.mark.slow
def test_an_engine_that_is_stopped_without_a_drain_costs_no_whole_answer(routed: Routed) -> None:
    """While it stops vLLM answers new requests with 500: those are tried again elsewhere."""
    with Load(routed.door) as load:
        time.sleep(1)
        assert routed.fleet.lab.ssh(PCIE, "systemctl restart metalserve-vllm-3", timeout_s=300).returncode == 0
    assert load.lost(streams=False) == [], load.told()
    routed.wait_for("UP", f"{PCIE}:8003")


@pytest.mark.slow
def test_a_configuration_that_haproxy_refuses_is_not_loaded(routed: Routed) -> None:
    lab = routed.fleet.lab
    # a certificate that is none: known only to HAProxy, on that host
    lab.ssh(BRIDGED, "cp /etc/metalserve/router/tls.pem /root/tls.pem; echo broken >/etc/metalserve/router/tls.pem")
    try:
        run = routed.run()
        assert run.rc == 1
        assert "haproxy refuses the configuration" in run.failure(BRIDGED)
        assert "unable to load" in run.failure(BRIDGED) or "PEM" in run.failure(BRIDGED)
        assert routed.door.complete().whole, "the running configuration goes on"
    finally:
        lab.ssh(BRIDGED, "cp /root/tls.pem /etc/metalserve/router/tls.pem; rm /root/tls.pem")
    assert routed.run().statuses[BRIDGED] == "unchanged"


def test_the_last_replica_is_not_drained_unless_forced(routed: Routed) -> None:
    refused = routed.control("drain", BRIDGED, PCIE)
    assert refused.returncode == 4
    assert "nothing else is up that serves this model" in refused.stderr
    assert {state.split(" ")[0] for state in routed.states().values()} == {"UP"}
    unknown = routed.control("drain", "gpu-99")
    assert unknown.returncode == 1 and "has no replica gpu-99" in unknown.stderr
