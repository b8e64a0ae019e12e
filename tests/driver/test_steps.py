"""The steps to a plan: unload where that is enough, reboot where it is not, nothing where the host has it."""

from __future__ import annotations

from typing import Any

import pytest

from metalserve.driver import DriverPlan, plan_driver
from metalserve.driver.named import machine_by_name
from metalserve.driver.seen import Seen
from metalserve.driver.state import DriverState
from metalserve.driver.steps import Step, steps_to
from tests.driver.hosts import GPUS, LTS, RULES
from tests.roles.helpers import make_node

VERSION = LTS.driver.version
FAMILY = ("nvidia-kernel-open-dkms", "nvidia-driver-cuda", "nvidia-persistenced", "nvidia-fabricmanager")
INSTALLED = dict.fromkeys((*FAMILY, "libnvidia-nscq", f"nvidia-driver-pinning-{VERSION}"), f"{VERSION}-1")


def plan(os_id: str = "debian-12", gpu: str = "8xh100-sxm", **more: Any) -> DriverPlan:
    source, modules = more.pop("source", "nvidia"), more.pop("modules", "auto")
    machine, _ = machine_by_name(os_id, [gpu], GPUS, **more)
    return plan_driver(machine, LTS, modules, GPUS, RULES, source=source)


def words(steps: tuple[Step, ...]) -> list[str]:
    return [s.what for s in steps]


def test_a_host_that_has_it_has_nothing_to_do() -> None:
    state = DriverState(None, VERSION, True, VERSION, INSTALLED)
    assert steps_to(plan(), state) == ()


@pytest.mark.parametrize(
    ("state", "there", "absent"),
    [
        (DriverState(), ["load the modules"], ["reboot", "unload the old modules"]),
        (
            DriverState(holder="nouveau"),
            ["blacklist nouveau and rebuild the initramfs", "reboot"],
            ["load the modules"],
        ),
        (
            DriverState(None, "570.211.01", True, "570.211.01", {"nvidia-kernel-open-dkms": "570.211.01-1"}),
            ["stop what holds the driver", "unload the old modules", "load the new modules"],
            ["reboot", "load the modules"],
        ),
        (
            DriverState(None, VERSION, False, VERSION, {"nvidia-kernel-dkms": f"{VERSION}-1"}),
            ["remove nvidia-kernel-dkms", "unload the old modules", "load the new modules"],
            ["reboot"],
        ),
    ],
)
def test_what_the_kernel_holds_decides(state: DriverState, there: list[str], absent: list[str]) -> None:
    found = words(steps_to(plan(), state))
    assert [w for w in found if w in there] == there
    assert not set(absent) & set(found)


def test_modules_are_stopped_before_packages_and_swapped_after() -> None:
    state = DriverState(None, "570.211.01", True, "570.211.01", {})
    found = words(steps_to(plan(), state))
    order = ["stop what holds the driver", "install the driver", "unload the old modules", "load the new modules"]
    assert [w for w in found if w in order] == order
    assert found.index("start fabric manager") > found.index("load the new modules")
    stop = next(s for s in steps_to(plan(), state) if s.what == "stop what holds the driver")
    assert "nvidia-persistenced.service" in stop.command and "nvidia-fabricmanager.service" in stop.command


def test_a_host_that_is_not_known_is_told_both_ways() -> None:
    found = words(steps_to(plan(), None))
    assert "load the modules" in found
    assert "reboot, where nouveau or another driver holds the GPUs" in found


def test_commands_are_those_of_the_system() -> None:
    debian = {s.what: s.command for s in steps_to(plan(), None)}
    assert debian[f"install nvidia-driver-pinning-{VERSION}"] == f"apt-get install -y nvidia-driver-pinning-{VERSION}"
    assert f"'nvidia-kernel-open-dkms={VERSION}-*'" in debian["install the driver"]
    el9 = {s.what: s.command for s in steps_to(plan("rocky-9"), None)}
    assert "dnf module enable -y nvidia-driver:580-open" in el9["enable module stream nvidia-driver:580-open"]
    assert f"kmod-nvidia-open-dkms-{VERSION}" in el9["install the driver"]
    el10 = {s.what: s.command for s in steps_to(plan("rhel-10"), None)}
    assert "python3-dnf-plugin-versionlock && dnf versionlock add '*nvidia*580*'" in el10["lock *nvidia*580*"]


def test_nvlink5_and_racks_have_steps_of_their_own() -> None:
    board = {s.what: s.command for s in steps_to(plan("ubuntu-24.04", "8xb200"), None)}
    assert board["load what nvlsm needs"] == "modprobe ib_umad && modprobe mlx5_core"
    tray = words(steps_to(plan("ubuntu-24.04", "4xgb200"), None))
    assert "list the trays of the domain and start IMEX" in tray and "start fabric manager" not in tray


def test_an_archive_s_driver_is_held_and_its_version_checked() -> None:
    chosen = plan("debian-13", "2xl40s", source="distro")
    found = {s.what: s.command for s in steps_to(chosen, None)}
    assert found["hold them"] == "apt-mark hold nvidia-kernel-dkms libcuda1 nvidia-smi nvidia-persistenced"
    assert "see that the driver is 580.65.06 or newer" in found
    assert "enable contrib, non-free, non-free-firmware in the host's sources of Debian's archive" in found


def test_signed_modules_of_other_kernels_are_left_alone() -> None:
    chosen = plan("ubuntu-24.04", "2xl40s", source="distro", kernel="6.8.0-90-generic")
    old = {"linux-modules-nvidia-580-server-open-6.8.0-88-generic": "6.8.0-88.89"}
    assert not any(w.startswith("remove") for w in words(steps_to(chosen, DriverState(packages=old))))
    other = {"linux-modules-nvidia-580-server-6.8.0-90-generic": "6.8.0-90.91"}
    assert words(steps_to(chosen, DriverState(packages=other)))[0] == f"remove {next(iter(other))}"


def test_the_state_is_what_an_observation_told() -> None:
    node = make_node(
        packages={"nvidia-dkms-550": "550.163.01-1", "nvidia-container-toolkit": "1.20.0-1", "bash": "5"},
        modules=["nouveau"],
        facts={"secure_boot": "1"},
        sections={"mok-key": "/var/lib/dkms/mok.pub is already enrolled\n"},
    )
    seen = Seen.of(node.hardware, node.observed)
    assert seen.state == DriverState(holder="nouveau", packages={"nvidia-dkms-550": "550.163.01-1"})
    assert (seen.machine.kernel, seen.machine.secure_boot, seen.machine.key_enrolled) == ("6.1.0-44-amd64", True, True)
    assert len(seen.machine.gpus) == 8


def test_a_container_has_neither_kernel_nor_firmware_of_its_own() -> None:
    node = make_node(facts={"virt": "systemd-nspawn", "secure_boot": "1"})
    seen = Seen.of(node.hardware, node.observed)
    assert (seen.machine.kernel, seen.machine.secure_boot) == ("", False)
