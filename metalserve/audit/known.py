"""What the controller knows of a fleet beside what runs reported. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from metalserve.planning import LaunchPlan
from metalserve.releases import Release, Verdict
from metalserve.settings import HostSettings


@dataclass(frozen=True)
class Known:
    """What the controller knows beside the reports.

    Attributes:
        settings: of each host of the inventory; None where they could not be read.
        problems: why, by host.
        releases: verdict of each release that can be read.
        newest: the newest release of the same line as each, by name.
        manifests: SHA-256 of each manifest file, by the path in the settings; "" where it cannot be read.
        plans: launch plan of each host as it follows from inventory and hardware, where it could be made.
        drift: differences by host, of `metalserve drift --json`; a host without one is there with none.
        drift_source: that file.
        recoveries: last recovery of each host in words, as `metalserve recover` remembers it, with its marks.
        recovery_source: file of that memory; "" where there is none.
    """

    settings: Mapping[str, HostSettings | None] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    releases: Mapping[str, Verdict] = field(default_factory=dict)
    newest: Mapping[str, str] = field(default_factory=dict)
    manifests: Mapping[str, str] = field(default_factory=dict)
    plans: Mapping[str, LaunchPlan] = field(default_factory=dict)
    drift: Mapping[str, list[str]] = field(default_factory=dict)
    drift_source: str = ""
    recoveries: Mapping[str, str] = field(default_factory=dict)
    recovery_source: str = ""

    def release(self, name: str) -> Release | None:
        """Return a release that can be read, or None."""
        verdict = self.releases.get(name)
        return verdict.release if verdict else None
