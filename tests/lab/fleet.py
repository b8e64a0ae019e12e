"""The main job on the lab that is up, run as a user runs it: `pyinfra inventories/lab.py deploys/gpu_node.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from metalserve.lab.api import Lab
from metalserve.paths import ROOT

TOKEN = """
import json, sys, urllib.request
request = urllib.request.Request(
    f"http://127.0.0.1:{sys.argv[1]}/v1/completions",
    json.dumps({"model": sys.argv[2], "prompt": "2+2=", "max_tokens": 4}).encode(),
    {"Content-Type": "application/json"},
)
print(json.load(urllib.request.urlopen(request, timeout=10))["choices"][0]["text"])
"""


@dataclass
class Ran:
    """What one run did: exit status, everything it printed, its report."""

    rc: int
    out: str
    report: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def statuses(self) -> dict[str, str]:
        return {name: host["status"] for name, host in self.report["hosts"].items()}

    def failure(self, host: str) -> str:
        failure = self.report["hosts"][host]["failure"]
        assert failure is not None, self.out
        return (
            f"{failure['role']} / {failure['stage']}: {failure['what']}\n{failure['evidence']}\n-> {failure['remedy']}"
        )


class Fleet:
    """The lab's hosts and the runs on them."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab = lab
        self.directory = directory

    def environment(
        self, overrides: Mapping[str, Any] | None = None, extra: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        values = {
            **os.environ,
            "METALSERVE_LAB_DIR": str(self.lab.layout.root),
            "METALSERVE_LAB_ID": str(self.lab.layout.lab_id),
            "METALSERVE_REPORT": str(self.directory / "report.json"),
            "PYINFRA_PROGRESS": "off",
            "COLUMNS": "120",
        }
        if overrides:
            path = self.directory / "overrides.yaml"
            path.write_text(yaml.safe_dump(dict(overrides)))
            values["METALSERVE_LAB_OVERRIDES"] = str(path)
        return {**values, **(extra or {})}

    def command(self, *arguments: str, deploy: str = "deploys/gpu_node.py") -> list[str]:
        return [sys.executable, "-m", "pyinfra", "-y", "inventories/lab.py", deploy, *arguments]

    def start(
        self,
        *arguments: str,
        deploy: str = "deploys/gpu_node.py",
        overrides: Mapping[str, Any] | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Begin a run and return without waiting for it."""
        return subprocess.Popen(
            self.command(*arguments, deploy=deploy),
            cwd=ROOT,
            env=self.environment(overrides, extra),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(
        self,
        *arguments: str,
        deploy: str = "deploys/gpu_node.py",
        overrides: Mapping[str, Any] | None = None,
        extra: Mapping[str, str] | None = None,
        timeout_s: float = 900,
    ) -> Ran:
        """Run to the end; the report is read when one was written."""
        report = self.directory / "report.json"
        report.unlink(missing_ok=True)
        started = time.monotonic()
        # a file, not a pipe: nothing that a run leaves behind may hold the test up
        with tempfile.TemporaryFile("w+") as out:
            done = subprocess.run(
                self.command(*arguments, deploy=deploy),
                cwd=ROOT,
                env=self.environment(overrides, extra),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=timeout_s,
            )
            out.seek(0)
            said = out.read()
        read = json.loads(report.read_text()) if report.exists() else {}
        return Ran(done.returncode, said, read, time.monotonic() - started)

    def token(self, host: str, port: int = 8000, *, model: str = "metalserve-lab/tiny-llama") -> str:
        """Return what an engine of a host completes a prompt with; empty when it does not."""
        done = self.lab.ssh(host, f"python3 - {port} {model}", stdin=TOKEN)
        return done.stdout.strip() if done.returncode == 0 else ""

    def wait_until(self, host: str, condition: str, timeout_s: int = 20) -> None:
        """Wait until a shell condition holds on a host."""
        done = self.lab.ssh(host, f"timeout {timeout_s} sh -c 'until {condition}; do sleep .1; done'")
        assert done.returncode == 0, f"{host}: never true: {condition}"

    def wait_for_tokens(self, host: str, ports: range, timeout_s: float = 120) -> float:
        """Wait until every engine of a host completes a prompt; returns the seconds that it took."""
        started = time.monotonic()
        waiting = list(ports)
        while waiting:
            assert time.monotonic() - started < timeout_s, f"{host}: no token on ports {waiting}"
            waiting = [port for port in waiting if not self.token(host, port)]
            time.sleep(0.2)
        return time.monotonic() - started
