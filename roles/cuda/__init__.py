"""Role cuda: the driver fits the CUDA of the engine's image; the toolkit itself only where it is asked for."""

from __future__ import annotations

from metalserve.pyinfra_seam.role import prove, role, stage
from roles.cuda import desired


@role("CUDA", watch=desired.watch)
def cuda() -> None:
    """Refuses a release whose driver cannot run its image; installs the toolkit where settings want it."""
    stage("install", desired.install)
    prove("cuda", desired.findings)
