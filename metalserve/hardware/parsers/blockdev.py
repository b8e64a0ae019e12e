"""Block devices and mounts: `lsblk` and `findmnt`, as JSON or as a tree."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from metalserve.hardware.parsers.jsontext import find_object, objects, words
from metalserve.hardware.parsers.text import ParseError, clean, first_line

_TREE = re.compile(r"[\s│├└─|`-]*")
_SIZE = re.compile(r"(\d{1,20}(?:[.,]\d{1,3})?)([BKMGTPE]?)(?:i?B)?")
_UNITS: Final[Mapping[str, int]] = {unit: 1024**n for n, unit in enumerate(("", "K", "M", "G", "T", "P", "E"))}
_TYPES = re.compile(r"disk|part|lvm|crypt|loop|rom|mpath|md|raid\d{1,2}|linear|dm|zram|tape")
_LEVELS = 40


@dataclass
class BlockDevice:
    """A block device.

    Attributes:
        name: as printed, without the lines of the tree.
        type: `disk`, `part`, `lvm`, `raid1`, `loop` ...
        size: as printed (`894.3G`, or bytes).
        size_bytes: bytes; rounded to what is printed where lsblk wrote a unit.
        mountpoints: where it is mounted.
        fields: all that was printed, by lower-case title.
        children: what stands on it.
    """

    name: str
    type: str | None = None
    size: str | None = None
    size_bytes: int | None = None
    mountpoints: list[str] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)
    children: list[BlockDevice] = field(default_factory=list)


def parse_lsblk(text: str) -> tuple[BlockDevice, ...]:
    """Read `lsblk`, with `-J`, `-P`, or as a tree with columns NAME, SIZE and TYPE.

    Raises:
        ParseError: neither form, or a damaged row.
    """
    body = clean(text)
    if re.search(r"(?m)^[ \t]*\{", body):
        data, _ = find_object(body, ("blockdevices",))
        return tuple(_json_device(d, 0) for d in objects(data.get("blockdevices"), "lsblk: `blockdevices`"))
    if re.search(r'(?m)^(?:[A-Z:%-]{2,20}="[^"\n]*" ?){2,}$', body):
        return _pairs(body)
    return _tree(body)


def _pairs(body: str) -> tuple[BlockDevice, ...]:
    """Read `lsblk -P`: lines of KEY="value", the parent in PKNAME."""
    devices: list[BlockDevice] = []
    top: list[BlockDevice] = []
    for line in body.splitlines():
        if not line.strip():
            continue
        if not re.fullmatch(r'\s*(?:[A-Z:%-]{2,20}="[^"]*"\s*)+', line):
            raise ParseError(f"lsblk: line not understood: {line.strip()[:80]!r}")
        values = {key.lower(): value.strip() for key, value in re.findall(r'([A-Z:%-]{2,20})="([^"]*)"', line)}
        device = _json_device({key: value or None for key, value in values.items()}, 0)
        parent = next((d for d in devices if values.get("pkname") in (d.name, d.name.rpartition("/")[2])), None)
        (parent.children if parent and values.get("pkname") else top).append(device)
        devices.append(device)
    return tuple(top)


def _json_device(data: dict[str, Any], level: int) -> BlockDevice:
    name = words(data.get("name")) or words(data.get("kname")) or words(data.get("path"))
    if name is None or level > _LEVELS:
        raise ParseError("lsblk: a device without a name")
    size = data.get("size")
    mounts = data.get("mountpoints", data.get("mountpoint"))
    return BlockDevice(
        name=name,
        type=words(data.get("type")),
        size=None if size is None else str(size)[:40],
        size_bytes=size if isinstance(size, int) and not isinstance(size, bool) else _bytes(str(size)),
        mountpoints=[m for m in (mounts if isinstance(mounts, list) else [mounts]) if isinstance(m, str) and m],
        fields={str(k): str(v)[:300] for k, v in data.items() if isinstance(v, str | int | float) and v is not None},
        children=[_json_device(c, level + 1) for c in objects(data.get("children"), f"lsblk: children of {name}")],
    )


def _bytes(size: str) -> int | None:
    found = _SIZE.fullmatch(size.strip())
    if not found:
        return None
    unit = "" if found.group(2) in ("", "B") else found.group(2)
    return round(float(found.group(1).replace(",", ".")) * _UNITS[unit])


def _tree(body: str) -> tuple[BlockDevice, ...]:
    lines = [line for line in body.splitlines() if line.strip()]
    start = next((n for n, line in enumerate(lines) if line.split()[0] == "NAME" and "SIZE" in line), None)
    if start is None:
        raise ParseError(f"lsblk: neither JSON nor a tree; the text begins with {first_line(body)!r}")
    titles = [(m.group(), m.start()) for m in re.finditer(r"\S+", lines[start])]
    top: list[BlockDevice] = []
    stack: list[tuple[int, BlockDevice]] = []
    for line in lines[start + 1 :]:
        prefix = _TREE.match(line)
        depth = prefix.end() if prefix else 0
        device = _tree_row(line, depth, [title for title, _ in titles])
        if device is None:
            break  # a prompt or another command's output
        while stack and stack[-1][0] >= depth:
            stack.pop()
        (stack[-1][1].children if stack else top).append(device)
        stack.append((depth, device))
    if not top:
        raise ParseError("lsblk: the tree has no device")
    return tuple(top)


def _tree_row(line: str, depth: int, titles: list[str]) -> BlockDevice | None:
    """Read name, size, type and mount point. Other columns may be empty, so only these are told apart by their form."""
    tokens = line[depth:].split()
    at = next((n for n, t in enumerate(tokens) if n and _TYPES.fullmatch(t)), None)
    if at is None:
        if re.match(r"\S*[#$%>]", line) or not tokens:
            return None
        raise ParseError(f"lsblk: row without a known device type: {line.strip()[:80]!r}")
    size = next((t for t in tokens[1:at] if re.fullmatch(r"\d{1,6}(?:[.,]\d{1,3})?[BKMGTPE]B?|0B", t)), None)
    if size is None and "SIZE" in titles[: titles.index("TYPE")] and at < len(tokens):
        sizes = [t for t in tokens[1:at] if re.fullmatch(r"\d{4,20}", t)]
        size = sizes[0] if len(sizes) == 1 else None
    if "TYPE" in titles and "SIZE" in titles and titles.index("SIZE") < titles.index("TYPE") and size is None:
        raise ParseError(f"lsblk: row without a size: {line.strip()[:80]!r}")
    mounts = [t for t in tokens[at + 1 :] if t.startswith("/") or t == "[SWAP]"]
    first = titles[titles.index("TYPE") + 1 :][:1]
    return BlockDevice(
        name=tokens[0],
        type=tokens[at],
        size=size,
        size_bytes=_bytes(size) if size else None,
        mountpoints=mounts[:1] if first and first[0].startswith("MOUNTPOINT") else [],
    )


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount: target, source, file system type, options; further columns as printed."""

    target: str
    source: str | None = None
    fstype: str | None = None
    options: str | None = None
    more: Mapping[str, str] = field(default_factory=dict)


