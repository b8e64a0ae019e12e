"""Role fabric_manager: NVSwitch hosts join their GPUs; all others are left alone."""

from __future__ import annotations

from metalserve.pyinfra_seam.role import prove, role, stage
from roles.fabric_manager import desired


@role("Fabric manager", watch=desired.watch)
def fabric_manager() -> None:
    """Fabric manager of the driver's version, running, and the fabric of every GPU complete."""
    stage("install", desired.install)
    stage("activate", desired.activate, live_only=True)
    prove("fabric", desired.findings, within_s=120)
