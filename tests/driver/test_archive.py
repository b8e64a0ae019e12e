"""Drivers of the distribution's own archive: what Debian and Ubuntu have, and what they do not."""

from __future__ import annotations

import pytest

from metalserve.catalogue.loader import load_cuda_drivers, load_driver_packages, load_gpus
from metalserve.driver import DriverPlan, DriverRefused, Machine, plan_driver, platform_of
from metalserve.hardware.node import PciDevice
from metalserve.releases import Release, load_release

LTS = load_release("2026.11-lts")
H100, B200, V100 = "2330", "2901", "1db6"
DEBIAN_USER = ["libcuda1", "nvidia-smi", "nvidia-persistenced"]
HEADLESS = ["nvidia-headless-no-dkms-580-server-open", "nvidia-utils-580-server"]


def choose(
    os_id: str, gpu: str = H100, *, kernel: str = "", modules: str = "auto", release: Release = LTS, **more: bool
) -> DriverPlan:
    name = "NVIDIA Corporation GV100GL [Tesla V100]" if gpu == V100 else "NVIDIA Corporation Device"
    machine = Machine(
        platform_of(os_id), (PciDevice("0000:19:00.0", "0302", "10de", gpu, name),), kernel=kernel, **more
    )
    return plan_driver(machine, release, modules, load_gpus(), load_cuda_drivers(), source="distro")  # type: ignore[arg-type]


def of_branch(branch: int) -> Release:
    pin = {"branch": branch, "version": f"{branch}.10.01"}
    return Release.model_validate({**LTS.model_dump(), "driver": pin, "name": f"test-{branch}"})


@pytest.mark.parametrize(
    ("os_id", "modules", "branch", "first", "file"),
    [
        ("debian-12", "auto", 535, "nvidia-kernel-dkms", "nvidia-current"),
        ("debian-12", "open", 535, "nvidia-open-kernel-dkms", "nvidia-current-open"),
        ("debian-13", "auto", 550, "nvidia-kernel-dkms", "nvidia-current"),
        ("debian-13", "open", 550, "nvidia-open-kernel-dkms", "nvidia-current-open"),
    ],
)
def test_debian_decides_branch_and_version(os_id: str, modules: str, branch: int, first: str, file: str) -> None:
    plan = choose(os_id, modules=modules, kernel="6.1.0-44-amd64")
    assert [p.name for p in plan.packages] == [first, *DEBIAN_USER]
    assert {p.version for p in plan.every_package} == {None}
    assert (plan.branch, plan.version, plan.pinning, plan.build, plan.module_file) == (branch, None, None, "dkms", file)
    assert plan.origin.components == ("contrib", "non-free", "non-free-firmware")
    # Debian's newer kernels break its own driver: nothing that follows them is installed.
    assert [p.name for p in plan.headers] == ["linux-headers-6.1.0-44-amd64"]
    assert (plan.kept.by, plan.kept.names) == ("hold", tuple(p.name for p in plan.packages))
    assert any(f"branch {LTS.driver.branch} does not hold" in w for w in plan.warnings)


def test_the_image_s_cuda_is_what_is_checked_in_place_of_the_release_s_version() -> None:
    plan = choose("debian-13")
    assert (plan.cuda.image, plan.cuda.brings, plan.cuda.min_driver, plan.cuda.met) == (
        "13.0",
        "12.4",
        "580.65.06",
        False,
    )
    assert any("needs driver 580.65.06 or newer" in w for w in plan.warnings)
    assert choose("ubuntu-24.04").cuda.met is None  # 580.65.06 or an older 580: the archive's patch level decides
    assert choose("ubuntu-24.04", release=of_branch(595)).cuda.met is True


def test_packages_of_nvidia_s_repository_are_kept_away_but_for_the_harmless() -> None:
    text = choose("debian-13").preferences_text
    assert "Package: *\nPin: release l=NVIDIA CUDA\nPin-Priority: -1\n" in text
    assert "Package: nvidia-container-toolkit* libnvidia-container* datacenter-gpu-manager*\n" in text


