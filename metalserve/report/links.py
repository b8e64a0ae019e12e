"""The NVLink matrix of a host: the class of every pair, and which of them is short of what was expected."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from metalserve.report.identity import gpu_spec, usual
from metalserve.report.model import ABOVE_OK, Host
from metalserve.report.values import gpu_index, line, mapping, mappings, number, whole

_PAIR = re.compile(r"GPU(\d{1,3}),GPU(\d{1,3})")
_NV = re.compile(r"\bNV(\d{1,2})\b")
_STEPS = 5
"""Steps of the heat map's colour."""
LARGEST = 72
"""GPUs in the largest NVLink domain there is (NVL72); a matrix beyond it is not drawn."""

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Cell:
    """One field of the matrix.

    Attributes:
        kind: class as printed ("NV18", "SYS"); "" on the diagonal and where it is not known.
        heat: 0 (no NVLink) to 5 (as many links as expected, or more).
        short: words where it is below the expectation ("of 18"); else "".
        gb_s: measured GB/s one way, or None.
    """

    kind: str
    heat: int
    short: str
    gb_s: float | None
    title: str


@dataclass(frozen=True, slots=True)
class Links:
    """Links of one GPU: `states` by link, True up, False down; `wanted` is None where it cannot be known."""

    gpu: int
    up: int
    wanted: int | None
    states: tuple[bool, ...]

    @property
    def down(self) -> str:
        """Numbers of the links that are down, where some are missing; else ""."""
        if self.wanted is None or self.up >= self.wanted:
            return ""
        return ", ".join(str(i) for i, up in enumerate(self.states) if not up)


@dataclass(frozen=True, slots=True)
class Matrix:
    """What the page draws: rows of `gpus` by `gpus`, None on the diagonal."""

    gpus: tuple[int, ...]
    rows: tuple[tuple[Cell | None, ...], ...]
    expected: str
    short: tuple[str, ...]
    links: tuple[Links, ...]
    measured: bool


def pairs(hardware: Mapping[str, object]) -> dict[Pair, str]:
    """Return the class of each pair of GPUs, (i, j) with i < j."""
    found = {}
    for key, kind in mapping(hardware.get("links")).items():
        match = _PAIR.fullmatch(key)
        if match and match.group(1) != match.group(2):
            a, b = sorted((int(match.group(1)), int(match.group(2))))
            found[a, b] = line(kind)
    return found


