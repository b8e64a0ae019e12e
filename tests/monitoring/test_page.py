"""docs/alerts.md is the rules', and each alert's link leads to a section of it."""

from __future__ import annotations

from metalserve.monitoring.model import Options
from metalserve.monitoring.page import alerts_page
from metalserve.monitoring.rules import alerts
from metalserve.paths import ROOT

PAGE = (ROOT / "docs" / "alerts.md").read_text()


def test_the_page_is_the_rules() -> None:
    assert alerts_page() == PAGE, "write it anew: python -m metalserve.monitoring.page"


def test_every_alert_has_the_section_that_it_links_to() -> None:
    anchors = {f"docs/alerts.md#{line[3:].lower()}" for line in PAGE.splitlines() if line.startswith("## ")}
    assert {alert.anchor for alert in alerts(Options())} == anchors
