"""docs/alerts.md: one section an alert, so that the link in a message leads to what it means."""

from __future__ import annotations

from metalserve.monitoring.model import Options
from metalserve.monitoring.rules import rule_groups

_HEAD = """\
# Alerts

What `roles.monitoring` watches for, made from `metalserve/monitoring/*_rules.py` by
`python -m metalserve.monitoring.page`. Times and limits are those of `monitoring.server.patience` 1 and the defaults.
INVENTORY is your inventory's file, HOST the label `host`, MOUNT the label `mountpoint`.

critical: somebody is woken; warning: in working hours; info: for the record.
"""


def alerts_page() -> str:
    """Return the page."""
    parts = [_HEAD]
    for group in rule_groups(Options()):
        if group.alerts:
            parts.append(f"# {group.name.removeprefix('metalserve-')}\n")
        for alert in group.alerts:
            held = f", for {alert.hold}" if alert.hold != "0s" else ""
            parts.append(
                f"## {alert.name}\n\n{alert.severity}{held}. {alert.what}\n\n**Do:** {alert.do}\n\n"
                f"```promql\n{alert.expr}\n```\n"
            )
    return "\n".join(parts)


if __name__ == "__main__":
    from metalserve.paths import ROOT

    (ROOT / "docs" / "alerts.md").write_text(alerts_page(), encoding="utf-8")
