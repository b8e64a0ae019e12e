"""Decay on a node that serves: foretold by drift and verify, true when it is rebooted, repaired by the main job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from metalserve.lab.packages import deb_architecture
from metalserve.lab.sim.grub import newer
from metalserve.paths import ROOT
from tests.lab.fleet import Fleet

pytestmark = [pytest.mark.lab, pytest.mark.fleet, pytest.mark.slow]

CONVERGE = "tests/lab/decay_deploy.py"
"""Base, driver and next boot alone: what is proved here needs no engine, and the time of the tests is short."""


NEW = newer(os.uname().release, deb_architecture())
CLEAN = f"/opt/metalserve-lab/bin/fault-apply; dpkg --purge linux-headers-{NEW} 2>/dev/null; " + (
    f"rm -rf /lib/modules/{NEW} /var/lib/dkms/nvidia/*/{NEW}"
)
"""The newer kernel goes with all that was installed and built for it."""


@pytest.fixture
def host(serving: Fleet) -> Iterator[str]:
    """The last host of the fleet, which needs no fabric manager; left as it was found."""
    name = serving.lab.hosts[-1]
    serving.lab.ssh(name, CLEAN)
    yield name
    serving.lab.heal(name)
    serving.lab.ssh(name, CLEAN)


def drift(fleet: Fleet, host: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "metalserve", "drift", "inventories/lab.py", CONVERGE, "--limit", host, "--json"],
        cwd=ROOT,
        env=fleet.environment(),
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.stdout, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["simulated"] is True
    return done.returncode, told


def broken(told: dict[str, Any], host: str) -> dict[str, str]:
    return {f["check"]: f["observed"] for f in told["next_boot"][host]["findings"]}


def test_a_kernel_without_headers_is_foretold_and_repaired(serving: Fleet, host: str) -> None:
    rc, told = drift(serving, host)
    assert (rc, told["next_boot"][host]["answer"]) == (0, "NO"), told
    serving.lab.fault(host, "kernel-without-headers")
    serving.lab.ssh(host, "/opt/metalserve-lab/bin/fault-apply")
    rc, told = drift(serving, host)
    assert (rc, told["next_boot"][host]["answer"]) == (3, "YES"), told
    assert "its headers are missing, so DKMS could not build it" in told["next_boot"][host]["words"]
    assert {"next-boot-module", "next-boot-headers", "next-boot-dkms"} <= set(broken(told, host))
    assert any("linux-headers-" in d["what"] for d in told["drift"])
    assert serving.token(host)  # it serves all the while
    run = serving.run("--limit", host, deploy=CONVERGE)
    assert run.rc == 0, run.out
    assert "warning: warn: next-boot" not in run.out
    assert {role for role, _, _ in run.report["hosts"][host]["changes"]} == {"nvidia_driver"}
    rc, told = drift(serving, host)
    assert (rc, told["next_boot"][host]["answer"]) == (0, "NO"), told


BROKEN = r"""
cd /var/lib/dpkg
sed -i '/^Package: less$/,/^$/ s/^Status: .*/Status: install ok half-configured/' status
sed -i '/^Package: nvidia-driver-pinning-/,/^$/ s/^Version: \(.*\)-1$/Version: \1-0/' status
cat >/etc/apt/apt.conf.d/99zz-decay <<'EOT'
APT::Periodic::Unattended-Upgrade "1";
#clear Unattended-Upgrade::Package-Blacklist;
Unattended-Upgrade::Origins-Pattern { "origin=metalserve-lab-nvidia"; };
Unattended-Upgrade::Automatic-Reboot "true";
EOT
ln -s /bin/true /usr/bin/unattended-upgrade
dpkg --audit | head -n 1
"""
"""A package left half-configured; a pinning package that seems older than the repository's; and upgrades at night."""
MENDED = r"""
rm -f /etc/apt/apt.conf.d/99zz-decay; [ -L /usr/bin/unattended-upgrade ] && rm /usr/bin/unattended-upgrade
sed -i '/^Package: nvidia-driver-pinning-/,/^$/ s/^Version: \(.*\)-0$/Version: \1-1/' /var/lib/dpkg/status
"""


@pytest.mark.slow
def test_what_apt_will_do_and_what_dpkg_left_is_found_and_mended(serving: Fleet, host: str) -> None:
    serving.lab.fault(host, "dkms-broken")
    left = serving.lab.ssh(host, f"/opt/metalserve-lab/bin/fault-apply; {BROKEN}")
    assert left.stdout.strip(), left.stderr
    try:
        rc, told = drift(serving, host)
        assert (rc, told["next_boot"][host]["answer"]) == (3, "YES"), told
        said = broken(told, host)
        assert "the source is gone" in said["next-boot-dkms"]
        assert "less (iF)" in said["next-boot-packages"]
        assert "unattended-upgrades is about to upgrade" in said["next-boot-upgrades"]
        assert "nvidia-driver-pinning-" in said["next-boot-upgrades"]
        assert "reboots the host by itself" in said["next-boot-auto-reboot"]
        run = serving.run("--limit", host, deploy=CONVERGE)
        assert run.rc == 0, run.out
        summaries = [what for _, _, what in run.report["hosts"][host]["changes"]]
        assert any("dpkg --configure -a" in s for s in summaries), summaries
        assert any("build the nvidia module for kernel" in s for s in summaries), summaries
        assert serving.lab.ssh(host, "dpkg --audit").stdout == ""
    finally:
        serving.lab.ssh(host, MENDED)
    rc, told = drift(serving, host)
    assert (rc, told["next_boot"][host]["answer"]) == (0, "NO"), told


@pytest.mark.slow
def test_the_prediction_comes_true(serving: Fleet, host: str) -> None:
    """Rebooted as it is, the node comes up on the new kernel without its driver; the main job mends that too."""
    serving.lab.fault(host, "kernel-without-headers")
    serving.lab.ssh(host, "/opt/metalserve-lab/bin/fault-apply")
    verify = serving.run("--limit", host, deploy="deploys/verify.py")
    assert "next-boot: host: YES, because kernel" in verify.out
    verdict = next(f for f in verify.report["hosts"][host]["findings"] if f["check"] == "next-boot")
    assert verdict["status"] == "warn" and verdict["observed"].startswith("YES")
    serving.lab.reboot(host)
    seen = serving.lab.ssh(host, "uname -r; nvidia-smi")
    assert seen.stdout.splitlines()[0] == NEW and "couldn't communicate with the NVIDIA driver" in seen.stdout
    run = serving.run("--limit", host)
    assert run.rc == 0, run.out
    assert serving.lab.ssh(host, "uname -r; nvidia-smi -L").stdout.splitlines()[0] == NEW
    serving.wait_for_tokens(host, range(8000, 8001))
    serving.lab.heal(host)
    serving.lab.ssh(host, CLEAN)
    serving.lab.reboot(host)
    assert serving.lab.ssh(host, "nvidia-smi -L").returncode == 0
    assert serving.run("--limit", host).rc == 0
