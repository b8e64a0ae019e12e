"""Role fabric_manager: only where NVSwitches are, at the driver's version, alive, and with a complete fabric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from metalserve.desired.diff import difference
from metalserve.desired.node import Node
from metalserve.errors import MetalserveError
from metalserve.hardware.node import Gpu, NodeHardware
from metalserve.releases import Release, load_release
from metalserve.verify.finding import worst
from roles.fabric_manager import desired as role
from tests.roles.helpers import BOOTED, a_file, after, changes, make_node, no_unit, unit, with_hardware

LTS = load_release("2026.11-lts")
VERSION = LTS.driver.version


def hgx(**more: object) -> Node:
    """Eight H100 with four NVSwitches."""
    return make_node(switches=4, **more)  # type: ignore[arg-type]


def test_hosts_without_switches_are_left_alone_even_with_the_package() -> None:
    for node in (
        make_node(gpus=("26b9",) * 4),
        make_node(gpus=("2321",) * 2, packages={"nvidia-fabricmanager": "570.1-1"}, units={role.UNIT: unit(role.UNIT)}),
    ):
        assert changes(role.install(node) + role.activate(node), node) == []
        assert role.findings(node) == ()


def test_hgx_gets_the_drivers_version_and_a_running_service() -> None:
    node = hgx(units={role.UNIT: no_unit(role.UNIT)})
    wish = role.install(node) + role.activate(node)
    assert changes(wish, node) == [
        f"package nvidia-fabricmanager: absent -> {VERSION}",
        f"package libnvidia-nscq: absent -> {VERSION}",
        f"unit {role.UNIT}: -/inactive -> enable, start",
    ]
    done = after(node, wish)
    assert changes(role.install(done) + role.activate(done), done) == []


def test_another_version_is_replaced_and_the_service_started_anew() -> None:
    node = hgx(
        packages={"nvidia-fabricmanager": "580.95.05-1", "libnvidia-nscq": "580.95.05-1"},
        units={role.UNIT: unit(role.UNIT)},
    )
    assert f"package nvidia-fabricmanager: 580.95.05-1 -> {VERSION}" in changes(role.install(node), node)
    listing = "/var/lib/dpkg/info/nvidia-fabricmanager.list"
    upgraded = hgx(files={listing: a_file(listing, mtime=BOOTED + 50)}, units={role.UNIT: unit(role.UNIT)})
    assert [c.verbs for c in difference(role.activate(upgraded), upgraded.observed)] == [("restart",)]


def test_nvlink5_boards_get_the_subnet_manager_and_its_modules() -> None:
    node = make_node(gpus=("2901",) * 8, hardware=lambda h: replace(h, needs_fabric_manager=True, needs_nvlsm=True))
    told = changes(role.install(node) + role.activate(node), node)
    assert "package nvlsm: absent -> installed" in told
    assert "module ib_umad: not loaded -> loaded" in told
    assert f"file {role.LOAD_AT_BOOT}: absent -> written" in told


def test_a_release_with_another_fabric_manager_is_refused() -> None:
    broken = Release.model_validate({**LTS.model_dump(), "fabric_manager": {"version": "580.95.05"}})
    with pytest.raises(MetalserveError, match=r"580\.95\.05 refuses driver"):
        role.install(hgx(release=broken))


def fabric(
    state: str = "Completed", status: str = "Success", health: str | None = "N/A"
) -> Callable[[NodeHardware], NodeHardware]:
    def change(hardware: NodeHardware) -> NodeHardware:
        gpus = tuple(Gpu(i, fabric_state=state, fabric_status=status, fabric_health=health) for i in range(8))
        return replace(
            hardware,
            gpus=gpus,
            smi_state="ok",
            driver_version=VERSION,
            module_version=VERSION,
            fabric_manager_version=VERSION,
        )

    return change


def test_proof_of_a_complete_fabric() -> None:
    for health in ("N/A", "Healthy", None):
        node = with_hardware(hgx(units={role.UNIT: unit(role.UNIT)}), fabric(health=health))
        assert worst(role.findings(node)) == "ok"


def test_a_dead_manager_is_seen_although_the_fabric_stays_completed() -> None:
    for state in (unit(role.UNIT, active="failed"), no_unit(role.UNIT)):
        node = with_hardware(hgx(units={role.UNIT: state}), fabric())
        failed = [f.check for f in role.findings(node) if f.status == "fail"]
        assert failed == ["fabric-manager-alive"]


@pytest.mark.parametrize(
    ("state", "status", "health"),
    [("In Progress", "N/A", "N/A"), ("Completed", "NVML_ERROR", "N/A"), ("Completed", "Success", "Unhealthy")],
)
def test_an_incomplete_fabric_fails_every_gpu_it_shows_on(state: str, status: str, health: str) -> None:
    node = with_hardware(hgx(units={role.UNIT: unit(role.UNIT)}), fabric(state, status, health))
    failed = [f for f in role.findings(node) if f.status == "fail"]
    assert len(failed) == 8 and {f.check for f in failed} == {"fabric-state"}
    assert "802" in failed[0].impact


def test_a_manager_of_another_version_is_told() -> None:
    node = with_hardware(
        with_hardware(hgx(units={role.UNIT: unit(role.UNIT)}), fabric()),
        lambda h: replace(h, fabric_manager_version="580.95.05"),
    )
    assert [f.check for f in role.findings(node) if f.status == "fail"] == ["fabric-manager-version"]
