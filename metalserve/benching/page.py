"""A result as one HTML page that needs nothing else: tables, and plots as inline SVG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from metalserve.benching.charts import Chart, Line, svg
from metalserve.benching.compare import words
from metalserve.catalogue.clock_reasons import reason_named
from metalserve.report.framing import environment, style

_SMOOTH_S = 5
"""Seconds over which the throughput's curve is averaged."""


def html_page(result: Mapping[str, Any]) -> str:
    """Return the page of a result; every value of it is escaped."""
    steps = result.get("steps", [])
    templates = environment("bench")
    templates.filters["moment"] = _moment
    return templates.get_template("page.html.j2").render(
        result=result,
        steps=steps,
        unit="clients" if steps and steps[0]["mode"] == "closed" else "requests/s",
        charts=[svg(chart) for chart in _charts(result, steps)],
        compared=words(result["comparison"]["changes"]) if "comparison" in result else [],
        style=style("bench"),
    )


def _moment(started: str) -> str:
    """Return a time of a result as people write it; what is none stays as it is."""
    try:
        return f"{datetime.fromisoformat(started).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return started


def _charts(result: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> Iterator[Chart]:
    if result["kind"] == "steps" and steps:
        yield from _over_load(result, steps)
    if steps:
        yield from _over_time(result, steps)


def _over_load(result: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> Iterator[Chart]:
    knee = result["knee"]
    unit = "clients" if steps[0]["mode"] == "closed" else "requests/s"
    at = [(knee["load"], f"knee: {knee['load']:g}")] if knee["load"] is not None and knee["reached"] else []
    yield Chart(
        "Throughput over load", unit, "output tokens/s",
        [Line("output tokens/s", [(s["load"], s["output_tokens_s"]) for s in steps])], at,
    )  # fmt: skip
    timed = [step for step in steps if step["e2e_ms"] and step["ttft_ms"]]
    rate = next((s["output_tokens_s"] for s in timed if s["load"] == knee["load"]), None)
    yield Chart(
        "Latency against throughput", "output tokens/s", "p95, ms; each point is a load",
        [
            Line("whole answer", [(s["output_tokens_s"], s["e2e_ms"]["p95"]) for s in timed],
                 labels=[f"{s['load']:g}" for s in timed]),
            Line("first token", [(s["output_tokens_s"], s["ttft_ms"]["p95"]) for s in timed]),
        ],
        [(rate, f"knee: {knee['load']:g} {unit}")] if rate is not None and knee["reached"] else [],
    )  # fmt: skip
    limits = result.get("objectives") or {}
    for key, title in (("ttft", "Time to first token"), ("tpot", "Time per token after the first")):
        limit = limits.get(f"{key}_ms_p95")
        found = [step for step in steps if step[f"{key}_ms"]]
        yield Chart(
            title, unit, "ms",
            [Line(p, [(s["load"], s[f"{key}_ms"][p]) for s in found]) for p in ("p50", "p95", "p99")],
            at, level=(limit, f"objective {limit:g} ms (p95)") if limit else None,
        )  # fmt: skip


def _over_time(result: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> Iterator[Chart]:
    sides = result["kind"] == "ab"
    bands = [
        (s["from_s"], s["to_s"], f"{s.get('side', '')} {s['load']:g} {s['mode']}".strip(), False)
        for n, s in enumerate(steps) if (s["side"] == "B" if sides else n % 2 == 0)
    ] if len(steps) > 1 else []  # fmt: skip
    shading = (", B shaded" if sides else ", every second step shaded") if bands else ""
    telemetry = result.get("telemetry", [])
    slowed = list(_slowed(telemetry))
    pieces = [
        (step["from_s"] + i + _SMOOTH_S / 2, sum(part) / len(part))
        for step in steps
        for i in range(0, len(step["buckets"]), _SMOOTH_S)
        if len(part := step["buckets"][i : i + _SMOOTH_S]) == min(_SMOOTH_S, len(step["buckets"]))
    ]
    shaded = [*bands, *slowed]
    if pieces:
        line = Line("output tokens/s", pieces, False)
        yield Chart(f"Throughput over time{shading}", "s", "output tokens/s", [line], bands=shaded)
    for key, title, unit, pick in (
        ("temperature_c", "Hottest GPU", "°C", max),
        ("power_w", "Power of all GPUs", "W", sum),
        ("sm_mhz", "Slowest SM clock", "MHz", min),
    ):
        lines = []
        for node in dict.fromkeys(row["node"] for row in telemetry):
            rows = [row for row in telemetry if row["node"] == node]
            told = [
                (row["t_s"], values) for row in rows if (values := [g[key] for g in row["gpus"] if g[key] is not None])
            ]
            lines.append(Line(node, [(at, pick(values)) for at, values in told], False))
        if any(line.points for line in lines):
            yield Chart(title, "s", unit, lines[:5], bands=shaded, from_zero=False)


def _slowed(telemetry: Sequence[Mapping[str, Any]]) -> Iterator[tuple[float, float, str, bool]]:
    """Yield the stretches in which a GPU was slowed down by heat or power brake."""
    before: dict[str, float] = {}
    for row in telemetry:
        start, before[row["node"]] = before.get(row["node"], row["t_s"]), row["t_s"]
        found = {
            f"{row['node']} GPU {gpu['index']}: {reason.words}"
            for gpu in row["gpus"]
            for name in gpu["held"] or ()
            if (reason := reason_named(name)) is not None and reason.kind == "bad"
        }
        if found:
            yield start, row["t_s"], "; ".join(sorted(found)), True
