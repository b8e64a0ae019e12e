"""Role nvidia_driver before the next boot: headers and module for its kernel, dpkg whole, room; role next_boot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from metalserve.desired.diff import difference
from metalserve.desired.model import Action
from metalserve.desired.node import Node
from metalserve.desired.observed import ObservedPackage
from metalserve.errors import MetalserveError
from roles.next_boot import desired as next_boot
from roles.nvidia_driver import desired, kernels, preflight
from tests.roles.helpers import changes, make_node
from tests.verify.boots import BOOTED, DRIVER, NEW, OLD, Boot, Kernel

PACKAGES = {
    f"nvidia-driver-pinning-{DRIVER}": f"{DRIVER}-1",
    "nvidia-kernel-open-dkms": f"{DRIVER}-1",
    "nvidia-driver-cuda": f"{DRIVER}-1",
    "nvidia-persistenced": f"{DRIVER}-1",
    f"linux-headers-{OLD}": "6.1.119-1",
    "linux-headers-amd64": "6.1.119-1",
    "linux-image-amd64": "6.1.119-1",
}
HEADLESS = Boot(kernels=(Kernel(OLD), Kernel(NEW, headers=False, module="")))


def host(boot: Boot, packages: dict[str, str] | None = None, **more: Any) -> Node:
    facts = {"kernel": OLD, "now": str(float(BOOTED)), **more.pop("facts", {})}
    sections = {"next-boot": boot.text, "driver-disk": f"{DRIVER}\n", **more.pop("sections", {})}
    return make_node(packages=PACKAGES if packages is None else packages, sections=sections, facts=facts, **more)


def packages_changed(node: Node) -> list[str]:
    return [line for line in changes(desired.install(node), node) if line.startswith("package ")]


def test_headers_of_the_kernel_that_boots_next_are_installed() -> None:
    assert packages_changed(host(HEADLESS)) == [f"package linux-headers-{NEW}: absent -> installed"]


def test_a_host_whose_kernels_have_their_headers_wants_none() -> None:
    node = host(Boot(), {**PACKAGES, f"linux-headers-{NEW}": "6.1.123-1"})
    assert packages_changed(node) == []


@pytest.mark.parametrize(
    ("os_id", "image", "meta"),
    [
        ("debian-12", "linux-image-cloud-amd64", "linux-headers-cloud-amd64"),
        ("ubuntu-24.04", "linux-image-generic-hwe-24.04", "linux-headers-generic-hwe-24.04"),
        ("ubuntu-24.04", "linux-image-generic", "linux-headers-generic"),
        ("ubuntu-22.04", "linux-image-nvidia", "linux-headers-nvidia"),
    ],
)
def test_the_meta_package_that_brings_headers_with_later_kernels(os_id: str, image: str, meta: str) -> None:
    node = host(
        Boot(), {image: "1", "linux-image-6.8.0-88-generic": "1", "linux-image-extra-virtual": "1"}, os_id=os_id
    )
    names = {p.name for p in desired.install(node).packages}
    assert meta in names and "linux-headers-extra-virtual" not in names
    assert "linux-headers-6.8.0-88-generic" not in names  # neither runs nor boots next


def test_a_kernel_of_no_distribution_is_looked_for_in_the_repositories() -> None:
    boot = Boot(kernels=(Kernel(OLD), Kernel("7.0.0-custom", headers=False, module="")))
    node = host(boot)
    (change,) = [c for c in difference(desired.install(node), node.observed) if c.kind == "action"]
    assert "install headers of kernel 7.0.0-custom, which boots next" in change.summary
    assert isinstance(change.resource, Action) and "apt-cache show linux-headers-7.0.0-custom" in change.resource.script


def test_the_module_is_built_for_the_kernel_that_boots_next_and_once_only() -> None:
    node = host(HEADLESS)
    (change,) = difference(desired.build_next(node), node.observed)
    assert change.summary == f"build the nvidia module for kernel {NEW}, which boots next"
    assert isinstance(change.resource, Action)
    assert f"dkms autoinstall -k {NEW}" in change.resource.script
    assert "install --reinstall --allow-change-held-packages nvidia-kernel-open-dkms" in change.resource.script
    done = host(Boot())
    assert difference(desired.build_next(done), done.observed) == ()
    assert change.resource.done(done.observed)


@pytest.mark.parametrize(
    "boot",
    [
        Boot(kernels=(Kernel(OLD), Kernel(NEW, module="580.159.03"))),  # an older driver, built before
        Boot(kernels=(Kernel(OLD), Kernel(NEW, module="", file_only=True))),  # depmod was not run
    ],
)
def test_a_module_that_is_not_the_releases_is_built(boot: Boot) -> None:
    node = host(boot)
    assert len(difference(desired.build_next(node), node.observed)) == 1


@pytest.mark.parametrize(
    "node",
    [
        host(Boot(kernels=(Kernel(OLD, module=""),))),  # the running kernel: stage `build` does it
        host(HEADLESS.having(cfg="")),  # which kernel boots next is not known
        host(HEADLESS, {}),  # no driver yet: its installation builds
        make_node(packages=PACKAGES),  # not observed
    ],
)
def test_nothing_is_built_for_a_kernel_that_is_not_known_to_boot(node: Node) -> None:
    assert difference(desired.build_next(node), node.observed) == ()


def test_precompiled_modules_need_no_headers() -> None:
    node = host(HEADLESS)
    precompiled = replace(desired.plan(node), packages=())
    assert kernels.headers(node, desired.platform(node), precompiled).packages == ()


def test_dpkg_left_half_way_is_finished_first() -> None:
    node = host(Boot())
    assert difference(preflight.preflight(node), node.observed) == ()
    half = {**node.observed.packages, "dkms": ObservedPackage("dkms", "3.0.10-8", "iF ")}
    broken = node.with_observation(replace(node.observed, packages=half))
    (change,) = difference(preflight.preflight(broken), broken.observed)
    assert "dpkg --configure -a" in change.summary and "dkms (iF)" in change.summary
    assert isinstance(change.resource, Action) and change.resource.phase == "early"
    assert change.resource.done(node.observed) and not change.resource.done(broken.observed)


def test_a_journal_that_dpkg_left_is_worked_off() -> None:
    node = host(Boot(packages="journal=0001\n"))
    (change,) = difference(preflight.preflight(node), node.observed)
    assert "its journal is not empty" in change.summary


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (
            "/var /dev/sda3 9000000 8600000 400000 96% /\n",
            r"/var has 391 MiB free \(file system /\), 2048 MiB are needed",
        ),
        (
            "/boot /dev/sda2 483176 450000 30000 94% /boot\n",
            r"/boot has 29 MiB free .*, 63 MiB are needed: the initramfs",
        ),
    ],
)
def test_a_host_without_room_is_refused_before_anything_is_installed(space: str, words: str) -> None:
    with pytest.raises(MetalserveError, match=words) as refused:
        preflight.preflight(host(Boot(space=space), {}))
    assert "apt-get clean" in (refused.value.remedy or "")
    node = host(Boot(space=space))  # with the driver there, nothing is to be installed
    assert difference(preflight.preflight(node), node.observed) == ()


def test_the_role_says_what_the_next_reboot_does() -> None:
    assert next_boot.outlook(host(HEADLESS)).words.startswith("YES, because kernel")
    findings = next_boot.findings(host(Boot()))
    assert findings[0].check == "next-boot" and findings[0].status == "ok", findings[0]
    assert next_boot.today(host(Boot(), facts={"now": "x"})) == host(Boot()).release.kept_from
