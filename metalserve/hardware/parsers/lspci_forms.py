"""All forms of `lspci`: list with or without numbers and details, `-vmm` records, `-mm` lines, `-t` tree."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from metalserve.hardware.parsers.lspci_tree import is_tree, read_tree
from metalserve.hardware.parsers.text import ParseError, clean, first_line, integer, pci_address, pcie_generation

_ADDRESS = r"(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]"
_HEAD = re.compile(rf"({_ADDRESS}) (\S.*)", re.IGNORECASE)
_GLUED = re.compile(r":[0-9a-f]{2}\.[0-7] [A-Z0-9][^:]{2,60}: ", re.IGNORECASE)
_IDS = re.compile(r"\[([0-9a-f]{4}):([0-9a-f]{4})\]", re.IGNORECASE)
_CODE = re.compile(r" ?\[([0-9a-f]{4})\]$", re.IGNORECASE)
_NUMERIC = re.compile(r"([0-9a-f]{4}): ([0-9a-f]{4}):([0-9a-f]{4})(?: |$)", re.IGNORECASE)
_TAIL = re.compile(r" \((rev|prog-if) ([0-9a-f]{2})\b[^()]{0,80}\)", re.IGNORECASE)
_LINK = re.compile(
    r"\s*(LnkCap|LnkSta):\s.{0,80}?Speed (?:([0-9.]{1,5})GT/s|unknown)(?: \(([a-z]{1,12})\))?, "
    r"Width x(\d{1,2})(?: \(([a-z]{1,12})\))?"
)
_DETAIL = re.compile(
    r"\s*(Kernel driver in use|NUMA node|IOMMU group|Physical Slot|LnkSta2?|LnkCap2?|LnkCtl): {0,8}\t?(.{0,200})"
)
_DEAD = re.compile(r"Unknown header type 7f", re.IGNORECASE)
_RECORD = re.compile(
    r"(Slot|Class|Vendor|Device|SVendor|SDevice|Rev|ProgIf|Driver|Module|NUMANode|IOMMUGroup|PhySlot|DTNode):\s*(.*)"
)
_SLOT = re.compile(r"(?:([0-9a-f]{1,8}):)?([0-9a-f]{2}:[0-9a-f]{2}\.[0-7])", re.IGNORECASE)
_QUOTED = re.compile(rf'({_ADDRESS}) "([^"]*)" "([^"]*)" "([^"]*)"(.*)', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Link:
    """A PCIe link: generation and lanes, now and at most; and lspci's own word about speed and width."""

    gen_current: int | None = None
    gen_max: int | None = None
    width_current: int | None = None
    width_max: int | None = None
    speed_note: str | None = None
    width_note: str | None = None


@dataclass(frozen=True, slots=True)
class PciFunction:
    """A PCI function in any form of lspci; `None` means not printed.

    Attributes:
        address: `0000:19:00.0`; None where the text does not tell the bus, or link lines stand without their device.
        class_code: four hex digits.
        class_name: in words, as printed.
        vendor_id: four hex digits.
        device_id: four hex digits.
        description: vendor and device in words.
        revision: two hex digits; `ff` means that the device no longer answers.
        driver: kernel driver in use.
        numa_node: number.
        link: PCIe link, where it was printed.
        answers: False when its configuration space reads as all ones.
    """

    address: str | None
    class_code: str | None = None
    class_name: str | None = None
    vendor_id: str | None = None
    device_id: str | None = None
    description: str = ""
    revision: str | None = None
    driver: str | None = None
    numa_node: int | None = None
    link: Link | None = None
    answers: bool = True


@dataclass(frozen=True)
class LspciOutput:
    """What lspci printed: form (`list`, `records`, `tree`, `links`), functions, lines not understood."""

    form: str
    functions: tuple[PciFunction, ...]
    notes: tuple[str, ...] = ()


def parse_lspci_any(text: str) -> LspciOutput:
    """Read any form of lspci.

    Raises:
        ParseError: no function and no link lines in it, an address or a link line twice, lines run together.
    """
    lines = clean(text).splitlines()
    if any(re.match(r"Slot:\s", line) for line in lines):
        found = _records(lines)
    elif any(_QUOTED.fullmatch(line.strip()) for line in lines):
        found = _quoted(lines)
    elif is_tree(lines):
        branches, notes = read_tree(lines)
        functions = tuple(PciFunction(address, description=words) for address, words in branches)
        found = LspciOutput("tree", functions, tuple(notes[:50]))
    else:
        found = _list(lines)
    if not found.functions:
        raise ParseError(f"no device of lspci; the text begins with {first_line(text)!r}")
    known = [f.address for f in found.functions if f.address]
    twice = next((a for n, a in enumerate(known) if a in known[:n]), None) if len(set(known)) != len(known) else None
    if twice:
        raise ParseError(f"PCI address {twice} comes twice")
    return found


@dataclass
class _Stanza:
    function: PciFunction
    lines: dict[str, tuple[int | None, int, str | None, str | None]] = field(default_factory=dict)

    def close(self) -> PciFunction:
        cap, sta = self.lines.get("LnkCap"), self.lines.get("LnkSta")
        if not cap and not sta:
            return self.function
        return replace(
            self.function,
            link=Link(
                gen_current=sta[0] if sta else None,
                gen_max=cap[0] if cap else None,
                width_current=sta[1] if sta else None,
                width_max=cap[1] if cap else None,
                speed_note=sta[2] if sta else None,
                width_note=sta[3] if sta else None,
            ),
        )


