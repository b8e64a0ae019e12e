"""Each host has a control group of its own; what that means for the kernel's trees is proved on directories."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from metalserve.lab import cgroups
from metalserve.lab.api import Lab
from metalserve.lab.system import managed_by_systemd, read_json


def test_hybrid_trees_are_systemds_own_two(tmp_path: Path) -> None:
    for name in ("systemd", "unified", "memory"):
        (tmp_path / name).mkdir()
    assert [path.name for path in cgroups.hierarchies(tmp_path)] == ["systemd", "unified"]
    cgroups.enter("ms77-11", tmp_path)
    for name in ("systemd", "unified"):
        assert (tmp_path / name / "ms77-11" / "cgroup.procs").read_text() == str(os.getpid())
    assert not (tmp_path / "memory" / "ms77-11").exists()


def test_one_tree_passes_its_controllers_on(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory")
    cgroups.enter("ms77-11", tmp_path)
    assert (tmp_path / "cgroup.subtree_control").exists()
    assert (tmp_path / "ms77-11" / "cgroup.procs").exists()


def test_groups_go_from_below_and_one_in_use_is_told(tmp_path: Path) -> None:
    (tmp_path / "systemd" / "a" / "payload" / "init.scope").mkdir(parents=True)
    assert cgroups.remove("a", tmp_path) is True
    assert cgroups.remove("a", tmp_path) is True
    busy = tmp_path / "systemd" / "b"
    busy.mkdir()
    (busy / "process").touch()
    assert cgroups.remove("b", tmp_path) is False


@pytest.mark.lab
def test_no_two_hosts_share_a_group(lab: Lab) -> None:
    if managed_by_systemd():
        pytest.skip("systemd gives each host a scope of its own")
    groups = []
    for host in lab.hosts:
        leader = read_json(lab.layout.host(host) / "state.json")["leader"]["pid"]
        lines = Path(f"/proc/{leader}/cgroup").read_text().splitlines()
        groups += [line.rpartition(":")[2] for line in lines if ":name=systemd:" in line]
    assert len(set(groups)) == len(lab.hosts)
    assert all(group.startswith("/ms") for group in groups), groups
