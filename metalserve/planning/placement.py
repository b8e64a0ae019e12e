"""Which GPUs work together: groups joined by NVLink, whole cliques, evenly linked where that can be had. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import combinations

from metalserve.hardware.node import NodeHardware

# Paths of `nvidia-smi topo -m` without NVLink, nearest first (its own legend).
_PATHS = ("PIX", "PXB", "PHB", "NODE", "SYS")


def nvlinks(hardware: NodeHardware, a: int, b: int) -> int:
    """Return the NVLinks bonded between two GPUs (NV18 -> 18), 0 when the path is PCIe or not known."""
    found = re.fullmatch(r"NV(\d+)", hardware.link(a, b) or "")
    return int(found.group(1)) if found else 0


def _nearness(hardware: NodeHardware, a: int, b: int) -> int:
    """Return a number that is greater for nearer GPUs; NVLink counts above every PCIe path."""
    links = nvlinks(hardware, a, b)
    if links:
        return 100 + links
    path = hardware.link(a, b) or ""
    return len(_PATHS) - _PATHS.index(path) if path in _PATHS else 0


def quality(hardware: NodeHardware, group: Sequence[int]) -> tuple[int, int]:
    """Return (slowest pair, minus unevenness) of a group: greater is better."""
    pairs = [_nearness(hardware, a, b) for a, b in combinations(group, 2)]
    return (min(pairs), min(pairs) - max(pairs)) if pairs else (0, 0)


def joined_by_nvlink(hardware: NodeHardware, group: Sequence[int]) -> bool:
    """Return whether every pair of the group has NVLink between it."""
    return all(nvlinks(hardware, a, b) > 0 for a, b in combinations(group, 2))


def uneven(hardware: NodeHardware, group: Sequence[int]) -> bool:
    """Return whether some pairs of the group are linked otherwise than others."""
    return len({hardware.link(a, b) for a, b in combinations(group, 2)}) > 1


def groups_of(hardware: NodeHardware, gpus: Sequence[int], size: int) -> list[tuple[int, ...]]:
    """Cut the GPUs into as many groups of `size` as there can be, and return the best cut.

    Best is the cut with most groups joined by NVLink, then the one whose worst group is best (slowest pair, then
    evenness), then the one in nvidia-smi's order. GPUs that are left over are in no group.
    """
    left = tuple(sorted(gpus))
    if size < 2 or len({_nearness(hardware, a, b) for a, b in combinations(left, 2)}) <= 1:
        return [left[place : place + size] for place in range(0, len(left) - size + 1, size)]
    if len(left) > _EXACT:
        return _greedy_cut(hardware, left, size)

    def value(cut: tuple[tuple[int, ...], ...]) -> tuple[int, list[tuple[int, int]]]:
        joined = sum(joined_by_nvlink(hardware, group) for group in cut)
        return joined, sorted(quality(hardware, group) for group in cut)

    best = max(value(cut) for cut in _cuts(left, size))
    return list(next(cut for cut in _cuts(left, size) if value(cut) == best))


_EXACT = 10
"""Up to this many GPUs every cut is looked at: 8 in pairs are 105 cuts, 16 would be two million."""


def _cuts(left: tuple[int, ...], size: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Yield every way to cut the GPUs into groups, in order; what does not divide is left out in every way."""
    if len(left) < size:
        yield ()
        return
    first, others = left[0], left[1:]
    for rest in combinations(others, size - 1):
        remaining = tuple(gpu for gpu in others if gpu not in rest)
        for cut in _cuts(remaining, size):
            yield ((first, *rest), *cut)
    if len(left) % size:
        yield from _cuts(others, size)


def _greedy_cut(hardware: NodeHardware, left: tuple[int, ...], size: int) -> list[tuple[int, ...]]:
    groups = []
    while len(left) >= size:
        best = max(combinations(left, size), key=lambda group: (quality(hardware, group), [-gpu for gpu in group]))
        groups.append(best)
        left = tuple(gpu for gpu in left if gpu not in best)
    return sorted(groups)


def nvlink_groups(hardware: NodeHardware, gpus: Sequence[int], size: int) -> list[tuple[int, ...]]:
    """Return the groups of `size` whose GPUs are all joined by NVLink."""
    return [group for group in groups_of(hardware, gpus, size) if joined_by_nvlink(hardware, group)]


def largest_nvlink_group(hardware: NodeHardware, gpus: Sequence[int]) -> int:
    """Return the size of the largest power-of-two group joined by NVLink; 1 when there is none."""
    size = 1
    while size * 2 <= len(gpus) and nvlink_groups(hardware, gpus, size * 2):
        size *= 2
    return size


def describe(hardware: NodeHardware, gpus: Sequence[int]) -> str:
    """Return the links among the GPUs in words: `NV18 between all 8`, `NV12 in pairs (0,1) (2,3)`, `PCIe only`."""
    size = largest_nvlink_group(hardware, gpus)
    if len(gpus) < 2:
        return "one GPU"
    if not hardware.links:
        return "links not known"
    if size == 1:
        return "no NVLink, PCIe only"
    groups = nvlink_groups(hardware, gpus, size)
    name = hardware.link(groups[0][0], groups[0][1])
    if size == len(gpus):
        return f"{name} between all {size} GPUs"
    listed = " ".join(f"({','.join(map(str, group))})" for group in groups)
    return f"{name} in groups of {size}: {listed}"
