"""Killed by signal 9 at any moment, the agent never publishes a wrong byte, and the next run ends right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from metalserve.paths import ROOT
from tests.weights.agent_host import FILES_OF_MODEL, Host
from tests.weights.source import Source, serving


@pytest.mark.parametrize(
    ("rounds", "longest_s", "slow_s"),
    [(20, 0.25, 0.0), (15, 0.4, 0.01), pytest.param(400, 0.3, 0.0, marks=pytest.mark.slow)],
)
def test_killed_at_any_moment(tmp_path: Path, rounds: int, longest_s: float, slow_s: float) -> None:
    with serving(Source(dict(FILES_OF_MODEL), slow_s=slow_s)) as source:
        host = Host(tmp_path, source.files, source.url)
        done = subprocess.run(
            [sys.executable, "-m", "tests.weights.killing", str(host.config), str(rounds), str(longest_s), "1"],
            env={**os.environ, **host.environment, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["wrong"] == []
        assert told["killed"] > rounds // 3
        source.slow_s = 0
        last = host.stage()
        assert last.returncode == 0, last.stderr
        assert host.right()
        assert host.check("full").returncode == 0
