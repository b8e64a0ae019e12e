"""Fixtures of the weights' tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from metalserve.weights.agent.tree import remove_tree


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory in memory where there is one: to publish is to sync, which other users of a drive make slow."""
    shared = Path("/dev/shm")
    roomy = shared.is_dir() and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 1 << 30
    place = Path(tempfile.mkdtemp(prefix="weights-", dir=shared if roomy else None))
    try:
        yield place
    finally:
        remove_tree(str(place))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB; needs root."""
    place = tmp_path / "small"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(place)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no tmpfs here: {made.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
