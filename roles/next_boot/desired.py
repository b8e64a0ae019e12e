"""What `next_boot` looks at and says: pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime

from metalserve.desired.model import Watch
from metalserve.desired.node import Node
from metalserve.releases import Release
from metalserve.settings import HostSettings
from metalserve.verify.finding import Finding
from metalserve.verify.next_boot import Outlook
from metalserve.verify.next_boot import next_boot as predict


def watch(settings: HostSettings, release: Release) -> Watch:
    """What an observation must look at: no more than every observation does."""
    return Watch()


def outlook(node: Node) -> Outlook:
    """Return what the next reboot would do to `node`."""
    return predict(node.hardware, node.release, today=today(node), persistence=node.settings.driver.persistence)


def findings(node: Node) -> Sequence[Finding]:
    """Return the verdict and what it is made of."""
    return outlook(node).findings


def today(node: Node) -> date:
    """Return the day by the host's clock; the release's first day where the host did not say it."""
    try:
        return datetime.fromtimestamp(float(node.observed.facts["now"]), UTC).date()
    except (KeyError, ValueError, OverflowError, OSError):
        return node.release.kept_from


__all__ = ["findings", "outlook", "today", "watch"]
