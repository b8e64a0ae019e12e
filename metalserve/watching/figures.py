"""What one line says of a node, and how nodes are sorted and filtered by it."""

from __future__ import annotations

import fnmatch
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from metalserve.catalogue.clock_reasons import ClockReason, load_clock_reasons
from metalserve.errors import MetalserveError
from metalserve.watching.node import STATES, NodeView
from metalserve.watching.sample import GpuSample


@dataclass(frozen=True)
class Figures:
    """A node in numbers; None where none of its GPUs or engines told.

    Attributes:
        util: mean of the GPUs, %.
        vram: share of their memory in use, %.
        power: sum, W.
        temp: the hottest, degrees C.
        margin: the smallest, degrees C to the highest operating temperature.
        clock: the slowest SM clock, MHz.
        running: requests of all engines.
        tokens: of the answers, per second, all engines.
        kv: the fullest KV cache, %.
        xid: code of the last since the boot.
        held: the worst reason for which a GPU's clocks are held down, without `idle`.
    """

    gpus: int
    util: float | None
    vram: float | None
    vram_used_gib: float | None
    vram_total_gib: float | None
    power: float | None
    power_limit: float | None
    temp: float | None
    margin: float | None
    clock: float | None
    running: float | None
    waiting: float | None
    tokens: float | None
    kv: float | None
    xid: float | None
    held: ClockReason | None
    held_gpus: int
    links_up: int | None
    links_wanted: int | None


def figures_of(node: NodeView) -> Figures:
    """Return the figures of a node."""
    gpus, engines = node.gpus, [e for e in node.engines if e.sample.answers]
    used, total = _sum(g.memory_used_mib for g in gpus), _sum(g.memory_total_mib for g in gpus)
    utils = _known(g.utilisation for g in gpus)
    held, count = _held(gpus)
    links = list((node.links or {}).values())
    wanted = [link.wanted if link.wanted is not None else link.up + link.down for link in links]
    return Figures(
        gpus=len(gpus),
        util=sum(utils) / len(utils) if utils else None,
        vram=100 * used / total if used is not None and total else None,
        vram_used_gib=used / 1024 if used is not None else None,
        vram_total_gib=total / 1024 if total is not None else None,
        power=_sum(g.power_w for g in gpus),
        power_limit=_sum(g.power_limit_w for g in gpus),
        temp=max(_known(g.temperature_c for g in gpus), default=None),
        margin=min(_known(g.margin_c for g in gpus), default=None),
        clock=min(_known(g.sm_mhz for g in gpus), default=None),
        running=_sum(e.sample.running for e in engines),
        waiting=_sum(e.sample.waiting for e in engines),
        tokens=_sum(e.tokens_s for e in engines),
        kv=max((100 * v for v in _known(e.sample.kv_usage for e in engines)), default=None),
        xid=node.xid.code if node.xid else None,
        held=held,
        held_gpus=count,
        links_up=sum(link.up for link in links) if links else None,
        links_wanted=sum(wanted) if links else None,
    )


def _held(gpus: Sequence[GpuSample]) -> tuple[ClockReason | None, int]:
    for reason in load_clock_reasons():
        count = sum(1 for gpu in gpus if reason.name in (gpu.held or ()))
        if count and reason.kind != "idle":
            return reason, count
    return None, 0


def _known(values: Iterable[float | int | None]) -> list[float]:
    return [float(value) for value in values if value is not None]


def _sum(values: Iterable[float | int | None]) -> float | None:
    known = _known(values)
    return sum(known) if known else None


SORTS: Final = (
    "trouble", "name", "util", "vram", "power", "temp", "margin", "clock", "running", "waiting", "tokens", "kv", "xid",
)  # fmt: skip
"""What nodes can be sorted by: the highest first, margin and clock the lowest first, name by its letters."""
_LOWEST_FIRST = ("margin", "clock")


def sorted_by(key: str, nodes: Iterable[NodeView]) -> list[NodeView]:
    """Return the nodes in order; those that have no such figure come last.

    Raises:
        MetalserveError: no such key.
    """
    if key not in SORTS:
        raise MetalserveError(f"cannot sort by {key!r}", where="--sort", remedy=f"one of {', '.join(SORTS)}")
    if key == "name":
        return sorted(nodes, key=lambda n: _natural(n.name))
    if key == "trouble":
        return sorted(nodes, key=lambda n: (STATES.index(n.state), _natural(n.name)))

    def place(node: NodeView) -> tuple[bool, float, list[tuple[int, str]]]:
        value = getattr(figures_of(node), key)
        signed = 0.0 if value is None else value if key in _LOWEST_FIRST else -value
        return value is None, signed, _natural(node.name)

    return sorted(nodes, key=place)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


Test = Callable[[NodeView], bool]
_COMPARED = re.compile(r"\s*([a-z]+)\s*(>=|<=|!=|=|>|<)\s*(\S+)\s*")
_OPERATORS: Final[dict[str, Callable[[float, float], bool]]] = {
    ">": operator.gt, "<": operator.lt, ">=": operator.ge, "<=": operator.le, "=": operator.eq, "!=": operator.ne,
}  # fmt: skip


def filter_of(text: str) -> Test:
    """Return the test that `--filter` asks for: `temp>80`, `state=down`, `state!=ok`, or a part of a name (`*`, `?`).

    Of GPU figures the node's is meant: the hottest GPU, the smallest margin, the mean of util.

    Raises:
        MetalserveError: it is neither, or names no figure.
    """
    found = _COMPARED.fullmatch(text)
    if not found:
        if re.search(r"[<>=!]", text) or not text.strip():
            raise MetalserveError(
                f"{text!r} is no filter", where="--filter", remedy="such as 'temp>80', 'state!=ok' or 'rack3-*'"
            )
        pattern = text.strip() if re.search(r"[*?\[]", text) else f"*{text.strip()}*"
        return lambda node: fnmatch.fnmatchcase(node.name, pattern)
    key, sign, value = found.groups()
    if key == "state":
        if value not in STATES or sign not in ("=", "!="):
            raise MetalserveError(
                f"{text!r}: no such state", where="--filter", remedy=f"state= or state!= one of {', '.join(STATES)}"
            )
        return lambda node: (node.state == value) == (sign == "=")
    if key not in SORTS or key in ("trouble", "name"):
        known = ", ".join(each for each in SORTS if each not in ("trouble", "name"))
        raise MetalserveError(f"{text!r}: no figure {key!r}", where="--filter", remedy=f"state, or one of {known}")
    try:
        limit = float(value)
    except ValueError:
        raise MetalserveError(f"{text!r}: {value!r} is no number", where="--filter") from None

    def test(node: NodeView) -> bool:
        figure = getattr(figures_of(node), key)
        return figure is not None and _OPERATORS[sign](float(figure), limit)

    return test
