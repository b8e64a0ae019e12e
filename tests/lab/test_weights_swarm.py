"""Hosts of the lab share a model through the role: most comes from one another, the source gives about one copy."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metalserve.lab.api import Lab
from metalserve.weights.agent.config import WantedFile
from metalserve.weights.agent.torrent import make_torrent, piece_size_for
from metalserve.weights.manifest import Manifest, ManifestFile, write_manifest
from tests.lab.conftest import beside
from tests.lab.fleet import Fleet

pytestmark = [pytest.mark.lab, pytest.mark.slow]

THREE = """\
release: 2026.11-lts
hosts:
  first: {profile: l40s-4, suite: bookworm}
  second: {profile: l40s-4, suite: trixie}
  third: {profile: l40s-4, suite: bookworm}
"""
REVISION = "5a" * 20
KEY = f"lab--shared-{REVISION[:12]}"
MIB = 48


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = beside(tmp_path_factory.mktemp("swarm") / "lab", 149, THREE)
    yield lab
    lab.down()


def settings(lab: Lab) -> dict[str, Any]:
    """Put a model with its manifest and torrent beside the lab's own; returns what the hosts are told of it."""
    place = lab.layout.root / "www" / "models" / "lab" / "shared"
    place.mkdir(parents=True)
    generator = random.Random(11)
    for number in range(4):
        (place / f"part-{number}.safetensors").write_bytes(generator.randbytes(MIB * 2**20 // 4 + number))
    (place / "config.json").write_text("{}")
    contents = {path.name: path.read_bytes() for path in sorted(place.iterdir())}
    listed = [
        ManifestFile(path=name, size=len(content), sha256=hashlib.sha256(content).hexdigest())
        for name, content in contents.items()
    ]
    manifest = Manifest(repository="lab/shared", revision=REVISION, files=listed)
    path = lab.layout.root / "shared.yaml"
    write_manifest(manifest, path)
    files = [WantedFile(each.path, each.size, each.sha256) for each in manifest.files]
    Path(f"{path}.torrent").write_bytes(make_torrent(place, files, piece_size_for(manifest.total)))
    source = f"{lab.fleet.service_url}/models/lab/shared"
    return {
        "model": {"name": "lab/shared", "revision": REVISION, "manifest": str(path), "source": source},
        "staging": {
            "kind": "http",
            "distribution": "swarm",
            "swarm_secret": {"env": "METALSERVE_TEST_SWARM"},
            "rate_mib_s": 2,  # of the source alone: time enough for the hosts to be there together
        },
        "storage": {"device": "none"},
    }


def test_three_hosts_share_a_model(three: Lab, tmp_path: Path) -> None:
    fleet, told = Fleet(three, tmp_path), {"all": settings(three)}
    secret = {"METALSERVE_TEST_SWARM": "5e" * 16}
    run = fleet.run(deploy="deploys/weights.py", overrides=told, extra=secret)
    assert run.rc == 0, run.out
    total = peers = source = 0
    for host in three.hosts:
        progress = json.loads(three.ssh(host, f"cat /run/metalserve/weights/{KEY}.json").stdout)
        assert progress["phase"] == "done", progress
        total += progress["bytes_total"]
        peers += progress["bytes_from_peers"]
        source += progress["bytes_from_source"]
        place = f"/srv/models/lab--shared/{REVISION}"
        assert three.ssh(host, f"ls {place} | wc -l").stdout.strip() == "5"
        assert three.ssh(host, f"systemctl is-active metalserve-weights-seed@{KEY}.service").stdout.strip() == "active"
        assert three.ssh(host, "stat -c %a /etc/metalserve/weights/swarm/key.pem").stdout.strip() == "600"
        assert "5e5e5e5e" not in three.ssh(host, "cat /etc/metalserve/weights/*.json; ps axww").stdout
    assert peers > total / 2, f"{peers} of {total} from peers"
    assert source < total / 2, f"{source} of {total} from the source"
    again = fleet.run(deploy="deploys/weights.py", overrides=told, extra=secret)
    assert again.rc == 0 and set(again.statuses.values()) == {"unchanged"}, again.out