def _list(lines: list[str]) -> LspciOutput:
    stanzas: list[_Stanza] = []
    notes: list[str] = []
    indented = any(line[:1].isspace() and line.strip() for line in lines)
    for line in lines:
        head = _HEAD.fullmatch(line.rstrip())
        if head:
            if _GLUED.search(head.group(2)):
                raise ParseError(f"two devices run together: {line.strip()[:80]!r}")
            function = _function(head.group(1), head.group(2))
            if function is None:
                notes.append(line.strip()[:200])
            else:
                stanzas.append(_Stanza(function))
            continue
        link = _LINK.match(line)
        if link:
            if not stanzas:  # cut out of a listing: which device it is stays unknown
                stanzas.append(_Stanza(PciFunction(None)))
            here = stanzas[-1]
            if link.group(1) in here.lines:
                raise ParseError(f"{here.function.address or 'the device'} has {link.group(1)} twice")
            generation = pcie_generation(link.group(2) or "")
            here.lines[link.group(1)] = (generation, int(link.group(4)), link.group(3), link.group(5))
        elif stanzas and (_DETAIL.match(line) or _DEAD.search(line)):
            stanzas[-1].function = _detail(stanzas[-1].function, line)
        elif line.strip() and indented and not line[0].isspace():
            notes.append(line.strip()[:200])
    form = "list" if any(s.function.address for s in stanzas) else "links"
    return LspciOutput(form, tuple(s.close() for s in stanzas), tuple(notes[:50]))


def _function(address: str, rest: str) -> PciFunction | None:
    numeric = _NUMERIC.match(rest)
    tail = {kind.lower(): value.lower() for kind, value in _TAIL.findall(rest)}
    if numeric:
        code, vendor, device = (part.lower() for part in numeric.groups())
        return PciFunction(pci_address(address), code, None, vendor, device, "", tail.get("rev"))
    name, colon, words = rest.partition(": ")
    if not colon:
        return None
    code_found = _CODE.search(name)
    words = _TAIL.sub("", words).strip()
    ids = list(_IDS.finditer(words))
    revision = tail.get("rev")
    return PciFunction(
        address=pci_address(address),
        class_code=code_found.group(1).lower() if code_found else None,
        class_name=_CODE.sub("", name).strip(),
        vendor_id=ids[-1].group(1).lower() if ids else None,
        device_id=ids[-1].group(2).lower() if ids else None,
        description=(words[: ids[-1].start()] if ids else words).strip(),
        revision=revision,
        answers=revision != "ff",
    )


def _detail(function: PciFunction, line: str) -> PciFunction:
    if _DEAD.search(line):
        return replace(function, answers=False)
    found = _DETAIL.match(line)
    if found and found.group(1) == "Kernel driver in use":
        return replace(function, driver=found.group(2).strip() or None)
    if found and found.group(1) == "NUMA node":
        return replace(function, numa_node=integer(found.group(2)))
    return function


def _records(lines: list[str]) -> LspciOutput:
    records: list[dict[str, str]] = []
    notes: list[str] = []
    for line in lines:
        found = _RECORD.fullmatch(line.strip())
        if not found:
            if line.strip():
                notes.append(line.strip()[:200])
            continue
        key, value = found.group(1), found.group(2).strip()
        if key == "Slot":
            records.append({})
        if not records:
            notes.append(line.strip()[:200])
            continue
        if key in records[-1] and key != "Module":
            raise ParseError(f"lspci record {records[-1].get('Slot')} has {key} twice: records run together")
        records[-1].setdefault(key, value)
    return LspciOutput("records", tuple(_record(r) for r in records), tuple(notes[:50]))


def _record(record: dict[str, str]) -> PciFunction:
    slot = _SLOT.fullmatch(record["Slot"])
    address = pci_address(f"{slot.group(1).zfill(4)}:{slot.group(2)}" if slot and slot.group(1) else record["Slot"])
    if slot is None or address is None:
        raise ParseError(f"lspci record with the slot {record['Slot'][:40]!r}")
    names, codes = {}, {}
    for key in ("Class", "Vendor", "Device"):
        value = record.get(key, "")
        code = re.fullmatch(r"(?:(.*) )?\[?([0-9a-f]{4})\]?", value, re.IGNORECASE)
        names[key] = (code.group(1) or "") if code else value
        codes[key] = code.group(2).lower() if code else None
    revision = record.get("Rev")
    return PciFunction(
        address=address,
        class_code=codes["Class"],
        class_name=names["Class"] or None,
        vendor_id=codes["Vendor"],
        device_id=codes["Device"],
        description=f"{names['Vendor']} {names['Device']}".strip(),
        revision=revision,
        driver=record.get("Driver"),
        numa_node=integer(record.get("NUMANode")),
        answers=revision != "ff",
    )


def _quoted(lines: list[str]) -> LspciOutput:
    functions, notes = [], []
    for line in lines:
        found = _QUOTED.fullmatch(line.strip())
        if found:
            fields = {
                "Slot": found.group(1),
                "Class": found.group(2),
                "Vendor": found.group(3),
                "Device": found.group(4),
            }
            revision = re.search(r" -r([0-9a-f]{2})\b", found.group(5))
            if revision:
                fields["Rev"] = revision.group(1)
            functions.append(_record(fields))
        elif line.strip():
            notes.append(line.strip()[:200])
    return LspciOutput("records", tuple(functions), tuple(notes[:50]))
