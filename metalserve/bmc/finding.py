"""Which of the systems that a BMC lists is the host: by serial number or UUID, never by its place in the list."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from metalserve.bmc.client import Member
from metalserve.bmc.errors import BmcError
from metalserve.catalogue.bmc_quirks import BmcQuirks


@dataclass(frozen=True, slots=True)
class Found:
    """A system.

    Attributes:
        path: its place in the tree.
        body: the resource.
        members: all that are listed.
        proven: serial or UUID is the one that was asked for.
    """

    path: str
    body: dict[str, Any]
    members: tuple[Member, ...]
    proven: bool


def member_of(path: str, body: dict[str, Any]) -> Member:
    """Return what a system says of itself."""
    words = {key: str(body.get(name) or "").strip() for key, name in _FIELDS.items()}
    return Member(path=path, **words)


_FIELDS = {"serial": "SerialNumber", "uuid": "UUID", "model": "Model"}


def find(
    bodies: Sequence[tuple[str, dict[str, Any] | str]],
    *,
    serial: str | None,
    wanted_uuid: str | None,
    quirks: BmcQuirks,
    where: str,
) -> Found:
    """Choose the host's system.

    Args:
        bodies: path and resource of each system, in the order of the list; words where one could not be read.
        serial: serial number that it must have, if one is given.
        wanted_uuid: UUID that it must have, if one is given.
        quirks: which fields hold serial numbers, which systems are GPU baseboards.
        where: the BMC, for errors.

    Raises:
        BmcError: none has that serial number or UUID, or none was given and there are several; all are named.
    """
    read = {path: body for path, body in bodies if isinstance(body, dict)}
    members = tuple(
        member_of(path, body) if isinstance(body, dict) else Member(path=path, note=body) for path, body in bodies
    )
    if serial is None and wanted_uuid is None:
        hosts = [path for path in read if not quirks.is_baseboard(path.rstrip("/").rsplit("/", 1)[-1])]
        if len(hosts) == 1:
            return Found(hosts[0], read[hosts[0]], members, proven=False)
        raise BmcError(
            f"which of its systems is the host? {_listed(members)}",
            where=where,
            remedy="set bmc.serial or bmc.uuid to the host's",
        )
    for path, body in read.items():
        if _is(body, serial, wanted_uuid, quirks):
            return Found(path, body, members, proven=True)
    asked = f"serial {serial}" if serial else f"UUID {wanted_uuid}"
    unread = any(member.note for member in members)
    raise BmcError(
        f"no system with {asked}: {_listed(members)}",
        where=where,
        remedy="wait until the BMC can read them all" if unread else "is bmc.address that of another host?",
    )


def _is(body: dict[str, Any], serial: str | None, wanted_uuid: str | None, quirks: BmcQuirks) -> bool:
    """Tell whether a system has what was asked for: both where both are given."""
    behaviour = quirks.of(str(body.get("Manufacturer") or ""), str(body.get("Model") or ""))
    serials = {str(body.get(field) or "").strip().lower() for field in behaviour.serial_fields} - {""}
    if serial is not None and serial.strip().lower() not in serials:
        return False
    return wanted_uuid is None or wanted_uuid.lower() in _spellings(str(body.get("UUID") or ""))


def _spellings(text: str) -> set[str]:
    """Return a UUID as it stands and with its first three fields in the other byte order: SMBIOS and BMCs differ."""
    try:
        value = uuid.UUID(text)
    except ValueError:
        return set()
    return {str(value), str(uuid.UUID(bytes_le=value.bytes))}


def _listed(members: Sequence[Member]) -> str:
    if not members:
        return "it lists none"
    return "; ".join(
        f"{each.path.rstrip('/').rsplit('/', 1)[-1]}: "
        + (each.note or f"serial {each.serial or 'unknown'}, UUID {each.uuid or 'unknown'}")
        for each in members
    )
