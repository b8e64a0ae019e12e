"""Role topology: nothing is changed, and a host that is less than was bought fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from metalserve.desired.model import NotYetKnown
from metalserve.desired.node import Node
from metalserve.hardware.node import Gpu, NodeHardware
from metalserve.verify.finding import worst
from roles.topology import desired as role
from tests.roles.helpers import make_node
from tests.verify.simulated import SimulatedHost

H100 = {"gpu": "h100-sxm", "count": 8, "links": "nvswitch", "nvlinks_per_gpu": 18}


def host(directory: Path, profile: str = "h100-sxm-8", fault: str = "", **expect: object) -> Node:
    simulated = SimulatedHost(directory, profile)
    if fault:
        simulated.inject(fault, gpu=3)
    return make_node(settings={"expect": expect}, sections=simulated.sections())


def test_a_host_that_is_what_was_bought(tmp_path: Path) -> None:
    node = host(tmp_path, **H100)
    assert worst(role.check(node)) == "ok"
    assert role.in_words(node.hardware) == "8x NVIDIA H100 80GB HBM3, NV18"


@pytest.mark.parametrize(
    ("expect", "check"),
    [({**H100, "count": 16}, "gpu-count"), ({**H100, "gpu": "h200-sxm"}, "gpu-model")],
)
def test_a_host_that_is_something_else(tmp_path: Path, expect: dict[str, object], check: str) -> None:
    failing = [f.check for f in role.check(host(tmp_path, **expect)) if f.failing]
    assert check in failing


def test_a_fault_is_named_with_its_gpu(tmp_path: Path) -> None:
    failing = [f for f in role.check(host(tmp_path, fault="gpu-off-bus", **H100)) if f.failing]
    assert failing
    assert any("0000:4e:00.0" in f.subject and "no longer answers" in f.observed for f in failing)


def test_before_the_driver_it_is_not_known(tmp_path: Path) -> None:
    simulated = SimulatedHost(tmp_path, "l40s-4")
    simulated.installed = simulated.loaded = None
    sections = {**simulated.sections()}
    for name in ("smi-csv", "smi-q", "topo", "nvlink-status"):
        sections[name] = type(sections["lspci"])("nvidia-smi: not found", 127)
    with pytest.raises(NotYetKnown):
        role.check(make_node(sections=sections))


def test_a_host_without_gpus_fails_though_it_will_never_have_a_driver() -> None:
    node = make_node(gpus=(), settings={"expect": {"count": 4}})
    assert worst(role.check(node)) in ("fail", "unknown")


@pytest.mark.parametrize(
    ("links", "words"),
    [
        ({}, "1x L4"),
        ({(0, 1): "NV12", (0, 2): "SYS"}, "1x L4, NV12/SYS"),
        ({(0, 1): "SYS", (0, 2): "NODE", (1, 2): "PIX"}, "1x L4, PIX/NODE/SYS"),
    ],
)
def test_gpus_in_words(links: dict[tuple[int, int], str], words: str) -> None:
    assert role.in_words(NodeHardware(gpus=(Gpu(0, "L4"),), links=links)) == words


def test_no_gpus_in_words() -> None:
    assert role.in_words(NodeHardware()) == "none"
