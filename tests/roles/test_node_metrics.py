"""What node_metrics wants, by tables: settings and observation in, changes out; a second run wants nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from metalserve.desired.model import Desired, NotYetKnown
from metalserve.desired.node import Node
from metalserve.errors import MetalserveError
from metalserve.hardware.node import NodeHardware
from metalserve.monitoring import paths
from roles.node_metrics import desired
from tests.roles.helpers import after, changes, make_node

ADDRESS = "10.0.0.11"
DRIVER = {"release": "2026.11-lts"}
SAID = f"""\
asked node {ADDRESS}:9100
metalserve_collector_duration_seconds 0.6
metalserve_collector_success{{part="gpus"}} 1
metalserve_collector_success{{part="xids"}} 1
node_uname_info{{domainname="(none)",nodename="node"}} 1
asked gpu {ADDRESS}:9400
DCGM_FI_DEV_GPU_TEMP{{gpu="0"}} 33
DCGM_FI_DEV_GPU_TEMP{{gpu="1"}} 33
"""


def with_driver(hardware: NodeHardware) -> NodeHardware:
    return replace(hardware, smi_state="ok")


def gpu_node(**monitoring: Any) -> Node:
    return make_node(settings={"monitoring": monitoring}, hardware=with_driver)


def stages(node: Node) -> tuple[Desired, ...]:
    return (
        desired.install(node, ADDRESS),
        desired.install_gpu(node, ADDRESS),
        desired.configure(node),
        desired.activate(node),
    )


def wanted(node: Node) -> list[str]:
    return [change for wish in stages(node) for change in changes(wish, node)]


def test_from_a_bare_node_to_one_that_needs_nothing_more() -> None:
    bare = gpu_node()
    found = wanted(bare)
    assert "package prometheus-node-exporter: absent -> installed" in found
    assert "package datacenter-gpu-manager-exporter: absent -> 4.8.3" in found
    assert "package datacenter-gpu-manager-4-core: absent -> 1:4.6.0-1" in found
    assert f"file {desired.NODE_DROP_IN}: absent -> written" in found
    assert f"unit {paths.COLLECT_TIMER}: absent -> enable, start" in found
    settled = after(bare, *stages(bare), sections={desired.SECTION: SAID})
    settled.__dict__["hardware"] = bare.hardware
    settled = settled.with_observation(
        replace(settled.observed, packages=dict(settled.observed.packages) | _dcgm(settled))
    )
    settled.__dict__["hardware"] = bare.hardware
    assert wanted(settled) == []
    assert [finding.status for finding in desired.check(settled)] == ["ok", "ok", "ok"]
    assert desired.in_words(settled) == f"exporters on {ADDRESS}:9100, {ADDRESS}:9400; 2 GPUs"


def _dcgm(node: Node) -> dict[str, Any]:
    """The versions that apt gives: with epoch and revision."""
    found = node.observed.packages["datacenter-gpu-manager-4-core"]
    return {found.name: replace(found, version="1:4.6.0-1")}


def test_the_drop_ins_are_there_before_the_packages_that_would_listen_to_all() -> None:
    node = gpu_node()
    for wish, path in ((desired.install(node, ADDRESS), desired.NODE_DROP_IN),
                       (desired.install_gpu(node, ADDRESS), desired.GPU_DROP_IN)):  # fmt: skip
        lines = changes(wish, node)
        first_package = next(i for i, line in enumerate(lines) if line.startswith("package "))
        assert lines.index(f"file {path}: absent -> written") < first_package


def test_without_settings_nothing_is_wanted_and_what_was_there_ends() -> None:
    assert wanted(make_node()) == []
    assert desired.check(make_node()) == ()
    was = make_node(files={desired.NODE_DROP_IN: "x", desired.TIMER_PATH: "y"})
    assert wanted(was) == ["end the exporters of a host that is not watched any more"]


def test_before_the_driver_is_there_the_gpu_exporter_is_not_yet_known() -> None:
    node = make_node(settings={"monitoring": {}})
    with pytest.raises(NotYetKnown, match="DCGM exporter"):
        desired.install_gpu(node, ADDRESS)
    assert changes(desired.install(node, ADDRESS), node)


def test_a_host_without_gpus_gets_no_gpu_exporter() -> None:
    node = make_node(settings={"monitoring": {}}, gpus=())
    assert not any("dcgm" in change or "datacenter" in change for change in wanted(node))
    off = make_node(settings={"monitoring": {"gpu_exporter": False}})
    assert desired.install_gpu(off, ADDRESS) == Desired()


def test_what_was_bought_counts_not_what_is_left_of_it() -> None:
    assert desired.expected_gpus(make_node(gpus=("2330",) * 7, settings={"expect": {"count": 8}})) == 8
    assert desired.expected_gpus(make_node(gpus=("2330",) * 7)) == 7


def test_an_address_that_is_not_private_is_refused() -> None:
    with pytest.raises(MetalserveError, match=r"monitoring\.address: node: 8\.8\.8\.8 is a public address"):
        desired.install(gpu_node(), "8.8.8.8")


@pytest.mark.parametrize(
    ("said", "statuses"),
    [
        ("", ["fail", "fail", "fail"]),
        (SAID.replace("node_uname_info", "x"), ["fail", "ok", "ok"]),
        (SAID.replace('part="xids"} 1', 'part="xids"} 0'), ["ok", "ok", "warn"]),
        (SAID.partition("asked gpu")[0], ["ok", "fail", "ok"]),
    ],
)
def test_what_does_not_answer_fails_and_what_is_not_read_warns(said: str, statuses: list[str]) -> None:
    node = make_node(settings={"monitoring": {}}, sections={desired.SECTION: said})
    assert [finding.status for finding in desired.check(node)] == statuses
    assert all(finding.remedy for finding in desired.check(node) if finding.status != "ok")
