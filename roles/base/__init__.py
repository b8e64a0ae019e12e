"""Role base: what every GPU host has before any driver."""

from __future__ import annotations

from metalserve.pyinfra_seam.role import role, stage
from roles.base import desired


@role("Base", watch=desired.watch)
def base() -> None:
    """Packages, time, limits, kernel settings; nouveau off; unattended upgrades kept away from the driver."""
    stage("install", desired.install)
    stage("configure", desired.configure)
    stage("activate", desired.activate, live_only=True)
