"""The report as one HTML page that needs nothing else: no network, no fonts, no scripts of others."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from jinja2 import Environment
from markupsafe import Markup, escape

from metalserve import __version__
from metalserve.paths import FILES
from metalserve.report.collector import no_collection
from metalserve.report.figures import Figure, backend, figures, gpu_count, sweep, troubles
from metalserve.report.framing import environment, style
from metalserve.report.identity import gpu_spec
from metalserve.report.links import Matrix, gpu_links, matrix
from metalserve.report.model import (
    ABOVE_OK,
    STATUSES,
    Entry,
    Host,
    Report,
    gpu_name,
    hosts_by_verdict,
    merged,
)
from metalserve.report.plots import Plot, plot, points_each
from metalserve.report.reading import no_collecting
from metalserve.report.soak import Soak, soak_of
from metalserve.report.terminal import headline, when
from metalserve.report.tree import Tree, pcie_tree
from metalserve.report.values import line, mapping, mappings, number, text

MARKS: Final[Mapping[str, str]] = {
    "fail": "✕",
    "unknown": "?",
    "inconclusive": "~",
    "warn": "!",
    "ok": "✓",
    "skipped": "–",
}
"""Beside each status' word, so that it does not hang on a colour."""
_BACKTICKS = re.compile(r"`([^`\n]{1,200})`")
_LONGEST: Final = 4000
"""Characters of a diagnostic's output that the page shows."""
_SERIES: Final = 4
"""Curves that a GPU may have: temperature, power, clock, throughput."""


@dataclass(frozen=True)
class Node:
    """A host as the page shows it; None where there is nothing to show."""

    host: Host
    anchor: str
    gpus: str
    facts: tuple[tuple[str, str], ...]
    problems: list[Entry]
    good: list[Entry]
    matrix: Matrix | None
    tree: Tree | None
    soak: Soak | None
    plot: Plot | None
    figures: list[Figure]
    sweep: list[tuple[int, float, float]]
    backend: str
    troubles: list[str]
    more: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]

    @property
    def gpu_count(self) -> int | None:
        """GPUs of the host, or None where they were not read."""
        return gpu_count(self.host)

    @property
    def busbw(self) -> Figure | None:
        """All-reduce over most GPUs."""
        return next((f for f in self.figures if f.name.startswith("all-reduce,")), None)

    @property
    def hottest_c(self) -> float | None:
        """The highest temperature of the soak."""
        found = [g.temperature_max_c for g in self.soak.gpus if g.temperature_max_c is not None] if self.soak else []
        return max(found, default=None)

    @property
    def read_gb_s(self) -> float | None:
        """Sequential read of the drive."""
        return number(mapping(self.host.measurements.get("storage")).get("read_gb_s"))


@dataclass(frozen=True)
class Problem:
    """The same check above ok on one or more hosts; `words` say what stopped a run."""

    status: str
    check: str
    words: str
    nodes: list[Node]
    remedies: tuple[str, ...]


@no_collection()
def html_page(report: Report) -> str:
    """Return the report as one page; every value of the report is escaped."""
    with no_collecting():
        return _page(report)


def _page(report: Report) -> str:
    hosts = hosts_by_verdict(report.hosts)
    soaks = [soak_of(h) for h in hosts]
    points = points_each(sum(len(s.gpus) for s in soaks if s is not None) * _SERIES)
    anchors = _anchors([h.name for h in hosts])
    nodes = [_node(h, a, s, points) for h, a, s in zip(hosts, anchors, soaks, strict=True)]
    script = Markup(_read("page.js"))  # noqa: S704 (a file of ours, no value of the report is in it)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            report=report,
            nodes=nodes,
            problems=_problems(nodes),
            counts=_counts(report),
            headline=headline(report),
            when=when(report.started),
            measured=[
                name
                for name, there in (
                    ("busbw", any(n.busbw for n in nodes)),
                    ("heat", any(n.hottest_c is not None for n in nodes)),
                    ("read", any(n.read_gb_s is not None for n in nodes)),
                )
                if there
            ],
            present=[s for s in STATUSES if any(n.host.counts[s] for n in nodes)],
            style=style("report"),
            script=script,
            script_digest=digest,
            version=__version__,
        )
    )


