"""Grafana dashboards as code: fleet, node, engine, thermals, from dashboards.yaml to the JSON that Grafana takes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from metalserve.yaml_text import read_yaml

DATASOURCE = {"type": "prometheus", "uid": "metalserve"}


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: heading.
        queries: (PromQL, legend) pairs; `$host` is the chosen hosts as a regular expression. In a table the legend is
            the head of the column of values; empty where all there is to say are the labels.
        unit: Grafana's name of the unit.
        kind: timeseries, stat or table.
        width: of 24.
        limit: value above which it is drawn in red, or None.
    """

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 12
    limit: float | None = None


@dataclass(frozen=True)
class Dashboard:
    """One dashboard; `uid` is its file's name too."""

    uid: str
    title: str
    panels: tuple[Panel, ...]


_HOSTS = 'host=~"$host"'
_UNSHOWN = ("Time", "__name__", "alertstate", "group", "instance", "job")
"""Columns of a table that say nothing to its reader."""


@cache
def load_dashboards() -> tuple[Dashboard, ...]:
    """Return the dashboards of dashboards.yaml."""
    text = (resources.files("metalserve.monitoring") / "dashboards.yaml").read_text("utf-8")
    return tuple(
        Dashboard(each["uid"], each["title"], tuple(_read(panel) for panel in each["panels"]))
        for each in read_yaml(text)["dashboards"]
    )


def _read(panel: dict[str, Any]) -> Panel:
    pairs = tuple((re.sub(r"(?<=[{,])H(?=})", lambda _: _HOSTS, query), legend) for query, legend in panel["queries"])
    return Panel(**{**panel, "queries": pairs})


def queries(dashboard: Dashboard) -> tuple[str, ...]:
    """Return all PromQL of a dashboard."""
    return tuple(query for panel in dashboard.panels for query, _ in panel.queries)


def dashboard_text(dashboard: Dashboard) -> str:
    """Return a dashboard as Grafana imports it."""
    value = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["metalserve"],
        "schemaVersion": 38,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_host_variable()]},
        "panels": _laid_out(dashboard.panels),
    }
    return json.dumps(value, indent=1) + "\n"


def _host_variable() -> dict[str, Any]:
    return {
        "name": "host",
        "label": "host",
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": 'label_values(up{job="node"}, host)', "refId": "host"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _laid_out(panels: Sequence[Panel]) -> list[dict[str, Any]]:
    made, left, top, tallest = [], 0, 0, 0
    for number, panel in enumerate(panels, start=1):
        height = 4 if panel.kind == "stat" else 8
        if left + panel.width > 24:
            left, top, tallest = 0, top + tallest, 0
        tallest = max(tallest, height)
        made.append(_panel(number, panel, {"h": height, "w": panel.width, "x": left, "y": top}))
        left += panel.width
    return made


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    instant = panel.kind != "timeseries"
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.limit is not None:
        steps.append({"color": "red", "value": panel.limit})
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}},
            "overrides": [],
        },
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": DATASOURCE,
                "expr": query,
                "legendFormat": legend,
                "instant": instant,
                "range": not instant,
                **({"format": "table"} if panel.kind == "table" else {}),
            }
            for index, (query, legend) in enumerate(panel.queries)
        ],
        **({"transformations": _columns(panel)} if panel.kind == "table" else {}),
    }


def _columns(panel: Panel) -> list[dict[str, Any]]:
    """Make one table of the answers of all queries, with the columns that its reader wants."""
    several = len(panel.queries) > 1
    # Grafana's own names for the values of one query, and of several
    names = [f"Value #{chr(ord('A') + index)}" if several else "Value" for index in range(len(panel.queries))]
    heads = {name: head for name, (_, head) in zip(names, panel.queries, strict=True)}
    hidden = [*_UNSHOWN, *(name for name, head in heads.items() if not head)]
    organize = {
        "excludeByName": dict.fromkeys(hidden, True),
        "indexByName": {},
        "renameByName": {name: head for name, head in heads.items() if head},
    }
    merge = [{"id": "merge", "options": {}}] if several else []
    return [*merge, {"id": "organize", "options": organize}]


def datasource_text(url: str) -> str:
    """Return Grafana's provisioning of the data source, with the id that the dashboards name."""
    value = {
        "apiVersion": 1,
        "datasources": [
            {"name": "metalserve", "uid": DATASOURCE["uid"], "type": "prometheus", "access": "proxy", "url": url}
        ],
    }
    return json.dumps(value, indent=1) + "\n"


def provider_text(directory: str) -> str:
    """Return Grafana's provisioning of the dashboards in a directory."""
    provider = {"name": "metalserve", "folder": "metalserve", "type": "file", "options": {"path": directory}}
    return json.dumps({"apiVersion": 1, "providers": [provider]}, indent=1) + "\n"


__all__ = ["Dashboard", "Panel", "dashboard_text", "datasource_text", "load_dashboards", "provider_text", "queries"]
