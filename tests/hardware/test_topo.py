from __future__ import annotations

import pytest

from metalserve.hardware.parsers.text import ParseError
from metalserve.hardware.parsers.topo import parse_topo

from .samples import TOPO_2_BRIDGED


def test_matrix_legend_and_affinities() -> None:
    topology = parse_topo(TOPO_2_BRIDGED)
    assert topology.gpus == ("GPU0", "GPU1")
    assert topology.links == {(0, 1): "NV12"}
    assert topology.nic_links == {(0, "NIC0"): "SYS", (1, "NIC0"): "PIX"}
    assert topology.nic_names == {"NIC0": "mlx5_0"}
    assert topology.cpu_affinity == {"GPU0": "0-31", "GPU1": "32-63"}
    assert topology.numa_nodes == {"GPU0": "0", "GPU1": "1"}
    assert topology.notes == ()


@pytest.mark.parametrize(
    "change",
    [
        ("\x1b[4m", ""),
        ("\x1b[4m", "[4m"),
        ("\t\x1b[4mGPU0", "GPU0"),
        ("\t", "        "),
        ("\n", "\r\n"),
        ("\tNV12\tSYS", "\t  NV12 \t \tSYS"),
    ],
)
def test_layout_does_not_matter(change: tuple[str, str]) -> None:
    assert parse_topo(TOPO_2_BRIDGED.replace(*change)).links == {(0, 1): "NV12"}


def test_old_drivers_print_fewer_columns_and_name_nics_directly() -> None:
    text = (
        "\tGPU0\tGPU1\tmlx5_0\tCPU Affinity\n"
        "GPU0\t X \tSOC\tPHB\t0-11\nGPU1\tSOC\t X \tSOC\t12-23\nmlx5_0\tPHB\tSOC\t X \n"
    )
    topology = parse_topo(text)
    assert topology.links == {(0, 1): "SOC"}
    assert topology.nics == ("mlx5_0",)
    assert topology.numa_nodes == {}


def test_a_gpu_that_is_gone_leaves_a_gap_in_the_numbers() -> None:
    text = "Unable to determine the device handle for GPU1\n\tGPU0\tGPU2\nGPU0\t X \tNV18\nGPU2\tNV18\t X \n"
    topology = parse_topo(text)
    assert topology.links == {(0, 2): "NV18"}
    assert topology.notes == ("Unable to determine the device handle for GPU1",)


def test_a_number_on_grace_and_a_range_of_nodes_are_affinities() -> None:
    text = "\tGPU0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\nGPU0\t X \t0,2,4\t0-1\t\t4\n"
    topology = parse_topo(text)
    assert (topology.cpu_affinity, topology.numa_nodes) == ({"GPU0": "0,2,4"}, {"GPU0": "0-1"})
    assert topology.gpu_numa_ids == {"GPU0": "4"}


def test_empty_affinity_cells_are_not_guessed() -> None:
    text = "\tGPU0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\nGPU0\t X \t\t\t\tN/A\n"
    topology = parse_topo(text)
    assert topology.numa_nodes == {}
    assert "not assigned" in topology.notes[0]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("NV12\tSYS", "NV12SYS", "cells|run together"),
        ("NV12\tSYS\t0-31", "NV12\tSYS0-31", "run together"),
        ("GPU1\tNIC0\tCPU", "GPU1NIC0\tCPU", "begins with no device|names no device|cut"),
        ("\t0\t\tN/A", "\t0N/A", "affinity"),
        ("GPU1\tNV12\t X ", "GPU1\tNV11\t X ", "NV11"),
        (" X \tNV12", "NV12\t X ", "diagonal"),
        ("NIC0\tSYS\tPIX\t X \t\t\t\t\n", "", "cut"),
        ("NV12\tSYS", "NV12\n\tSYS", "cells|begins with no device"),
        ("NV12", "NVX", "unknown class"),
    ],
)
def test_damage_is_refused(old: str, new: str, words: str) -> None:
    damaged = TOPO_2_BRIDGED.replace(old, new, 1)
    assert damaged != TOPO_2_BRIDGED
    with pytest.raises(ParseError, match=words):
        parse_topo(damaged)


@pytest.mark.parametrize("text", ["", "ERROR: Option -m is missing its value. Please run 'nvidia-smi -h' for help."])
def test_text_without_a_matrix_is_refused(text: str) -> None:
    with pytest.raises(ParseError, match="no header row"):
        parse_topo(text)
