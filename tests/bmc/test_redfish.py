"""The Redfish client against the lab's fake BMC."""

from __future__ import annotations

import pytest

from metalserve.bmc.errors import BmcError
from metalserve.lab.bmc.machine import serial_of, uuid_of
from tests.bmc.conftest import PASSWORD, Fake


def test_the_host_is_found_by_serial_though_a_baseboard_is_listed_first(fake: Fake) -> None:
    fake.machine.up = True
    found = fake.client().identity()
    assert found.members[0].path.endswith("HGX_Baseboard_0")
    assert found.path.endswith("/System_0")
    assert found.serial == serial_of("gpu-01")
    assert found.proven
    assert found.simulated


def test_a_baseboard_that_answers_503_is_not_needed_and_not_waited_for(fake: Fake) -> None:
    found = fake.client().identity()  # the host is off
    assert "503" in found.members[0].note
    assert found.path.endswith("/System_0")
    assert len(fake.asked("GET", "HGX_Baseboard_0")) == 1


def test_power_is_on_when_the_bmc_shows_it(fake: Fake) -> None:
    client = fake.client()
    assert client.power() == "off"
    seen = client.set_power("on", 10)
    assert seen.power == "on"
    fake.board.wait()
    assert fake.machine.done == ["boot"]
    assert client.set_power("on", 10).words == "was on"
    assert client.set_power("cycle", 10).power == "on"
    fake.board.wait()
    assert fake.machine.done == ["boot", "cut", "boot"]


def test_the_session_is_ended(fake: Fake) -> None:
    with fake.client() as client:
        client.power()
        assert len(fake.server.tokens) == 1
    assert fake.server.tokens == {}


def test_wrong_password_is_tried_once_and_not_shown(fake: Fake) -> None:
    client = fake.client(password="wrong-wrong-wrong")
    with pytest.raises(BmcError, match="refuses the login of user 'admin'") as caught:
        client.power()
    assert "wrong-wrong-wrong" not in str(caught.value)
    assert len(fake.asked("POST", "Sessions")) == 1
    assert fake.asked("GET", "Systems") == []


def test_uuid_in_either_byte_order_names_the_host(fake: Fake) -> None:
    import uuid

    swapped = str(uuid.UUID(bytes_le=uuid.UUID(uuid_of("gpu-01")).bytes))
    assert fake.client(serial=None, uuid=swapped).identity().proven
    assert PASSWORD not in repr(fake.settings())
