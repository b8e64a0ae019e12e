"""Role fabric_manager: only where NVSwitches are, at the driver's version, alive, and with a complete fabric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from metalserve.desired.diff import difference
from metalserve.desired.node import Node
from metalserve.errors import MetalserveError
from metalserve.hardware.node import Gpu, NodeHardware
from metalserve.hardware.parsers.unit_deaths import READABLE
from metalserve.releases import Release, load_release
from metalserve.verify.finding import worst
from roles.fabric_manager import desired as role
from roles.fabric_manager import liveness
from tests.roles.helpers import BOOTED, a_file, after, changes, make_node, no_unit, unit, with_hardware

LTS = load_release("2026.11-lts")
VERSION = LTS.driver.version


def hgx(**more: object) -> Node:
    """Eight H100 with four NVSwitches, and a journal that tells of no death."""
    sections = {liveness.SECTION: died(), **more.pop("sections", {})}  # type: ignore[dict-item]
    return make_node(switches=4, sections=sections, **more)  # type: ignore[arg-type]


def died(*after_boot: float, restarted: bool = True) -> str:
    """What the journal tells of deaths so many seconds after the boot, and of the restarts that systemd scheduled."""
    lines = []
    for number, s in enumerate(after_boot, start=1):
        lines.append(f"{BOOTED + s:.6f} hgx systemd[1]: {role.UNIT}: Failed with result 'signal'.")
        again = f"{role.UNIT}: Scheduled restart job, restart counter is at {number}."
        lines += [f"{BOOTED + s + 1:.6f} hgx systemd[1]: {again}"] if restarted else []
    return "\n".join([READABLE, *lines]) + "\n"


def nvlink5(hardware: NodeHardware) -> NodeHardware:
    return replace(hardware, needs_fabric_manager=True, needs_nvlsm=True)


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
    node = make_node(gpus=("2901",) * 8, hardware=nvlink5)
    told = changes(role.install(node) + role.activate(node), node)
    assert "package nvlsm: absent -> installed" in told
    assert "module ib_umad: not loaded -> loaded" in told
    assert f"file {role.LOAD_AT_BOOT}: absent -> written" in told
    assert told.index("module ib_umad: not loaded -> loaded") < told.index(f"unit {role.UNIT}: absent -> enable, start")
    done = with_hardware(after(node, role.install(node) + role.activate(node)), nvlink5)
    assert changes(role.install(done) + role.activate(done), done) == []


def test_nvlink5_services_start_after_their_modules_at_every_boot() -> None:
    node = make_node(gpus=("2901",) * 8, hardware=nvlink5)
    files = {file.path: file.content or "" for file in role.install(node).files}
    assert files[role.LOAD_AT_BOOT].splitlines()[1:] == ["ib_umad", "mlx5_core"]
    assert role.ORDER == "/etc/systemd/system/nvidia-fabricmanager.service.d/metalserve-nvlink5.conf"
    assert "After=systemd-modules-load.service openibd.service" in files[role.ORDER]
    assert role.install(hgx()).files == (), "boards before NVLink5 need neither"


def test_a_missing_module_of_nvlink5_fails_the_host() -> None:
    def lacking(hardware: NodeHardware) -> NodeHardware:
        return replace(nvlink5(fabric()(hardware)), loaded_modules=("nvidia", "mlx5_core"))

    node = with_hardware(hgx(units={role.UNIT: unit(role.UNIT)}), lacking)
    (failed,) = [f for f in role.findings(node) if f.failing]
    assert (failed.check, failed.observed) == ("fabric-modules", "ib_umad not loaded")


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
        failed = [f for f in role.findings(node) if f.status == "fail"]
        assert [f.check for f in failed] == ["fabric-manager-alive"]
        assert "while the fabric's state is still Completed" in failed[0].observed
        assert "systemctl show nvidia-fabricmanager.service: ActiveState=" in failed[0].evidence


@pytest.mark.parametrize(
    ("deaths", "restarts", "now", "status", "words"),
    [
        ((), 0, 1000, "ok", "died 0 time(s)"),
        ((400, 600), 0, 1000, "ok", "died 2 time(s)"),
        ((400, 600, 900), 0, 1000, "fail", "died 3 time(s) in 30 minutes, last seen at"),
        ((400, 600, 900), 0, 1300, "warn", "died 3 time(s)"),  # it has settled
        ((400, 600, 900), 0, 4000, "ok", "died 0 time(s)"),  # long ago
        ((), 7, 100, "fail", "died 7 time(s)"),  # systemd's own count
        ((), 7, 4000, "ok", "died 0 time(s)"),
        (None, 7, 100, "fail", "died 7 time(s)"),  # no journal
        (None, 0, 100, "ok", "died 0 time(s)"),
        (None, None, 100, "inconclusive", "neither the journal nor systemd"),
    ],
)
@pytest.mark.parametrize("restarted", [True, False])
def test_a_manager_that_comes_and_goes_is_found(
    deaths: tuple[float, ...] | None, restarts: int | None, now: float, status: str, words: str, restarted: bool
) -> None:
    state = replace(unit(role.UNIT, started=BOOTED + (deaths[-1] + 2 if deaths else 0)), restarts=restarts)
    said = died(*deaths, restarted=restarted) if deaths is not None else "No journal files were found.\n"
    facts = {"now": str(BOOTED + now)}
    node = with_hardware(hgx(units={role.UNIT: state}, sections={liveness.SECTION: said}, facts=facts), fabric())
    (found,) = [f for f in role.findings(node) if f.check == "fabric-manager-flapping"]
    assert (found.status, words in found.observed) == (status, True), found
    assert "NRestarts=" in found.evidence
    assert {f.check for f in role.findings(node) if f.failing} <= {"fabric-manager-flapping"}
    assert found.status == "ok" or (found.impact and found.remedy)


def test_restarts_that_somebody_asked_for_are_no_deaths() -> None:
    said = "".join(
        f"{BOOTED + n:.6f} hgx systemd[1]: {role.UNIT}: Deactivated successfully.\n"
        f"{BOOTED + n + 1:.6f} hgx systemd[1]: Started {role.UNIT} - NVIDIA fabric manager service.\n"
        for n in range(100, 900, 100)
    )
    node = hgx(units={role.UNIT: unit(role.UNIT)}, sections={liveness.SECTION: f"{READABLE}\n{said}"})
    assert liveness.flapping(with_hardware(node, fabric())).status == "ok"


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
