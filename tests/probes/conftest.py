from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from metalserve.paths import FILES

PROBES = FILES / "probes"
PYTHON = os.environ.get("METALSERVE_TORCH_PYTHON") or sys.executable
"""The Python that runs the probes: they need PyTorch, the tests do not (`./run test-probes` makes one)."""


def load(name: str) -> ModuleType:
    """Import a probe as a module: it is a program, not part of the package."""
    spec = importlib.util.spec_from_file_location(f"probe_{name}", PROBES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def run(name: str, *arguments: str, timeout_s: float = 120) -> tuple[int, dict[str, Any]]:
    """Run a probe as a host would; return its exit status and what it printed."""
    done = subprocess.run(
        [PYTHON, str(PROBES / f"{name}.py"), "--json", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.stdout.count("\n") == 1, done.stdout + done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="session")
def torch() -> None:
    there = subprocess.run([PYTHON, "-c", "import torch"], capture_output=True, check=False).returncode == 0
    if not there:
        pytest.skip("PyTorch is not installed: ./run test-probes proves the probes on the CPU")


@pytest.fixture
def smi(tmp_path: Path) -> Path:
    """An nvidia-smi in loop mode that prints what `lines` beside it holds, and knows only the fields in `known`."""
    path = tmp_path / "nvidia-smi"
    path.write_text(
        """#!/bin/sh
here=$(dirname "$0")
fields=${1#--query-gpu=}
for field in $(printf %s "$fields" | tr , ' '); do
  grep -qx "$field" "$here/known" || { echo "Field \\"$field\\" is not a valid field to query."; exit 2; }
done
cat "$here/lines"
[ "$3" = -lms ] || exit 0
while sleep 0.2; do cat "$here/lines"; done
"""
    )
    path.chmod(0o755)
    return path
