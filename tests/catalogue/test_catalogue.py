from __future__ import annotations

import pytest

from metalserve.catalogue.loader import load_cuda_drivers, load_gpus, load_xids
from metalserve.catalogue.models import CatalogueError


def test_the_pci_id_comes_first_then_the_whole_name() -> None:
    gpus = load_gpus()
    assert gpus.find("2330").id == "h100-sxm"  # type: ignore[union-attr]
    assert gpus.find("0x26B9", "NVIDIA H200").id == "l40s"  # type: ignore[union-attr]
    assert gpus.find("ffff", "NVIDIA H200").id == "h200-sxm"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "gpu"), [("NVIDIA GH200 480GB", "gh200"), ("NVIDIA GB200", "gb200"), ("A100-SXM4-80GB", "a100-sxm-80")]
)
def test_names_are_never_matched_in_part(name: str, gpu: str) -> None:
    assert load_gpus().by_name(name).id == gpu  # type: ignore[union-attr]


def test_no_part_of_a_name_is_enough() -> None:
    assert load_gpus().by_name("H20") is not None
    assert load_gpus().by_name("NVIDIA H20-3e") is None
    assert load_gpus().by_name("H2") is None


def test_an_unknown_id_is_answered_with_the_nearest() -> None:
    with pytest.raises(CatalogueError, match="did you mean 'h100-sxm'"):
        load_gpus().by_id("h100sxm")


def test_every_row_has_a_source_and_sound_figures() -> None:
    for gpu in load_gpus().gpus:
        assert gpu.source, gpu.id
        assert all(len(p) == 4 and int(p, 16) for p in gpu.pci_ids), gpu.id
        assert gpu.capability >= (7, 5)
        if gpu.fabric in ("nvswitch", "nvlink5", "imex", "bridge"):
            assert gpu.nvlink is not None, gpu.id
            assert all(c.startswith("NV") for c in gpu.nvlink.pair_classes)
        if gpu.memory.mib and gpu.memory.gb:  # marketed GB x 1024 against what nvidia-smi prints
            assert 0.92 <= gpu.memory.mib / (gpu.memory.gb * 1024) <= 1.02, gpu.id
    for xid in load_xids().xids:
        assert xid.source
        assert xid.remedy
    rules = load_cuda_drivers()
    for rows in (rules.families, rules.branches, rules.toolkits, rules.architectures):
        assert all(row.source for row in rows)


def test_every_architecture_of_the_gpus_has_its_rules() -> None:
    rules = load_cuda_drivers()
    for gpu in load_gpus().gpus:
        if gpu.id == "gb10":
            continue
        architecture = rules.architecture(gpu.architecture)
        assert architecture is not None, gpu.id
        assert gpu.compute_capability in architecture.compute_capabilities, gpu.id


def test_xids_and_recovery_actions() -> None:
    xids = load_xids()
    assert xids.by_code(79).severity == "fatal"  # type: ignore[union-attr]
    assert xids.by_code(13).severity == "app"  # type: ignore[union-attr]
    assert xids.by_code(149).severity == "decode"  # type: ignore[union-attr]
    assert xids.by_code(1).severity == "unused"  # type: ignore[union-attr]
    assert xids.by_code(9999) is None
    assert xids.recovery("drain and reset").status == "fail"  # type: ignore[union-attr]
    assert xids.recovery("None").status == "ok"  # type: ignore[union-attr]


def test_cuda_families_and_branches() -> None:
    rules = load_cuda_drivers()
    assert rules.min_driver("13.0") == "580.65.06"
    assert rules.min_driver("12.9") == "525.60.13"
    assert rules.min_driver("99.0") is None
    assert rules.branch(580).status == "supported"  # type: ignore[union-attr]
    assert rules.branch(570).status == "eol"  # type: ignore[union-attr]


def test_loading_twice_gives_the_same_values() -> None:
    assert load_gpus() is load_gpus()
    assert load_xids() is load_xids()
