"""Which GPUs work together: groups joined by NVLink, whole cliques, evenly linked where that can be had. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache
from itertools import combinations

from metalserve.hardware.node import NodeHardware

_NVLINK = 100
# Paths of `nvidia-smi topo -m` without NVLink, nearest first (its own legend).
_PATHS = ("PIX", "PXB", "PHB", "NODE", "SYS")


def nvlinks(hardware: NodeHardware, a: int, b: int) -> int:
    """Return the NVLinks bonded between two GPUs (NV18 -> 18), 0 when the path is PCIe or not known."""
    return _bonded(hardware.link(a, b) or "")


@cache
def _bonded(kind: str) -> int:
    found = re.fullmatch(r"NV(\d+)", kind)
    return int(found.group(1)) if found else 0


def _nearness(hardware: NodeHardware, a: int, b: int) -> int:
    """Return a number that is greater for nearer GPUs; NVLink counts above every PCIe path."""
    links = nvlinks(hardware, a, b)
    if links:
        return _NVLINK + links
    path = hardware.link(a, b) or ""
    return len(_PATHS) - _PATHS.index(path) if path in _PATHS else 0


def quality(hardware: NodeHardware, group: Sequence[int]) -> tuple[int, int]:
    """Return (slowest pair, minus unevenness) of a group: greater is better."""
    return _value([_nearness(hardware, a, b) for a, b in combinations(group, 2)])


def _value(pairs: Sequence[int]) -> tuple[int, int]:
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
    near = tuple(_nearness(hardware, a, b) for a, b in combinations(left, 2))
    return [tuple(left[place] for place in group) for group in _best_cut(near, len(left), size)]


@lru_cache(maxsize=4096)
def _best_cut(near: tuple[int, ...], count: int, size: int) -> tuple[tuple[int, ...], ...]:
    """Return the best cut of GPUs 0 to `count` - 1, whose pairs are as near as `near` says, in combinations' order."""
    left = tuple(range(count))
    if size < 2 or len(set(near)) <= 1:
        return tuple(left[place : place + size] for place in range(0, count - size + 1, size))
    pairs = dict(zip(combinations(left, 2), near, strict=True))

    @cache
    def value(group: tuple[int, ...]) -> tuple[int, int]:
        return _value([pairs[pair] for pair in combinations(group, 2)])

    if count > _EXACT:
        return tuple(_greedy_cut(value, left, size))

    def worth(cut: tuple[tuple[int, ...], ...]) -> tuple[int, list[tuple[int, int]]]:
        return sum(value(group)[0] >= _NVLINK for group in cut), sorted(map(value, cut))

    best, most = None, None
    for cut in _cuts(left, size):
        found = worth(cut)
        if most is None or found > most:
            best, most = cut, found
    return best or ()


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


def _greedy_cut(
    value: Callable[[tuple[int, ...]], tuple[int, int]], left: tuple[int, ...], size: int
) -> list[tuple[int, ...]]:
    groups = []
    while len(left) >= size:
        best = max(combinations(left, size), key=lambda group: (value(group), [-gpu for gpu in group]))
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
