"""The steps on a host, run by the shell with tools that only note what was asked of them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from metalserve.errors import MetalserveError
from metalserve.recovery.host_steps import BUSY, STOPPED, step_script
from metalserve.recovery.values import Subject

GPU = Subject("gpu", "0000:4e:00.0", "42")
SYSTEMCTL = r"""#!/bin/sh
[ "$1" = is-active ] || echo "systemctl $*" >>"$NOTED"
state=$STATES/$(printf '%s' "$2" | tr / _)
case $1 in
  is-active) [ -e "$state" ] && echo active || echo inactive ;;
  is-enabled) echo disabled ;;
  stop) shift; for u in "$@"; do case $u in --*) ;; *) rm -f "$STATES/$u" ;; esac; done ;;
  start) shift; for u in "$@"; do case $u in --*) ;; *) touch "$STATES/$u" ;; esac; done ;;
esac
"""
NOTES = '#!/bin/sh\necho "$(basename "$0") $*" >>"$NOTED"\n'


class Host:
    """A directory in place of /etc, /run and the tools."""

    def __init__(self, root: Path, *running: str) -> None:
        self.root, self.noted, self.states = root, root / "noted", root / "states"
        for place in ("bin", "states", "units", "run"):
            (root / place).mkdir()
        for name in running:
            (self.states / name).touch()
        (root / "units" / "metalserve-vllm-0.service").touch()
        (root / "units" / "metalserve-vllm-1.service").touch()
        (root / "units" / "metalserve-vllm-watch.service").touch()
        self.tool("systemctl", SYSTEMCTL)
        for name in ("docker", "nvidia-smi", "modprobe", "rmmod"):
            self.tool(name, NOTES)
        self.tool("lsmod", "#!/bin/sh\nprintf 'nvidia_uvm 1 0\\nnvidia 1 1 nvidia_uvm\\n'\n")
        self.tool(
            "timeout",
            '#!/bin/sh\nwhile :; do case $1 in -k) shift 2 ;; [0-9]*) shift ;; *) break ;; esac; done\nexec "$@"\n',
        )

    def tool(self, name: str, text: str) -> None:
        path = self.root / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        for there, here in (
            ("/etc/systemd/system/", "units/"),
            ("/run/metalserve", "run"),
            ("/etc/containers/systemd/", "no/"),
        ):
            script = script.replace(there, f"{self.root}/{here}")
        script = script.replace("PATH=/usr/local/sbin", f"PATH={self.root}/bin:/usr/local/sbin")
        environment = {**os.environ, "NOTED": str(self.noted), "STATES": str(self.states)}
        return subprocess.run(
            ["sh"], input=script, capture_output=True, text=True, env=environment, timeout=60, check=False
        )

    @property
    def said(self) -> list[str]:
        return self.noted.read_text().splitlines() if self.noted.exists() else []

    def place(self, word: str) -> int:
        return next(n for n, line in enumerate(self.said) if word in line)


ENGINES = ("metalserve-vllm-0.service", "metalserve-vllm-1.service")


def test_a_reset_stops_in_order_and_starts_again_in_the_other(tmp_path: Path) -> None:
    host = Host(tmp_path, *ENGINES, "nvidia-dcgm.service", "nvidia-fabricmanager.service")
    done = host.run(step_script("reset-gpu", [GPU], together=True, who="me"))
    assert done.returncode == 0, done.stdout + done.stderr
    order = ["docker kill metalserve-vllm-0", "stop nvidia-dcgm", "stop nvidia-fabricmanager", "nvidia-smi -r",
             "start nvidia-fabricmanager", "start nvidia-dcgm", "start --no-block metalserve-vllm-0"]  # fmt: skip
    assert [host.place(word) for word in order] == sorted(host.place(word) for word in order), host.said
    assert not any("-i" in line for line in host.said if line.startswith("nvidia-smi")), "all of the board together"
    assert not any("persistenced" in line and " start " in line for line in host.said), "it did not run before"
    assert not (tmp_path / "run" / Path(STOPPED).name).exists()


def test_a_gpu_that_stands_alone_is_reset_alone(tmp_path: Path) -> None:
    host = Host(tmp_path, *ENGINES)
    assert host.run(step_script("reset-gpu", [GPU], together=False, who="me")).returncode == 0
    assert "nvidia-smi -r -i 0000:4e:00.0" in host.said


def test_a_reset_that_is_refused_still_leaves_the_host_serving(tmp_path: Path) -> None:
    host = Host(tmp_path, *ENGINES, "nvidia-fabricmanager.service")
    host.tool(
        "nvidia-smi", "#!/bin/sh\necho 'Unable to reset GPU 00000000:4E:00.0: In use by another client'\nexit 19\n"
    )
    done = host.run(step_script("reset-gpu", [GPU], together=True, who="me"))
    assert done.returncode != 0 and "ended with 19: Unable to reset GPU" in done.stdout
    assert {path.name for path in host.states.iterdir()} == {*ENGINES, "nvidia-fabricmanager.service"}


def test_what_a_cut_off_step_stopped_is_started_by_the_next(tmp_path: Path) -> None:
    host = Host(tmp_path, *ENGINES)
    (tmp_path / "run" / Path(STOPPED).name).write_text("nvidia-dcgm.service\nnvidia-fabricmanager.service\n")
    assert host.run(step_script("restart-engine", who="me")).returncode == 0
    assert (
        host.place("start nvidia-fabricmanager")
        < host.place("start nvidia-dcgm")
        < host.place("start --no-block metal")
    )


def test_one_engine_is_restarted_and_the_other_left(tmp_path: Path) -> None:
    host = Host(tmp_path, *ENGINES)
    assert host.run(step_script("restart-engine", [Subject("engine", "engine 1")], who="me")).returncode == 0
    assert any("kill metalserve-vllm-1" in line for line in host.said)
    assert not any("metalserve-vllm-0" in line for line in host.said)


def test_modules_that_stay_fail_the_reload_and_the_host_serves(tmp_path: Path) -> None:
    host = Host(tmp_path, *ENGINES)
    host.tool("rmmod", "#!/bin/sh\nexit 1\n")
    done = host.run(step_script("reload-driver", who="me"))
    assert done.returncode != 0 and "could not be unloaded: nvidia_uvm nvidia" in done.stdout
    assert {path.name for path in host.states.iterdir()} == set(ENGINES)


def test_another_run_at_work_is_told_and_nothing_is_done(tmp_path: Path) -> None:
    host = Host(tmp_path, *ENGINES)
    (tmp_path / "run" / "holder").write_text("root@there pid 1\n")
    holder = subprocess.Popen(["flock", str(tmp_path / "run" / "lock"), "sleep", "30"])
    try:
        for _ in range(100):
            if subprocess.run(["flock", "-n", str(tmp_path / "run" / "lock"), "true"], check=False).returncode:
                break
        done = host.run(step_script("restart-engine", who="me"))
    finally:
        holder.terminate()
        holder.wait()
    assert done.returncode == BUSY and "root@there pid 1" in done.stdout
    assert host.said == []


@pytest.mark.parametrize("name", ["0000:4e:00.0; reboot", "-i", "$(id)", "4e:00"])
def test_what_is_no_address_never_reaches_a_shell(name: str) -> None:
    with pytest.raises(MetalserveError, match="no PCI address"):
        step_script("reset-gpu", [Subject("gpu", name)], who="me")


@pytest.mark.parametrize("rung", ["reboot", "converge", "power-cycle", "nonsense"])
def test_what_is_more_than_a_script_is_refused(rung: str) -> None:
    with pytest.raises(MetalserveError, match="not a step"):
        step_script(rung)


def test_an_engine_whose_runtime_did_not_hear_the_first_time_is_killed_again(tmp_path: Path) -> None:
    host = Host(tmp_path, "metalserve-vllm-0.service")
    waits = SYSTEMCTL.replace("stop) shift;", 'stop) [ "$2" = --no-block ] && exit 0; shift;')
    assert waits != SYSTEMCTL
    host.tool("systemctl", waits)
    kill = '[ "$1" = kill ] && [ "$(grep -c "docker kill $2" "$NOTED")" -gt 1 ] && rm -f "$STATES/$2.service"\n'
    host.tool("docker", f"{NOTES}{kill}exit 0\n")
    done = host.run(step_script("restart-engine", [Subject("engine", "engine 0")]))
    assert done.returncode == 0, done.stdout + done.stderr
    assert host.said.count("docker unpause metalserve-vllm-0") == host.said.count("docker kill metalserve-vllm-0") == 2
    assert (host.states / "metalserve-vllm-0.service").exists(), "and started again"
