"""Prepare the simulation of one lab host: its profile with identities of its own, the tools, and their wrappers."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import uuid
from pathlib import Path

from metalserve.lab.profiles import Profile, load_profile

SOURCE = Path(__file__).resolve().parent / "sim"

TOOLS = (
    "lspci", "nvme", "dmesg", "udevadm", "modprobe", "rmmod", "modinfo", "lsmod",
    "nvidia-smi", "nv-fabricmanager", "nvidia-persistenced", "nvidia-ctk", "nvidia-container-runtime",
    "nvidia-container-runtime-hook", "nvidia-container-cli", "dcgmi", "dcgm-exporter",
    "boot", "watch", "fault-apply", "update-grub",
)  # fmt: skip
"""Tools that get a wrapper in bin/."""

_WRAPPER = """\
#!/bin/sh
# metalserve lab: simulated
exec python3 -I -S /opt/metalserve-lab/lib/run.py {tool} "$@"
"""


def prepare_host(profile: str, directory: Path, *, host: str | None = None, only_gpus: int | None = None) -> None:
    """Fill a host's simulation directory (seen in the guest as /opt/metalserve-lab).

    Args:
        profile: name of a machine profile.
        directory: the simulation directory; faults and state in it are kept.
        host: name that UUIDs and serial numbers are derived from; by default the directory's parent's name.
        only_gpus: the host is a machine with so many processors of its own, one NUMA node, and drives and network
            adapters that are not simulated; by default it is a container, and all hardware is.

    Raises:
        MetalserveError: no such profile, or a broken one.
    """
    described = identified(load_profile(profile), host or directory.resolve().parent.name)
    if only_gpus is not None:
        described = _only_gpus(described, only_gpus)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "state").mkdir(exist_ok=True)
    _write(directory / "profile.json", json.dumps(described, indent=1))
    if not (directory / "faults.json").exists():
        _write(directory / "faults.json", json.dumps({"faults": []}))
    library = directory / "lib"
    shutil.rmtree(library, ignore_errors=True)
    shutil.copytree(SOURCE, library, ignore=shutil.ignore_patterns("__pycache__"))
    tools = directory / "bin"
    tools.mkdir(exist_ok=True)
    for tool in TOOLS:
        _write(tools / tool, _WRAPPER.format(tool=tool), mode=0o755)


def identified(profile: Profile, host: str) -> Profile:
    """Return the profile with the UUIDs and serial numbers of this host: always the same for the same name."""
    described = copy.deepcopy(profile)
    described["host"] = host
    described["simulated"] = True
    for number, slot in enumerate(described["gpus"]):
        slot["uuid"] = f"GPU-{uuid.uuid5(uuid.NAMESPACE_DNS, f'gpu{number}.{host}.metalserve.invalid')}"
        slot["serial"] = "16" + _digits(f"{host} gpu {number}", 11)
    for number, drive in enumerate(described["nvme"]):
        drive["serial"] = "S" + hashlib.sha256(f"{host} nvme {number}".encode()).hexdigest()[:13].upper()
    return described


def _only_gpus(profile: Profile, processors: int) -> Profile:
    """Return the profile without what the machine has itself; its GPUs are near all of its processors."""
    described = copy.deepcopy(profile)
    described["only_gpus"] = True
    described["nics"], described["nvme"] = [], []
    for slot in described["gpus"]:
        slot["numa"], slot["cpus"] = 0, f"0-{processors - 1}"
    return described


def _digits(text: str, count: int) -> str:
    return str(int(hashlib.sha256(text.encode()).hexdigest(), 16))[-count:]


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file at once; not forced to the disk, since a lab host is made anew after a crash."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text, encoding="utf-8")
    temporary.chmod(mode)
    temporary.replace(path)
