"""The boot override by Redfish: read again after it was set, because a BMC may store something else, or nothing."""

from __future__ import annotations

from typing import Any

from sushy import BootSource, BootSourceOverrideEnabled, BootSourceOverrideMode
from sushy import exceptions as sushy_errors

from metalserve.bmc.client import BootDevice, BootSeen
from metalserve.bmc.connector import Connector
from metalserve.bmc.errors import BmcError
from metalserve.catalogue.bmc_quirks import Behaviour

_TARGETS: dict[BootDevice, str] = {"pxe": "Pxe", "uefi-http": "UefiHttp", "disk": "Hdd"}
_SAME = {"Cd": {"Cd", "UsbCd"}}
"""What counts as stored: sushy itself asks for UsbCd on Supermicro."""


def read(connector: Connector, path: str, behaviour: Behaviour) -> BootSeen:
    """Return the boot override as the BMC shows it now."""
    body = connector.json(path)
    boot: dict[str, Any] = dict(body.get("Boot") or {})
    settings = (body.get("@Redfish.Settings") or {}).get("SettingsObject") or {}
    if settings.get("@odata.id"):
        # some keep what is to come in another resource; the system itself shows what was
        boot |= connector.json(str(settings["@odata.id"])).get("Boot") or {}
    seen = {
        key: str(boot.get(f"BootSourceOverride{name}") or "")
        for key, name in (("target", "Target"), ("enabled", "Enabled"), ("mode", "Mode"))
    }
    return BootSeen(**seen, words="; ".join(behaviour.cautions))


def once(
    connector: Connector, system: Any, behaviour: Behaviour, device: BootDevice, uri: str | None, where: str
) -> BootSeen:
    """Set the override for one boot, and say what was stored.

    Raises:
        BmcError: another target is shown afterwards than was asked for, or the device is not offered.
    """
    target = _target(system, behaviour, device, where)
    if uri is not None and (device != "uefi-http" or not behaviour.http_boot_uri):
        raise BmcError(
            "takes no URI for this boot device" if device != "uefi-http" else "has no HttpBootUri",
            where=where,
            remedy="give the URI by DHCP",
        )
    _set(system, target, "Once", behaviour, uri)
    seen = read(connector, system.path, behaviour)
    if seen.target not in _SAME.get(target, {target}) or seen.enabled not in ("Once", "Continuous"):
        raise BmcError(
            f"accepted {target} for the next boot, but shows {seen.target or 'nothing'} ({seen.enabled or 'unknown'})",
            where=where,
            remedy="the override was ignored: set it on the BMC's own page, or choose another device",
        )
    words = [seen.words] if seen.words else []
    if not seen.once:
        words.insert(0, f"stored as {seen.enabled}, not Once: set it back after this boot, or it boots so for ever")
    return BootSeen(seen.target, seen.enabled, seen.mode, "; ".join(words))


def back(connector: Connector, system: Any, behaviour: Behaviour, where: str) -> BootSeen:
    """End the override: Disabled, or the disk for good where that is not taken.

    Raises:
        BmcError: neither is shown afterwards.
    """
    refused = ""
    try:
        system.set_system_boot_options(enabled=BootSourceOverrideEnabled.DISABLED)
    except sushy_errors.AccessError:
        raise
    except sushy_errors.HTTPError as error:
        refused = f"HTTP {error.status_code}"
    seen = read(connector, system.path, behaviour)
    if seen.enabled == "Disabled" or seen.target in ("None", behaviour.boot_back):
        return seen
    system.refresh(force=True)
    _set(system, behaviour.boot_back, "Continuous", behaviour, None)
    seen = read(connector, system.path, behaviour)
    if seen.target != behaviour.boot_back:
        raise BmcError(
            f"the boot override stays: {seen.target or 'unknown'} ({seen.enabled or 'unknown'})", where=where
        )
    words = f"Disabled is not taken{f' ({refused})' if refused else ''}: {seen.target} is set in its place"
    return BootSeen(seen.target, seen.enabled, seen.mode, "; ".join(filter(None, [words, seen.words])))


def _target(system: Any, behaviour: Behaviour, device: BootDevice, where: str) -> str:
    offered = {each.value for each in system.get_allowed_system_boot_source_values()}
    wanted = behaviour.cd_targets if device == "cd" else (_TARGETS[device],)
    for target in wanted:
        if target in offered:
            return target
    raise BmcError(
        f"offers no {' or '.join(wanted)} to boot from (it offers {', '.join(sorted(offered)) or 'nothing'})",
        where=where,
    )


def _set(system: Any, target: str, enabled: str, behaviour: Behaviour, uri: str | None) -> None:
    mode = BootSourceOverrideMode.UEFI if behaviour.send_mode else None
    system.set_system_boot_options(
        target=BootSource(target), enabled=BootSourceOverrideEnabled(enabled), mode=mode, http_boot_uri=uri
    )
