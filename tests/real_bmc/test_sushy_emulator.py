"""The Redfish client against another's implementation: sushy-emulator with libvirt, in front of a real QEMU machine.

The tree with libvirt, QEMU and the emulator is made once (mmdebstrap and pip, minutes) and kept in the temporary
directory. The machine has no system: what it boots shows on its console.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from metalserve.bmc.errors import BmcError
from metalserve.bmc.redfish import RedfishBmc
from metalserve.secrets import Secret
from metalserve.settings.bmc import BmcSettings
from tests.real_bmc.emulator import UUID, Emulator, emulator, served

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with emulator(tmp_path_factory.mktemp("emulator") / "log") as running:
        yield running


def client(machine: Emulator, uuid: str = UUID) -> RedfishBmc:
    settings = BmcSettings.model_validate(
        {
            "address": f"127.0.0.1:{machine.port}",
            "user": "admin",
            "password": {"env": "BMC_PASSWORD"},
            "uuid": uuid,
            "tls": {"pin": machine.pin},
        }
    )
    return RedfishBmc(settings, Secret("password"), "gpu-node-01")


@pytest.fixture
def bmc(machine: Emulator) -> Iterator[RedfishBmc]:
    with client(machine) as opened:
        yield opened
        opened.set_power("force-off", 60)


def test_it_has_no_sessions_and_basic_authentication_is_used(bmc: RedfishBmc) -> None:
    found = bmc.identity()
    assert (found.uuid, found.manufacturer, found.proven) == (UUID, "Sushy Emulator", True)
    assert bmc.login.fell_back == "no session (HTTP 404), basic authentication"


def test_another_uuid_is_refused(machine: Emulator) -> None:
    other = "00000000-0000-4000-8000-000000000001"
    with client(machine, other) as wrong, pytest.raises(BmcError, match=f"no system with UUID {other}"):
        wrong.set_power("on", 10)


def test_power(bmc: RedfishBmc) -> None:
    assert bmc.set_power("force-off", 60).power == "off"
    assert bmc.set_power("on", 60).power == "on"
    assert bmc.power() == "on"
    assert "off after" in bmc.set_power("cycle", 90).words
    # its firmware does not listen to the power button while it looks for something to boot
    seen = bmc.set_power("off", 30)
    assert seen.power == "off"


def test_once_is_stored_as_continuous_and_set_back_to_the_disk(bmc: RedfishBmc) -> None:
    seen = bmc.boot_once("pxe")
    assert (seen.target, seen.once) == ("Pxe", False)
    assert "stored as Continuous, not Once" in seen.words
    back = bmc.boot_back()
    assert back.target == "Hdd"
    assert "Disabled is not taken (HTTP 400)" in back.words


def test_virtual_media_boots(machine: Emulator, bmc: RedfishBmc) -> None:
    with served(machine.state) as url:
        seen = bmc.insert(f"{url}/boot.iso")
        assert seen.inserted
        assert seen.image.endswith("boot.iso")
        assert bmc.boot_once("cd").target == "Cd"
        bmc.set_power("on", 60)
        assert machine.said("iPXE", 180), machine.console.read_text(errors="replace")[-1000:]
        bmc.set_power("force-off", 60)
        assert not bmc.eject().inserted
        assert bmc.boot_back().target == "Hdd"


def test_what_it_lacks_is_no_error(bmc: RedfishBmc) -> None:
    assert bmc.events().items == ()
    assert bmc.gpu_telemetry().items == ()
    assert bmc.firmware() == ()
    assert {each.kind for each in bmc.sensors().items} >= {"Temperature", "Rotational"}
