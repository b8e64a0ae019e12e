"""Faults that do something to the running guest, and what every fault writes to the kernel log.

Called by the watcher once a second and by `bin/fault-apply`. What was really done is noted in `state/applied.json`.
"""

from __future__ import annotations

import os
import subprocess
import time

from . import decay, proc
from .state import Lab
from .view import LINKS_LOST, Gpu

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FILLER = ".metalserve-lab-disk-full"
LEAVE_BYTES = 1 << 20
SLOW_BYTES_PER_S = 2 << 20
"""What slow-disk leaves of a drive's read and write rate."""


def sync(lab: Lab) -> None:
    """Bring the guest in line with the faults in force; needs root."""
    with lab.locked():
        faults = lab.faults()
        noticed: list[str] = lab.read("state/boot/noticed.json", [])
        for fault in faults:
            if fault["id"] not in noticed:
                lab.log(*log_lines(lab, fault), level=4)
                noticed.append(fault["id"])
                lab.write("state/boot/noticed.json", noticed)
        applied: dict[str, Any] = lab.read("state/applied.json", {})
        kinds = {fault["kind"]: fault for fault in faults}
        before = repr(applied)
        for kind, (begin, end) in EFFECTS.items():
            if kind in kinds:
                applied[kind] = begin(lab, kinds[kind], applied.get(kind))
            elif kind in applied:
                end(applied.pop(kind))
        if repr(applied) != before:
            lab.write("state/applied.json", applied)
        proc.refresh(lab)


def log_lines(lab: Lab, fault: dict[str, Any]) -> list[str]:
    """Kernel log lines of a new fault, in the driver's words (after captured lines)."""
    kind, position = fault["kind"], fault.get("gpu")
    loaded = lab.module_version() is not None
    if kind == "nvme-downgraded" and lab.profile["nvme"]:
        bus = lab.profile["nvme"][0]["bus"]
        return [f"pcieport {bus}: bandwidth changed, link limited to x1 (simulated in the metalserve lab)"]
    if kind == "slow-disk":
        return ["nvme nvme0: I/O tag 512 (1200) QID 1 timeout, completion polled"]
    if position is None or not loaded or position >= len(lab.profile["gpus"]):
        return []
    gpu = Gpu(lab, position)
    xid = f"NVRM: Xid (PCI:{gpu.xid_bus}):"
    nobody = "pid='<unknown>', name=<unknown>"
    if kind == "gpu-off-bus":
        return [
            f"NVRM: GPU at PCI:{gpu.xid_bus}: {gpu.uuid}",
            f"{xid} 79, {nobody}, GPU has fallen off the bus.",
            f"NVRM: GPU {gpu.slot['bus']}: GPU has fallen off the bus.",
        ]
    if kind == "nvlink-degraded":
        down = fault.get("links") or [n for n, _ in enumerate(gpu.links())][-LINKS_LOST:]
        if gpu.model["nvlink"] and gpu.model["nvlink"]["generation"] >= 5:
            words = "(0x021425c6 0x00000000 0x00000000 0x00000000 0x00000000 0x00000000)"
            return [f"{xid} 149, NETIR_LINK_EVT  Fatal   XC0 i0 Link {n:02d} {words}" for n in down]
        codes = "(0x0, 0x0, 0x10000, 0x0, 0x0, 0x0, 0x0)"
        return [f"{xid} 74, {nobody}, NVLink: fatal error detected on link {n}{codes}" for n in down]
    if kind == "remap-pending":
        return [
            f"{xid} 48, {nobody}, DBE (double bit error) ECC error",
            f"{xid} 63, {nobody}, Row Remapper: New row (0x0000000e9b9107e0) marked for remapping, "
            "reset gpu to activate.",
            f"{xid} 154, GPU recovery action changed from 0x0 (None) to 0x4 (Drain and Reset)",
        ]
    if kind == "gpu-needs-reset":
        return [
            f"{xid} 95, {nobody}, Uncontained: LTC TAG (0x0,0x0). RST: Yes, D-RST: No",
            f"{xid} 154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)",
        ]
    if kind == "remap-failed":
        return [
            f"{xid} 64, {nobody}, Row Remapper: Failed to remap row (0x0000000e9b9107e0)",
            f"{xid} 154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)",
        ]
    return []


