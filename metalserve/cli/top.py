"""`metalserve top`: the fleet in a terminal, live over SSH; nothing is installed on the hosts."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import click
from rich.console import Console

from metalserve.pyinfra_seam.watching import Watching, watch
from metalserve.watching.export import as_json
from metalserve.watching.figures import SORTS, Test, filter_of, sorted_by
from metalserve.watching.frames import SECTIONS
from metalserve.watching.node import NodeView
from metalserve.watching.screen import Shown, screen, screen_lines

PATIENCE_S = 15.0
"""Seconds that --once waits for hosts that have not answered: a connection may take ten."""


@click.command()
@click.argument("inventory")
@click.option("--limit", "limits", multiple=True, metavar="NAME", help="Only this host or group; repeatable.")
@click.option("--interval", "interval_s", type=click.FloatRange(0.5, 60), default=2.0, show_default=True,
              help="Seconds between samples.")  # fmt: skip
@click.option("--sort", "order", type=click.Choice(SORTS), default="trouble", show_default=True,
              help="What the nodes are sorted by, the highest first; margin and clock the lowest first.")  # fmt: skip
@click.option("--filter", "filters", multiple=True, metavar="TEST",
              help="'temp>80', 'state!=ok' or a part of a name; repeatable, all must hold.")  # fmt: skip
@click.option("--detail/--compact", default=None, help="A line a GPU, or a line a node; by default what fits.")
@click.option("--once", is_flag=True, help="Show the fleet once and end: exit status 1 when a node is down or hung.")
@click.option("--json", "as_lines", is_flag=True, help="JSON: one object with --once, else one line an interval.")
def command(
    inventory: str,
    limits: tuple[str, ...],
    interval_s: float,
    order: str,
    filters: tuple[str, ...],
    detail: bool | None,
    once: bool,
    as_lines: bool,
) -> int:
    """Watch the GPU nodes of INVENTORY: GPUs, why their clocks are held down, links, engines, last Xid.

    One SSH session a host. A host or a nvidia-smi that hangs is shown as such, with the age of its values.
    Keys: q quits, d a line a GPU, c a line a node, s sorts by the next figure.
    """
    tests = [filter_of(each) for each in filters]
    if not (once or as_lines or sys.stdout.isatty()):
        raise click.UsageError("the output is no terminal: use --once, or --json for a line an interval")
    watching = watch(inventory, limits, interval_s=interval_s)
    try:
        if once:
            return _once(watching, tests, order, detail, interval_s, as_lines)
        if as_lines:
            return _stream(watching, tests, order, interval_s)
        return _live(watching, tests, order, detail, interval_s)
    finally:
        watching.close()


def _views(watching: Watching, tests: Sequence[Test], order: str) -> tuple[list[NodeView], int]:
    now = time.monotonic()
    every = [node.view(now) for node in watching.nodes]
    chosen = [view for view in every if all(test(view) for test in tests)]
    return sorted_by(order, chosen), len(every) - len(chosen)


def _once(
    watching: Watching, tests: Sequence[Test], order: str, detail: bool | None, interval_s: float, as_lines: bool
) -> int:
    def complete() -> bool:
        # rates need two samples of the engines; who is down or hangs will not answer any better
        return all(
            view.state in ("down", "hung") or (set(SECTIONS) <= node.told and (not view.engines or _rated(view)))
            for node, view in ((node, node.view(time.monotonic())) for node in watching.nodes)
        )

    watching.until(complete, PATIENCE_S + 2 * interval_s)
    views, hidden = _views(watching, tests, order)
    if as_lines:
        click.echo(json.dumps(as_json(views, epoch=time.time(), interval_s=interval_s), indent=1))
    else:
        console = Console()
        shown = Shown(console.width, None, detail, order, time.strftime("%H:%M:%S"), hidden)
        for line in screen_lines(views, shown):
            console.print(line, soft_wrap=True)
    return 1 if any(view.state in ("down", "hung", "connecting") for view in views) else 0


def _rated(view: NodeView) -> bool:
    return all(engine.tokens_s is not None for engine in view.engines if engine.sample.answers)


def _stream(watching: Watching, tests: Sequence[Test], order: str, interval_s: float) -> int:
    following = time.monotonic()
    while True:
        following += interval_s
        watching.sleep(following - time.monotonic())
        views, _ = _views(watching, tests, order)
        try:
            sys.stdout.write(json.dumps(as_json(views, epoch=time.time(), interval_s=interval_s)) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:  # who read it has gone
            sys.stderr.close()
            return 0


def _live(watching: Watching, tests: Sequence[Test], order: str, detail: bool | None, interval_s: float) -> int:
    from rich.live import Live

    console = Console()
    with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            views, hidden = _views(watching, tests, order)
            shown = Shown(
                console.width, console.height, detail, order, time.strftime("%H:%M:%S"), hidden, interactive=True
            )
            live.update(screen(views, shown), refresh=True)
            for key in pressed(min(interval_s, 1.0)):
                if key in ("q", "Q", "\x1b"):
                    return 0
                if key in ("d", "c"):
                    detail = key == "d"
                if key == "s":
                    order = SORTS[(SORTS.index(order) + 1) % len(SORTS)]


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Have single keys told without Enter; where the input is no terminal none ever comes."""
    import termios
    import tty

    if not sys.stdin.isatty():
        yield _no_keys
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin.fileno())
    try:
        yield _read_keys
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _no_keys(seconds: float) -> str:
    time.sleep(seconds)  # gevent's: the hosts go on talking
    return ""


def _read_keys(seconds: float) -> str:
    import os
    import select

    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return os.read(sys.stdin.fileno(), 64).decode(errors="replace") if ready else ""
