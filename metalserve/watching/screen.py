"""The fleet as lines of a terminal: a line a node, and a line a GPU where they fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.text import Text

from metalserve.watching.columns import ENGINE_COLUMNS, GPU_COLUMNS, NODE_COLUMNS, STATE_STYLES, WHAT, count, state_of
from metalserve.watching.figures import figures_of
from metalserve.watching.node import NodeView
from metalserve.watching.table import GAP, lines_of

_FEW = 8
"""Nodes up to which each GPU is shown, where that fits."""


@dataclass(frozen=True)
class Shown:
    """How the fleet is shown.

    Attributes:
        width: cells.
        height: lines, None without an end.
        detail: a line a GPU; None: when all of them fit.
        order: what the nodes are sorted by, for the head line.
        clock: the time of day, for the head line.
        hidden: nodes that a filter has left out.
    """

    width: int
    height: int | None = None
    detail: bool | None = None
    order: str = "trouble"
    clock: str = ""
    hidden: int = 0
    interactive: bool = False


def screen(nodes: Sequence[NodeView], shown: Shown) -> Group:
    """Return the whole screen."""
    return Group(*screen_lines(nodes, shown))


def screen_lines(nodes: Sequence[NodeView], shown: Shown) -> list[Text]:
    """Return the screen line by line: none is wider, and no more are there, than `shown` says."""
    head = _head(nodes, shown)
    room = None if shown.height is None else max(shown.height - len(head), 2)
    wanted = shown.detail
    if wanted is None:
        wanted = len(nodes) <= _FEW and (room is None or sum(map(_length, nodes)) <= room)
    if wanted:
        body = [line for node in nodes for line in _detailed(node, shown.width)]
        if room is not None and len(body) > room:
            body = [*body[: room - 1], _cut(f"... {len(body) - room + 1} more lines", "dim", shown.width)]
    else:
        fit = len(nodes) if room is None else max(room - 2, 1)
        shortened = len(nodes) > fit
        body = _compact(nodes[:fit], shown.width)
        if shortened:
            left = nodes[fit:]
            troubled = sum(1 for node in left if node.state != "ok")
            words = f"... {len(left)} more nodes by {shown.order}" + (
                f", {troubled} of them not ok" if troubled else ""
            )
            body = [*body, _cut(words, "bold yellow" if troubled else "dim", shown.width)]
    return [*head, *body]


def _cut(text: str, style: str, width: int) -> Text:
    line = Text(text, style=style, no_wrap=True)
    line.truncate(width, overflow="ellipsis")
    return line


def _head(nodes: Sequence[NodeView], shown: Shown) -> list[Text]:
    figures = [figures_of(node) for node in nodes]
    line = Text(no_wrap=True)
    line.append(f"{len(nodes)} node{'s' if len(nodes) != 1 else ''}", style="bold")
    for state, style in STATE_STYLES.items():
        found = sum(1 for node in nodes if node.state == state)
        if found and not (state == "ok" and found == len(nodes)):
            line.append(f", {found} {state}", style=style)
    if nodes and all(node.state == "ok" for node in nodes):
        line.append(", all ok", style="green")
    parts = [f"{sum(f.gpus for f in figures)} GPUs"]
    # what old values say would be summed up with what is true now
    fresh = [f for node, f in zip(nodes, figures, strict=True) if not node.stale]
    power = [f.power for f in fresh if f.power is not None]
    if power:
        parts.append(f"{sum(power) / 1000:.1f} kW")
    tokens = [f.tokens for f in fresh if f.tokens is not None]
    if tokens:
        parts.append(f"{count(sum(tokens))} tokens/s")
    waiting = [f.waiting for f in fresh if f.waiting is not None]
    if waiting and sum(waiting):
        parts.append(f"{count(sum(waiting))} waiting")
    sums = Text(" | ".join(parts), no_wrap=True)
    if shown.hidden:
        sums.append(f" | {shown.hidden} filtered out", style="dim")
    end = [shown.clock] if shown.clock else []
    if any(node.simulated for node in nodes):
        end.insert(0, "SIMULATED")
    if shown.interactive:
        end.append("q quits")
    whole = Text.assemble(line, " | ", sums, no_wrap=True)
    # where one line does not hold both, the sums begin the second: what is cut is said nowhere else
    lines = [whole] if whole.cell_len <= shown.width else [line, sums]
    tail = "  ".join(end)
    last = lines[-1]
    if tail and last.cell_len + len(tail) + 2 <= shown.width:
        last.append(" " * (shown.width - last.cell_len - len(tail)))
        last.append(tail, style="dim")
    elif tail:
        lines.append(Text(tail, style="dim", no_wrap=True))
    for each in lines:
        each.truncate(shown.width, overflow="ellipsis")
    return lines


def _compact(nodes: Sequence[NodeView], width: int) -> list[Text]:
    lines = lines_of(NODE_COLUMNS, [(node, figures_of(node)) for node in nodes], width)
    head = lines[0].plain
    if head.rstrip().endswith(WHAT) or not nodes:
        return lines
    # no room for words beside the figures: where those are old or not there, the words are worth more
    start = head.index("state") + max(5, *(len(state_of(node)) for node in nodes)) + GAP
    for number, node in enumerate(nodes, 1):
        if node.said and (node.stale or not node.gpus):
            line = lines[number][:start]
            line.pad_right(start - line.cell_len)
            line.append(node.said, style=STATE_STYLES[node.state])
            line.truncate(width, overflow="ellipsis")
            lines[number] = line
    return lines


def _length(node: NodeView) -> int:
    return 1 + sum(len(rows) + 1 for rows in (node.gpus, node.engines) if rows)


def _detailed(node: NodeView, width: int) -> list[Text]:
    line = Text(no_wrap=True)
    line.append(node.name, style="bold")
    line.append(f"  {node.state}", style=STATE_STYLES[node.state])
    names = list(dict.fromkeys(gpu.name for gpu in node.gpus if gpu.name))
    if names:
        line.append(f"  {len(node.gpus)} x {names[0]}" + (" and others" if len(names) > 1 else ""))
    if node.said:
        line.append(f"  {node.said}", style=STATE_STYLES[node.state])
    if node.stale and node.gpus_age_s is not None:
        line.append(f"  values are {node.gpus_age_s:.0f} s old", style="yellow")
    line.truncate(width, overflow="ellipsis")
    lines = [line]
    if node.gpus:
        lines += lines_of(GPU_COLUMNS, [(gpu, node) for gpu in node.gpus], width, indent=2)
    if node.engines:
        lines += lines_of(ENGINE_COLUMNS, list(node.engines), width, indent=2)
    if node.stale:
        for each in lines[1:]:
            each.stylize("dim")
    return lines
