"""The columns of the screen: what each cell of a node, a GPU and an engine says, and what it says first."""

from __future__ import annotations

from typing import Final

from metalserve.catalogue.clock_reasons import reason_named
from metalserve.watching.figures import Figures
from metalserve.watching.node import EngineView, NodeView
from metalserve.watching.sample import GpuSample, Links, Xid
from metalserve.watching.table import Cell, Column

STATE_STYLES: Final = {
    "down": "bold red", "hung": "bold red", "error": "bold red", "xid": "bold red", "engine": "red", "link": "yellow",
    "slowed": "yellow", "connecting": "dim", "ok": "green",
}  # fmt: skip
_XID_STYLES = {"fatal": "bold red", "warning": "yellow", "app": "yellow"}
_CLOSE_C = 5.0
"""Degrees to the highest operating temperature below which the margin is marked; `temperature-margin` of the
thresholds says what fails a check."""


# -- a line a node

Row = tuple[NodeView, Figures]


def _dim(row: Row, cell: Cell) -> Cell:
    return (cell[0], "dim") if row[0].stale else cell


def _number(value: float | None, form: str = "{:.0f}") -> str:
    return "?" if value is None else form.format(value)


def count(value: float) -> str:
    """Return a count that is short: 950, 12.3k, 4.5M."""
    for limit, letter in ((1e6, "M"), (1e4, "k")):
        if value >= limit:
            return f"{value / (1e6 if letter == 'M' else 1e3):.1f}{letter}"
    return f"{value:.0f}"


def _of_engines(row: Row, value: float | None, text: str) -> Cell:
    node, _ = row
    if not node.engines:
        return "-", "dim"
    return ("?" if value is None else text), ""


def _temperature(value: float | None, margin: float | None) -> Cell:
    return _number(value), _heat(margin)


def _margin(value: float | None) -> Cell:
    return ("?" if value is None else f"{value:.0f}"), _heat(value)


def _heat(margin: float | None) -> str:
    if margin is None or margin > _CLOSE_C:
        return ""
    return "bold red" if margin <= 0 else "yellow"


def _held_node(row: Row) -> Cell:
    figures = row[1]
    if figures.held is None:
        told = any(gpu.held is not None for gpu in row[0].gpus)
        return ("-" if told or not row[0].gpus else "?"), "dim"
    style = "bold red" if figures.held.kind == "bad" else "yellow" if figures.held.kind == "set" else ""
    count = f" {figures.held_gpus}/{figures.gpus}" if figures.held_gpus < figures.gpus else ""
    return f"{figures.held.short}{count}", style


def _links_node(row: Row) -> Cell:
    figures = row[1]
    if row[0].links is None:
        return "?", "dim"
    if figures.links_wanted is None or figures.links_up is None:
        return "-", "dim"
    return f"{figures.links_up}/{figures.links_wanted}", "" if figures.links_up >= figures.links_wanted else "yellow"


def _xid(xid: Xid | None, told: bool) -> Cell:
    if xid is None:
        return ("-" if told else "?"), "dim"
    return f"{xid.code} {xid.name}", _XID_STYLES.get(xid.severity, "")


def state_of(node: NodeView) -> str:
    """Return the state, with the Xid's code where that is what is wrong."""
    return f"xid {node.xid.code}" if node.state == "xid" and node.xid is not None else node.state


def _said(row: Row) -> Cell:
    node = row[0]
    age = f"; values {node.gpus_age_s:.0f} s old" if node.stale and node.gpus_age_s is not None else ""
    return f"{node.said}{age}", STATE_STYLES[node.state]


WHAT: Final = "what"
"""Head of the column of words."""


NODE_COLUMNS: tuple[Column[Row], ...] = (
    Column("node", lambda r: (r[0].name, "bold"), 0, right=False, least=8),
    Column("state", lambda r: (state_of(r[0]), STATE_STYLES[r[0].state]), 1, right=False),
    Column("gpus", lambda r: _dim(r, (str(r[1].gpus) if r[0].gpus else "?", "")), 11),
    Column("util%", lambda r: _dim(r, (_number(r[1].util), "")), 2),
    Column("vram%", lambda r: _dim(r, (_number(r[1].vram), "")), 4),
    Column("vram GiB", lambda r: _dim(r, (f"{_number(r[1].vram_used_gib)}/{_number(r[1].vram_total_gib)}", "")), 14),
    Column("W", lambda r: _dim(r, (_number(r[1].power), "")), 5),
    Column("limit", lambda r: _dim(r, (_number(r[1].power_limit), "")), 16),
    Column("°C", lambda r: _dim(r, _temperature(r[1].temp, r[1].margin)), 3),
    Column("margin", lambda r: _dim(r, _margin(r[1].margin)), 10),
    Column("MHz", lambda r: _dim(r, (_number(r[1].clock), "")), 13),
    Column("held by", lambda r: _dim(r, _held_node(r)), 7, right=False),
    Column("nvlink", lambda r: _dim(r, _links_node(r)), 15),
    Column("run", lambda r: _dim(r, _of_engines(r, r[1].running, _number(r[1].running))), 6),
    Column("wait", lambda r: _dim(r, _of_engines(r, r[1].waiting, _number(r[1].waiting))), 8),
    Column("tok/s", lambda r: _dim(r, _of_engines(r, r[1].tokens, count(r[1].tokens or 0))), 5),
    Column("kv%", lambda r: _dim(r, _of_engines(r, r[1].kv, _number(r[1].kv))), 9),
    Column("last Xid", lambda r: _dim(r, _xid(r[0].xid, r[0].xids is not None)), 12, right=False, least=8),
    Column(WHAT, _said, 9, right=False, least=12),
)


