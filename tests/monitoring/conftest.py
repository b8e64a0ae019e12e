from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from metalserve.paths import lab_directory


@pytest.fixture(scope="session")
def promtool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prometheus' own tool: of this machine, kept from the last time, or out of the distribution's package.

    Where it cannot be had these tests fail: rules that nobody checked must not look checked.
    """
    found = shutil.which("promtool")
    if found is not None:
        return Path(found)
    kept = lab_directory() / "cache" / "promtool"
    if not kept.exists():
        _unpack(_package(tmp_path_factory.mktemp("promtool")), kept)
    return kept


def _package(place: Path) -> Path:
    carried = sorted((lab_directory() / "cache").glob("distribution-*/prometheus_*.deb"))
    if carried:
        return carried[0]
    place.chmod(0o777)  # apt downloads as a user of its own
    done = subprocess.run(["apt-get", "download", "prometheus"], cwd=place, capture_output=True, text=True, timeout=300)
    packages = list(place.glob("prometheus_*.deb"))
    if not packages:
        pytest.fail(
            f"promtool cannot be had: apt-get download prometheus: {done.stderr.strip()} "
            "-> install the package prometheus, or make this machine's apt sources work"
        )
    return packages[0]


def _unpack(package: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f".promtool.{os.getpid()}.new")
    with new.open("wb") as stream:
        archive = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE)
        done = subprocess.run(
            ["tar", "--extract", "--to-stdout", "./usr/bin/promtool"], stdin=archive.stdout, stdout=stream, check=False
        )
        archive.communicate()
    if done.returncode != 0 or new.stat().st_size == 0:
        pytest.fail(f"{package} has no promtool in it")
    new.chmod(0o755)
    new.replace(target)
