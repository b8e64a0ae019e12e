"""The stand-ins for /proc/driver and sysfs: files in state/boot that the boot unit binds over them; device nodes."""

from __future__ import annotations

import os
import shutil
import stat

from . import sysfs
from .state import Lab
from .view import gpus

OWN = "/run/metalserve-lab/proc"
"""A procfs beside the stand-ins, where the machine's own list of modules is read (hosts with `only_gpus`)."""


def refresh(lab: Lab) -> None:
    """Bring /proc/driver, the PCI part of sysfs and /dev/nvidia* in line with the loaded modules and the faults."""
    _driver(lab)
    refresh_modules(lab)
    sysfs.refresh(lab)
    if lab.system == "/" and os.geteuid() == 0:
        _nodes(lab)


def real_modules(lab: Lab) -> list[str]:
    """Lines of the machine's own /proc/modules: of now where they can be read, else of when the host booted."""
    try:
        with open(f"{OWN}/modules", encoding="utf-8") as stream:
            return stream.read().splitlines()
    except OSError:
        noted: list[str] = lab.read("state/boot/modules-real.json", [])
        return noted


def refresh_modules(lab: Lab) -> None:
    """Bring the stand-in of /proc/modules up to date, in place: a bind mount follows the file, not its name."""
    path = lab.boot("proc", "modules")
    if not os.path.exists(path):
        return
    from .kmod import listing  # here, not above: kmod stands on this module

    text = "".join(f"{line}\n" for line in [*listing(lab), *real_modules(lab)])
    with open(path, "r+", encoding="utf-8") as stream:
        if stream.read() != text:  # who reads it while it is written would find it empty
            stream.seek(0)
            stream.write(text)
            stream.truncate()


def version_text(version: str, flavour: str) -> str:
    """Content of /proc/driver/nvidia/version."""
    open_word = "Open " if flavour == "open" else ""
    kind = f"NVIDIA UNIX {open_word}Kernel Module for {os.uname().machine}"
    if flavour != "open":
        kind = f"NVIDIA UNIX {os.uname().machine} Kernel Module"
    return (
        f"NVRM version: {kind}  {version}  Release Build  (metalserve-lab@simulated)\n"
        "GCC version:  simulated in the metalserve lab\n"
    )


def _driver(lab: Lab) -> None:
    """Files are replaced, directories kept: the directory itself is what is bound over /proc/driver."""
    top = lab.boot("proc", "driver")
    os.makedirs(top, exist_ok=True)
    version = lab.module_version()
    if version is None:
        for name in ("nvidia", "nvidia-nvswitch"):
            shutil.rmtree(os.path.join(top, name), ignore_errors=True)
        return
    flavour = lab.modules()["nvidia"]["flavour"]
    _write(os.path.join(top, "nvidia", "version"), version_text(version, flavour))
    for gpu in gpus(lab):
        _write(
            os.path.join(top, "nvidia", "gpus", gpu.slot["bus"], "information"),
            f"Model: \t\t {gpu.model['name']}\nIRQ:   \t\t 17\nGPU UUID: \t {gpu.uuid}\n"
            f"Video BIOS: \t {gpu.model['vbios']}\nBus Type: \t PCIe\nBus Location: \t {gpu.slot['bus']}\n"
            f"Device Minor: \t {gpu.position}\n",
        )
    for number, switch in enumerate(lab.profile["nvswitches"]):
        _write(
            os.path.join(top, "nvidia-nvswitch", "devices", switch["bus"], "information"),
            f"Minor: {number}\nSimulated: yes\n",
        )


def _write(path: str, text: str) -> None:
    """Replace a file whole: who reads it meanwhile never finds it empty."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{os.getpid()}.new"
    with open(temporary, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.replace(temporary, path)


def device_names(lab: Lab) -> list[str]:
    """Device nodes that the loaded modules bring."""
    loaded = lab.modules()
    names: list[str] = []
    if "nvidia" in loaded:
        names += ["nvidiactl", *(f"nvidia{gpu.position}" for gpu in gpus(lab) if not gpu.lost)]
        if lab.profile["nvswitches"]:
            names += ["nvidia-nvswitchctl", *(f"nvidia-nvswitch{n}" for n in range(len(lab.profile["nvswitches"])))]
    if "nvidia_uvm" in loaded:
        names += ["nvidia-uvm", "nvidia-uvm-tools"]
    if "nvidia_modeset" in loaded:
        names.append("nvidia-modeset")
    return names


def _nodes(lab: Lab) -> None:
    """The nodes are copies of /dev/null: they exist and can be opened, as far as a check looks."""
    wanted = set(device_names(lab))
    for name in os.listdir("/dev"):
        path = os.path.join("/dev", name)
        if name.startswith("nvidia") and name not in wanted and stat.S_ISCHR(os.lstat(path).st_mode):
            os.unlink(path)
    for name in wanted:
        path = os.path.join("/dev", name)
        if not os.path.exists(path):
            os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
            os.chmod(path, 0o666)  # noqa: S103 - as the real nodes