def _quiet(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _kill_manager(lab: Lab, fault: dict[str, Any], before: Any) -> Any:
    if lab.daemon("fabricmanager") is None:
        return before or {"done": "was not running"}
    try:
        with open("/run/nvidia-fabricmanager/nv-fabricmanager.pid", encoding="utf-8") as stream:
            os.kill(int(stream.read()), 9)
    except (OSError, ValueError) as error:
        return {"done": f"could not be killed: {error}"}
    return {"done": "killed"}


DROP_IN = "/run/systemd/system/nvidia-fabricmanager.service.d/metalserve-lab-flapping.conf"
FLAP_S = 3.0
"""Seconds that fabric manager lives before it dies again; slow enough for systemd not to give up on it."""


def _flap(lab: Lab, fault: dict[str, Any], before: Any) -> Any:
    """Kill fabric manager again and again; systemd, told so by a drop-in, brings it back each time."""
    if before is None:
        os.makedirs(os.path.dirname(DROP_IN), exist_ok=True)
        with open(DROP_IN, "w", encoding="utf-8") as stream:
            stream.write("[Service]\nRestart=always\nRestartSec=1\n")
        _quiet("systemctl", "daemon-reload")
    kills = int((before or {}).get("kills", 0))
    running = lab.daemon("fabricmanager")
    if running is not None and time.time() - float(running["since"]) >= FLAP_S:
        kills += _kill_manager(lab, fault, None) == {"done": "killed"}
    return {"kills": kills}


def _unflap(applied: Any) -> None:
    if os.path.exists(DROP_IN):
        os.unlink(DROP_IN)
        _quiet("systemctl", "daemon-reload")


def _pause(lab: Lab, fault: dict[str, Any], before: Any) -> Any:
    """Freeze the engine's containers with `docker pause`: they keep their ports and answer nothing.

    Those that were frozen and are gone, or run again, take the fault with them.
    """
    paused = list((before or {}).get("paused", []))
    if not paused or fault.get("sticky"):
        running = _quiet("docker", "ps", "--filter", "status=running", "--format", "{{.ID}} {{.Image}} {{.Names}}")
        lines = running.splitlines()
        engines = [line for line in lines if "vllm" in line] or lines
        for name in [line.split()[0] for line in engines]:
            _quiet("docker", "pause", name)
            paused.append(name)
    elif not set(paused) & set(_quiet("docker", "ps", "-aq", "--filter", "status=paused").split()):
        lab.cure(("container-stuck",))
    return {"paused": paused}


def _unpause(applied: Any) -> None:
    for name in applied.get("paused", []):
        _quiet("docker", "unpause", name)


ENGINE = "metalserve-vllm-"


def _engines() -> dict[str, str]:
    """The engines' containers that run: id -> process on the host."""
    found = _quiet("docker", "ps", "-q", "--no-trunc", "--filter", "status=running", "--filter", f"name={ENGINE}")
    pairs = (_quiet("docker", "inspect", "-f", "{{.Id}} {{.State.Pid}}", name).split() for name in found.split())
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def _hang(lab: Lab, fault: dict[str, Any], before: Any) -> Any:
    """Tell the stand-in engines to give no token; those that were struck and are gone take the fault with them."""
    running = _engines()
    struck: dict[str, str] = dict((before or {}).get("struck", {}))
    if before is None or fault.get("sticky"):
        for name, pid in running.items():
            place = f"/proc/{pid}/root/run/metalserve-lab"
            if name not in struck and os.path.isdir(f"/proc/{pid}/root"):
                os.makedirs(place, exist_ok=True)
                with open(f"{place}/fault", "w", encoding="utf-8") as stream:
                    stream.write("hang")
                struck[name] = pid
    elif struck and not set(struck) & set(running):
        lab.cure(("engine-hang",))
    return {"struck": struck}


def _unhang(applied: Any) -> None:
    for pid in applied.get("struck", {}).values():
        path = f"/proc/{pid}/root/run/metalserve-lab/fault"
        if os.path.exists(path):
            os.unlink(path)


def _die(lab: Lab, fault: dict[str, Any], before: Any) -> Any:
    """Kill the engines and leave their units stopped, as systemd does when they failed too often; done once."""
    if before:
        return before
    names = [f"{ENGINE}{n}.service" for n in range(64) if os.path.exists(f"/etc/systemd/system/{ENGINE}{n}.service")]
    for name in names:
        _quiet("docker", "kill", name.removesuffix(".service"))
    _quiet("systemctl", "stop", *names)
    return {"stopped": names}


def _spare(lab: Lab, fault: dict[str, Any], before: Any) -> Any:
    """Note the version that the fault leaves alone: the one that works now."""
    return before or {"spared": (lab.modules().get("nvidia") or {}).get("version", "")}


def _mount_of_drive() -> str | None:
    """Where the first NVMe drive is mounted."""
    with open("/proc/self/mounts", encoding="utf-8") as stream:
        for line in stream:
            device, place = line.split()[:2]
            if os.path.basename(os.path.realpath(device)).startswith("nvme"):
                return place
    return None


def _fill(lab: Lab, fault: dict[str, Any], before: Any) -> Any:
    place = _mount_of_drive()
    if place is None:
        return {"done": "no NVMe drive is mounted yet; filled as soon as one is"}
    path = os.path.join(place, FILLER)
    free = os.statvfs(place)
    spare = free.f_bavail * free.f_frsize - LEAVE_BYTES
    if spare > 4 * LEAVE_BYTES:
        size = (os.path.getsize(path) if os.path.exists(path) else 0) + spare
        _quiet("fallocate", "--length", str(size), path)
    return {"file": path}


def _drain(applied: Any) -> None:
    if "file" in applied and os.path.exists(applied["file"]):
        os.unlink(applied["file"])


def _slow(lab: Lab, fault: dict[str, Any], before: Any) -> Any:
    """Throttle the drives in the guest's block controller, where the machine gives it one."""
    if before:
        return before
    done = []
    for number in range(len(lab.profile["nvme"])):
        try:
            device = os.stat(f"/dev/nvme{number}n1").st_rdev
        except OSError:
            continue
        name = f"{os.major(device)}:{os.minor(device)}"
        for control, value in _throttles(name, SLOW_BYTES_PER_S):
            try:
                with open(control, "w", encoding="utf-8") as stream:
                    stream.write(value)
                done.append((control, name))
            except OSError:
                continue
    # Honest about it: without a block controller only the kernel log line tells of the fault.
    return {"throttled": done, "done": f"{SLOW_BYTES_PER_S} bytes/s" if done else "log line only: no block controller"}


def _throttles(device: str, rate: int) -> list[tuple[str, str]]:
    top = "/sys/fs/cgroup"
    if os.path.exists(f"{top}/cgroup.controllers"):
        return [(f"{top}/system.slice/io.max", f"{device} rbps={rate or 'max'} wbps={rate or 'max'}")]
    return [
        (f"{top}/blkio/{group}blkio.throttle.{kind}_bps_device", f"{device} {rate}")
        for group in ("system.slice/", "docker/", "")
        for kind in ("read", "write")
    ]


def _fast(applied: Any) -> None:
    for control, device in applied.get("throttled", []):
        value = dict(_throttles(device, 0)).get(control)
        if value is not None and os.path.exists(control):
            with open(control, "w", encoding="utf-8") as stream:
                stream.write(value)


def _nothing(_: Any) -> None:
    return


EFFECTS = {
    "driver-fails-to-load": (_spare, _nothing),
    "driver-fails-to-build": (_spare, _nothing),
    "fabric-manager-dead": (_kill_manager, _nothing),
    "fabric-manager-flapping": (_flap, _unflap),
    "container-stuck": (_pause, _unpause),
    "engine-hang": (_hang, _unhang),
    "engine-dead": (_die, _nothing),
    "disk-full": (_fill, _drain),
    "slow-disk": (_slow, _fast),
    **decay.EFFECTS,
}
