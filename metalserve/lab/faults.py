"""Faults of simulated hosts: written into a host's simulation directory, seen by its tools at once."""

from __future__ import annotations

import difflib
import json
import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metalserve.errors import MetalserveError


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        description: what it does, and where it shows.
        gpu: it strikes one GPU (`--gpu N`, the first one unless said).
        needs: what the profile must have: "gpu", "nvlink", "manager", "nvme", "remap", "ecc", "switch" (a PCIe switch),
            "nic" or nothing.
        reboot_cures: it is gone after a reboot unless injected as sticky.
        outside: it acts on the host from outside (the network link), not inside the guest.
    """

    description: str
    gpu: bool = False
    needs: str = ""
    reboot_cures: bool = False
    outside: bool = False


KINDS: dict[str, Kind] = {
    "gpu-off-bus": Kind(
        "a GPU has fallen off the bus: Xid 79, nvidia-smi cannot get its handle, lspci says rev ff",
        gpu=True, needs="gpu", reboot_cures=True,
    ),
    "nvlink-degraded": Kind(
        "a GPU has lost NVLinks: nvlink -s shows them inactive, topo -m a lower NV number, Xid 74 (149 on NVLink5)",
        gpu=True, needs="nvlink",
    ),
    "remap-pending": Kind(
        "a memory row waits to be remapped: Remapped Rows Pending Yes, Xid 63, until a GPU reset or a reboot",
        gpu=True, needs="remap", reboot_cures=True,
    ),
    "remap-failed": Kind(
        "a memory row could not be remapped: Remapping Failure Occurred Yes, Xid 64; the card is to be replaced",
        gpu=True, needs="remap",
    ),
    "thermal-throttle": Kind(
        "a GPU is too hot: HW and SW Thermal Slowdown active, temperature above the slowdown threshold",
        gpu=True, needs="gpu",
    ),
    "fabric-manager-dead": Kind(
        "nv-fabricmanager is killed and does not start while the fault lasts: Fabric State stays Completed (it is "
        "latched) until a GPU reset, a reboot or a new driver, and is In Progress from then on",
        needs="manager",
    ),
    "fabric-manager-flapping": Kind(
        "nv-fabricmanager dies every few seconds and is brought back by systemd: NRestarts and the journal count it, "
        "Fabric State stays Completed",
        needs="manager",
    ),
    "pcie-downgraded": Kind(
        "a GPU's PCIe link runs at Gen3 x8: --query-gpu, -q and lspci -vv say so", gpu=True, needs="gpu"
    ),
    "pcie-bridge-downgraded": Kind(
        "the PCIe switch above a GPU runs at x8 to its root port; the GPU's own link is whole (sysfs, lspci -vv)",
        gpu=True, needs="switch",
    ),
    "power-brake": Kind(
        "the board's power brake slows a GPU down: HW Slowdown and HW Power Brake Slowdown active",
        gpu=True, needs="gpu",
    ),
    "hw-slowdown": Kind(
        "a GPU is slowed down by hardware that names neither heat nor power brake: HW Slowdown active alone",
        gpu=True, needs="gpu",
    ),
    "power-limited": Kind("a GPU's power limit stands at its lowest", gpu=True, needs="gpu"),
    "ecc-off": Kind("ECC is turned off on a GPU", gpu=True, needs="ecc"),
    "acs-on": Kind("the ports of the PCIe switches redirect peer-to-peer traffic: ACSCtl of lspci -vv", needs="switch"),
    "iommu-translating": Kind("the IOMMU translates the addresses of all devices: domain type DMA-FQ", needs="gpu"),
    "nic-down": Kind("a port of the first network card is down", needs="nic"),
    "nvme-worn": Kind(
        "the NVMe drives are worn out: smart-log has no spare blocks left and 104 % of the endurance used", needs="nvme"
    ),
    "nvme-hot": Kind("the NVMe drives are at 78 C: smart-log says so", needs="nvme"),
    "nvme-downgraded": Kind("the first NVMe drive's PCIe link runs at 2.5 GT/s x1: lspci -vv says so", needs="nvme"),
    "disk-full": Kind(
        "the file system on the NVMe drive is filled to the last MiB by a file of the lab's", needs="nvme"
    ),
    "slow-disk": Kind(
        "the NVMe drives are throttled to 2 MiB/s where the machine gives the guest a block controller "
        "(state/applied.json says whether); always a timeout line in the kernel log",
        needs="nvme",
    ),
    "driver-mismatch": Kind(
        "the loaded kernel module is older than the user-space libraries: Driver/library version mismatch, "
        "until the module is loaded anew",
        needs="gpu", reboot_cures=True,
    ),
    "driver-fails-to-load": Kind(
        "every driver but the one that is loaded when the fault begins fails to initialise: modprobe is refused",
        needs="gpu",
    ),
    "driver-fails-to-build": Kind(
        "DKMS cannot build any driver but the one that is loaded when the fault begins: its package stays unconfigured",
        needs="gpu",
    ),
    "driver-held": Kind(
        "something in the kernel refers to the nvidia module: it cannot be unloaded, only a reboot brings another",
        needs="gpu",
    ),
    "gpu-needs-reset": Kind(
        "a GPU had a memory error that was not contained: Xid 95, the driver asks for a reset, until a GPU reset or a "
        "reboot",
        gpu=True, needs="gpu", reboot_cures=True,
    ),
    "engine-hang": Kind(
        "the engines that run now hang: /health is 200, requests are taken, no token comes; a restart cures it "
        "(sticky: those that start later hang too)"
    ),
    "engine-dead": Kind("the engines have died and systemd has given up on them: their units are stopped, once"),
    "container-stuck": Kind(
        "the engine's containers that run now are frozen by docker pause: ports stay open, nothing answers; a restart "
        "cures it (sticky: those that start later are frozen too)"
    ),
    "wrong-gpu-count": Kind("a GPU is not there at all, on PCI neither", gpu=True, needs="gpu"),
    "kernel-without-headers": Kind(
        "a newer kernel has come into /boot and is the default, its headers have not: no module for the next boot"
    ),
    "dkms-broken": Kind("DKMS has lost the driver's source, and the kernel that boots next its module", needs="gpu"),
    "toolkit-vulnerable": Kind("the container toolkit is put back to 1.17.8, open to CVE-2026-24260"),
    "unreachable": Kind("the host's network link is down", outside=True),
    "host-hang": Kind(
        "the kernel hangs: nothing answers and no request to power off is heard, until the power is cut", outside=True
    ),
    "filesystem-destroyed": Kind(
        "the file system of the system's drive is gone: the host runs no OS and boots none, until it is made anew",
        outside=True,
    ),
}  # fmt: skip
"""All kinds of faults."""


def inject(host_dir: Path, kind: str, gpu: int | None = None, *, sticky: bool = False) -> dict[str, Any]:
    """Begin a fault. Injecting the same fault again changes nothing.

    Args:
        host_dir: the host's directory in the lab (holds `sim/`).
        kind: a name of `KINDS`.
        gpu: position of the GPU on its board, for kinds that strike one GPU; None means the first.
        sticky: the fault outlives a reboot that would cure it.

    Returns:
        The fault as written.

    Raises:
        MetalserveError: no such kind (the message names the nearest), a GPU that the host does not have, or a
            fault that this host's hardware cannot have.
    """
    described = _kind(kind)
    profile = _read(host_dir / "sim" / "profile.json")
    _check(described, kind, profile, host_dir.name)
    count = len(profile["gpus"])
    if gpu is not None and not described.gpu:
        raise MetalserveError(f"fault {kind} is not about one GPU", where=host_dir.name, remedy="leave out --gpu")
    if described.gpu:
        gpu = 0 if gpu is None else gpu
        if not 0 <= gpu < count:
            raise MetalserveError(
                f"no GPU {gpu}: this host has {count}", where=host_dir.name, remedy=f"--gpu 0 to {count - 1}"
            )
    faults = active(host_dir)
    for fault in faults:
        if fault["kind"] == kind and fault.get("gpu") == gpu and not _cured(host_dir, fault):
            return fault
    # One that a reboot cured counts as over: its place is taken by the new one.
    kept = [fault for fault in faults if fault["kind"] != kind or fault.get("gpu") != gpu]
    new: dict[str, Any] = {"id": uuid.uuid4().hex, "kind": kind, "at": time.time()}
    if gpu is not None:
        new["gpu"] = gpu
    if sticky:
        new["sticky"] = True
    _write(host_dir, [*kept, new])
    return new


def heal(host_dir: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """End faults: all of them, or those of one kind.

    Returns:
        The faults that were ended.

    Raises:
        MetalserveError: no such kind.
    """
    if kind is not None:
        _kind(kind)
    faults = active(host_dir)
    ended = [fault for fault in faults if kind is None or fault["kind"] == kind]
    if ended:
        _write(host_dir, [fault for fault in faults if fault not in ended])
    return ended


def active(host_dir: Path) -> list[dict[str, Any]]:
    """Return the faults that were injected and not healed (one that a reboot cured is still listed)."""
    path = host_dir / "sim" / "faults.json"
    if not path.exists():
        return []
    found: list[dict[str, Any]] = _read(path).get("faults", [])
    return found


def _cured(host_dir: Path, fault: dict[str, Any]) -> bool:
    path = host_dir / "sim" / "state" / "cured.json"
    return path.exists() and fault["id"] in _read(path)


def _kind(name: str) -> Kind:
    if name in KINDS:
        return KINDS[name]
    near = difflib.get_close_matches(name, KINDS, n=1)
    remedy = f"did you mean {near[0]!r}?" if near else f"one of: {', '.join(KINDS)}"
    raise MetalserveError(f"no fault {name!r}", where="lab fault", remedy=remedy)


def _check(kind: Kind, name: str, profile: dict[str, Any], host: str) -> None:
    gpu = profile["gpu"]
    has = {
        "": True,
        "gpu": gpu is not None,
        "nvlink": gpu is not None and gpu["nvlink"] is not None,
        "manager": profile["fabric"]["manager"],
        "nvme": bool(profile["nvme"]),
        "remap": gpu is not None and gpu["remap_banks"] is not None,
        "ecc": gpu is not None and gpu["ecc"],
        "switch": any(slot["switch"] for slot in profile["gpus"]),
        "nic": bool(profile["nics"]),
    }[kind.needs]
    if not has:
        words = {
            "gpu": "has no GPUs",
            "nvlink": "has no NVLink",
            "manager": "needs no fabric manager",
            "nvme": "has no NVMe drive",
            "remap": "has GPUs without row remapping",
            "ecc": "has GPUs without ECC",
            "switch": "has no PCIe switch above its GPUs",
            "nic": "has no network card",
        }[kind.needs]
        raise MetalserveError(f"fault {name} cannot happen: the host {words}", where=host)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MetalserveError("the host has not been made", where=str(path), remedy="metalserve lab up") from error
    except ValueError as error:
        raise MetalserveError(f"not JSON: {error}", where=str(path), remedy="metalserve lab heal") from error


def _write(host_dir: Path, faults: list[dict[str, Any]]) -> None:
    """Write atomically: the guest's tools read it at any time."""
    path = host_dir / "sim" / "faults.json"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump({"faults": faults}, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.chmod(0o644)
    temporary.replace(path)
