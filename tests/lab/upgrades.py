"""Upgrades on lab hosts: releases that the lab's repository has, and what a host says of itself."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metalserve.paths import FILES, ROOT
from tests.lab.fleet import Fleet, Ran

OLD, NOW, OTHER = "lab-580-old", "2026.11-lts", "lab-595-old"
"""An older patch level, the release that the lab is brought up with, another branch."""

VERSIONS = {OLD: "580.159.03", NOW: "580.178.04", OTHER: "595.71.05"}
DEPLOY = "deploys/upgrade.py"


class Upgrades:
    """Upgrades of the hosts of a fleet.

    Args:
        fleet: the hosts; they serve.
        directory: an empty directory.
        overrides: settings of hosts that go before the lab's.
    """

    def __init__(self, fleet: Fleet, directory: Path, overrides: Mapping[str, Any] | None = None) -> None:
        self.fleet = fleet
        self.overrides = dict(overrides or {})
        self.releases = directory / "releases"
        self.releases.mkdir(parents=True)
        for place in (FILES / "releases", ROOT / "tests/lab/data/releases"):
            for file in place.glob("*.yaml"):
                shutil.copy(file, self.releases)
        self.extra = {"METALSERVE_RELEASES_DIR": str(self.releases)}

    def arguments(self, host: str, release: str, *more: str) -> tuple[str, ...]:
        return ("--limit", host, "--data", f"release={release}", *more)

    def run(self, host: str, release: str, *more: str, overrides: Mapping[str, Any] | None = None) -> Ran:
        """Upgrade a host as a user does."""
        return self.fleet.run(
            *self.arguments(host, release, *more),
            deploy=DEPLOY,
            overrides={**self.overrides, **(overrides or {})},
            extra=self.extra,
        )

    def converge(self, host: str, release: str = NOW) -> Ran:
        """Run the main job on a host."""
        return self.fleet.run(*self.arguments(host, release), overrides=self.overrides, extra=self.extra)

    def killed_at(self, host: str, release: str, step: str, direction: str = "forward") -> None:
        """Begin an upgrade, and kill the controller as soon as the host's record says `step`."""
        self.record_path(host).unlink(missing_ok=True)
        child = subprocess.Popen(
            self.fleet.command(*self.arguments(host, release), deploy=DEPLOY),
            cwd=ROOT,
            env=self.fleet.environment(self.overrides, self.extra),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self.wait_for(host, step, direction, child)
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()

    def wait_for(self, host: str, step: str, direction: str, child: subprocess.Popen[Any]) -> None:
        """Wait until the host's record says `step`; looked at from outside, so that nothing is slowed down."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            found = self.record(host)
            if (found.get("step"), found.get("direction")) == (step, direction):
                return
            assert child.poll() is None, f"the run ended ({child.returncode}) before step {step}: {found.get('step')}"
            time.sleep(0.02)
        raise AssertionError(f"never at step {step}: {self.record(host)}")

    def record_path(self, host: str) -> Path:
        return self.fleet.lab.layout.host(host) / "root/var/lib/metalserve/upgrade.json"

    def record(self, host: str) -> dict[str, Any]:
        """Return the host's record; {} when there is none."""
        try:
            found: dict[str, Any] = json.loads(self.record_path(host).read_text())
        except FileNotFoundError:
            return {}
        return found

    def boot(self, host: str) -> str:
        return self.fleet.lab.ssh(host, "cat /proc/sys/kernel/random/boot_id").stdout.strip()

    def driver(self, host: str) -> dict[str, str]:
        """Return the version of the driver in the kernel, on disk, in user space, in the pin and of its packages."""
        told = self.fleet.lab.ssh(
            host,
            "echo kernel $(grep -oE '[0-9]{3}[.][0-9.]+' /proc/driver/nvidia/version | head -n 1); "
            "echo disk $(modinfo -F version nvidia); "
            "echo user $(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1); "
            "echo pin $(ls /etc/apt/preferences.d | sed -n 's/nvidia-driver-pinning-\\(.*\\).pref/\\1/p'); "
            "echo packages $(dpkg-query -W -f '${db:Status-Abbrev} ${Package} ${Version}\\n' | "
            """awk '$1 == "ii" && $3 ~ /^5[0-9][0-9][.]/ && $2 !~ /pinning/ { sub(/-.*/, "", $3); print $3 }' """
            "| sort -u)",
        ).stdout
        return dict(line.partition(" ")[::2] for line in told.splitlines())

    def is_on(self, host: str, release: str) -> None:
        """Hold the host to a release: kernel, disk, user space, pin, packages, its own record."""
        version = VERSIONS[release]
        assert self.driver(host) == dict.fromkeys(("kernel", "disk", "user", "pin", "packages"), version)
        current = json.loads((self.record_path(host).parent / "release.json").read_text())
        assert current["release"]["name"] == release

    def metalserve(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `metalserve upgrade inventories/lab.py ARGUMENTS`."""
        report = self.fleet.directory / "waves.json"
        command = [sys.executable, "-m", "metalserve", "upgrade", "inventories/lab.py", *arguments]
        return subprocess.run(
            [*command, "--report", str(report)],
            cwd=ROOT,
            env=self.fleet.environment(self.overrides, self.extra),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=900,
        )
