"""The comparison as one HTML page that needs nothing else: no network, no fonts, no scripts."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment

from metalserve import __version__
from metalserve.economics.comparison import Comparison
from metalserve.economics.options import PARTS, tokens
from metalserve.economics.plots import curves, load_plot, option_class, part_class, stacks, tornado_plot
from metalserve.economics.verdict import break_even_words, verdict, warnings
from metalserve.report.framing import environment, style


def html_page(result: Comparison) -> str:
    """Return the page; every word of the comparison is escaped."""
    case, rows = result.case, result.ranked
    first = [*result.own, *(row for row in rows if row.option == "api")]
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            result=result,
            case=case,
            through=result.built.throughput,
            rows=rows,
            served=tokens(case),
            sentences=verdict(result),
            warned=warnings(result),
            evens=[(break_even_words(found), not found.crossings) for found in result.break_evens],
            curves=curves(result) if rows else "",
            stacks=stacks(result) if rows else "",
            parts=[part for part in PARTS if any(row.parts.get(part) for row in rows)],
            tornadoes=[(row, tornado_plot(row, result.tornadoes[row.option])) for row in first],
            load=load_plot(case.loads),
            style=style("cost"),
            version=__version__,
        )
    )


@cache
def _environment() -> Environment:
    found = environment("cost")
    found.globals.update(option_class=option_class, part_class=part_class, money=_money)
    return found


def _money(value: float | None) -> str:
    return "–" if value is None else f"{value:,.3f}"