# -- a line a GPU

GpuRow = tuple[GpuSample, NodeView]


def _gpu_links(row: GpuRow) -> Cell:
    gpu, node = row
    if node.links is None:
        return "?", "dim"
    links: Links | None = node.links.get(gpu.index)
    if links is None:
        return "-", "dim"
    wanted = links.wanted if links.wanted is not None else links.up + links.down
    return f"{links.up}/{wanted}", "" if links.up >= wanted else "yellow"


def _gpu_held(gpu: GpuSample) -> Cell:
    if gpu.held is None:
        return "?", "dim"
    found = [reason for name in gpu.held if (reason := reason_named(name)) is not None]
    if not found:
        return "-", "dim"
    kinds = {reason.kind for reason in found}
    style = "bold red" if "bad" in kinds else "yellow" if "set" in kinds else "dim" if kinds == {"idle"} else ""
    return ", ".join(reason.short for reason in found), style


def _gpu_xid(row: GpuRow) -> Cell:
    gpu, node = row
    return _xid(next((x for x in reversed(node.xids or ()) if x.pci == gpu.pci), None), node.xids is not None)


def _bar(value: float | None) -> str:
    if value is None:
        return "?" * 8
    full = round(max(0.0, min(value, 100.0)) / 100 * 8)
    return "█" * full + "·" * (8 - full)


def _gib(value: int | None) -> str:
    return "?" if value is None else f"{value / 1024:.0f}"


def _mhz(gpu: GpuSample) -> str:
    return _number(gpu.sm_mhz) + (f"/{gpu.sm_max_mhz}" if gpu.sm_max_mhz is not None else "")


GPU_COLUMNS: tuple[Column[GpuRow], ...] = (
    Column("gpu", lambda r: (str(r[0].index), "bold"), 0),
    Column("util%", lambda r: (_number(r[0].utilisation), ""), 1),
    Column("        ", lambda r: (_bar(r[0].utilisation), "cyan"), 11, right=False),
    Column("vram GiB", lambda r: (f"{_gib(r[0].memory_used_mib)}/{_gib(r[0].memory_total_mib)}", ""), 2),
    Column("W", lambda r: (f"{_number(r[0].power_w)}/{_number(r[0].power_limit_w)}", ""), 3),
    Column("°C", lambda r: _temperature(r[0].temperature_c, r[0].margin_c), 2),
    Column("margin", lambda r: _margin(r[0].margin_c), 5),
    Column("mem °C", lambda r: (_number(r[0].memory_temperature_c), ""), 10),
    Column("SM MHz", lambda r: (_mhz(r[0]), ""), 6),
    Column("held by", lambda r: _gpu_held(r[0]), 4, right=False),
    Column("nvlink", _gpu_links, 7),
    Column("fabric", lambda r: (r[0].fabric or "-", ""), 12, right=False),
    Column("last Xid", _gpu_xid, 8, right=False, least=8),
    Column("recovery", lambda r: (r[0].recovery or "-", "red" if r[0].recovery else "dim"), 9, right=False),
)

ENGINE_COLUMNS: tuple[Column[EngineView], ...] = (
    Column("engine", lambda e: (str(e.sample.number), "bold"), 0),
    Column("port", lambda e: (str(e.sample.port), ""), 4),
    Column("run", lambda e: (_number(e.sample.running), ""), 1),
    Column("wait", lambda e: (_number(e.sample.waiting), "yellow" if e.sample.waiting else ""), 1),
    Column("tok/s", lambda e: (_number(e.tokens_s, "{:.1f}"), ""), 1),
    Column("prompt tok/s", lambda e: (_number(e.prompt_tokens_s, "{:.1f}"), ""), 3),
    Column("kv%", lambda e: (_number(100 * e.sample.kv_usage if e.sample.kv_usage is not None else None), ""), 2),
    Column("cached%", lambda e: (_number(100 * e.cached) if e.cached is not None else "-", ""), 5),
    Column("", lambda e: (e.trouble, "red"), 2, right=False),
)
