"""nvidia-container-runtime, its hook and nvidia-container-cli: stand-ins that hand on to runc.

The runtime does to a container's configuration what the real one does in effect: the GPUs named by
NVIDIA_VISIBLE_DEVICES appear in it as device nodes. Without a working driver the container does not start.
"""

from __future__ import annotations

import json
import os
import shutil

from .ctk import MOUNTS, common_nodes, devices
from .state import Lab

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Out = Callable[[str], None]

FAILED = "nvidia-container-cli: initialization error: nvml error: driver not loaded"


def driver_works(lab: Lab) -> bool:
    """Whether user space and the loaded module agree."""
    return lab.module_version() is not None and lab.module_version() == lab.stand_in("libnvidia-ml1")


def runtime(lab: Lab, args: list[str], out: Out, err: Out) -> int:
    """Run `nvidia-container-runtime ARGS`: edit the bundle on `create`, then become runc."""
    if "create" in args:
        bundle = _bundle(args)
        path = os.path.join(bundle, "config.json")
        with open(path, encoding="utf-8") as stream:
            config = json.load(stream)
        wanted = _wanted(config)
        if wanted:
            if not driver_works(lab):
                err(FAILED)
                return 1
            problem = _edit(lab, config, wanted)
            if problem:
                err(f"nvidia-container-cli: device error: {problem}: unknown device")
                return 1
            with open(path, "w", encoding="utf-8") as stream:
                json.dump(config, stream)
            _note(lab, args)
    runc = shutil.which("runc") or "/usr/sbin/runc"
    os.execv(runc, [runc, *args])  # noqa: S606


def _bundle(args: list[str]) -> str:
    for number, word in enumerate(args):
        if word in ("--bundle", "-b") and number + 1 < len(args):
            return args[number + 1]
        if word.startswith("--bundle="):
            return word.partition("=")[2]
    return "."


def _note(lab: Lab, args: list[str]) -> None:
    """Remember the container's pid file: while it lives the driver cannot be unloaded."""
    for number, word in enumerate(args):
        if word == "--pid-file" and number + 1 < len(args):
            noted = lab.read("state/boot/containers.json", [])
            lab.write("state/boot/containers.json", [*noted[-50:], os.path.abspath(args[number + 1])])


def _wanted(config: dict[str, Any]) -> list[str]:
    for entry in config.get("process", {}).get("env", []):
        name, _, value = entry.partition("=")
        if name == "NVIDIA_VISIBLE_DEVICES":
            return [] if value in ("", "void", "none") else value.split(",")
    return []


def _edit(lab: Lab, config: dict[str, Any], wanted: list[str]) -> str | None:
    known = dict(devices(lab))
    nodes = list(common_nodes(lab))
    for name in wanted:
        if name not in known:
            return name
        nodes += known[name]
    linux = config.setdefault("linux", {})
    listed = linux.setdefault("devices", [])
    rules = linux.setdefault("resources", {}).setdefault("devices", [])
    for node in dict.fromkeys(nodes):
        device = os.stat(node).st_rdev
        numbers = {"major": os.major(device), "minor": os.minor(device)}
        listed.append({"path": node, "type": "c", **numbers, "fileMode": 0o666, "uid": 0, "gid": 0})
        rules.append({"allow": True, "type": "c", **numbers, "access": "rwm"})
    for path in MOUNTS:
        options = ["ro", "nosuid", "nodev", "rbind", "rprivate"]
        config.setdefault("mounts", []).append(
            {"destination": path, "type": "bind", "source": path, "options": options}
        )
    return None


def hook(lab: Lab, args: list[str], out: Out, err: Out) -> int:
    """Run `nvidia-container-runtime-hook prestart` (what `docker run --gpus` calls): refuses without a driver."""
    if not driver_works(lab):
        err(FAILED)
        return 1
    return 0


def cli(lab: Lab, args: list[str], out: Out, err: Out) -> int:
    """Run `nvidia-container-cli --version | info | list`."""
    version = lab.stand_in("libnvidia-container-tools") or ""
    if args[:1] in (["--version"], ["-V"]):
        out(f"cli-version: {version}\nlib-version: {version}\nbuild: simulated in the metalserve lab")
        return 0
    if not driver_works(lab):
        err(FAILED)
        return 1
    out(f"NVRM version:   {lab.module_version()}")
    for name, nodes in devices(lab):
        if name.isdigit():
            out(f"Device Index:   {name}\nDevice Path:    {nodes[0]}")
    return 0
