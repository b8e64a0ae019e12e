"""Which driver each host gets, cell by cell, and what no plan may ever be."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalserve.catalogue.loader import load_cuda_drivers, load_driver_packages, load_gpus
from metalserve.driver import DriverPlan, DriverRefused, Machine, plan_driver, platform_of
from metalserve.hardware.node import PciDevice
from metalserve.releases import Release, load_release

LTS, PRODUCTION = load_release("2026.11-lts"), load_release("2026.11-production")
GPUS, RULES = load_gpus(), load_cuda_drivers()


def release(branch: int, version: str) -> Release:
    """A release of another driver branch."""
    pin = {"driver": {"branch": branch, "version": version}, "fabric_manager": {"version": version}}
    return Release.model_validate({**LTS.model_dump(), **pin, "name": f"test-{branch}"})


NAMES = {"1db6": "NVIDIA Corporation GV100GL [Tesla V100 PCIe 32GB]"}
"""What lspci says of a GPU that is not in the catalogue."""


def gpu(device_id: str, description: str | None = None) -> PciDevice:
    description = description or NAMES.get(device_id, "NVIDIA Corporation Device")
    return PciDevice("0000:19:00.0", "0302", "10de", device_id, description)


def choose(*ids: str, os_id: str = "debian-12", pins: Release = LTS, modules: str = "auto", **more: bool) -> DriverPlan:
    machine = Machine(platform_of(os_id), tuple(gpu(i) for i in ids), **more)
    return plan_driver(machine, pins, modules, GPUS, RULES)  # type: ignore[arg-type]


H100, B200, A100, V100 = "2330", "2901", "20b2", "1db6"
T4 = next(p for g in GPUS.gpus if g.architecture == "Turing" for p in g.pci_ids)

DEBIAN_OPEN = ["nvidia-kernel-open-dkms", "nvidia-driver-cuda", "nvidia-persistenced"]
DEBIAN_PROPRIETARY = ["nvidia-kernel-dkms", "nvidia-driver-cuda", "nvidia-persistenced"]
UBUNTU_580 = ["nvidia-dkms-580-open", "libnvidia-compute-580", "nvidia-utils-580", "nvidia-compute-utils-580"]
UBUNTU_580_PROPRIETARY = ["nvidia-dkms-580", *UBUNTU_580[1:]]
UBUNTU_595 = ["nvidia-dkms-open", "libnvidia-compute", "nvidia-persistenced"]


@pytest.mark.parametrize(
    ("os_id", "ids", "pins", "names"),
    [
        ("debian-12", [H100], LTS, DEBIAN_OPEN),
        ("debian-13", [H100], PRODUCTION, DEBIAN_OPEN),
        ("debian-12", [V100], LTS, DEBIAN_PROPRIETARY),
        ("debian-12", [V100, T4], LTS, DEBIAN_PROPRIETARY),  # both run with proprietary modules
        ("debian-12", [B200], LTS, DEBIAN_OPEN),
        ("ubuntu-22.04", [A100], LTS, UBUNTU_580),
        ("ubuntu-24.04", [H100], LTS, UBUNTU_580),
        ("ubuntu-24.04", [V100], LTS, UBUNTU_580_PROPRIETARY),
        ("ubuntu-24.04", [H100], PRODUCTION, UBUNTU_595),
        ("ubuntu-26.04", [B200], PRODUCTION, UBUNTU_595),
    ],
)
def test_packages_by_os_gpu_and_branch(os_id: str, ids: list[str], pins: Release, names: list[str]) -> None:
    plan = choose(*ids, os_id=os_id, pins=pins)
    assert [p.name for p in plan.packages] == names
    assert {p.version for p in plan.packages} == {pins.driver.version}
    assert plan.pinning.name == f"nvidia-driver-pinning-{pins.driver.version}"
    assert plan.fabric == ()
    assert all(r.why and r.source for r in plan.reasons)


@pytest.mark.parametrize(
    ("pins", "nvlsm", "names"),
    [
        (release(570, "570.211.01"), False, ["nvidia-fabricmanager-570", "libnvidia-nscq-570"]),
        (release(575, "575.57.08"), False, ["nvidia-fabricmanager-575", "libnvidia-nscq-575"]),
        (LTS, False, ["nvidia-fabricmanager", "libnvidia-nscq"]),
        (PRODUCTION, True, ["nvidia-fabricmanager", "libnvidia-nscq", "nvlsm"]),
    ],
)
def test_fabric_manager_loses_its_suffix_one_branch_before_the_driver(
    pins: Release, nvlsm: bool, names: list[str]
) -> None:
    plan = choose(H100, os_id="ubuntu-22.04", pins=pins, needs_fabric_manager=True, needs_nvlsm=nvlsm)
    assert [p.name for p in plan.fabric] == names
    assert {p.version for p in plan.fabric if p.name != "nvlsm"} == {pins.driver.version}


@pytest.mark.parametrize(
    ("ids", "pins", "modules", "more", "words"),
    [
        ([], LTS, "auto", {}, "no NVIDIA GPU"),
        ([V100], PRODUCTION, "auto", {}, "branch 580 was the last"),
        ([B200], release(550, "550.163.01"), "auto", {}, "branch 570 was the first"),
        ([V100, B200], LTS, "auto", {}, "no driver serves both"),
        ([B200], LTS, "proprietary", {}, "open kernel modules only"),
        ([H100], release(615, "615.78.08"), "proprietary", {}, "open kernel modules only"),
        ([V100], LTS, "open", {}, "proprietary kernel modules only"),
        (["ffff"], LTS, "auto", {}, "not in the catalogue"),
        ([H100], LTS, "auto", {"secure_boot": True}, "Secure Boot"),
    ],
)
def test_refused(ids: list[str], pins: Release, modules: str, more: dict[str, bool], words: str) -> None:
    with pytest.raises(DriverRefused, match=words) as error:
        choose(*ids, pins=pins, modules=modules, **more)  # type: ignore[arg-type]
    assert error.value.remedy


def test_unknown_gpu_of_a_known_chip_is_treated_by_its_architecture_and_told() -> None:
    machine = Machine(platform_of("debian-12"), (gpu("fffe", "NVIDIA Corporation GB202GL [RTX PRO 9999]"),))
    plan = plan_driver(machine, LTS, "auto", GPUS, RULES)
    assert plan.modules == "open"
    assert any("treated as Blackwell" in w for w in plan.warnings)


def test_default_of_old_branches_is_proprietary_and_their_end_of_life_is_told() -> None:
    plan = choose(A100, pins=release(550, "550.163.01"))
    assert plan.modules == "proprietary"
    assert any("end of life 2025" in w for w in plan.warnings)
    assert choose(A100).warnings == ()


def test_unsupported_systems_are_refused() -> None:
    for os_id, machine in (("debian-11", "x86_64"), ("rocky-8.9", "x86_64"), ("debian-12", "riscv64")):
        with pytest.raises(Exception, match="no NVIDIA packages are known"):
            platform_of(os_id, machine)
    assert platform_of("ubuntu-24.04", "aarch64").fill("{distro}/{arch}") == "ubuntu2404/sbsa"


ALL_IDS = [*sorted(itertools.chain.from_iterable(g.pci_ids for g in GPUS.gpus)), V100]
RELEASES = [
    LTS,
    PRODUCTION,
    release(550, "550.163.01"),
    release(570, "570.211.01"),
    release(575, "575.57.08"),
    release(615, "615.78.08"),
]


@given(
    ids=st.lists(st.sampled_from(ALL_IDS), min_size=1, max_size=8),
    os_id=st.sampled_from(sorted(load_driver_packages().os_ids)),
    pins=st.sampled_from(RELEASES),
    modules=st.sampled_from(["auto", "open", "proprietary"]),
    nvlsm=st.booleans(),
)
def test_no_plan_breaks_the_rules(ids: list[str], os_id: str, pins: Release, modules: str, nvlsm: bool) -> None:
    try:
        plan = choose(*ids, os_id=os_id, pins=pins, modules=modules, needs_fabric_manager=True, needs_nvlsm=nvlsm)
    except DriverRefused:
        return
    specs = [GPUS.by_pci_id(i) for i in ids]
    rules = {s.kernel_modules if s is not None else "proprietary-only" for s in specs}
    assert not (plan.modules == "proprietary" and "open-required" in rules)
    assert not (plan.modules == "open" and "proprietary-only" in rules)
    versions = {p.version for p in (*plan.packages, *plan.fabric) if p.name != "nvlsm"}
    assert versions == {pins.driver.version}
    names = [p.name for p in (*plan.packages, *plan.fabric)]
    assert len(names) == len(set(names))
    if os_id.startswith("debian"):
        assert not any(n.startswith(("nvidia-dkms", "libnvidia-compute")) for n in names)
    elif os_id.startswith("ubuntu"):
        assert "nvidia-driver-cuda" not in names
    suffixed = [n for n in names if n.removesuffix("-open").rpartition("-")[2].isdigit()]
    assert all(n.removesuffix("-open").endswith(f"-{pins.driver.branch}") for n in suffixed)
