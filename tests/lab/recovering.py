"""`metalserve recover` on the lab that is up, run as a user runs it, with a memory of the test's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metalserve.paths import ROOT
from metalserve.recovery.store import Store
from metalserve.recovery.values import Attempt
from tests.lab.fleet import Fleet, Ran

OVERRIDES: dict[str, Any] = {
    "all": {
        "recovery_fleet": {"floor_percent": 0, "percent": 100, "breaker_least": 4},
        "verify": {"soak_seconds": 2},
    }
}
"""The lab has one host a kind, so that no floor would ever let one go. Of three hosts on one busy machine three may
look ill at once, and the breaker has a test of its own. A soak of two seconds shows as much as a long one where the
GPUs are simulated."""

STRUCK = "grep -q '\"%s\"' /opt/metalserve-lab/state/applied.json"
WATCH_S = 90
"""Seconds within which the host's watcher has seen a fault; it looks once a second, and a busy machine holds it up."""
NOTICED = "grep -q '%s' /opt/metalserve-lab/state/boot/noticed.json"


@dataclass
class Recovering:
    """The fleet, and a directory for what a controller remembers; `secrets` are variables that the settings name."""

    fleet: Fleet
    state: Path
    overrides: dict[str, Any] = field(default_factory=lambda: dict(OVERRIDES))
    secrets: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        return self.fleet.environment(self.overrides, {"METALSERVE_STATE": str(self.state), **self.secrets})

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "metalserve", "recover", "inventories/lab.py", *arguments]

    def run(self, *arguments: str, timeout_s: float = 900) -> tuple[int, dict[str, Any], str]:
        """Return the exit status, the JSON that was printed, and what was said meanwhile."""
        done = subprocess.run(
            self.command("--json", *arguments), cwd=ROOT, env=self.environment(), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip
        return done.returncode, json.loads(done.stdout) if done.stdout.strip() else {}, done.stderr

    def remembered(self, *words: str) -> tuple[int, str]:
        """Run a command of `metalserve recover` that touches no host; returns its exit status and what it said."""
        done = subprocess.run(
            [sys.executable, "-m", "metalserve", "recover", *words], cwd=ROOT, env=self.environment(),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Begin a run and return without waiting for it; `Popen.communicate` gives its JSON and its log."""
        return subprocess.Popen(
            self.command("--json", *arguments), cwd=ROOT, env=self.environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def deploy(self, *arguments: str) -> Ran:
        """Run deploys/recover.py."""
        return self.fleet.run(*arguments, deploy="deploys/recover.py", overrides=self.overrides)

    def attempts(self, host: str) -> list[Attempt]:
        store = Store(self.state / "recovery.db")
        try:
            return store.attempts(host)
        finally:
            store.close()

    def killed_when(
        self, host: str, steps: int, *, ended: bool, also: Callable[[], bool] = lambda: True, timeout_s: float = 600
    ) -> bool:
        """Begin a recovery and kill it when so many steps stand in the memory; False when it ended before.

        Args:
            host: the host.
            steps: the step.
            ended: wait until it has its outcome, not only its beginning.
            also: what must hold besides.
            timeout_s: seconds.
        """
        child = subprocess.Popen(
            self.command("--yes", host), cwd=ROOT, env=self.environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        until = time.monotonic() + timeout_s
        try:
            while child.poll() is None:
                assert time.monotonic() < until, f"{host}: never came to step {steps}"
                seen = self.attempts(host) if (self.state / "recovery.db").exists() else []
                made = seen[0].steps if seen else ()
                if len(made) >= steps and (not ended or made[steps - 1].ended is not None) and also():
                    os.killpg(child.pid, signal.SIGKILL)  # with the pyinfra that it may be running
                    child.wait()
                    return True
                time.sleep(0.05)
            return False
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()


def rungs(attempt: dict[str, Any]) -> list[tuple[str, str | None]]:
    """Return the steps of an attempt that was printed, each with its proof."""
    return [(s["step"]["rung"], s["proof"]) for s in attempt["steps"] if s["step"]["rung"] not in ("drain", "restore")]


def strike(
    fleet: Fleet, host: str, fault: str, gpu: int | None = None, *, sticky: bool = False, first: bool = True
) -> None:
    """Inject a fault and wait until the host shows it; `first` heals what was before."""
    if first:
        fleet.lab.heal(host)
        fleet.wait_until(host, f"! {STRUCK % fault}", WATCH_S)  # or the same fault again would do nothing
    entry = fleet.lab.fault(host, fault, gpu, sticky=sticky)
    if fault in ("engine-hang", "engine-dead", "fabric-manager-dead", "container-stuck"):
        fleet.wait_until(host, STRUCK % fault, WATCH_S)
    elif gpu is not None:  # by its number: the kernel log may hold lines of a fault before
        fleet.wait_until(host, NOTICED % entry["id"], WATCH_S)


def mend(fleet: Fleet, names: Collection[str]) -> None:
    """Heal hosts and bring them back to serving; they are rebooted when that is not all."""
    for name in names:
        fleet.lab.heal(name)
    limits = [word for name in names for word in ("--limit", name)]
    if not names or fleet.run(*limits).rc == 0:
        return
    for name in names:
        fleet.lab.stop(name, grace_s=0)
        fleet.lab.start(name)
    run = fleet.run(*limits)
    assert run.rc == 0, run.out
