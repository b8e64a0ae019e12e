"""nvidia-container-runtime, its hook and nvidia-container-cli: stand-ins that hand on to runc.

The runtime does to a container's configuration what the real one does in effect: the GPUs named by
NVIDIA_VISIBLE_DEVICES appear in it as device nodes. Without a working driver the container does not start.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

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
        path = os.path.join(_option(args, "--bundle", "-b") or ".", "config.json")
        with open(path, encoding="utf-8") as stream:
            config = json.load(stream)
        wanted = _wanted(config)
        if wanted:
            if not driver_works(lab):
                return _refuse(args, FAILED, err)
            problem = _edit(lab, config, wanted)
            if problem:
                return _refuse(args, f"nvidia-container-cli: device error: {problem}: unknown device", err)
            with open(path, "w", encoding="utf-8") as stream:
                json.dump(config, stream)
            _note(lab, args)
    runc = shutil.which("runc") or "/usr/sbin/runc"
    os.execv(runc, [runc, *args])  # noqa: S606


def _refuse(args: list[str], words: str, err: Out) -> int:
    """Fail; containerd reads the reason from the log file that it names."""
    path = _option(args, "--log")
    if path:
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"level": "error", "msg": words}) + "\n")
    err(words)
    return 1


def _option(args: list[str], *names: str) -> str | None:
    for number, word in enumerate(args):
        if word in names and number + 1 < len(args):
            return args[number + 1]
        if word.partition("=")[0] in names and "=" in word:
            return word.partition("=")[2]
    return None


def _note(lab: Lab, args: list[str]) -> None:
    """Remember the container's pid file: while it lives the driver cannot be unloaded."""
    path = _option(args, "--pid-file")
    if path:
        noted = lab.read("state/boot/containers.json", [])
        lab.write("state/boot/containers.json", [*noted[-50:], os.path.abspath(path)])


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
    """Run `nvidia-container-runtime-hook prestart` (what `docker run --gpus` adds).

    runc calls it when the container's file system is mounted but not yet its root, and gives the container's state
    on stdin; the nodes are made in there, as the real nvidia-container-cli does.
    """
    if args[-1:] != ["prestart"]:
        return 0
    state = json.load(sys.stdin)
    with open(os.path.join(state["bundle"], "config.json"), encoding="utf-8") as stream:
        config = json.load(stream)
    wanted = _wanted(config)
    if not wanted:
        return 0
    if not driver_works(lab):
        err(FAILED)
        return 1
    known = dict(devices(lab))
    unknown = next((name for name in wanted if name not in known), None)
    if unknown is not None:
        err(f"nvidia-container-cli: device error: {unknown}: unknown device")
        return 1
    root = os.path.join(state["bundle"], config["root"]["path"])
    nodes = dict.fromkeys([*common_nodes(lab), *(node for name in wanted for node in known[name])])
    script = ["set -e"]
    for node in nodes:
        device = os.stat(node).st_rdev
        script.append(f"mknod -m 666 '{root}{node}' c {os.major(device)} {os.minor(device)}")
    for path in MOUNTS:
        make = f"mkdir -p '{root}{path}'"
        if os.path.isfile(path):
            make = f"mkdir -p '{root}{os.path.dirname(path)}'; touch '{root}{path}'"
        script.append(f"{make}; mount --bind '{path}' '{root}{path}'; mount -o remount,ro,bind '{root}{path}'")
    command = ["nsenter", f"--target={state['pid']}", "--mount", "sh", "-c", "\n".join(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        err(f"nvidia-container-cli: mount error: {done.stderr.strip()}")
    return done.returncode


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
