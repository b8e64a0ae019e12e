"""nv-fabricmanager and nvidia-persistenced: they check what the real ones check, then hold a lock and sleep."""

from __future__ import annotations

import os
import time

from .state import Lab
from .view import LATCH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Out = Callable[[str], None]

PID_FILE = "/run/nvidia-fabricmanager/nv-fabricmanager.pid"
LOG_FILE = "/var/log/fabricmanager.log"


def version(lab: Lab) -> str:
    """Version of the installed fabric manager."""
    return os.environ.get("METALSERVE_LAB_TOOL_VERSION") or lab.stand_in("nvidia-fabricmanager") or ""


def main(lab: Lab, args: list[str], out: Out, err: Out) -> int:
    """Run `nv-fabricmanager --version`; starting goes through the start script, as in the package."""
    if args[:1] in (["-v"], ["--version"]):
        out(f"Fabric Manager version is : {version(lab)}")
        return 0
    return start(lab, args, out, err)


def problem(lab: Lab) -> str | None:
    """Why fabric manager cannot run on this host, in its own words; None when it can."""
    if lab.fault("fabric-manager-dead"):
        return "fabric manager stopped: fault fabric-manager-dead of the metalserve lab is in force"
    module = lab.module_version()
    if module is None:
        return "failed to connect to the NVIDIA driver: the nvidia kernel module is not loaded"
    if module != version(lab):
        return (
            f"fabric manager NVIDIA GPU driver interface version {version(lab)} don't match with driver version "
            f"{module}. Please update with matching NVIDIA driver package."
        )
    fabric = lab.profile["fabric"]
    bridges = [nic for nic in lab.profile["nics"] if nic["switch_management"]]
    switches = bool(lab.profile["nvswitches"]) or (
        fabric["nvlsm"] and bool(bridges) and lab.stand_in("nvlsm") is not None
    )
    if not fabric["manager"] or not switches:
        return (
            "request to query NVSwitch device information from NVSwitch driver failed with error:"
            "WARNING Nothing to do [NV_WARN_NOTHING_TO_DO]"
        )
    return None


def start(lab: Lab, args: list[str], out: Out, err: Out) -> int:
    """What nvidia-fabricmanager-start.sh does: start the daemon, write its pid."""
    if "--mode" in args and "stop" in args:
        return 0
    why = problem(lab)
    _note(lab, f"[{'ERROR' if why else 'INFO'}] " + (why or "Successfully configured all the available GPUs"))
    if why:
        err(why)
        return 1
    os.makedirs(os.path.dirname(lab.file(PID_FILE)), exist_ok=True)
    pid = lab.start_daemon(
        "fabricmanager",
        "/usr/bin/nv-fabricmanager",
        {"version": version(lab), "since": time.time()},
    )
    lab.write(LATCH, {"version": version(lab), "gpus": list(range(len(lab.profile["gpus"])))})
    with open(lab.file(PID_FILE), "w", encoding="utf-8") as stream:
        stream.write(f"{pid}\n")
    out(f"Starting NVIDIA Fabric Manager {version(lab)} (simulated in the metalserve lab)")
    return 0


def _note(lab: Lab, words: str) -> None:
    try:
        with open(lab.file(LOG_FILE), "a", encoding="utf-8") as stream:
            stream.write(
                f"[{time.strftime('%b %d %Y %H:%M:%S')}] {words.replace('] ', f'] [tid {os.getpid()}] ', 1)}\n"
            )
    except OSError:
        return


def persistenced(lab: Lab, args: list[str], out: Out, err: Out) -> int:
    """Run `nvidia-persistenced`."""
    if args[:1] in (["-V"], ["--version"]):
        out(f"nvidia-persistenced:  version {lab.stand_in('nvidia-persistenced') or ''}")
        return 0
    if lab.module_version() is None:
        err("nvidia-persistenced failed to initialize. Check syslog for more details.")
        return 1
    os.makedirs(lab.file("/run/nvidia-persistenced"), exist_ok=True)
    pid = lab.start_daemon("persistenced", "/usr/bin/nvidia-persistenced", {"since": time.time()})
    with open(lab.file("/run/nvidia-persistenced/nvidia-persistenced.pid"), "w", encoding="utf-8") as stream:
        stream.write(f"{pid}\n")
    return 0
