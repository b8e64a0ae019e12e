"""Orders: one machine, one disk, one permission."""

from __future__ import annotations

import json
import stat
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalserve.errors import MetalserveError
from metalserve.templates.machine_identity import Identity, difference
from metalserve.templates.order import LIFE, Disk, Order, Refused, utc_now
from metalserve.templates.orders import Orders

UUID = "4c4c4544-0051-3010-8051-b4c04f4e3232"
NODE = Identity(serial="S1", uuid=UUID, macs=("52:54:00:00:00:01", "52:54:00:00:00:02"))
DISKS = [Disk(serial="D1", size_bytes=10**12, name="nvme0n1"), Disk(serial="D2", size_bytes=10**12, name="nvme1n1")]


def place(orders: Orders, node: str = "gpu-01", identity: Identity = NODE, **more: Any) -> Order:
    named: dict[str, Any] = {"template": "debian-13", "build": "B1", "disk_serial": "D2", **more}
    return orders.place(node, identity=identity, **named)


@pytest.fixture
def orders(tmp_path: Path) -> Orders:
    return Orders(tmp_path / "orders")


def test_an_order_is_permitted_once_and_then_ends(orders: Orders) -> None:
    placed = place(orders)
    assert orders.for_machine(NODE) == placed
    permitted = orders.permit(NODE, DISKS)
    assert (permitted.state, permitted.words) == ("permitted", "writing to nvme1n1")
    with pytest.raises(Refused, match=r"its order has been used: permitted at .*; place a new one"):
        orders.permit(NODE, DISKS)
    with pytest.raises(Refused, match="not its token"):
        orders.finish(placed.number, "guess", "ok", "")
    ended = orders.finish(placed.number, placed.token, "ok", "written\x1b[31m\nin 9 s")
    assert (ended.state, ended.words) == ("done", "written [31m in 9 s")
    assert orders.finish(placed.number, placed.token, "ok", "said again") == ended
    with pytest.raises(Refused, match="the order is done"):
        orders.finish(placed.number, placed.token, "bad", "changed its mind")
    with pytest.raises(Refused, match="used: done"):
        orders.permit(NODE, DISKS)


def test_no_result_counts_before_the_permission(orders: Orders) -> None:
    placed = place(orders)
    with pytest.raises(Refused, match="the order is ordered"):
        orders.finish(placed.number, placed.token, "ok", "")
    with pytest.raises(Refused, match="no such order"):
        orders.finish("0" * 16, placed.token, "ok", "")


def test_a_disk_that_is_not_there_uses_no_permission_up(orders: Orders) -> None:
    place(orders, disk_serial="D9")
    with pytest.raises(Refused, match="disk D9 is not in this machine; it has: nvme0n1 D1, nvme1n1 D2"):
        orders.permit(NODE, DISKS)
    found = orders.get("gpu-01")
    assert found is not None and found.state == "ordered" and found.words.startswith("refused: disk D9")
    assert orders.permit(NODE, [*DISKS, Disk(serial="D9", name="sda")]).state == "permitted"


def test_a_serial_that_two_disks_have_names_none(orders: Orders) -> None:
    place(orders)
    with pytest.raises(Refused, match="is the serial of 2 disks"):
        orders.permit(NODE, [*DISKS, Disk(serial="D2", name="nvme1n2")])


def test_what_the_check_refuses_uses_no_permission_up(orders: Orders) -> None:
    place(orders)

    def never(order: Order, disk: Disk) -> None:
        raise MetalserveError("too small", where=disk.serial)

    with pytest.raises(Refused, match="D2: too small"):
        orders.permit(NODE, DISKS, check=never)
    assert orders.permit(NODE, DISKS).state == "permitted"


def test_an_order_expires(orders: Orders) -> None:
    now = utc_now()
    place(orders, now=now)
    with pytest.raises(Refused, match="has expired"):
        orders.permit(NODE, DISKS, now=now + LIFE)
    assert orders.permit(NODE, DISKS, now=now + LIFE - timedelta(seconds=1)).permitted_at is not None


def test_of_many_that_ask_at_once_one_may_write(orders: Orders) -> None:
    place(orders)
    said: list[str] = []

    def ask() -> None:
        try:
            said.append(orders.permit(NODE, DISKS).state)
        except Refused:
            said.append("refused")

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == ["permitted"] + ["refused"] * 11


