"""What ipmitool (1.8) prints, into values. Pure."""

from __future__ import annotations

import csv
import re
from datetime import UTC, datetime

from metalserve.bmc.client import BootSeen, Event, Power, Reading
from metalserve.bmc.redfish_parse import number

TARGETS = {"pxe": "Pxe", "cdrom": "Cd", "disk": "Hdd"}
_BOOT_WORDS = {
    "Force PXE": "Pxe",
    "Force Boot from default Hard-Drive": "Hdd",
    "Force Boot from CD/DVD": "Cd",
    "No override": "None",
}
_KINDS = {"degrees C": "Temperature", "RPM": "Rotational", "Volts": "Voltage", "Watts": "Power", "Amps": "Current"}
_HEALTH = {"ok": "OK", "nc": "Warning", "cr": "Critical", "nr": "Critical"}
# IPMI 2.0, table 42-3: what an event log says when something is wrong
_BAD = re.compile(r"(?i)non-recoverable|uncorrectable|critical|fail|lost|IERR|thermal trip|fatal|going (high|low)")


def pairs(text: str) -> dict[str, str]:
    """Return `name : value` lines; the first of a name counts."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.strip(), value.strip())
    return found


def fru(text: str) -> dict[str, str]:
    """Return the fields of `fru print`."""
    return pairs(text)


def power(text: str) -> Power:
    """Return the state of `chassis power status`."""
    if re.search(r"Chassis Power is on\b", text):
        return "on"
    return "off" if re.search(r"Chassis Power is off\b", text) else "unknown"


def boot(text: str) -> BootSeen:
    """Return the override of `chassis bootparam get 5`."""
    selector = re.search(r"Boot Device Selector\s*:\s*(.+)", text)
    target = _BOOT_WORDS.get(selector[1].strip(), selector[1].strip()) if selector else ""
    if re.search(r"Boot Flag Invalid", text):
        enabled = "Disabled"
    elif re.search(r"Options apply to only next boot", text):
        enabled = "Once"
    else:
        enabled = "Continuous" if re.search(r"Options apply to all future boots", text) else ""
    mode = "UEFI" if re.search(r"BIOS EFI boot", text) else ""
    words = "stored for all boots: set it back after this one" if enabled == "Continuous" and target != "None" else ""
    return BootSeen(target, enabled, mode, words)


def sensors(text: str) -> tuple[Reading, ...]:
    """Return the rows of `sensor list`: name | value | unit | status | thresholds."""
    found = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) < 4 or cells[2] == "discrete":
            continue
        name, value, unit, status = cells[:4]
        found.append(Reading(name, _KINDS.get(unit, ""), number(value), unit, _HEALTH.get(status, ""), "ipmi"))
    return tuple(found)


def events(text: str) -> tuple[Event, ...]:
    """Return the rows of `-c sel elist`: id, date, time, sensor, event, direction."""
    found = []
    for row in csv.reader(text.splitlines()):
        if len(row) < 5:
            continue
        message = ": ".join(filter(None, [row[3].strip(), row[4].strip()]))
        asserted = len(row) < 6 or row[5].strip() != "Deasserted"
        if not asserted:
            message += " (ended)"
        severity = ("Critical" if _BAD.search(message) else "OK") if asserted else "OK"
        found.append(Event(_moment(row[1], row[2]), severity, message, log="SEL", id=row[0].strip()))
    return tuple(found)


def _moment(day: str, time: str) -> float | None:
    """Return seconds since the epoch; `None` before the clock was set ("Pre-Init")."""
    clock = time.strip().split(" ")[0]
    for form in ("%m/%d/%Y", "%m/%d/%y"):
        try:
            return datetime.strptime(f"{day.strip()} {clock}", f"{form} %H:%M:%S").replace(tzinfo=UTC).timestamp()
        except ValueError:
            continue
    return None
