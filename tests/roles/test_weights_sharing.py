"""Role weights, where the hosts of a fleet share a model: what they are told, who gives, and when nothing is shared."""

from __future__ import annotations

import base64
import stat
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from metalserve.desired.node import Node
from metalserve.desired.observed import Observation
from metalserve.errors import MetalserveError
from metalserve.verify.finding import worst
from metalserve.weights.agent.config import read_job
from metalserve.weights.agent.torrent import decode, make_torrent
from metalserve.weights.host import config_path
from metalserve.weights.manifest import Manifest
from metalserve.weights.sharing import CREDENTIALS, Member, torrent_path
from metalserve.weights.units import DIRECTORY, seed_name, unit_files
from roles.weights import desired as role
from roles.weights import sharing
from tests.roles.helpers import BOOTED, a_file, after, changes, make_node, unit
from tests.weights.agent_host import wanted

REVISION = "ab" * 20
KEY = f"org--model-{REVISION[:12]}"
BODIES = {"config.json": b"{}", "model.safetensors": b"w" * 100_000}
SECRET = "5e" * 16


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLEET_SECRET", SECRET)
    files = wanted(BODIES)
    rows = [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in files]
    made = Manifest.model_validate({"repository": "org/model", "revision": REVISION, "files": rows})
    path = tmp_path / "manifest.yaml"
    path.write_text(yaml.safe_dump(made.model_dump()))
    for name, body in BODIES.items():
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / name).write_bytes(body)
    path.with_name("manifest.yaml.torrent").write_bytes(make_torrent(tmp_path / "model", files, 65536))
    return path


def data_of(manifest: Path, **staging: Any) -> dict[str, Any]:
    return {
        "model": {"name": "org/model", "revision": REVISION, "manifest": str(manifest)},
        "staging": {"distribution": "swarm", "swarm_secret": {"env": "FLEET_SECRET"}, **staging},
    }


def node_of(manifest: Path, **staging: Any) -> Node:
    return make_node(settings=data_of(manifest, **staging))


def members(node: Node, *others: str) -> tuple[Member, ...]:
    return (
        Member(node.name, "10.0.0.1", node.settings),
        *(Member(name, f"10.0.0.{number}", node.settings) for number, name in enumerate(others, 2)),
    )


def told(node: Node, *others: str) -> dict[str, Any]:
    wish = role.configure(node, sharing.config_of(node, members(node, *others)))
    return {file.path: file for file in wish.files}


def test_a_host_is_told_of_the_others_and_gets_what_it_shows_them(manifest: Path, tmp_path: Path) -> None:
    node = node_of(manifest, upload_mib_s=5)
    files = told(node, "b", "c")
    (tmp_path / "job.json").write_text(files[config_path(KEY)].content)
    swarm = read_job(str(tmp_path / "job.json")).swarm
    assert swarm is not None and swarm.listen.startswith("10.0.0.1:") and len(swarm.peers) == 2
    assert (swarm.torrent, swarm.credentials, swarm.upload_bytes_s) == (torrent_path(KEY), CREDENTIALS, 5 << 20)
    key = files[f"{CREDENTIALS}/key.pem"]
    assert key.secret and int(key.mode, 8) == stat.S_IRUSR | stat.S_IWUSR
    torrent = decode(base64.b64decode(files[torrent_path(KEY)].content))
    assert torrent[b"info"][b"ssl-cert"].decode() == files[f"{CREDENTIALS}/ca.pem"].content
    assert {package.name for package in role.configure(node).packages} == {"python3", "python3-libtorrent"}
    text = repr(role.configure(node, sharing.config_of(node, members(node))))
    assert SECRET not in text and SECRET not in "".join(file.content or "" for file in files.values())


def test_a_second_run_changes_nothing_and_all_is_watched(manifest: Path) -> None:
    node = node_of(manifest)
    wish = role.configure(node, sharing.config_of(node, members(node, "b")))
    assert changes(wish, after(node, wish)) == []
    watched = role.watch(node.settings, node.release)
    for path in {f.path for f in wish.files} | {d.path for d in wish.directories}:
        assert any(fnmatch(path, pattern) for pattern in watched.paths), path
    assert seed_name(KEY) in watched.units


