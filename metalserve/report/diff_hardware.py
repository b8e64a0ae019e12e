"""What changed in a host's hardware: GPUs, links and drives that are gone or new, links that got slower."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from metalserve.report.links import pairs
from metalserve.report.model import Host
from metalserve.report.values import flag, line, mapping, mappings, number, whole

Found = tuple[Literal["worse", "better", "other"], str, str, str, str]
"""Way, what, before, after, note."""

Rows = dict[str, Mapping[str, Any]]

_NEARNESS: Final = ("SYS", "NODE", "PHB", "PXB", "PIX")
"""PCIe classes of `topo -m`, the longest way first."""

_GPU_VALUES: Final = (
    ("pcie_width_max", "PCIe width", "x", True),
    ("pcie_gen_max", "PCIe generation", "Gen", True),
    ("memory_mib", "memory, MiB", "", True),
    ("power_limit_w", "power limit, W", "", True),
    ("remapped_correctable", "memory rows remapped, correctable", "", False),
    ("remapped_uncorrectable", "memory rows remapped, uncorrectable", "", False),
)
"""Key, words, prefix, whether more is better. The PCIe link as it runs is left to the checks: an idle GPU slows it."""


def hardware_changes(was: Host, now: Host) -> Iterator[Found]:
    """Return the differences between the hardware of two reports of one host."""
    if not was.hardware:
        return
    if not now.hardware:
        yield "worse", "hardware", "read", "not read", ""
        return
    yield from _gpus(was, now)
    yield from _nvlinks(was, now)
    yield from _pairs(was, now)
    yield from _drives(was, now)
    yield from _counted(was, now)


def _gpus(was: Host, now: Host) -> Iterator[Found]:
    before, after = _identified(was, now, "gpus", ("uuid", "pci", "index"))
    if before and not after:
        yield "worse", "GPUs", f"{len(before)} seen", f"none: nvidia-smi {line(now.hardware.get('smi_state'))}", ""
        return
    places = {line(g.get("pci")): g for g in after.values()}
    for key, gpu in before.items():
        name, place = _gpu(gpu), line(gpu.get("pci"))
        there = after.get(key)
        if there is not None:
            yield from _values(name, gpu, there)
        elif place and place in places:
            yield "other", name, line(gpu.get("uuid")), f"replaced by {line(places[place].get('uuid'))}", ""
        else:
            yield "worse", name, f"{line(gpu.get('name'))} {line(gpu.get('uuid'))}".strip(), "gone", ""
    old_places = {line(g.get("pci")) for g in before.values()}
    for key, gpu in after.items():
        if before and key not in before and line(gpu.get("pci")) not in old_places:
            yield "better", _gpu(gpu), "not there", line(gpu.get("name")) or "there", ""


def _values(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Found]:
    for key, words, prefix, more_is_better in _GPU_VALUES:
        a, b = number(before.get(key)), number(after.get(key))
        if a is None or a == b:
            continue
        if b is None:
            yield "other", f"{name}: {words}", f"{prefix}{a:g}", "not read", ""
        else:
            way: Literal["worse", "better"] = "better" if (b > a) == more_is_better else "worse"
            yield way, f"{name}: {words}", f"{prefix}{a:g}", f"{prefix}{b:g}", ""
    for key, words in (("remapped_pending", "row remap pending"), ("remapped_failure", "row remap failed")):
        was, now = flag(before.get(key)), flag(after.get(key))
        if now is not None and was is not None and was != now:
            yield ("worse" if now else "better"), f"{name}: {words}", _yes(was), _yes(now), ""


def _nvlinks(was: Host, now: Host) -> Iterator[Found]:
    before, after = _active(was), _active(now)
    for index, count in before.items():
        later = after.get(index)
        if later is not None and later != count:
            way: Literal["worse", "better"] = "better" if later > count else "worse"
            yield way, f"GPU {index}: NVLinks up", str(count), str(later), ""


def _pairs(was: Host, now: Host) -> Iterator[Found]:
    before, after = pairs(was.hardware), pairs(now.hardware)
    if before and not after:
        yield "worse", "links between GPUs", f"{len(before)} pairs", "not read", ""
        return
    moved: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for pair, kind in before.items():
        later = after.get(pair)
        if later is not None and later != kind:
            moved.setdefault((kind, later), []).append(pair)
    for (kind, later), them in moved.items():
        a, b = _nearness(kind), _nearness(later)
        way: Literal["worse", "better", "other"] = "worse" if b < a else "better" if b > a else "other"
        names = ", ".join(f"{i}-{j}" for i, j in them[:8]) + (f" and {len(them) - 8} more" if len(them) > 8 else "")
        yield way, f"link between GPUs {names}", kind, later, ""


def _drives(was: Host, now: Host) -> Iterator[Found]:
    before, after = _identified(was, now, "nvme", ("serial", "pci", "device"))
    for key, drive in before.items():
        there = after.get(key)
        name = f"drive {line(drive.get('device'))} {line(drive.get('model'))} ({key})"
        if there is None:
            yield "worse", name, "there", "gone", ""
            continue
        a, b = mapping(drive.get("link")), mapping(there.get("link"))
        old, new = _link(a), _link(b)
        if old and new and old != new:
            way: Literal["worse", "better"] = "better" if _speed(b) > _speed(a) else "worse"
            yield way, f"{name}: PCIe link", old, new, ""
        elif old and not new:
            yield "other", f"{name}: PCIe link", old, "not read", ""
    for key, drive in after.items():
        if key not in before:
            yield "other", f"drive {line(drive.get('device'))} ({key})", "not there", line(drive.get("model")), ""


def _counted(was: Host, now: Host) -> Iterator[Found]:
    a, b = whole(was.hardware.get("nvswitch_count")), whole(now.hardware.get("nvswitch_count"))
    if a is not None and b is not None and a != b:
        yield ("better" if b > a else "worse"), "NVSwitches", str(a), str(b), ""
    old, new = line(was.hardware.get("driver_version")), line(now.hardware.get("driver_version"))
    if old and old != new:
        yield "other", "driver", old, new or "not read", ""


def _identified(was: Host, now: Host, part: str, keys: tuple[str, ...]) -> tuple[Rows, Rows]:
    """Return the rows of both reports by the first of `keys` that tells each apart.

    UUIDs and serials may be missing, or the same on all.
    """
    old, new = mappings(was.hardware.get(part)), mappings(now.hardware.get(part))
    twice = {
        (key, value)
        for rows in (old, new)
        for key in keys
        for value, times in Counter(line(row.get(key)) for row in rows).items()
        if times > 1 or not value
    }

    def named(rows: list[Mapping[str, Any]]) -> Rows:
        found = {}
        for i, row in enumerate(rows):
            values = ((key, line(row.get(key))) for key in keys)
            found[next((value for key, value in values if (key, value) not in twice), f"number {i}")] = row
        return found

    return named(old), named(new)


def _active(host: Host) -> dict[str, int]:
    found = {}
    for row in mappings(host.hardware.get("nvlinks")):
        rates = mapping(row.get("link_gb_per_s"))
        if rates:
            found[line(row.get("index"))] = sum(number(rate) is not None for rate in rates.values())
    return found


def _gpu(gpu: Mapping[str, Any]) -> str:
    where = line(gpu.get("pci"))
    return f"GPU {line(gpu.get('index'))}" + (f" ({where})" if where else "")


def _link(link: Mapping[str, Any]) -> str:
    gen, width = whole(link.get("gen_current")), whole(link.get("width_current"))
    return f"Gen{gen} x{width}" if gen is not None and width is not None else ""


def _speed(link: Mapping[str, Any]) -> float:
    return 2.0 ** min(whole(link.get("gen_current")) or 0, 20) * (whole(link.get("width_current")) or 0)


def _nearness(kind: str) -> int:
    if kind.startswith("NV") and kind[2:].isascii() and kind[2:].isdigit():
        return 100 + int(kind[2:6])
    return _NEARNESS.index(kind) if kind in _NEARNESS else -1


def _yes(value: bool) -> str:
    return "yes" if value else "no"
