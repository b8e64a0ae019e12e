"""`nvidia-smi topo -m`: how GPUs and NICs reach each other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from metalserve.hardware.parsers.text import ParseError, clean, first_line

_GPU = re.compile(r"GPU(\d{1,4})")
_DEVICE = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[_.-][A-Za-z0-9]+)*")
_CELL = re.compile(r"X|NV\d{1,2}|SYS|NODE|PHB|PXB|PIX|SOC")
_CPUS = re.compile(r"\d{1,5}(?:-\d{1,5})?(?:,\d{1,5}(?:-\d{1,5})?)*|N/A")
_NODES = re.compile(r"\d{1,3}(?:-\d{1,3})?(?:,\d{1,3}(?:-\d{1,3})?)*|N/A")
_NODE = re.compile(r"\d{1,5}|N/A")
_TAILS = {  # titles without blanks: copies glue them, the cells below stay readable
    "": (),
    "CPUAffinity": (_CPUS,),
    "CPUAffinityNUMAAffinity": (_CPUS, _NODES),
    "CPUAffinityNUMAAffinityGPUNUMAID": (_CPUS, _NODES, _NODE),
}
_LEGEND = re.compile(r"\s*(NIC\d{1,4}): (\S{1,64})\s*")


@dataclass(frozen=True)
class Topology:
    """A GPU topology matrix.

    Attributes:
        gpus: names as printed (`GPU0`), in the order of the header.
        links: (i, j) with i < j, nvidia-smi's GPU numbers -> class as printed (`NV18`, `SYS` ...).
        nics: names of the NIC columns (`NIC0`, or `mlx5_0` with old drivers).
        nic_names: what the NIC legend says (`NIC0` -> `mlx5_0`).
        nic_links: (GPU number, NIC column) -> class.
        cpu_affinity: GPU name -> CPU list as printed; only where it could be read without doubt.
        numa_nodes: GPU name -> NUMA affinity as printed (`0`, `0-1`, `N/A`).
        gpu_numa_ids: GPU name -> NUMA node of the GPU's own memory (a number on Grace, else `N/A`).
        notes: lines and cells that were not understood.
    """

    gpus: tuple[str, ...]
    links: Mapping[tuple[int, int], str]
    nics: tuple[str, ...] = ()
    nic_names: Mapping[str, str] = field(default_factory=dict)
    nic_links: Mapping[tuple[int, str], str] = field(default_factory=dict)
    cpu_affinity: Mapping[str, str] = field(default_factory=dict)
    numa_nodes: Mapping[str, str] = field(default_factory=dict)
    gpu_numa_ids: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> dict[str, int]:
        """Number of GPU pairs by class."""
        counts: dict[str, int] = {}
        for kind in self.links.values():
            counts[kind] = counts.get(kind, 0) + 1
        return counts

    @property
    def summary(self) -> str:
        """One line in words."""
        pairs = len(self.links)
        if not pairs:
            return f"{len(self.gpus)} GPU"
        if len(self.classes) == 1:
            return f"{len(self.gpus)} GPUs, all {pairs} pairs {next(iter(self.classes))}"
        parts = ", ".join(f"{n}x{k}" for k, n in sorted(self.classes.items(), key=lambda kv: -kv[1]))
        return f"{len(self.gpus)} GPUs, pairs {parts}"


def parse_topo(text: str) -> Topology:
    """Read the output of `nvidia-smi topo -m`.

    Raises:
        ParseError: there is no matrix, or it is cut, wrapped, has words run together or contradicts itself.
    """
    lines = clean(text).splitlines()
    start = next((n for n, line in enumerate(lines) if _is_header(line.split())), None)
    if start is None:
        raise ParseError(f"no header row of a topology matrix; the text begins with {first_line(text)!r}")
    notes = [line.strip() for line in lines[:start] if line.strip()]
    devices, tail = _header(lines[start], notes)
    rows, rest = _rows(lines[start + 1 :], devices)

    gpus = tuple(d for d in devices if _GPU.fullmatch(d))
    index = {g: int(g[3:]) for g in gpus}
    cells = _cells(rows, devices)
    links: dict[tuple[int, int], str] = {}
    nic_links: dict[tuple[int, str], str] = {}
    for a in gpus:
        for b in devices:
            if b in index:
                if index[a] < index[b]:
                    links[index[a], index[b]] = cells[a, b]
            else:
                nic_links[index[a], b] = cells[a, b]

    tails: tuple[dict[str, str], ...] = ({}, {}, {})
    for gpu in gpus:
        for store, value in zip(tails, _tail(gpu, rows[gpu][len(devices) :], tail, notes), strict=False):
            store[gpu] = value
    return Topology(
        gpus=gpus,
        links=links,
        nics=tuple(d for d in devices if d not in index),
        nic_names=_nic_legend(rest),
        nic_links=nic_links,
        cpu_affinity=tails[0],
        numa_nodes=tails[1],
        gpu_numa_ids=tails[2],
        notes=tuple(notes),
    )


def _is_header(tokens: list[str]) -> bool:
    if not tokens or not _GPU.match(tokens[0]):
        return False
    return len(tokens) == 1 or not _CELL.fullmatch(tokens[1])


def _header(line: str, notes: list[str]) -> tuple[tuple[str, ...], tuple[re.Pattern[str], ...] | None]:
    """Return the devices and the patterns of the affinity columns, or None for titles that are not known."""
    tokens = line.split()
    at = next((n for n, t in enumerate(tokens) if t in ("CPU", "NUMA", "GPU")), len(tokens))
    devices, title = tokens[:at], " ".join(tokens[at:])
    tail = _TAILS.get(title.replace(" ", ""))
    if tail is None:
        notes.append(f"column titles {title!r} not known, affinities not read")
    for device in devices:
        if not _DEVICE.fullmatch(device):
            raise ParseError(f"topology header has {device!r}, which names no device")
    if len(set(devices)) != len(devices):
        raise ParseError("topology header names a device twice")
    if len({int(d[3:]) for d in devices if _GPU.fullmatch(d)}) != sum(bool(_GPU.fullmatch(d)) for d in devices):
        raise ParseError("topology header numbers a GPU twice")
    return tuple(devices), tail


def _rows(lines: list[str], devices: tuple[str, ...]) -> tuple[dict[str, list[str]], list[str]]:
    rows: dict[str, list[str]] = {}
    for number, line in enumerate(lines):
        if len(rows) == len(devices):
            return rows, lines[number:]
        tokens = line.split()
        if not tokens:
            continue
        if tokens[0] in ("Legend:", "NIC"):
            break
        if tokens[0] not in devices:
            raise ParseError(f"topology row {line.strip()[:60]!r} begins with no device of the header")
        if tokens[0] in rows:
            raise ParseError(f"topology row {tokens[0]} comes twice")
        rows[tokens[0]] = tokens[1:]
    missing = [d for d in devices if d not in rows]
    if missing:
        raise ParseError(f"topology matrix is cut: the header names {', '.join(missing[:4])}, no such row(s)")
    return rows, []


def _cells(rows: dict[str, list[str]], devices: tuple[str, ...]) -> dict[tuple[str, str], str]:
    cells: dict[tuple[str, str], str] = {}
    for row, tokens in rows.items():
        if len(tokens) < len(devices):
            raise ParseError(f"topology row {row} has {len(tokens)} cells, the header {len(devices)} devices")
        for column, cell in zip(devices, tokens, strict=False):
            if not _CELL.fullmatch(cell):
                raise ParseError(f"topology cell {row}/{column} is {cell!r}: words run together or unknown class")
            if (cell == "X") != (row == column):
                raise ParseError(f"topology cell {row}/{column} is {cell!r}: the diagonal is not where it should be")
            cells[row, column] = cell
    for (a, b), cell in cells.items():
        if cells[b, a] != cell:
            raise ParseError(f"topology cell {a}/{b} is {cell} but {b}/{a} is {cells[b, a]}")
    return cells


def _tail(
    gpu: str, tokens: list[str], columns: tuple[re.Pattern[str], ...] | None, notes: list[str]
) -> tuple[str, ...]:
    """Read the affinity columns. Empty cells leave no trace once tabs are lost, so fewer tokens stay unread."""
    patterns = (_CPUS, _NODES, _NODE) if columns is None else columns
    if len(tokens) > len(patterns):
        raise ParseError(f"topology row {gpu} has more cells than the header: {' '.join(tokens)[:60]!r}")
    if len(tokens) == len(patterns) and columns is not None:
        for token, pattern in zip(tokens, patterns, strict=True):
            if not pattern.fullmatch(token):
                raise ParseError(f"topology row {gpu} has {token!r} where an affinity should stand")
        return tuple(tokens)
    for token in tokens:
        if not any(pattern.fullmatch(token) for pattern in patterns):
            raise ParseError(f"topology row {gpu} has {token!r} where an affinity should stand")
    if tokens and columns is not None:
        notes.append(f"{gpu}: affinity cells {' '.join(tokens)} not assigned, some columns are empty")
    return ()


def _nic_legend(lines: list[str]) -> dict[str, str]:
    names: dict[str, str] = {}
    for line in lines:
        found = _LEGEND.fullmatch(line)
        if found:
            names[found.group(1)] = found.group(2)
    return names
