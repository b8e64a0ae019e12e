"""Which of a BMC's systems is the host."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalserve.bmc.errors import BmcError
from metalserve.bmc.finding import find
from metalserve.catalogue.bmc_quirks import load_bmc_quirks

BOARD = ("/redfish/v1/Systems/HGX_Baseboard_0", {"SerialNumber": "BOARD1", "Model": "HGX H100"})
HOST = (
    "/redfish/v1/Systems/System_0",
    {"SerialNumber": " abc123 ", "UUID": "00112233-4455-6677-8899-AABBCCDDEEFF", "Manufacturer": "Supermicro"},
)
DELL = (
    "/redfish/v1/Systems/System.Embedded.1",
    {"SerialNumber": "CNWS3001", "SKU": "7XK2QV3", "Manufacturer": "Dell Inc."},
)
SERIALS = ("abc123", "board1", "7xk2qv3", "cnws3001")


def chosen(bodies: list[Any], serial: str | None = None, wanted: str | None = None) -> Any:
    return find(bodies, serial=serial, wanted_uuid=wanted, quirks=load_bmc_quirks(), where="x's BMC")


def test_by_serial_in_any_case_and_spacing() -> None:
    assert chosen([BOARD, HOST], "ABC123").path == HOST[0]
    assert chosen([BOARD, HOST], "ABC123").proven


def test_by_uuid_in_both_byte_orders() -> None:
    assert chosen([BOARD, HOST], None, "00112233-4455-6677-8899-aabbccddeeff").path == HOST[0]
    assert chosen([BOARD, HOST], None, "33221100-5544-7766-8899-aabbccddeeff").path == HOST[0]


def test_both_must_fit_where_both_are_given() -> None:
    with pytest.raises(BmcError, match="no system with serial abc123"):
        chosen([BOARD, HOST], "abc123", str(uuid.UUID(int=1)))


def test_a_dell_is_known_by_its_service_tag() -> None:
    assert chosen([DELL], "7XK2QV3").proven
    assert chosen([DELL], "CNWS3001").proven


def test_another_vendors_sku_is_no_serial() -> None:
    with pytest.raises(BmcError, match=r"is bmc\.address that of another host"):
        chosen([(HOST[0], {**HOST[1], "SKU": "7XK2QV3"})], "7XK2QV3")


def test_without_a_name_the_only_host_may_be_read_and_is_not_proven() -> None:
    assert chosen([BOARD, HOST]).path == HOST[0]
    assert not chosen([BOARD, HOST]).proven
    with pytest.raises(BmcError, match=r"which of its systems is the host\? System_0: serial abc123"):
        chosen([HOST, DELL])
    with pytest.raises(BmcError, match="which of its systems"):
        chosen([BOARD])


def test_a_system_that_cannot_be_read_is_named() -> None:
    with pytest.raises(BmcError, match=r"System_0: HTTP 503.*wait until the BMC can read them all"):
        chosen([(HOST[0], "HTTP 503")], "abc123")
    assert chosen([(BOARD[0], "HTTP 503"), HOST], "abc123").members[0].note == "HTTP 503"


def test_an_empty_list_is_an_error() -> None:
    with pytest.raises(BmcError, match="it lists none"):
        chosen([], "abc123")


@given(st.permutations([BOARD, HOST, DELL]))
def test_the_order_of_the_list_does_not_matter(bodies: list[Any]) -> None:
    assert chosen(bodies, "abc123").path == HOST[0]
    assert chosen(bodies, "7XK2QV3").path == DELL[0]


@given(st.text(min_size=1, max_size=12).filter(lambda text: text.strip().lower() not in SERIALS))
def test_no_other_serial_finds_anything(serial: str) -> None:
    with pytest.raises(BmcError):
        chosen([BOARD, HOST, DELL], serial)
