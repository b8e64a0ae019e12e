from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from metalserve.errors import MetalserveError
from metalserve.lab.fleet import RunningFleet, RunningHost
from metalserve.lab.inventory import lab_hosts
from metalserve.lab.layout import Layout
from metalserve.lab.system import write_json
from metalserve.paths import ROOT
from metalserve.settings import HostSettings
from metalserve.yaml_text import merged


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """A lab as `up` writes it down, with two hosts (none runs)."""
    monkeypatch.setenv("METALSERVE_LAB_DIR", str(tmp_path))
    monkeypatch.setenv("METALSERVE_LAB_ID", "90")
    monkeypatch.delenv("METALSERVE_LAB_OVERRIDES", raising=False)
    layout = Layout.current()
    fleet = RunningFleet(
        lab_id=90,
        release="2026.11-lts",
        service_url=layout.service_url,
        key_fingerprint="A" * 40,
        image=f"{layout.service_url}/images/i.tar",
        image_sha256="0" * 64,
        model={
            "name": "metalserve-lab/tiny-llama",
            "revision": "1" * 40,
            "manifest": str(layout.manifest),
            "source": f"{layout.service_url}/models",
        },
        hosts=[
            RunningHost(
                name=name, index=index, address=layout.host_address(index), profile="l40s-4", suite="trixie",
                expect={"gpu": "l40s", "count": 4},
            )
            for index, name in enumerate(("one", "two"))
        ],
    )  # fmt: skip
    write_json(layout.fleet_file, fleet.model_dump())
    return layout


def test_every_host_has_valid_settings_and_strict_ssh(written: Layout) -> None:
    hosts = dict(lab_hosts())
    assert list(hosts) == ["one", "two"]
    for name, data in hosts.items():
        settings = HostSettings.from_data(data, host=name, source="inventories/lab.py")
        assert settings.simulated
        assert settings.expect.count == 4
        assert settings.repositories.nvidia.key.fingerprint == "A" * 40
        assert data["ssh_strict_host_key_checking"] == "yes"
        assert data["ssh_known_hosts_file"] == str(written.known_hosts)
    assert hosts["two"]["ssh_hostname"] == "10.231.90.12"


def test_overrides_are_merged_key_by_key(written: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written.root / "overrides.yaml"
    path.write_text("all: {engine: {port: 9000}}\ntwo: {expect: {count: 8}, model: null}\n")
    monkeypatch.setenv("METALSERVE_LAB_OVERRIDES", str(path))
    hosts = dict(lab_hosts())
    assert hosts["one"]["engine"]["port"] == hosts["two"]["engine"]["port"] == 9000
    assert hosts["one"]["engine"]["image_archive"]
    assert hosts["two"]["expect"] == {"gpu": "l40s", "count": 8}
    assert hosts["one"]["expect"]["count"] == 4
    assert "model" not in hosts["two"]


@pytest.mark.parametrize("text", ["three: {}", "- one", "one: 5", "{"])
def test_broken_overrides_are_refused(written: Layout, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    path = written.root / "overrides.yaml"
    path.write_text(text)
    monkeypatch.setenv("METALSERVE_LAB_OVERRIDES", str(path))
    with pytest.raises(MetalserveError, match=r"overrides\.yaml"):
        lab_hosts()


def test_merging_leaves_its_arguments_alone() -> None:
    below = {"a": {"b": 1}}
    assert merged(below, {"a": {"c": 2}}) == {"a": {"b": 1, "c": 2}}
    assert below == {"a": {"b": 1}}


def test_pyinfra_without_a_lab_stops_with_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pyinfra", "-y", str(ROOT / "inventories/lab.py"), "exec", "--", "true"],
        capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, "METALSERVE_LAB_DIR": str(tmp_path / "none")},
    )  # fmt: skip
    assert done.returncode != 0
    assert "the lab is not up" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
