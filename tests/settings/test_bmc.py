"""Settings of a BMC."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from metalserve.settings.bmc import BmcSettings

RIGHT: dict[str, Any] = {"address": "10.0.0.5", "user": "admin", "password": {"env": "BMC_PASSWORD"}}


def test_what_is_needed() -> None:
    settings = BmcSettings.model_validate(RIGHT)
    assert (settings.kind, settings.tls.pin, settings.serial) == ("redfish", None, None)


@pytest.mark.parametrize("address", ["bmc-7.example", "10.0.0.5:443", "[fd00::1]", "[fd00::1]:8443"])
def test_addresses(address: str) -> None:
    assert BmcSettings.model_validate({**RIGHT, "address": address}).address == address


@pytest.mark.parametrize(
    "wrong",
    [
        {"address": "https://10.0.0.5"},
        {"address": "10.0.0.5:0"},
        {"address": "10.0.0.5:99999"},
        {"address": "root@10.0.0.5"},
        {"address": "-oProxy"},
        {"user": ""},
        {"user": "-E"},
        {"password": "secret"},
        {"kind": "telnet"},
        {"tls": {"pin": "abc"}},
        {"tls": {"pin": "a" * 64, "ca": "/etc/ca.pem"}},
        {"tls": {"verify": False}},
        {"serial": " "},
        {"uuid": "1234"},
    ],
)
def test_what_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        BmcSettings.model_validate({**RIGHT, **wrong})
    assert "secret" not in str(caught.value)


def test_a_pin_may_be_written_with_colons() -> None:
    colons = ":".join(["AB"] * 32)
    assert BmcSettings.model_validate({**RIGHT, "tls": {"pin": colons}}).tls.pin == "ab" * 32