def matrix(host: Host) -> Matrix | None:
    """Return the matrix of a host, or None where its pairs were not read (or it has one GPU)."""
    kinds = pairs(host.hardware)
    gpus = sorted({i for pair in kinds for i in pair})
    if not gpus or len(gpus) > LARGEST:
        return None
    expected, words = _expected(host, kinds)
    missing = _missing(host, kinds, expected)
    rates = pair_rates(host)
    full = max([expected[-1]] if expected else [_count(k) for k in kinds.values()], default=0)

    def cell(a: int, b: int) -> Cell | None:
        if a == b:
            return None
        pair = (a, b) if a < b else (b, a)
        kind, rate = kinds.get(pair, ""), rates.get(pair)
        count = _count(kind)
        heat = min(_STEPS, -(-_STEPS * count // full)) if full else 0
        short = (f"of {full}" if count else "no NVLink") if pair in missing else ""
        title = f"GPU {a} to GPU {b}: {kind or 'not read'}"
        if short:
            title += f", expected {words}"
        if rate is not None:
            title += f", measured {rate:.1f} GB/s"
        return Cell(kind, heat, short, rate, title)

    rows = tuple(tuple(cell(a, b) for b in gpus) for a in gpus)
    return Matrix(tuple(gpus), rows, words, _told(missing, kinds, full), gpu_links(host), bool(rates))


def pair_rates(host: Host) -> dict[Pair, float]:
    """Return the measured GB/s of each pair, one way; of two directions the slower."""
    found: dict[Pair, float] = {}
    for row in mappings(mapping(host.measurements.get("nvlink")).get("pairs")):
        a, b, rate = whole(row.get("a")), whole(row.get("b")), number(row.get("gb_s"))
        if a is not None and b is not None and a != b and rate is not None:
            pair = (min(a, b), max(a, b))
            found[pair] = min(rate, found.get(pair, rate))
    return found


def gpu_links(host: Host) -> tuple[Links, ...]:
    """Return the NVLinks of each GPU that has them, by GPU."""
    wanted: dict[int, int] = {}
    for entry in host.entries:
        if entry.check == "nvlink-count" and (count := re.match(r"\d{1,2}\b", entry.expected)):
            for subject in entry.subjects:
                index = gpu_index(subject)
                if index is not None:
                    wanted[index] = int(count.group())
    found = []
    for row in mappings(host.hardware.get("nvlinks")):
        index, rates = whole(row.get("index")), mapping(row.get("link_gb_per_s"))
        if index is None or not rates or row.get("supported") is False:
            continue
        order = sorted(rates, key=lambda name: (whole(name) or 0, name))
        states = tuple(number(rates[name]) is not None for name in order)
        found.append(Links(index, sum(states), wanted.get(index), states))
    return tuple(sorted(found, key=lambda links: links.gpu))


def _expected(host: Host, kinds: Mapping[Pair, str]) -> tuple[list[int], str]:
    """Return the NVLink counts a linked pair may have, and the expectation in words.

    The check knows what the inventory says was bought, so its words come first; then the catalogue.
    """
    said = [e.expected for e in host.entries if e.check == "pair-links" and e.status != "skipped"]
    counts = sorted({int(n) for words in said for n in _NV.findall(words)})
    if said:
        return counts, said[0]
    spec = gpu_spec(host)
    if spec is not None and spec.nvlink is not None:
        allowed = spec.nvlink.pair_classes + spec.nvlink.direct_classes
        counts = sorted({int(n) for name in allowed for n in _NV.findall(name)})
        if spec.fabric == "nvswitch" or any(k.startswith("NV") for k in kinds.values()):
            return counts, f"{' or '.join(allowed)} (catalogue row {spec.id})"
    return [], "not known"


def _missing(host: Host, kinds: Mapping[Pair, str], expected: list[int]) -> set[Pair]:
    """Return the pairs below the expectation; none where the check found all of them right."""
    entries = [e for e in host.entries if e.check == "pair-links"]
    bad = [e for e in entries if e.status in ABOVE_OK]
    if entries and not bad:
        return set()
    accused = {gpu_index(s) for e in bad for s in e.subjects}
    some = usual(Counter(k for k in kinds.values() if k.startswith("NV")))
    right = {f"NV{n}" for n in expected} or {some}
    linked = {i for pair, kind in kinds.items() if kind in right for i in pair}
    found = set()
    for pair, kind in kinds.items():
        if kind in right or (bad and None not in accused and not accused & set(pair)):
            continue
        # Between bridges PCIe is as it should be, so there only a card without any link is short of one.
        if kind.startswith("NV") or not set(pair) <= linked or (bad and "between all pairs" in bad[0].expected):
            found.add(pair)
    return found if bad or expected else set()


def _told(missing: set[Pair], kinds: Mapping[Pair, str], full: int) -> tuple[str, ...]:
    """Return the missing links in words, all those of one GPU together."""
    told, left = [], set(missing)
    while left:
        times = Counter(i for pair in left for i in pair)
        gpu = max(times, key=lambda i: (times[i], -i))
        mine = sorted(pair for pair in left if gpu in pair)
        left -= set(mine)
        found = usual(Counter(kinds[pair] for pair in mine))
        peers = ", ".join(str(b if a == gpu else a) for a, b in mine)
        told.append(f"GPU {gpu}: {found} instead of NV{full} to GPU {peers}")
    return tuple(told)


def _count(kind: str) -> int:
    found = _NV.fullmatch(kind)
    return int(found.group(1)) if found else 0
