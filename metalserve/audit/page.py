"""The audit as one HTML page that needs nothing else and prints well."""

from __future__ import annotations

from collections import Counter

from metalserve import __version__
from metalserve.audit.record import STATES, Audit, State
from metalserve.report.framing import environment, style

MARKS: dict[State, str] = {"proved": "✓", "seen": "·", "wanted": "○", "differs": "✕", "none": "–", "unknown": "?"}
"""Beside each state's word, so that it does not hang on a colour."""
COLUMNS = ("release", "release_current", "driver", "model", "image", "drift", "last_upgrade", "last_recovery")
"""Items of the table of the fleet; the rest stands with each node."""


def html_page(audit: Audit) -> str:
    """Return the page; every word of the audit is escaped."""
    states: Counter[State] = Counter()
    for node in audit.nodes:
        states += node.states
    return (
        environment("audit")
        .get_template("page.html.j2")
        .render(
            audit=audit,
            marks=MARKS,
            states=[(state, words, states[state]) for state, words in STATES.items()],
            columns=COLUMNS,
            labels={item.name: item.label for node in audit.nodes[:1] for item in node.items},
            simulated=[node.name for node in audit.nodes if node.simulated],
            style=style("audit"),
            version=__version__,
        )
    )