def test_nothing_is_shared_where_it_is_not_wished(manifest: Path) -> None:
    node = make_node(settings={**data_of(manifest), "staging": {}})
    assert sharing.config_of(node, ()) is None and sharing.configure(node).files == ()
    assert sharing.check(node) == ()
    files = told(node)
    assert f"{DIRECTORY}/metalserve-weights-seed@.service" not in files
    assert "seed" not in files[f"{DIRECTORY}/metalserve-weights@.service"].content
    before = f"{DIRECTORY}/metalserve-weights-seed@.service"
    seen = node.with_observation(replace(node.observed, files={before: a_file(before)}))
    assert f"file {before}: -> removed" in changes(role.configure(seen), seen)


def test_without_a_torrent_all_is_fetched_directly_and_said(manifest: Path) -> None:
    node = node_of(manifest)
    assert sharing.check(node) == ()
    manifest.with_name("manifest.yaml.torrent").unlink()
    assert sharing.config_of(node, members(node)) is None and sharing.configure(node).files == ()
    assert worst(sharing.check(node)) == "warn"


def test_a_torrent_of_another_model_is_refused(manifest: Path) -> None:
    torrent = manifest.with_name("manifest.yaml.torrent")
    (manifest.parent / "model" / "config.json").write_bytes(b"{ }")
    torrent.write_bytes(make_torrent(manifest.parent / "model", wanted({**BODIES, "config.json": b"{ }"}), 65536))
    with pytest.raises(MetalserveError, match="other files"):
        sharing.configure(node_of(manifest))


def test_who_has_the_model_gives_it_while_another_lacks_it(manifest: Path) -> None:
    node = node_of(manifest)
    node = after(node, role.configure(node, sharing.config_of(node, members(node, "b", "c"))))
    empty = replace(node.observed, sections={})
    has = {id(node.observed): True}

    def has_it(seen: Observation) -> bool:
        return has.get(id(seen), False)

    own, b, c = members(node, "b", "c")
    lacking = [(own, node.observed), (b, empty), (c, None)]
    assert changes(sharing.give(node, lacking, has_it), node) == [
        f"give org/model@{REVISION[:12]} to 1 host(s) that lack it (b)"
    ]
    assert f"systemctl start {seed_name(KEY)}" in sharing.give(node, lacking, has_it).actions[0].script
    assert sharing.give(node, [(own, node.observed), (b, node.observed), (c, None)], has_it).actions == ()
    has.clear()
    assert sharing.give(node, lacking, has_it).actions == ()


def test_who_gives_is_told_of_hosts_that_came(manifest: Path) -> None:
    node = node_of(manifest)
    assert sharing.renew(node).units == ()
    name = seed_name(KEY)
    giving = node.with_observation(replace(node.observed, units={name: unit(name, started=BOOTED + 10)}))
    told = {config_path(KEY): a_file(config_path(KEY), mtime=BOOTED + 5)}
    assert changes(sharing.renew(giving), giving.with_observation(replace(giving.observed, files=told))) == []
    told = {config_path(KEY): a_file(config_path(KEY), mtime=BOOTED + 20)}
    newer = giving.with_observation(replace(giving.observed, files=told))
    assert len(changes(sharing.renew(newer), newer)) == 1


def test_units_of_a_host_that_shares() -> None:
    files = unit_files("/srv/models", "weekly", 30)
    stage = files[f"{DIRECTORY}/metalserve-weights@.service"]
    seed = files[f"{DIRECTORY}/metalserve-weights-seed@.service"]
    assert "OnSuccess=metalserve-weights-seed@%i.service" in stage and "Conflicts=metalserve-weights-seed@" in stage
    assert "timeout 30m" in seed and "msweights seed /etc/metalserve/weights/%i.json" in seed
    assert "seed" not in files[f"{DIRECTORY}/metalserve-weights-check@.service"]
