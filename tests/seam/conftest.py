"""pyinfra's own command line, run as a user runs it, over `@local` (this machine) and `@fake` hosts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from metalserve.paths import ROOT

RELEASE = "2026.11-lts"

# The answer of a host that has nothing of what the roles of these tests want.
BARE = "\n".join(
    [
        "@@ms:facts",
        "uid=0\narch=x86_64\nlive=1\nproc_sys_rw=1",
        "@@ms:os-release",
        'ID=debian\nVERSION_ID="12"',
        *(f"@@ms:{name}" for name in ("packages", "files", "units", "sysctls", "keys", "end")),
    ]
)


@dataclass
class Run:
    """What one run of the command line did."""

    rc: int
    out: str
    report: dict[str, Any] = field(default_factory=dict)

    def host(self, name: str = "@local") -> dict[str, Any]:
        found: dict[str, Any] = self.report["hosts"][name]
        return found


class Seam:
    """A directory for one test: inventory, report and the files that the roles write."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = directory / "host"
        self.root.mkdir()
        self.inventory = directory / "inventory.py"
        self.hosts({"@local": {}})

    def hosts(self, hosts: Mapping[str, Mapping[str, Any]]) -> None:
        entries = [(name, {"release": RELEASE, **data}) for name, data in hosts.items()]
        self.inventory.write_text(f"nodes = {entries!r}\n")

    def fake(self, answer: str = BARE, **more: Any) -> dict[str, Any]:
        """Return the data of a host that gives `answer` to everything."""
        return {"fake_responses": {"eval": answer}, "fake_delay": 0.0, "fake_delay_jitter": 0.0, **more}

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        return {
            **os.environ,
            "SEAM_ROOT": str(self.root),
            "METALSERVE_REPORT": str(self.directory / "report.json"),
            "PYINFRA_PROGRESS": "off",
            "COLUMNS": "120",
            **(extra or {}),
        }

    def command(self, *arguments: str, deploy: str = "tests/seam/deploy.py") -> list[str]:
        return [sys.executable, "-m", "pyinfra", str(self.inventory), deploy, *arguments]

    def pyinfra(
        self, *arguments: str, deploy: str = "tests/seam/deploy.py", extra: Mapping[str, str] | None = None
    ) -> Run:
        report = self.directory / "report.json"
        report.unlink(missing_ok=True)
        done = subprocess.run(
            self.command(*arguments, deploy=deploy),
            cwd=ROOT,
            env=self.environment(extra),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        return Run(done.returncode, done.stdout, json.loads(report.read_text()) if report.exists() else {})


@pytest.fixture
def seam(tmp_path: Path) -> Seam:
    if os.getuid() != 0:
        pytest.skip("@local changes this machine as its roles would change a host: as root")
    return Seam(tmp_path)
