"""The stand-in for sysfs: a tree of every profile that agrees with itself, and faults that show in it at once."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from metalserve.hardware.machine import PcieNode
from metalserve.hardware.parsers.lspci import parse_lspci
from metalserve.hardware.parsers.pcie_tree import parse_acs
from metalserve.lab import faults
from metalserve.lab.profiles import profile_names
from metalserve.lab.sim import effects, sysfs
from metalserve.verify.paths import by_address, path
from tests.lab_sim.machine import Machine

Make = Callable[[str], Machine]


def tree(host: Machine) -> dict[str, PcieNode]:
    return by_address(host.hardware().pcie_tree)


@pytest.mark.parametrize("profile", profile_names())
def test_every_profile_has_a_tree_that_agrees_with_lspci(profile: str, machine: Make) -> None:
    host = machine(profile)
    nodes = tree(host)
    described = host.lab.profile
    listed = parse_lspci(host.run("lspci -Dnn")[1]).devices  # refuses an address that comes twice
    assert {d.address for d in listed if d.class_code == "0604"} == {a for a, n in nodes.items() if n.kind == "bridge"}
    for kind, key in (("gpu", "gpus"), ("nic", "nics"), ("nvme", "nvme"), ("switch", "nvswitches")):
        assert {a for a, n in nodes.items() if n.kind == kind} == {slot["bus"] for slot in described[key]}  # type: ignore[literal-required]
    for node in nodes.values():
        assert node.parent is None or node.parent in nodes
        assert not any(link.narrow or link.slow for link in path(nodes, node.address)), node


@pytest.mark.parametrize("profile", profile_names())
def test_devices_below_one_switch_are_those_that_topo_calls_pix(profile: str, machine: Make) -> None:
    host = machine(profile)
    nodes = tree(host)
    for slot in [*host.lab.profile["gpus"], *host.lab.profile["nics"]]:
        links = path(nodes, slot["bus"])
        assert len(links) == (2 if slot["switch"] else 1), slot["bus"]


def test_the_numa_nodes_are_the_profile_s(machine: Make) -> None:
    numa = machine("a100-sxm-4").hardware().numa
    assert [(n.index, n.cpus) for n in numa][:2] == [(0, "0-15,64-79"), (1, "16-31,80-95")]


def test_faults_show_in_the_tree_and_go_again(machine: Make) -> None:
    host = machine("h100-sxm-8")
    whole = tree(host)
    gpu = host.lab.profile["gpus"][5]["bus"]
    faults.inject(host.directory, "pcie-bridge-downgraded", 5)
    effects.sync(host.lab)
    struck = path(tree(host), gpu)
    assert [link.narrow for link in struck] == [False, True]
    assert sum(link.narrow for slot in host.lab.profile["gpus"] for link in path(tree(host), slot["bus"])) == 1
    faults.heal(host.directory)
    effects.sync(host.lab)
    assert tree(host) == whole


def test_a_gpu_that_is_gone_has_no_link_and_one_that_is_missing_no_place(machine: Make) -> None:
    host = machine("h100-sxm-8")
    lost, missing = (host.lab.profile["gpus"][n]["bus"] for n in (2, 3))
    faults.inject(host.directory, "gpu-off-bus", 2)
    faults.inject(host.directory, "wrong-gpu-count", 3)
    nodes = tree(host)
    assert nodes[lost].width_current is None
    assert missing not in nodes


def test_acs_is_told_by_lspci(machine: Make) -> None:
    host = machine("h100-sxm-8")
    assert set(parse_acs(host.run("lspci -Dvv -d ::0604")[1]).values()) == {False}
    faults.inject(host.directory, "acs-on")
    assert sum(parse_acs(host.run("lspci -Dvv -d ::0604")[1]).values()) == 16


def test_nothing_is_written_when_nothing_changed(machine: Make) -> None:
    host = machine("l40s-4")
    sysfs.refresh(host.lab)
    stamp = os.stat(host.lab.path("state/boot/sysfs.json")).st_mtime_ns
    sysfs.refresh(host.lab)
    assert os.stat(host.lab.path("state/boot/sysfs.json")).st_mtime_ns == stamp
