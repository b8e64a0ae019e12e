"""What identifies a blamed part to its vendor: serial numbers, part numbers, firmware, place. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from metalserve.hardware.node import NodeHardware
from metalserve.hardware.parsers.smi_q import Node, parse_smi_q
from metalserve.hardware.parsers.text import ParseError, absent, pci_address
from metalserve.recovery.values import Subject

UNKNOWN: Final = "unknown"

_GPU_ROWS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("product", ("Product Name",)),
    ("serial number", ("Serial Number",)),
    ("UUID", ("GPU UUID",)),
    ("board part number", ("Board Part Number",)),
    ("GPU part number", ("GPU Part Number",)),
    ("FRU part number", ("FRU Part Number",)),
    ("VBIOS", ("VBIOS Version",)),
    ("InfoROM image", ("Inforom Version", "Image Version")),
    ("GSP firmware", ("GSP Firmware Version",)),
    ("module", ("Platform Info", "Module Id")),
    ("slot", ("Platform Info", "Slot Number")),
    ("chassis serial number", ("Platform Info", "Chassis Serial Number")),
    ("minor number", ("Minor Number",)),
)
_STATE_ROWS: Final[tuple[tuple[str, ...], ...]] = (
    ("GPU Recovery Action",),
    ("Remapped Rows", "Correctable Error"),
    ("Remapped Rows", "Uncorrectable Error"),
    ("Remapped Rows", "Pending"),
    ("Remapped Rows", "Remapping Failure Occurred"),
    ("ECC Errors", "Aggregate", "DRAM Uncorrectable"),
    ("ECC Errors", "Aggregate", "SRAM Uncorrectable"),
    ("ECC Errors", "Aggregate", "SRAM Uncorrectable Parity"),
    ("ECC Errors", "Aggregate", "SRAM Uncorrectable SEC-DED"),
    ("ECC Errors", "Aggregate", "SRAM Threshold Exceeded"),
    ("ECC Errors", "Channel Repair Pending"),
    ("ECC Errors", "TPC Repair Pending"),
    ("ECC Errors", "Unrepairable Memory"),
    ("Retired Pages", "Single Bit ECC"),
    ("Retired Pages", "Double Bit ECC"),
    ("Retired Pages", "Pending Page Blacklist"),
    ("PCI", "Replays Since Reset"),
    ("PCI", "GPU Link Info", "PCIe Generation", "Current"),
    ("PCI", "GPU Link Info", "Link Width", "Current"),
)
_DMI: Final = (
    ("maker", "sys_vendor"),
    ("model", "product_name"),
    ("serial number", "product_serial"),
    ("chassis serial number", "chassis_serial"),
    ("board", "board_name"),
    ("board serial number", "board_serial"),
    ("BIOS", "bios_version"),
)
_SMI = re.compile(r"^=+NVSMI LOG=+[ \t]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Part:
    """A blamed part, as a vendor asks for it.

    Attributes:
        subject: what the verdict blames.
        rows: label -> value, in the order to print; what could not be had is `UNKNOWN`.
        state: what the part said of itself: label -> value.
        where: the file that told it; empty when none did.
    """

    subject: Subject
    rows: Mapping[str, str] = field(default_factory=dict)
    state: Mapping[str, str] = field(default_factory=dict)
    where: str = ""

    @property
    def serial(self) -> str:
        """Serial number, or `UNKNOWN`."""
        return self.rows.get("serial number", UNKNOWN)


def parts_of(
    subjects: Iterable[Subject], texts: Sequence[tuple[str, str]], hardware: NodeHardware | None
) -> list[Part]:
    """Return the blamed parts with what identifies them.

    Args:
        subjects: what the verdict blames; a whole host is not a part.
        texts: (file, text) of the evidence, oldest first: a GPU that is gone from the last report is in an earlier one.
        hardware: what was last read of the host, or `None`.
    """
    trees = list(_trees(texts))
    found = []
    for subject in subjects:
        if subject.kind == "gpu":
            found.append(_gpu(subject, trees, hardware))
        elif subject.kind == "drive":
            found.append(_drive(subject, hardware))
        elif subject.kind != "host":
            found.append(Part(subject, {"name": subject.name, "serial number": subject.serial or UNKNOWN}))
    return found


def machine_of(texts: Sequence[tuple[str, str]], hardware: NodeHardware | None) -> dict[str, str]:
    """Return what identifies the machine, from `identity.txt` of a bundle and from what was read of the host."""
    rows: dict[str, str] = {}
    for name, text in texts:
        if name.rpartition("/")[2] == "identity.txt":
            said = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
            rows = {label: said[key].strip() for label, key in _DMI if said.get(key, "").strip()}
    rows.setdefault("model", (hardware and hardware.host and hardware.host.product) or UNKNOWN)
    rows.setdefault("serial number", UNKNOWN)
    release = next((m[1] for _, t in texts if (m := re.search(r'^PRETTY_NAME="?([^"\n]{1,100})', t, re.M))), None)
    rows["operating system"] = release or UNKNOWN
    kernel = next(
        (m[1] for n, t in texts if n.endswith("boot.txt") and (m := re.search(r"^Linux \S+ (\S+)", t, re.M))), ""
    )
    rows["kernel"] = kernel or (hardware and hardware.host and hardware.host.kernel) or UNKNOWN
    driver = next((m[1] for _, t in texts if (m := re.search(r"^Driver Version\s*: (\d[\d.]+)", t, re.M))), "")
    module = next((m[1].strip() for _, t in texts if (m := re.search(r"^NVRM version: (.{1,200})", t, re.M))), "")
    rows["driver"] = driver or (hardware and (hardware.driver_version or hardware.module_version)) or UNKNOWN
    if module:
        rows["kernel module"] = " ".join(module.split())
    if hardware and hardware.fabric_manager_version:
        rows["fabric manager"] = hardware.fabric_manager_version
    return rows


def _trees(texts: Sequence[tuple[str, str]]) -> Iterable[tuple[str, Node]]:
    for name, text in texts:
        found = list(_SMI.finditer(text))
        if not found:
            continue
        stop = re.compile(r"^(?:_{20,}|\*\*\* .{1,200})[ \t]*$", re.MULTILINE).search(text, found[0].end())
        try:
            report = parse_smi_q(text[found[0].start() : stop.start() if stop else len(text)])
        except ParseError:
            continue
        yield from ((name, tree) for tree in report.trees)


def _gpu(subject: Subject, trees: Sequence[tuple[str, Node]], hardware: NodeHardware | None) -> Part:
    # the oldest report names the board before it fell silent; the newest one tells its last state
    mine = [
        (name, tree)
        for name, tree in trees
        if pci_address(tree.key) == subject.name
        and (not subject.serial or absent(tree.text("Serial Number")) or tree.text("Serial Number") == subject.serial)
    ]
    rows: dict[str, str] = {"PCI address": subject.name}
    for label, path in _GPU_ROWS:
        value = next((v for _, tree in mine if (v := tree.text(*path)) and not absent(v)), "")
        if value:
            rows[label] = value.strip()
    if hardware is not None:
        gpu = next((g for g in hardware.gpus if g.pci == subject.name), None)
        if gpu is not None:
            rows.setdefault("product", gpu.name or UNKNOWN)
            rows.setdefault("UUID", gpu.uuid or UNKNOWN)
        device = next((d for d in hardware.pci_gpus if d.address == subject.name), None)
        if device is not None:
            rows.setdefault("product", device.description)
    if subject.serial:
        rows["serial number"] = subject.serial
    for label in ("product", "serial number"):
        rows.setdefault(label, UNKNOWN)
    state = {}
    if mine:
        for path in _STATE_ROWS:
            said = mine[-1][1].text(*path)
            if said is not None and not absent(said):
                state[": ".join(path)] = said.strip()
    return Part(subject, rows, state, mine[-1][0] if mine else "")


def _drive(subject: Subject, hardware: NodeHardware | None) -> Part:
    drives = hardware.nvme if hardware is not None else ()
    drive = next((d for d in drives if d.device.removeprefix("/dev/").startswith(f"{subject.name}n")), None)
    rows = {"device": subject.name, "serial number": subject.serial or (drive and drive.serial) or UNKNOWN}
    if drive is not None:
        rows |= {
            "model": drive.model or UNKNOWN,
            "firmware": drive.firmware or UNKNOWN,
            "PCI address": drive.pci or UNKNOWN,
        }
    return Part(subject, rows)