def _counts(report: Report) -> list[tuple[str, int]]:
    """Return nodes by verdict, worst first; of one node its findings by status."""
    one = report.hosts[0].counts if len(report.hosts) == 1 else None
    counts = one or report.verdicts
    return [(s, counts[s]) for s in STATUSES if counts[s]]


def _node(host: Host, anchor: str, soak: Soak | None, points: int) -> Node:
    spec = gpu_spec(host)
    return Node(
        host,
        anchor,
        gpu_name(host),
        _facts(host),
        merged(host.at(*ABOVE_OK)),
        merged(sorted(host.at("ok", "skipped"), key=lambda e: e.role)),
        matrix(host),
        pcie_tree(host),
        soak,
        plot(soak, host, spec, points) if soak is not None else None,
        figures(host, soak),
        sweep(host),
        backend(host),
        troubles(host),
        tuple((name, rows) for name in ("dcgm", "baseline") if (rows := tuple(_flat(host.measurements.get(name))))),
    )


def _facts(host: Host) -> tuple[tuple[str, str], ...]:
    hardware = host.hardware
    drives = [line(d.get("model")) or "unnamed" for d in mappings(hardware.get("nvme"))]
    switches = number(hardware.get("nvswitch_count"))
    found = [
        ("GPUs", gpu_name(host)),
        ("driver", line(hardware.get("driver_version"))),
        ("fabric manager", line(hardware.get("fabric_manager_version"))),
        ("NVSwitches", f"{switches:g}" if switches else ""),
        ("drives", ", ".join(f"{drives.count(d)}x {d}" for d in dict.fromkeys(drives))),
        ("release", host.release),
    ]
    return tuple((name, value) for name, value in found if value)


def _flat(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Return an object's values as rows, the inner ones by "outer / inner"; long lists by their length."""
    if isinstance(value, Mapping) and depth < 3:
        for key, inner in list(value.items())[:60]:
            yield from _flat(inner, f"{name} / {line(key)}" if name else line(key), depth + 1)
    elif isinstance(value, (list, tuple)) and len(value) > 8:
        yield name, f"{len(value)} entries"
    elif value not in (None, "", [], {}):
        yield name, text(value)[:_LONGEST]


def _problems(nodes: Sequence[Node]) -> list[Problem]:
    groups: dict[tuple[str, str, str], tuple[dict[str, Node], dict[str, None]]] = {}

    def note(node: Node, status: str, check: str, words: str, remedy: str) -> None:
        there, remedies = groups.setdefault((status, check, words), ({}, {}))
        there[node.anchor] = node
        if remedy:
            remedies[remedy] = None

    for node in nodes:
        if node.host.reason:
            note(node, node.host.verdict, "run", node.host.reason, node.host.failure.get("remedy", ""))
        for entry in node.problems:
            note(node, entry.status, entry.check, "", entry.remedy)
    found = [Problem(*key, list(there.values()), tuple(remedies)) for key, (there, remedies) in groups.items()]
    return sorted(found, key=lambda p: (STATUSES.index(p.status), -len(p.nodes), p.check))


def _anchors(names: Sequence[str]) -> list[str]:
    taken: set[str] = set()
    found = []
    for name in names:
        base = anchor = "node-" + re.sub(r"[^A-Za-z0-9.-]+", "_", name)
        number = 1
        while anchor in taken:
            number += 1
            anchor = f"{base}_{number}"
        taken.add(anchor)
        found.append(anchor)
    return found


@cache
def _read(name: str) -> str:
    return (FILES / "report" / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    found = environment("report")
    found.filters |= {"significant": _significant, "size": _size, "code": _code}
    found.globals.update(marks=MARKS, gpu_links=gpu_links)
    return found


def _significant(value: float | None, digits: int = 3) -> str:
    """Write a number with at least `digits` digits that mean something, never as a power of ten."""
    if value is None:
        return "not measured"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.{digits}g}" if abs(value) >= 1e-4 or not value else f"{value:.6f}"


def _code(words: str) -> Markup:
    """Escape `words`, and mark what stands in backticks as code."""
    return Markup(_BACKTICKS.sub(r"<code>\1</code>", str(escape(words))))  # noqa: S704 (escaped first)


def _size(value: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:,.0f} {unit}"
