"""Runs mending and observing scripts as the seam does: by standard input of a shell, in a directory of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from metalserve.desired.diff import Change
from metalserve.desired.render import RUN_FROM_STDIN, prelude, render

SHELLS = [name for name in ("dash", "bash") if shutil.which(name)]
USER = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
GROUP = subprocess.run(["id", "-gn"], capture_output=True, text=True, check=True).stdout.strip()


@dataclass(frozen=True)
class Result:
    """What a script did."""

    rc: int
    out: str

    @property
    def steps(self) -> list[str]:
        return [line[10:] for line in self.out.splitlines() if line.startswith("@@ms:step ")]


def run_script(script: str, shell: str, run_dir: Path, *, extra: Mapping[str, str] | None = None) -> Result:
    """Run `script` with `shell`; `run_dir` stands for /run/metalserve."""
    environment = {**os.environ, "MS_RUN": str(run_dir), **(extra or {})}
    done = subprocess.run(
        [shell, "-c", RUN_FROM_STDIN], input=script.encode(), capture_output=True, env=environment, timeout=120
    )
    return Result(done.returncode, (done.stdout + done.stderr).decode(errors="replace"))


def mend(changes: list[Change], shell: str, run_dir: Path, *, lock_timeout_s: int = 5) -> Result:
    """Render and run changes."""
    return run_script(render(changes, lock_timeout_s=lock_timeout_s), shell, run_dir)


def with_tools(script: str, tools: Path) -> str:
    """Put `tools` before the PATH that the script sets for itself."""
    assert "PATH=/usr/local/sbin" in script
    return script.replace("PATH=/usr/local/sbin", f"PATH={tools}:/usr/local/sbin", 1)


def function_call(call: str, tools: Path | None = None, *, lock_timeout_s: int = 5) -> str:
    """Return a script that calls one of the prelude's functions, as rendered scripts do."""
    script = f'set -eu\nexec 2>&1\nMS_LOCK_TIMEOUT={lock_timeout_s}\n{prelude()}\nmkdir -p "$MS_RUN"\n{call}\n'
    return with_tools(script, tools) if tools is not None else script


def tool(tools: Path, name: str, body: str) -> None:
    """Write an executable shell script that stands for a program."""
    tools.mkdir(exist_ok=True)
    path = tools / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
