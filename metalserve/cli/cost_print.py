"""The comparison of costs in the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from metalserve.catalogue.prices import PRICE_UNITS, Prices
from metalserve.economics.assumptions import Assumption
from metalserve.economics.comparison import Comparison, Row
from metalserve.economics.options import PARTS, TITLES, tokens
from metalserve.economics.verdict import break_even_words, verdict, warnings

BARS = 24
"""Characters of the longest bar of the sensitivity."""
NARROW = 120
"""Columns below which a table of assumptions cannot be read."""
SWINGS = 8
"""Figures shown in the terminal; JSON and the page have all."""


def print_result(result: Comparison, console: Console) -> None:
    """Print the answer first, then what it rests on."""
    case, through = result.case, result.built.throughput
    served = tokens(case)
    if through.simulated:
        console.print(Text("SIMULATED: the rate is a stand-in's", style="bold yellow"))
    for number, sentence in enumerate(verdict(result)):
        console.print(Text(sentence, style="bold" if number == 0 else ""))
    console.print()
    rate = f"{through.output:,.0f} answer tokens/s a node"
    span = f" ({through.low:,.0f} to {through.high:,.0f})" if through.low != through.high else ""
    console.print(Text(f"rate: {rate}{span}, {through.basis}: {through.source}", style="dim"))
    console.print(
        Text(
            f"load: {result.built.profile}; mean {case.utilisation:.0%} of {case.nodes} node(s) of {case.gpus} GPUs, "
            f"{served.output:,.0f} M answer and {served.input + served.cached:,.0f} M prompt tokens a month",
            style="dim",
        )
    )
    console.print(_options(result))
    console.print(_parts(result))
    console.print(Text("Break-even (mean load, same shape of the day)", style="bold"))
    for found in result.break_evens:
        console.print(Text(f"  {break_even_words(found)}"))
    _print_tornado(result, console)
    print_assumptions(case.assumptions.rows, console)
    for words in result.built.others:
        console.print(Text(f"  seen, not taken: {words}", style="dim"))
    for words in warnings(result):
        console.print(Text(f"warning: {words}", style="yellow"))


def _options(result: Comparison) -> Table:
    currency = result.case.currency
    table = Table(
        title=f"{currency} a million tokens", title_justify="left", box=None, pad_edge=False, header_style="bold"
    )
    for name in ("option", "a month", "all on answers", "range", "prompt", "cached", "answer"):
        table.add_column(name, justify="left" if name == "option" else "right")
    for row in result.ranked:
        cost = row.cost
        assert cost is not None
        spread = f"{row.low:,.2f} to {row.high:,.2f}" if row.low is not None and row.low != row.high else "–"
        prices = [_cell(cost.input), _cell(cost.cached), _cell(cost.output)]
        table.add_row(_named(row, result), f"{cost.total:,.0f}", f"{cost.per_output:,.2f}", spread, *prices)
    for row in result.rows:
        if row.cost is None:
            table.add_row(Text(row.title, style="dim"), Text("no price", style="yellow"), *["–"] * 5)
    return table


def _named(row: Row, result: Comparison) -> Text:
    provider = f" ({result.built.api})" if row.option == "api" and result.built.api else ""
    return Text(f"{row.title}{provider}", style="dim" if row.option == "api" else "")


def _parts(result: Comparison) -> Table:
    table = Table(title="A month, part by part", title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("part", no_wrap=True)
    for row in result.ranked:
        table.add_column(row.title, justify="right")
    for part in PARTS:
        if any(row.parts.get(part) for row in result.ranked):
            table.add_row(part, *[f"{row.parts[part]:,.0f}" if row.parts.get(part) else "·" for row in result.ranked])
    table.add_row(*[Text("total", style="bold")], *[f"{sum(row.parts.values()):,.0f}" for row in result.ranked])
    return table


def _print_tornado(result: Comparison, console: Console) -> None:
    ranked = result.own or result.ranked
    if not ranked:
        return
    best = ranked[0]
    swings = result.tornadoes[best.option]
    assert best.cost is not None
    title = f"Sensitivity of {best.title}: each figure -{result.share:.0%} and +{result.share:.0%}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in ("figure", "less", "more", "swing"):
        table.add_column(name, justify="right" if name in ("less", "more") else "left")
    widest = swings[0].width if swings else 1.0
    for swing in swings[:SWINGS]:
        bar = "█" * max(1, round(BARS * swing.width / widest))
        note = " (limit)" if swing.clipped else " (by 1)" if swing.moved == "1" else ""
        table.add_row(f"{swing.label} ({swing.name})", f"{swing.less:,.2f}", f"{swing.more:,.2f}", bar + note)
    console.print(table)


def print_assumptions(rows: Iterable[Assumption], console: Console) -> None:
    """Print every figure with its source and day; where there is no room for a table, in two lines each."""
    if console.width < NARROW:
        console.print(Text("Assumptions", style="bold"))
        for row in rows:
            day = f", {row.date}" if row.date else ""
            head = f"{row.name} = {row.shown} {row.unit} "
            console.print(Text.assemble(head, (f"({row.basis}{day})", "yellow" if row.basis == "guessed" else "dim")))
            console.print(Padding(Text(f"{row.label}: {row.source}", style="dim"), (0, 0, 0, 4)))
        return
    table = Table(title="Assumptions", title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("name", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("unit", no_wrap=True)
    table.add_column("basis")
    table.add_column("date", no_wrap=True)
    table.add_column("what, and where from", overflow="fold")
    for row in rows:
        style = "yellow" if row.basis == "guessed" else ""
        day = str(row.date) if row.date else ""
        words = f"{row.label}: {row.source}"
        table.add_row(row.name, row.shown, row.unit, Text(row.basis, style=style), day, Text(words))
    console.print(table)


def print_figures(rows: Iterable[Assumption], prices: Prices, console: Console) -> None:
    """Print what can be given with --price, and what the catalogue has."""
    console.print(
        Text("Figures for --price NAME=VALUE and cost.yaml; a value of 0 and `unknown`: nobody has one", style="bold")
    )
    print_assumptions(rows, console)
    table = Table(title="Prices of hardware", title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in ("GPU", "way", "price", "unit", "basis", "date", "source"):
        table.add_column(name, justify="right" if name == "price" else "left", overflow="fold")
    for offer in prices.hardware:
        size = f" (host of {offer.gpus})" if offer.gpus else ""
        source = f"{offer.source}{f' ({offer.note})' if offer.note else ''}"
        table.add_row(
            ", ".join(offer.gpu), offer.way, f"{offer.price:,.6g}", PRICE_UNITS[offer.way] + size, offer.basis,
            str(offer.date), source,
        )  # fmt: skip
    console.print(table)
    api = Table(
        title="Prices of APIs, USD a million tokens",
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for name in ("model", "provider", "prompt", "cached", "answer", "date", "source"):
        api.add_column(name, justify="right" if name in ("prompt", "cached", "answer") else "left", overflow="fold")
    for row in prices.api:
        cached = "–" if row.cached is None else f"{row.cached:g}"
        api.add_row(row.model, row.provider, f"{row.input:g}", cached, f"{row.output:g}", str(row.date), row.source)
    console.print(api)
    console.print(Text("Options: " + ", ".join(f"{name} ({title})" for name, title in TITLES.items()), style="dim"))


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:,.3f}"
