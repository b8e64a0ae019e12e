"""Who a machine is, as it says itself before it has a name: serial number, UUID, network addresses. Pure."""

from __future__ import annotations

import re
import uuid as uuids
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

PLACEHOLDERS: Final = frozenset(
    {
        "",
        "0",
        "0123456789",
        "123456789",
        "default string",
        "empty",
        "n/a",
        "none",
        "not applicable",
        "not available",
        "not specified",
        "null",
        "o.e.m.",
        "system serial number",
        "to be filled by o.e.m.",
        "unknown",
    }
)
"""What firmware gives for a serial number that nobody has filled in: the same on every such machine."""

_NO_UUIDS: Final = frozenset({uuids.UUID(int=0), uuids.UUID(int=(1 << 128) - 1)})
# Some boards carry this one, all of them (dmidecode's own note on "03000200-0400-0500-0006-000700080009").
_SHARED_UUIDS: Final = frozenset({uuids.UUID("03000200-0400-0500-0006-000700080009")})
_MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def _serial(value: object) -> object:
    text = value.strip() if isinstance(value, str) else value
    return None if isinstance(text, str) and text.lower() in PLACEHOLDERS else text


def _uuid(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        found = uuids.UUID(value.strip())
    except ValueError:
        return None
    return None if found in _NO_UUIDS | _SHARED_UUIDS else str(found)


def _macs(value: object) -> object:
    if not isinstance(value, list | tuple):
        return value
    told = (str(each).strip().lower().replace("-", ":") for each in value)
    return tuple(dict.fromkeys(mac for mac in told if _MAC.fullmatch(mac) and mac != "00:00:00:00:00:00"))


class Identity(BaseModel):
    """What tells a machine from all others; a value that is no such thing (a placeholder, all zeros) is dropped.

    Attributes:
        serial: serial number of the system (SMBIOS type 1), or None.
        uuid: UUID of the system, lower case, or None.
        macs: Ethernet addresses, lower case with colons.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    serial: Annotated[Annotated[str, Field(max_length=200)] | None, BeforeValidator(_serial)] = None
    uuid: Annotated[str | None, BeforeValidator(_uuid)] = None
    macs: Annotated[tuple[str, ...], BeforeValidator(_macs)] = ()

    @property
    def known(self) -> bool:
        """True when there is anything that tells this machine from another."""
        return bool(self.serial or self.uuid or self.macs)

    def __str__(self) -> str:
        words = [f"serial {self.serial}" if self.serial else "", f"UUID {self.uuid}" if self.uuid else ""]
        words.append(f"MAC {', '.join(self.macs)}" if self.macs else "")
        return ", ".join(filter(None, words)) or "nothing that tells it from others"


def same_uuid(one: str, other: str) -> bool:
    """Tell whether two UUIDs are the same, also when one of them has its first three fields in the other byte order.

    SMBIOS stores them little-endian since version 2.6; old firmware, and some BMCs beside a new one, do not.
    """
    first, second = uuids.UUID(one), uuids.UUID(other)
    return first == second or first.bytes_le == second.bytes


def difference(wanted: Identity, told: Identity) -> str | None:
    """Say why `told` is not the machine `wanted`, or return None when it is.

    Everything that both know must agree, and something must: a serial number or UUID, or, when `wanted` has neither,
    a MAC address. A machine that is wanted by serial number and tells none is not it.
    """
    for name, want, have in (("serial number", wanted.serial, told.serial), ("UUID", wanted.uuid, told.uuid)):
        if want is None:
            continue
        if have is None:
            return f"the machine tells no {name}, and {want} is wanted"
        if not (same_uuid(want, have) if name == "UUID" else want == have):
            return f"its {name} is {have}, and {want} is wanted"
    if wanted.macs and told.macs and not set(wanted.macs) & set(told.macs):
        return f"it has the MAC addresses {', '.join(told.macs)}, and none of {', '.join(wanted.macs)}"
    if not (wanted.serial or wanted.uuid) and not (wanted.macs and told.macs):
        return "nothing tells which machine it is"
    return None
