"""The script that measures a host, run by the shell with a made-up docker and systemctl."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.probes.conftest import PROBES

START = "start --no-block"
DOCKER = """
[ "$1" = run ] || exit 0
case "$*" in *bandwidth.py*) name=bandwidth ;; *soak.py*) name=soak ;; *) name=storage ;; esac
[ -e "$HERE/broken-$name" ] && { echo "docker: no such image" >&2; exit 125; }
if [ -e "$HERE/slow-$name" ]; then
  i=0
  while [ ! -e "$MS_PLACE/stop" ] && [ $i -lt 100 ]; do sleep 0.1; i=$((i + 1)); done
fi
printf '{"probe":"%s"}' $name >"$MS_PLACE/out/$name.json"
"""
SYSTEMCTL = """
case "$1" in
  list-units) cat "$HERE/engines" ;;
  is-active) cat "$HERE/state" 2>/dev/null || echo inactive ;;
  stop) [ ! -e "$HERE/will-not-stop" ] ;;
esac
"""


class Host:
    """A directory that stands for a host."""

    def __init__(self, root: Path) -> None:
        self.root, self.place = root, root / "measure"
        (self.place / "out").mkdir(parents=True)
        shutil.copy(PROBES / "measure.sh", self.place / "measure.sh")
        (root / "bin").mkdir()
        self.tool("docker", DOCKER)
        self.tool("systemctl", SYSTEMCTL)
        self.tool("systemd-run", "")
        self.tool("nvidia-smi", 'cat "$HERE/apps" 2>/dev/null')
        self.tool("dmesg", 'cat "$HERE/kernel-log" 2>/dev/null')
        self.tool("findmnt", "echo /nowhere")
        self.tool("dcgmi", "echo '{}'")
        (root / "engines").write_text("metalserve-vllm-0.service loaded active running x\n")
        self.parameters()

    def tool(self, name: str, script: str) -> None:
        path = self.root / "bin" / name
        path.write_text(f'#!/bin/sh\nprintf "{name} %s\\n" "$*" >>"$HERE/calls"\n{script}\n')
        path.chmod(0o755)

    def parameters(self, **changed: str) -> None:
        values = {
            "MS_IMAGE": "vllm", "MS_GPU_OPTIONS": "--device nvidia.com/gpu=all", "MS_SECONDS": "5", "MS_DCGM": "2",
            "MS_DEPTH": "standard", "MS_MOUNT": "/srv/models", "MS_STOP_ENGINES": "1", "MS_LIMIT_C": "89",
            "MS_NVLS": "leave", "MS_STORAGE_SECONDS": "1", **changed,
        }  # fmt: skip
        text = "".join(f"{name}='{value}'\n" for name, value in values.items())
        for name in ("params", "running"):
            (self.place / name).write_text(text)

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", str(self.place / "measure.sh"), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @property
    def environment(self) -> dict[str, str]:
        own = {"MS_PATH": str(self.root / "bin"), "MS_PLACE": str(self.place), "MS_RUN": str(self.root)}
        return {**os.environ, **own, "HERE": str(self.root)}

    def calls(self, tool: str) -> list[str]:
        lines = (self.root / "calls").read_text().splitlines()
        return [line.removeprefix(f"{tool} ") for line in lines if line.startswith(f"{tool} ")]

    def told(self, name: str) -> str:
        path = self.place / name
        return path.read_text().strip() if path.exists() else ""


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_engines_stop_before_and_start_after(host: Host) -> None:
    done = host.call("run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "stop metalserve-vllm-0.service" in host.calls("systemctl")
    assert host.told("engines") == "metalserve-vllm-0.service"
    probes = [line.split()[-1] for line in host.calls("docker") if line.startswith("run")]
    assert len(probes) == 3
    soak = next(line for line in host.calls("docker") if "soak.py" in line)
    assert "--network none" in soak and "--device nvidia.com/gpu=all" in soak and "--limit-c 89" in soak
    assert sorted(p.stem for p in (host.place / "out").glob("*.json")) == ["bandwidth", "dcgm", "soak", "storage"]
    assert json.loads((host.place / "out" / "dcgm.json").read_text())["level"] == 2
    host.call("after")
    # the lab showed it: after a few measurements systemd refused to start engines ("start-limit-hit")
    assert host.calls("systemctl")[-2:] == [f"{verb} metalserve-vllm-0.service" for verb in ("reset-failed", START)]
    assert not (host.place / "engines").exists() and host.told("failed") == ""
    result = host.call("result").stdout
    assert '@@ms:soak\n{"probe":"soak"}' in result and result.rstrip().endswith("@@ms:end")


def test_engines_are_left_alone_unless_they_may_be_stopped(host: Host) -> None:
    host.parameters(MS_STOP_ENGINES="0")
    assert host.call("run").returncode == 1
    assert host.told("failed").startswith("engines run on this host -> ")
    host.call("after")
    assert not any(line.startswith(("stop", "start")) for line in host.calls("systemctl"))
    assert not any(line.startswith("run") for line in host.calls("docker"))


def test_engines_start_again_when_they_did_not_all_stop(host: Host) -> None:
    (host.root / "will-not-stop").touch()
    assert host.call("run").returncode == 1
    assert host.told("failed") == "the engines did not stop"
    host.call("after")
    assert host.calls("systemctl")[-1] == f"{START} metalserve-vllm-0.service"


def test_a_shell_that_was_killed_is_told_and_engines_start_again(host: Host) -> None:
    (host.root / "slow-soak").touch()
    run = subprocess.Popen(
        ["sh", str(host.place / "measure.sh"), "run"],
        env=host.environment,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 20
    while not host.told("phase").endswith("soak"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.kill()
    run.wait()
    host.call("after")
    assert host.told("failed").startswith("it was killed")
    assert host.calls("systemctl")[-1] == f"{START} metalserve-vllm-0.service"
    assert "rm --force metalserve-measure" in host.calls("docker")
    (host.place / "stop").touch()  # lets the made-up container end
    os.killpg(run.pid, signal.SIGKILL)  # on a host systemd ends what the shell has left


def test_other_programs_on_the_gpus_are_not_measured_with(host: Host) -> None:
    (host.root / "apps").write_text("4711\n")
    assert host.call("run").returncode == 1
    assert "in use by process 4711" in host.told("failed")


def test_a_container_that_does_not_start_is_an_answer_too(host: Host) -> None:
    (host.root / "broken-bandwidth").touch()
    assert host.call("run").returncode == 0
    told = json.loads((host.place / "out" / "bandwidth.json").read_text())
    assert told["error"] == "ended with 125: docker: no such image"
    assert json.loads((host.place / "out" / "soak.json").read_text()) == {"probe": "soak"}


def test_a_new_xid_ends_the_soak(host: Host) -> None:
    (host.root / "slow-soak").touch()
    (host.root / "kernel-log").write_text("NVRM: Xid (PCI:0000:1b:00): 63, old\n")
    run = subprocess.Popen(
        ["sh", str(host.place / "measure.sh"), "run"], env=host.environment, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 20
    while not host.told("phase").endswith("soak"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    with (host.root / "kernel-log").open("a") as log:
        log.write("NVRM: Xid (PCI:0000:1b:00): 79, GPU has fallen off the bus.\n")
    assert run.wait(timeout=20) == 0
    assert host.told("stop") == "Xid: NVRM: Xid (PCI:0000:1b:00): 79, GPU has fallen off the bus."


def test_a_measurement_that_runs_or_ended_unread_is_not_begun_again(host: Host) -> None:
    (host.root / "state").write_text("active\n")
    assert "@@measure attached" in host.call("start").stdout
    assert "@@measure running" in host.call("follow", "1").stdout
    (host.root / "state").write_text("inactive\n")
    (host.place / "ended").touch()
    assert "@@measure ended" in host.call("start").stdout
    assert host.calls("systemd-run") == []
    host.call("result")
    assert "@@measure started" in host.call("start").stdout, "what was read is measured anew"
    assert len(host.calls("systemd-run")) == 1
    assert "ExecStopPost=/bin/sh" in host.calls("systemd-run")[0]


def test_other_parameters_are_another_measurement(host: Host) -> None:
    (host.place / "ended").touch()
    (host.place / "params").write_text("MS_SECONDS='900'\n")
    assert "@@measure started" in host.call("start").stdout


def test_it_waits_for_a_script_that_changes_the_host(host: Host) -> None:
    lock = host.root / "apply"
    with subprocess.Popen(["flock", str(lock), "sleep", "1.5"]) as held:
        time.sleep(0.3)
        started = time.monotonic()
        assert host.call("run").returncode == 0
        assert time.monotonic() - started > 0.8
        held.wait()
    assert (host.root / "applying").read_text().startswith("measurement standard, process ")
