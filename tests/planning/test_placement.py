"""Cutting GPUs into groups: every graph of links that a host may have, and some that it should not."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from metalserve.hardware.node import NodeHardware
from metalserve.planning.placement import describe, groups_of, joined_by_nvlink, largest_nvlink_group
from tests.planning.conftest import host


def test_full_mesh_is_cut_in_order() -> None:
    mesh = host({}, 8, default="NV18")
    assert groups_of(mesh, range(8), 4) == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert largest_nvlink_group(mesh, range(8)) == 8
    assert describe(mesh, range(8)) == "NV18 between all 8 GPUs"


def test_a_strong_pair_does_not_take_partners_from_two_others() -> None:
    # 1-2 is strongest, but taking it would leave 0 and 3 without NVLink
    chain = host({(0, 1): "NV2", (1, 2): "NV4", (2, 3): "NV2"}, 4)
    assert groups_of(chain, range(4), 2) == [(0, 1), (2, 3)]


def test_pcie_neighbours_go_together() -> None:
    switches = host({(0, 2): "PIX", (1, 3): "PIX"}, 4, default="SYS")
    assert groups_of(switches, range(4), 2) == [(0, 2), (1, 3)]
    assert describe(switches, range(4)) == "no NVLink, PCIe only"


def test_sixteen_gpus_in_bridged_pairs() -> None:
    pairs = host({(n, n + 1): "NV12" for n in range(0, 16, 2)}, 16)
    assert groups_of(pairs, range(16), 2) == [(n, n + 1) for n in range(0, 16, 2)]
    assert largest_nvlink_group(pairs, range(16)) == 2


LINK = st.sampled_from(["NV18", "NV12", "NV4", "PIX", "NODE", "SYS", "?"])


@st.composite
def hosts(draw: st.DrawFn) -> NodeHardware:
    count = draw(st.integers(1, 6))
    links = {pair: draw(LINK) for pair in combinations(range(count), 2)}
    return host(links, count)


@given(hardware=hosts(), size=st.integers(1, 4))
def test_groups_are_disjoint_full_and_as_many_as_can_be(hardware: NodeHardware, size: int) -> None:
    gpus = range(len(hardware.gpus))
    groups = groups_of(hardware, gpus, size)
    used = [gpu for group in groups for gpu in group]
    assert len(used) == len(set(used))
    assert all(len(group) == size for group in groups)
    assert len(groups) == len(gpus) // size


@given(hardware=hosts())
def test_no_pair_is_missed(hardware: NodeHardware) -> None:
    gpus = range(len(hardware.gpus))
    any_link = any(joined_by_nvlink(hardware, pair) for pair in combinations(gpus, 2))
    assert (largest_nvlink_group(hardware, gpus) > 1) == any_link