def test_open_modules_of_debian_12_hold_user_space_back_with_them() -> None:
    plan = choose("debian-12", modules="open")
    held = "Package: src:nvidia-graphics-drivers\nPin: release n=bookworm\nPin-Priority: 1001\n"
    assert held in plan.preferences_text
    assert any("security update" in w for w in plan.warnings)
    for other in (choose("debian-12"), choose("debian-13", modules="open")):
        assert held not in other.preferences_text


@pytest.mark.parametrize(
    ("kernel", "names"),
    [
        ("6.8.0-90-generic", ["580-server-open-6.8.0-90-generic", "580-server-open-generic"]),
        ("6.14.0-29-generic", ["580-server-open-6.14.0-29-generic", "580-server-open-generic-hwe-24.04"]),
        ("6.8.0-1018-nvidia", ["580-server-open-6.8.0-1018-nvidia", "580-server-open-nvidia"]),
        ("", ["580-server-open-generic"]),
    ],
)
def test_ubuntu_has_modules_for_its_own_kernels(kernel: str, names: list[str]) -> None:
    plan = choose("ubuntu-24.04", kernel=kernel)
    assert [p.name for p in plan.packages] == [*(f"linux-modules-nvidia-{n}" for n in names), *HEADLESS]
    assert (plan.build, plan.headers, plan.module_file) == ("precompiled", (), "nvidia")


def test_ubuntu_with_a_kernel_from_elsewhere_builds() -> None:
    plan = choose("ubuntu-24.04", kernel="6.18.44-custom")
    assert [p.name for p in plan.packages] == ["nvidia-dkms-580-server-open", *HEADLESS]
    assert plan.build == "dkms"


def test_ubuntu_has_proprietary_modules_and_a_fabric_manager_always_with_the_branch() -> None:
    plan = choose("ubuntu-22.04", V100, kernel="5.15.0-203-generic", needs_fabric_manager=True)
    assert plan.packages[0].name == "linux-modules-nvidia-580-server-5.15.0-203-generic"
    assert [p.name for p in plan.fabric] == ["nvidia-fabricmanager-580", "libnvidia-nscq-580"]


def test_transitional_branches_of_ubuntu_are_what_they_bring() -> None:
    plan = choose("ubuntu-24.04", release=of_branch(570))
    assert plan.branch == 580
    assert any("branch 570 are transitional: they bring branch 580" in w for w in plan.warnings)
    with pytest.raises(DriverRefused, match="no driver branch 555, it has 580, 595, 610, 615"):
        choose("ubuntu-24.04", release=of_branch(555))


@pytest.mark.parametrize(
    ("os_id", "gpu", "more", "words"),
    [
        ("debian-12", B200, {}, "branch 570 was the first with support for it, Debian's archive has 535"),
        ("debian-12", H100, {"needs_fabric_manager": True}, "Debian's archive has no fabric manager"),
        ("debian-13", H100, {"needs_imex": True}, "Debian's archive has no IMEX"),
        ("ubuntu-24.04", B200, {"needs_fabric_manager": True, "needs_nvlsm": True}, "does not have"),
        ("rocky-9.6", H100, {}, "no NVIDIA driver in an archive of its own"),
    ],
)
def test_what_an_archive_cannot_give_is_refused(os_id: str, gpu: str, more: dict[str, bool], words: str) -> None:
    with pytest.raises(DriverRefused, match=words) as error:
        choose(os_id, gpu, **more)
    assert "driver.source" in (error.value.remedy or "")


def test_a_toolkit_of_nvidia_s_repository_is_not_mixed_in() -> None:
    machine = Machine(platform_of("debian-13"), (PciDevice("0000:19:00.0", "0302", "10de", H100, ""),))
    with pytest.raises(DriverRefused, match="never mixed"):
        plan_driver(machine, LTS, "auto", load_gpus(), load_cuda_drivers(), source="distro", toolkit=True)


def test_every_archive_and_system_is_named_in_the_catalogue() -> None:
    catalogue = load_driver_packages()
    assert {s for a in catalogue.archives for s in a.systems} <= set(catalogue.os_ids)
    assert all(a.source and " " in a.source for a in catalogue.archives)
