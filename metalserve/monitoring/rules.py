"""All rules, in the order in which they are evaluated."""

from __future__ import annotations

from metalserve.monitoring.engine_rules import engine_rules
from metalserve.monitoring.gpu_rules import gpu_rules
from metalserve.monitoring.host_rules import host_rules
from metalserve.monitoring.model import Alert, Group, Options, Recorded


def rule_groups(options: Options) -> tuple[Group, ...]:
    """Return all groups of rules."""
    return (*gpu_rules(options), *engine_rules(options), *host_rules(options))


def alerts(options: Options) -> tuple[Alert, ...]:
    """Return all alerts."""
    return tuple(alert for group in rule_groups(options) for alert in group.alerts)


def recorded(options: Options) -> tuple[Recorded, ...]:
    """Return all recorded series."""
    return tuple(rule for group in rule_groups(options) for rule in group.recorded)


__all__ = ["alerts", "recorded", "rule_groups"]
