"""Role nvidia_driver: the driver of the host's release, loaded and answering."""

from __future__ import annotations

from metalserve.pyinfra_seam.role import prove, role, stage, tell
from roles.nvidia_driver import desired, preflight


@role("NVIDIA driver", watch=desired.watch)
def nvidia_driver() -> None:
    """Repository, pin, packages for exactly these GPUs; a reboot where the kernel needs one; persistence."""
    stage("preflight", preflight.preflight)
    stage("repository", desired.repository)
    stage("pin", desired.pin)
    stage("install", desired.install)
    stage("build", desired.build)
    stage("build for the next boot", desired.build_next, live_only=True)
    stage("reboot", desired.reboot, live_only=True)
    stage("activate", desired.activate, live_only=True)
    prove("driver", desired.findings, within_s=30)


@role("NVIDIA driver, as seen", watch=desired.watch)
def see() -> None:
    """What the choice of the driver depends on, into the host's report; nothing is changed."""
    tell("driver", desired.seen)