def parse_findmnt(text: str) -> tuple[Mount, ...]:
    """Read `findmnt`, with `-J` or as a tree or list with a header.

    Raises:
        ParseError: neither form, or a row that does not fit the columns.
    """
    body = clean(text)
    if re.search(r"(?m)^[ \t]*\{", body):
        data, _ = find_object(body, ("filesystems",))
        found: list[Mount] = []
        waiting = list(reversed(objects(data.get("filesystems"), "findmnt: `filesystems`")))
        while waiting:
            item = waiting.pop()
            target = words(item.get("target"))
            if target is None:
                raise ParseError("findmnt: a mount without a target")
            rest = {str(k): str(v) for k, v in item.items() if isinstance(v, str | int | float)}
            for key in ("target", "source", "fstype", "options"):
                rest.pop(key, None)
            found.append(
                Mount(target, words(item.get("source")), words(item.get("fstype")), words(item.get("options")), rest)
            )
            waiting.extend(reversed(objects(item.get("children"), f"findmnt: children of {target}")))
        return tuple(found)
    return _mount_table(body)


def _mount_table(body: str) -> tuple[Mount, ...]:
    lines = [line for line in body.splitlines() if line.strip()]
    start = next((n for n, line in enumerate(lines) if line.split()[0] == "TARGET" and len(line.split()) > 1), None)
    if start is None:
        raise ParseError(f"findmnt: neither JSON nor a table; the text begins with {first_line(body)!r}")
    titles = [title.lower() for title in lines[start].split()]
    mounts: list[Mount] = []
    for line in lines[start + 1 :]:
        prefix = _TREE.match(line)
        rest = line[prefix.end() if prefix else 0 :]
        if not rest.startswith("/") and not rest.startswith("[SWAP]"):
            if re.match(r"\S*[#$%>]", rest) and mounts:
                break
            raise ParseError(f"findmnt: row not understood: {line.strip()[:80]!r}")
        cells = re.split(r"\s+", rest.strip(), maxsplit=len(titles) - 1)
        if len(cells) != len(titles):
            raise ParseError(f"findmnt: row has {len(cells)} cells, the header {len(titles)}: {line.strip()[:60]!r}")
        row = dict(zip(titles, cells, strict=True))
        more = {k: v for k, v in row.items() if k not in ("target", "source", "fstype", "options")}
        mounts.append(Mount(row["target"], row.get("source"), row.get("fstype"), row.get("options"), more))
    if not mounts:
        raise ParseError("findmnt: the table has no mount")
    return tuple(mounts)
