"""Role container_runtime: Docker and the NVIDIA container toolkit, so that containers see the GPUs."""

from __future__ import annotations

from metalserve.pyinfra_seam.role import prove, role, stage
from roles.container_runtime import desired


@role("Container runtime", watch=desired.watch)
def container_runtime() -> None:
    """Docker Engine, toolkit, daemon.json merged (never overwritten), CDI devices of this driver."""
    stage("repositories", desired.repositories)
    stage("install", desired.install)
    stage("configure", desired.configure)
    stage("devices", desired.devices, live_only=True)
    prove("docker", desired.findings, within_s=30)