def test_orders_are_private_and_whole(orders: Orders) -> None:
    place(orders)
    file = orders.directory / "gpu-01.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(orders.directory.stat().st_mode) == 0o700
    assert json.loads(file.read_text())["schema"] == 1
    file.write_text("{")
    with pytest.raises(MetalserveError, match=r"gpu-01\.json: cannot be read: it is no order -> remove it"):
        orders.permit(NODE, DISKS)


def test_a_second_order_does_not_take_the_first_one_s_place(orders: Orders) -> None:
    first = place(orders)
    with pytest.raises(MetalserveError, match=r"gpu-01: an order of .* is under way \(ordered\)"):
        place(orders)
    with pytest.raises(MetalserveError, match="the order for gpu-01 is for the same machine"):
        place(orders, node="gpu-02")
    second = place(orders, replace=True)
    assert second.number != first.number and second.token != first.token
    orders.permit(NODE, DISKS)
    with pytest.raises(Refused, match="no such order"):
        orders.finish(first.number, first.token, "ok", "")
    with pytest.raises(MetalserveError, match=r"is under way \(permitted\)"):
        place(orders)
    orders.finish(second.number, second.token, "bad", "")
    assert place(orders).state == "ordered"


def test_an_order_can_be_withdrawn_until_it_is_carried_out(orders: Orders) -> None:
    assert orders.withdraw("gpu-01") is False
    place(orders)
    assert orders.withdraw("gpu-01") is True
    assert orders.all() == []
    place(orders)
    orders.permit(NODE, DISKS)
    with pytest.raises(MetalserveError, match="is being carried out"):
        orders.withdraw("gpu-01")


def test_two_orders_that_fit_a_machine_are_refused(orders: Orders) -> None:
    place(orders, identity=Identity(serial="S1"))
    place(orders, node="gpu-02", identity=Identity(macs=(NODE.macs[0],)))
    with pytest.raises(Refused, match="more than one order is for this machine: gpu-01, gpu-02"):
        orders.permit(NODE, DISKS)


@pytest.mark.parametrize("node", ["../x", "", ".hidden", "a/b", "a\n"])
def test_a_name_is_no_path(orders: Orders, node: str) -> None:
    with pytest.raises(MetalserveError, match="order for"):
        place(orders, node=node)
    assert orders.get(node) is None


def test_an_order_must_say_which_machine(orders: Orders) -> None:
    with pytest.raises(MetalserveError, match="does not say which machine"):
        place(orders, identity=Identity(serial="To Be Filled By O.E.M.", uuid="0" * 32, macs=("00:00:00:00:00:00",)))


@pytest.mark.parametrize(
    ("wanted", "told", "why"),
    [
        ({"serial": "S1"}, {"serial": "S1"}, None),
        ({"serial": "S1"}, {"serial": "S2"}, "its serial number is S2, and S1 is wanted"),
        ({"serial": "S1"}, {"uuid": UUID}, "tells no serial number"),
        ({"serial": "S1", "uuid": UUID}, {"serial": "S1", "uuid": UUID.replace("4c", "5c")}, "its UUID is"),
        ({"uuid": UUID.upper()}, {"uuid": UUID}, None),
        ({"uuid": "44454c4c-5100-1030-8051-b4c04f4e3232"}, {"uuid": UUID}, None),
        ({"macs": ["52-54-00-00-00-01"]}, {"macs": ["52:54:00:00:00:01", "52:54:00:00:00:09"]}, None),
        ({"macs": ["52:54:00:00:00:01"]}, {"macs": ["52:54:00:00:00:09"]}, "none of 52:54:00:00:00:01"),
        ({"macs": ["52:54:00:00:00:01"]}, {"serial": "S1"}, "nothing tells which machine it is"),
        ({"serial": "S1", "macs": ["52:54:00:00:00:01"]}, {"serial": "S1"}, None),
        ({"serial": "S1", "macs": ["52:54:00:00:00:01"]}, {"serial": "S1", "macs": ["52:54:00:00:00:09"]}, "none of"),
        ({}, {"serial": "S1"}, "nothing tells which machine it is"),
    ],
)
def test_which_machine_is_meant(wanted: dict[str, Any], told: dict[str, Any], why: str | None) -> None:
    found = difference(Identity.model_validate(wanted), Identity.model_validate(told))
    assert found is None if why is None else found is not None and why in found


@given(st.text(), st.text(), st.lists(st.text()))
def test_whatever_firmware_says_is_an_identity_or_nothing(serial: str, uuid: str, macs: list[str]) -> None:
    told = Identity.model_validate({"serial": serial[:200], "uuid": uuid, "macs": macs})
    assert (difference(told, told) is None) == told.known
