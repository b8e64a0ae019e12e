"""Settings of a host's BMC: where it is, who logs in there, and how it is known to be the right one."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from metalserve.settings.common import AbsolutePath, Section, problem
from metalserve.settings.secret import SecretRef

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z][0-9A-Za-z.-]*)(:[0-9]{1,5})?")
_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


class BmcTlsSettings(Section):
    """How the BMC's certificate is checked: by the system's authorities, unless one of the two is given."""

    pin: str | None = Field(
        None,
        description="SHA-256 of the BMC's own certificate (64 hex digits, colons allowed), for self-signed ones; "
        "`metalserve bmc status` shows it when it refuses",
    )
    ca: AbsolutePath | None = Field(None, description="PEM file of authorities on the controller, in place of its own")

    @field_validator("pin")
    @classmethod
    def _hex(cls, value: str | None) -> str | None:
        if value is None:
            return None
        digits = value.replace(":", "").lower()
        if not re.fullmatch(r"[0-9a-f]{64}", digits):
            raise problem("must be 64 hex digits (SHA-256 of the certificate), colons allowed")
        return digits

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.pin is not None and self.ca is not None:
            raise problem("has pin and ca: give one")
        return self


class BmcSettings(Section):
    """The BMC of a host."""

    address: str = Field(description="host name or IP address, with :port where it is not the usual one")
    kind: Literal["redfish", "ipmi"] = Field("redfish", description="ipmi (2.0) only where there is no Redfish")
    user: str = Field(description="user name")
    password: SecretRef = Field(description="where the password is found; never on a command line or in a log")
    tls: BmcTlsSettings = Field(default_factory=BmcTlsSettings, description="how its certificate is checked (Redfish)")
    serial: str | None = Field(
        None, description="serial number of the system behind it (Dell: service tag); needed to change anything"
    )
    uuid: str | None = Field(None, description="UUID of the system behind it; serves in place of serial (Redfish)")

    @field_validator("address")
    @classmethod
    def _address(cls, value: str) -> str:
        found = _ADDRESS.fullmatch(value)
        if not found or (found[2] and not 0 < int(found[2][1:]) < 65536):
            raise problem("must be a host name or IP address, with :port if need be ([...] around IPv6), no URL")
        return value

    @field_validator("user")
    @classmethod
    def _user(cls, value: str) -> str:
        if not value or not value.isprintable() or value.startswith("-"):
            raise problem("must be a user name")
        return value

    @field_validator("serial")
    @classmethod
    def _serial(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise problem("must not be empty")
        return value

    @field_validator("uuid")
    @classmethod
    def _uuid(cls, value: str | None) -> str | None:
        if value is not None and not _UUID.fullmatch(value):
            raise problem("must be a UUID, 8-4-4-4-12 hex digits")
        return value.lower() if value else None
