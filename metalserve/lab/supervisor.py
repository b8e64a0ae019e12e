"""What stands where the power button is: runs one host, boots it again after a reboot, and says how it ended.

Runs as a process of its own for each host (`python -m metalserve.lab.supervisor DIRECTORY`). systemd-nspawn ends
with 133 when the host reboots and with 0 when it powers off.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from metalserve.lab import cgroups
from metalserve.lab.system import ProcessId, children, read_json, run, write_json

REBOOTED = 133
# A host that cannot boot must not spin: this many ends within a second each, and the supervisor gives up.
MAX_QUICK_ENDS = 3
KNOWN_S = 30.0
"""Seconds within which who started a supervisor writes it down; one that nobody knows could never be ended."""


class Supervisor:
    """Runs the host described by `DIRECTORY/machine.json`.

    `machine.json` has `command` (argv of systemd-nspawn), `namespace`, `port` (the host's link on the bridge) and
    `cgroup` (the control group to start in, or null where systemd gives it one).
    """

    def __init__(self, directory: Path) -> None:
        """Read the host's description."""
        self.directory = directory
        self.machine: dict[str, Any] = json.loads((directory / "machine.json").read_text())
        self.ending = False
        self.child: subprocess.Popen[bytes] | None = None

    def note(self, state: str, boots: int, **more: object) -> None:
        """Record the host's state in `state.json`, with the identity of the processes."""
        mine = ProcessId.of(os.getpid())
        child = ProcessId.of(self.child.pid) if self.child else None
        leader = self.leader() if self.child else None
        write_json(
            self.directory / "state.json",
            {
                "state": state,
                "boots": boots,
                "since": time.time(),
                "supervisor": vars(mine) if mine else None,
                "nspawn": vars(child) if child else None,
                "leader": vars(leader) if leader else None,
                **more,
            },
        )

    def leader(self, timeout_s: float = 10.0) -> ProcessId | None:
        """Return the host's PID 1 as the machine sees it, once systemd-nspawn has started it.

        It is recorded because it lives on when systemd-nspawn is killed, and must then be found again.
        """
        deadline = time.monotonic() + timeout_s
        while self.child is not None and self.child.poll() is None and time.monotonic() < deadline:
            for pid in children(self.child.pid):
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/{pid}/ns/pid") != os.readlink("/proc/self/ns/pid"):
                        return ProcessId.of(pid)
            time.sleep(0.02)
        return None

    def end(self, number: int, frame: FrameType | None) -> None:
        """On SIGTERM: cut the power."""
        self.ending = True
        if self.child is None:
            return
        # ending the host's own PID 1 ends everything in it at once, and systemd-nspawn then tidies up and returns
        for pid in children(self.child.pid) or [self.child.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def known(self) -> bool:
        """Wait until this process stands in `state.json`; False when it never does."""
        mine = ProcessId.of(os.getpid())
        deadline = time.monotonic() + KNOWN_S
        while time.monotonic() < deadline:
            recorded = read_json(self.directory / "state.json") or {}
            if mine is not None and recorded.get("supervisor") == vars(mine):
                return True
            time.sleep(0.02)
        return False

    def loop(self) -> int:
        """Run the host until it is powered off or cannot start."""
        signal.signal(signal.SIGTERM, self.end)
        boots = quick = 0
        if not self.known():
            return 1
        while True:
            if self.ending:
                self.note("stopped", boots)
                return 0
            started = time.monotonic()
            with (self.directory / "console.log").open("ab") as console:
                self.child = subprocess.Popen(
                    self.machine["command"],
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=self.enter_cgroup,  # noqa: PLW1509 - there are no threads here
                )
            boots += 1
            if self.ending:  # asked while it was being started
                self.end(signal.SIGTERM, None)
            self.note("running", boots)
            self.keep_unplugged()
            code = self.child.wait()
            self.child = None
            if self.machine.get("cgroup"):
                cgroups.remove(self.machine["cgroup"])
            if code == REBOOTED and not self.ending:
                continue
            if code == 0 or self.ending:
                self.note("stopped", boots, exit_code=code)
                return 0
            quick = quick + 1 if time.monotonic() - started < 1.0 else 1
            if quick >= MAX_QUICK_ENDS:
                self.note("failed", boots, exit_code=code)
                return 1
            time.sleep(0.2)

    def enter_cgroup(self) -> None:
        """In the child, before it becomes systemd-nspawn: a control group of the host's own, where it needs one."""
        if self.machine.get("cgroup"):
            cgroups.enter(self.machine["cgroup"])

    def keep_unplugged(self) -> None:
        """An unplugged cable stays unplugged over a reboot: the port is new after each."""
        if not (self.directory / "unplugged").exists() or self.child is None:
            return
        command = ["ip", "-n", self.machine["namespace"], "link", "set", self.machine["port"], "down"]
        deadline = time.monotonic() + 10
        while self.child.poll() is None and time.monotonic() < deadline:
            if run(command, check=False).returncode == 0:
                return
            time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(Supervisor(Path(sys.argv[1])).loop())
