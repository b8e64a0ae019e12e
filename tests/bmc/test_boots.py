"""What a host of the lab does when it boots from the network or a virtual CD, by its BMC's override."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from metalserve.bmc.errors import BmcError
from metalserve.errors import MetalserveError
from metalserve.lab.bmc.machine import disk_of, serial_of, uuid_of
from tests.bmc.boot_server import BootServer
from tests.bmc.conftest import Fake


@pytest.fixture
def boot_server(fake: Fake) -> Iterator[BootServer]:
    server = BootServer("gpu-01")
    fake.boot_server = server.url
    yield server
    server.stop()


def booted(fake: Fake, *faults: str) -> list[str]:
    """Set the next boot to PXE, switch on, and return what the machine did."""
    client = fake.client()
    client.boot_once("pxe")
    client.set_power("on", 10)
    fake.board.wait()
    return fake.machine.done


def test_a_host_that_is_ordered_is_written_and_boots_from_its_disk(fake: Fake, boot_server: BootServer) -> None:
    assert booted(fake) == ["write", "boot"]
    told = boot_server.asked[0]
    assert (told["identity"]["serial"], told["identity"]["uuid"]) == (serial_of("gpu-01"), uuid_of("gpu-01"))
    assert told["disks"][0]["serial"] == disk_of("gpu-01")
    assert boot_server.results == [
        {"order": "7", "token": "t", "status": "ok", "words": "simulated: the tree of the lab written"}
    ]
    assert serial_of("gpu-01") in boot_server.scripts[0]
    assert fake.board.state()["boot"]["Enabled"] == "Disabled", "an override for one boot is used up"
    events = [each.message for each in fake.client().events().items]
    assert any(each.startswith("Booting from Pxe") for each in events)


def test_nobody_ordered_and_the_disk_boots(fake: Fake, boot_server: BootServer) -> None:
    boot_server.permissions = 0
    assert booted(fake) == ["boot"]


def test_an_override_that_stays_writes_once_because_the_server_permits_once(
    fake: Fake, boot_server: BootServer
) -> None:
    fake.fault("once-ignored")
    assert booted(fake) == ["write", "boot"]
    assert len(boot_server.asked) == 2, "it came back from the network"


def test_the_wrong_boot_order_is_seen_by_what_the_host_does_only(fake: Fake, boot_server: BootServer) -> None:
    fake.fault("wrong-boot-order")
    assert fake.client().boot_once("pxe").target == "Pxe"
    assert booted(fake) == ["boot"]
    assert boot_server.asked == []


def test_no_boot_server_and_the_disk_boots(fake: Fake) -> None:
    assert booted(fake) == ["boot"]
    assert any("Nothing to boot from Pxe" in each.message for each in fake.client().events().items)


def test_a_virtual_cd_boots_from_where_its_image_came_from(fake: Fake, boot_server: BootServer) -> None:
    fake.boot_server = None
    client = fake.client()
    url = f"{boot_server.url}/v1/files/installer/deploy.iso"
    assert client.insert(url).image == url
    assert client.insert(url).inserted, "the same once more changes nothing"
    assert len(fake.asked("POST", "InsertMedia")) == 1
    assert client.boot_once("cd").target == "Cd"
    client.set_power("on", 10)
    fake.board.wait()
    assert fake.machine.done == ["write", "boot"]
    assert not client.eject().inserted
    assert not client.eject().inserted
    assert [each.inserted for each in client.media()] == [False, False]


def test_media_in_the_drive_is_replaced(fake: Fake) -> None:
    client = fake.client()
    client.insert("http://192.0.2.1/one.iso")
    assert client.insert("http://192.0.2.1/two.iso").image.endswith("two.iso")


def test_media_that_is_not_shown_afterwards_is_an_error(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    client = fake.client()
    monkeypatch.setattr(fake.board, "remember", lambda **parts: None)
    with pytest.raises(BmcError, match="its drive shows none"):
        client.insert("http://192.0.2.1/one.iso")


def test_uefi_http_boots_what_it_is_given(fake: Fake, boot_server: BootServer) -> None:
    fake.boot_server = None
    client = fake.client()
    assert client.boot_once("uefi-http", f"{boot_server.url}/v1/files/x/uki.efi").once
    client.set_power("on", 10)
    fake.board.wait()
    assert fake.machine.done == ["write", "boot"]
    with pytest.raises(BmcError, match="takes no URI"):
        client.boot_once("pxe", "http://192.0.2.1/x")


def test_the_builds_own_root_is_written_when_it_has_one(fake: Fake, boot_server: BootServer) -> None:
    boot_server.offer("root.tar.zst", b"a root")
    assert booted(fake) == ["write", "boot"]
    written = fake.machine.written[0]
    assert written is not None
    assert written.read_bytes() == b"a root"


def test_a_damaged_image_is_not_written_and_leaves_no_bootable_disk(fake: Fake, boot_server: BootServer) -> None:
    boot_server.contents["disk.raw.zst"] = b"another image"
    client = fake.client()
    client.boot_once("pxe")
    client.set_power("on", 10)
    fake.board._firmware.join(2)  # type: ignore[union-attr]
    assert fake.machine.done == []
    assert boot_server.results[0]["status"] == "bad"
    assert client.power() == "on", "the power is on, and nothing runs: only the host itself tells"
    assert client.events().items[-1].message == "No bootable device"
    boot_server.contents["disk.raw.zst"] = boot_server.image
    boot_server.permissions = 1
    client.boot_once("pxe")
    client.set_power("cycle", 10)
    fake.board.wait()
    assert fake.machine.done == ["cut", "write", "boot"]


def test_an_error_while_writing_is_reported(fake: Fake, boot_server: BootServer) -> None:
    fake.machine.write_error = MetalserveError("the disk is full", where="gpu-01")
    client = fake.client()
    client.boot_once("pxe")
    client.set_power("on", 10)
    fake.board._firmware.join(2)  # type: ignore[union-attr]
    assert boot_server.results[0]["status"] == "bad"
    assert "the disk is full" in boot_server.results[0]["words"]


def test_another_disk_than_the_hosts_is_not_written(fake: Fake, boot_server: BootServer) -> None:
    boot_server.disk = "OTHER"
    assert booted(fake) == ["boot"]
    assert boot_server.results[0]["status"] == "bad"


def test_power_is_shown_while_the_host_starts_and_cut_in_the_middle(fake: Fake) -> None:
    fake.machine.slow_start_s = 0.5
    client = fake.client()
    assert client.set_power("on", 10).power == "on"
    assert not fake.machine.up
    assert client.set_power("force-off", 10).power == "off"
    assert fake.machine.done == ["boot", "cut"]
    assert threading.active_count() < 40


def test_resets_of_a_host_that_is_off_leave_it_off(fake: Fake) -> None:
    fake.board.reset("ForceRestart")
    fake.board.reset("GracefulRestart")
    assert not fake.board.on
    fake.board.reset("PushPowerButton")
    fake.board.wait()
    assert fake.board.on
    fake.board.reset("GracefulRestart")
    with pytest.raises(ValueError, match="Nmi"):
        fake.board.reset("Nmi")
