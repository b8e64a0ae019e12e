"""Virtual media by Redfish: the drive is chosen by what it can hold, and looked at after each change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sushy.resources.manager.virtual_media import VirtualMedia

from metalserve.bmc.client import MediaSeen
from metalserve.bmc.connector import Connector
from metalserve.bmc.errors import BmcError

_LOOKS = 6
_LOOK_S = 1.0


def read(connector: Connector, system: dict[str, Any]) -> tuple[MediaSeen, ...]:
    """Return the virtual drives of the system, and of the managers that manage it."""
    places = [system, *_managers(connector, system)]
    found: dict[str, MediaSeen] = {}
    for body in places:
        link = (body.get("VirtualMedia") or {}).get("@odata.id")
        if not link:
            continue
        for member in connector.json(str(link)).get("Members") or []:
            path = str(member.get("@odata.id"))
            found.setdefault(path, _seen(path, connector.json(path)))
    return tuple(found.values())


def insert(
    connector: Connector, system: dict[str, Any], url: str, where: str, sleep: Callable[[float], None]
) -> MediaSeen:
    """Insert an image; one that is in the drive is taken out first.

    Raises:
        BmcError: there is no CD drive, or it does not show the image afterwards.
    """
    drive = _cd_drive(connector, system, where)
    if drive.inserted and drive.image == url:
        return drive
    if drive.inserted:
        drive = eject(connector, system, where, sleep)
    VirtualMedia(connector, drive.path).insert_media(url)
    seen = _wait(connector, drive.path, sleep, lambda now: now.inserted and bool(now.image))
    if not seen.inserted:
        raise BmcError(f"accepted the image, but its drive shows none: {url}", where=where)
    if seen.image and not _same_image(seen.image, url):
        raise BmcError(f"shows another image than was inserted: {seen.image}", where=where)
    return seen


def eject(connector: Connector, system: dict[str, Any], where: str, sleep: Callable[[float], None]) -> MediaSeen:
    """Take the image out.

    Raises:
        BmcError: there is no CD drive, or it still shows an image afterwards.
    """
    drive = _cd_drive(connector, system, where)
    if not drive.inserted:
        return drive
    VirtualMedia(connector, drive.path).eject_media()
    seen = _wait(connector, drive.path, sleep, lambda now: not now.inserted)
    if seen.inserted:
        raise BmcError(f"accepted the eject, but its drive still shows {seen.image or 'an image'}", where=where)
    return seen


def _wait(
    connector: Connector, path: str, sleep: Callable[[float], None], as_wanted: Callable[[MediaSeen], bool]
) -> MediaSeen:
    for number in range(_LOOKS):
        seen = _seen(path, connector.json(path))
        if as_wanted(seen):
            break
        if number + 1 < _LOOKS:
            sleep(_LOOK_S)
    return seen


def _seen(path: str, body: dict[str, Any]) -> MediaSeen:
    image = str(body.get("Image") or "")
    inserted = body.get("Inserted")
    # some never fill in Inserted; an image is what counts then
    return MediaSeen(
        path,
        bool(inserted) if inserted is not None else bool(image),
        image,
        tuple(str(kind) for kind in body.get("MediaTypes") or []),
    )


def _cd_drive(connector: Connector, system: dict[str, Any], where: str) -> MediaSeen:
    drives = read(connector, system)
    for drive in drives:
        if {"CD", "DVD"} & set(drive.kinds):
            return drive
    raise BmcError(
        f"has no virtual CD drive ({len(drives)} virtual drives)",
        where=where,
        remedy="it may want a licence, or to be switched on; boot from the network in its place",
    )


def _managers(connector: Connector, system: dict[str, Any]) -> list[dict[str, Any]]:
    links = (system.get("Links") or {}).get("ManagedBy") or []
    return [connector.json(str(link["@odata.id"])) for link in links if link.get("@odata.id")]


def _same_image(shown: str, url: str) -> bool:
    """Some show only the file's name."""
    return shown == url or shown.rsplit("/", 1)[-1] == url.rsplit("/", 1)[-1]
