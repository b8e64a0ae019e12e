"""Bare hosts, and runs that are cut off: another's apt lock, two runs at once, Ctrl-C, a dead link, a full drive."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from metalserve.lab.api import Lab
from metalserve.lab.layout import Layout
from tests.lab.conftest import beside
from tests.lab.fleet import Fleet

pytestmark = pytest.mark.lab

HOSTS = """\
release: 2026.11-lts
hosts:
  node: {profile: l4-1, suite: trixie}
  nogpu: {profile: none, suite: bookworm}
  strange: {profile: l4-1, suite: bookworm}
"""
# As an upgrade by hand would hold it: both of dpkg's locks, by a process with a name.
HOLD_APT = """
import fcntl, time
files = [open(path, "w") for path in ("/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock")]
for file in files:
    fcntl.lockf(file, fcntl.LOCK_EX)
open("/run/apt-held", "w").close()
time.sleep(120)
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    directory = tmp_path_factory.mktemp("bare")
    lab = beside(directory / "lab", 100 + os.getpid() % 50, HOSTS)
    try:
        yield Fleet(lab, directory)
    finally:
        lab.down()


def out_of(process: subprocess.Popen[str], timeout_s: float = 120) -> str:
    said, _ = process.communicate(timeout=timeout_s)
    return said


def wait_until_reached(fleet: Fleet, process: subprocess.Popen[str], condition: str, timeout_s: float = 180) -> None:
    """Wait until a run has come so far that `condition` holds on the node."""
    deadline = time.monotonic() + timeout_s
    while fleet.lab.ssh("node", condition).returncode != 0:
        assert time.monotonic() < deadline, f"never: {condition}"
        assert process.poll() is None, f"the run ended before: {condition}\n{process.stdout and process.stdout.read()}"
        time.sleep(0.2)


def nothing_half_written(lab: Lab) -> None:
    left = lab.ssh("node", "find / -xdev -name '.metalserve.*' -not -path '/proc/*'").stdout
    assert left == ""


def test_a_dry_run_says_what_would_change_and_what_is_known_later(bare: Fleet) -> None:
    dry = bare.run("--dry", "--limit", "node")
    assert dry.rc == 0, dry.out
    host = dry.report["hosts"]["node"]
    assert host["status"] == "would change" and host["changes"] == []
    assert any("nvidia-kernel-open-dkms: absent -> 580" in what for _, _, what in host["planned"])
    assert ["vllm", "launch plan: known only after the driver is there (nvidia-smi: absent)"] in host["unknown"]
    assert bare.lab.ssh("node", "ls /etc/metalserve /usr/local/lib/metalserve").returncode != 0


@pytest.mark.slow
def test_a_run_that_is_cut_off_again_and_again_ends_well(bare: Fleet) -> None:
    lab = bare.lab
    lab.ssh("strange", "printf 'ID=arch\\nPRETTY_NAME=\"Arch Linux\"\\n' >/etc/os-release")

    # another process has apt's lock: the run waits for it, and a second run is told who is at work
    lab.ssh("node", f"cat >/run/hold.py <<'X'\n{HOLD_APT}\nX\nsetsid python3 /run/hold.py >/dev/null 2>&1 </dev/null &")
    bare.wait_until("node", "[ -e /run/apt-held ]")
    first = bare.start("--limit", "node")
    wait_until_reached(bare, first, "grep -q . /run/metalserve/holder && pgrep -f Lock::Timeout")
    second = bare.run("--limit", "node", extra={"METALSERVE_REPORT": str(bare.directory / "second.json")})
    assert second.rc == 1
    assert "another run is at work on this host, held by" in second.out, second.out
    assert f"pid {first.pid} " in second.out
    assert first.poll() is None
    lab.ssh("node", "pkill -f /run/hold.py")

    # Ctrl-C while packages are installed
    wait_until_reached(bare, first, "pgrep -x dpkg || dpkg -s chrony")
    first.send_signal(signal.SIGINT)
    said = out_of(first)
    assert first.returncode == 130
    assert "interrupted" in said and "run the same command again" in said

    # the link dies: the host's own sshd is killed under a run that goes on where that one stopped
    third = bare.start("--limit", "node")
    wait_until_reached(bare, third, "dpkg -s nvidia-kernel-open-dkms && [ -e /proc/driver/nvidia/version ]")
    wait_until_reached(bare, third, "pgrep -f Lock::Timeout")
    lab.ssh("node", "pkill -KILL -f 'sshd(-session)?: root' || :")
    said = out_of(third)
    assert third.returncode == 1
    assert "the connection broke" in said and "run again" in said
    assert "Traceback" not in said

    # the drive is full while the weights are staged
    bare.lab.fault("node", "disk-full")
    full = bare.run("--limit", "node")
    assert full.rc == 1
    assert re.search(r"weights / stage: .*(space|free|full)", full.failure("node")), full.failure("node")
    nothing_half_written(lab)
    bare.lab.heal("node")
    bare.wait_until("node", "! df --output=pcent /srv/models | grep -q 100%")

    # and now all of them: those that never can fail alone, with words
    last = bare.run()
    assert last.rc == 1
    assert last.statuses == {"node": "changed", "nogpu": "failed", "strange": "failed"}, last.out
    assert re.search(r"no NVIDIA GPU", last.failure("nogpu"))
    assert re.search(r"Arch Linux is not supported", last.failure("strange"))
    assert bare.token("node")
    nothing_half_written(lab)
    again = bare.run("--limit", "node")
    assert again.rc == 0 and again.statuses == {"node": "unchanged"}
    assert "1 host: nothing changed" in again.out


def test_hosts_that_cannot_be_nodes_were_left_as_they_were(bare: Fleet) -> None:
    for host in ("nogpu", "strange"):
        assert bare.lab.ssh(host, "dpkg -l | grep -c -E 'docker|nvidia|vllm'").stdout.strip() == "0"


def test_layouts_do_not_collide(bare: Fleet) -> None:
    assert bare.lab.layout.lab_id != Layout.current().lab_id
    assert Path(bare.lab.layout.root) != Path(Layout.current().root)
