"""Faults of decay: nothing is wrong with the host yet, but its next boot, or the next intruder, will find it.

Each is done once, when it is injected: what a role repairs while the fault is in force stays repaired.
"""

from __future__ import annotations

import glob
import os
import subprocess

from . import grub
from .state import Lab

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LOST = ".metalserve-lab-lost"
VULNERABLE = "1.17.8-1"
_TOOLKIT = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def new_kernel(lab: Lab, fault: dict[str, Any], before: Any) -> Any:
    """A newer kernel comes into /boot and becomes the default; its headers do not come."""
    if before:
        return before
    machine = os.uname()
    release = grub.newer(machine.release, _ARCHITECTURES.get(machine.machine, machine.machine))
    grub.install(lab, release)
    grub.update(lab)
    return {"release": release, "done": "in /boot, default of grub.cfg"}


def old_kernel(applied: Any) -> None:
    """The newer kernel goes again."""
    lab = Lab()
    if "release" in applied:
        grub.remove(lab, applied["release"])
        grub.update(lab)


def break_dkms(lab: Lab, fault: dict[str, Any], before: Any) -> Any:
    """DKMS loses the driver's source, and the kernel that boots next its module."""
    if before:
        return before
    lost = glob.glob(lab.file("/usr/src/nvidia-*/dkms.conf"))
    for path in lost:
        os.rename(path, path + LOST)
    following = (grub.images(lab) or [grub.kernel(lab)])[0]
    modules = glob.glob(lab.file(f"/lib/modules/{following}/updates/dkms/nvidia*.ko"))
    for path in modules:
        os.unlink(path)
    return {"source": lost, "kernel": following, "done": f"{len(lost)} source(s), {len(modules)} module(s) gone"}


def mend_dkms(applied: Any) -> None:
    """What is still lost comes back."""
    for path in applied.get("source", []):
        if os.path.exists(path + LOST):
            if os.path.exists(path):
                os.unlink(path + LOST)
            else:
                os.rename(path + LOST, path)
    subprocess.run(["dkms", "autoinstall", "-k", applied["kernel"]], capture_output=True, timeout=20, check=False)


def old_toolkit(lab: Lab, fault: dict[str, Any], before: Any) -> Any:
    """The container toolkit is put back to a version with a known way out of a container, with apt itself."""
    if before:
        return before
    words = ["apt-get", "-qy", "--allow-downgrades", "--allow-change-held-packages", "-o", "DPkg::Lock::Timeout=10"]
    words += ["install", *(f"{name}={VULNERABLE}" for name in _TOOLKIT)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    said = done.stderr.strip().splitlines()[-1:] or ["no message"]
    return {"done": f"toolkit {VULNERABLE}" if done.returncode == 0 else f"could not be installed: {said[0]}"}


def _nothing(applied: Any) -> None:
    return


EFFECTS = {
    "kernel-without-headers": (new_kernel, old_kernel),
    "dkms-broken": (break_dkms, mend_dkms),
    "toolkit-vulnerable": (old_toolkit, _nothing),
}
