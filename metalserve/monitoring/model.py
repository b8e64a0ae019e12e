"""What rules are made of: recorded series and alerts, as values that become Prometheus' YAML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from metalserve.catalogue.dcgm_metrics import load_dcgm_metrics

Severity = Literal["critical", "warning", "info"]
DOCS = "docs/alerts.md"

VERIFY = "`pyinfra INVENTORY deploys/verify.py --limit HOST`"
MAIN_JOB = "`pyinfra INVENTORY deploys/gpu_node.py --limit HOST`"
NODE_METRICS = "`pyinfra INVENTORY roles.node_metrics.node_metrics --limit HOST`"
DRAIN = "`metalserve router drain INVENTORY HOST`"


@dataclass(frozen=True)
class Options:
    """What rules depend on.

    Attributes:
        patience: multiplies how long conditions must hold, and the spans that rates look at.
        scrape_interval_s: seconds between two scrapes: a span holds four at least.
        ttft_objective_s: time to first token that 95 % of the requests must keep.
        queue_limit: requests waiting on one engine, above which a growing queue is told.
        weights_verified_days: age at which a verification of the weights is old.
        collect_interval_s: seconds between two runs of the slowest collector.
    """

    patience: float = 1.0
    scrape_interval_s: int = 15
    ttft_objective_s: float = 2.0
    queue_limit: int = 20
    weights_verified_days: int = 8
    collect_interval_s: int = 30

    def hold(self, minutes: float) -> str:
        """Return how long a condition must hold, in Prometheus' words."""
        return f"{round(minutes * 60 * self.patience)}s"

    def span(self, minutes: float) -> str:
        """Return the span that a rate looks at: four scrapes at least, or it sees nothing when one is missed."""
        return f"{max(4 * self.scrape_interval_s, round(minutes * 60 * self.patience))}s"

    @property
    def stale_s(self) -> int:
        """Seconds after which what the collector wrote is old: ten runs that did not come."""
        return round(max(10 * self.collect_interval_s * self.patience, 3 * self.collect_interval_s))


@dataclass(frozen=True)
class Recorded:
    """A series that is computed and kept: dashboards and alerts name it, whatever the exporter's spelling is."""

    name: str
    expr: str


@dataclass(frozen=True)
class Alert:
    """One alert.

    Attributes:
        name: CamelCase; also the heading of its section in docs/alerts.md, in small letters.
        expr: PromQL; what it returns is what is wrong.
        hold: how long that must be so, in Prometheus' words.
        severity: critical (somebody is woken), warning (in working hours), info.
        summary: one line, with labels of what it is about.
        what: what it means and costs.
        do: what to do; the first command to give stands between backquotes.
    """

    name: str
    expr: str
    hold: str
    severity: Severity
    summary: str
    what: str
    do: str

    @property
    def anchor(self) -> str:
        """Return where docs/alerts.md has more."""
        return f"{DOCS}#{self.name.lower()}"

    def as_rule(self) -> dict[str, Any]:
        """Return Prometheus' form."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.hold,
            "labels": {"severity": self.severity},
            "annotations": {"summary": self.summary, "description": f"{self.what} -> {self.do}", "docs": self.anchor},
        }


@dataclass(frozen=True)
class Group:
    """Rules that are evaluated together, in order: what is recorded first is there for the alerts after it."""

    name: str
    recorded: tuple[Recorded, ...] = ()
    alerts: tuple[Alert, ...] = ()


def rules_text(groups: Sequence[Group]) -> str:
    """Return a rules file."""
    made = [
        {
            "name": group.name,
            "rules": [
                *({"record": rule.name, "expr": rule.expr} for rule in group.recorded),
                *(alert.as_rule() for alert in group.alerts),
            ],
        }
        for group in groups
    ]
    return yaml.safe_dump({"groups": made}, sort_keys=False, width=110, allow_unicode=True)


def dcgm(name: str, wrap: str = "{}") -> str:
    """Return PromQL for a DCGM field in any of its spellings; `wrap` is put around each (`rate({}[5m])`)."""
    return either(load_dcgm_metrics().field(name).spellings, wrap)


def either(names: Sequence[str], wrap: str = "{}") -> str:
    """Return PromQL for whichever of several spellings a host has."""
    return " or ".join(wrap.replace("{}", name) for name in names)


__all__ = ["Alert", "Group", "Options", "Recorded", "Severity", "dcgm", "either", "rules_text"]
