"""nvidia-ctk: the container toolkit's command, as far as hosts are set up with it. It really edits and writes files."""

from __future__ import annotations

import json
import os
import sys
import time

from .state import Lab
from .view import gpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Out = Callable[[str], None]

NO_DRIVER = "failed to create device CDI specs: failed to initialize NVML: Driver Not Loaded"
MOUNTS = ("/opt/metalserve-lab", "/usr/bin/nvidia-smi", "/usr/share/metalserve-lab")
"""What a container gets of the simulation, where the real toolkit would mount the driver's libraries."""


def version(lab: Lab) -> str:
    """Upstream version of the installed toolkit (`1.20.0`)."""
    return os.environ.get("METALSERVE_LAB_TOOL_VERSION") or lab.stand_in("nvidia-container-toolkit-base") or ""


def _say(level: str, words: str) -> None:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    sys.stderr.write(f'time="{stamp}" level={level} msg={json.dumps(words)}\n')


def main(lab: Lab, args: list[str], out: Out, err: Out) -> int:
    """Run `nvidia-ctk ARGS`."""
    if args[:1] in (["--version"], ["-v"]):
        out(f"NVIDIA Container Toolkit CLI version {version(lab)}\ncommit: simulated-in-the-metalserve-lab")
        return 0
    command, options = args[:2], args[2:]
    if command == ["runtime", "configure"]:
        return _configure(lab, options, out)
    if command == ["cdi", "generate"]:
        return _generate(lab, options, out)
    if command == ["cdi", "list"]:
        return _list(lab, out)
    err(f"nvidia-ctk {' '.join(args)}: not simulated in the metalserve lab")
    return 1


def _option(options: list[str], name: str, default: str = "") -> str:
    for number, word in enumerate(options):
        if word == name and number + 1 < len(options):
            return options[number + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return default


def _flag(options: list[str], *names: str) -> bool:
    return any(word in names or any(word == f"{name}=true" for name in names) for word in options)


def _configure(lab: Lab, options: list[str], out: Out) -> int:
    runtime = _option(options, "--runtime", "docker")
    if runtime != "docker":
        _say("error", f"runtime {runtime} is not simulated in the metalserve lab")
        return 1
    path = lab.file(_option(options, "--config", "/etc/docker/daemon.json"))
    _say(
        "info",
        f"Loading config from {path}" if os.path.exists(path) else "Config file does not exist; using empty config",
    )
    config: dict[str, Any] = {}
    if os.path.exists(path) and os.path.getsize(path):
        try:
            with open(path, encoding="utf-8") as stream:
                config = json.load(stream)
        except ValueError as error:
            _say("error", f"unable to load config: {error}")
            return 1
    config.setdefault("runtimes", {})["nvidia"] = {"args": [], "path": "nvidia-container-runtime"}
    if _flag(options, "--set-as-default", "--nvidia-set-as-default"):
        config["default-runtime"] = "nvidia"
    if _flag(options, "--cdi.enabled", "--cdi.enable", "--enable-cdi"):
        config.setdefault("features", {})["cdi"] = True
    text = json.dumps(config, indent=4)
    if _flag(options, "--dry-run"):
        out(text)
        return 0
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".new", "w", encoding="utf-8") as stream:
        stream.write(text + "\n")
    os.replace(path + ".new", path)
    _say("info", f"Wrote updated config to {path}")
    _say("info", "It is recommended that docker daemon be restarted.")
    return 0


def devices(lab: Lab) -> list[tuple[str, list[str]]]:
    """CDI devices: name -> device nodes."""
    answering = [gpu for gpu in gpus(lab) if not gpu.lost]
    found = []
    for gpu in answering:
        node = [f"/dev/nvidia{gpu.position}"]
        found += [(str(gpu.index), node), (gpu.uuid, node)]
    if answering:
        found.append(("all", [f"/dev/nvidia{gpu.position}" for gpu in answering]))
    return found


def common_nodes(lab: Lab) -> list[str]:
    """Device nodes that every GPU container gets."""
    loaded = lab.modules()
    nodes = ["/dev/nvidiactl"]
    if "nvidia_uvm" in loaded:
        nodes += ["/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"]
    if "nvidia_modeset" in loaded:
        nodes.append("/dev/nvidia-modeset")
    return nodes


def specification(lab: Lab) -> str:
    """The CDI specification, as YAML."""
    lines = ["---", "cdiVersion: 0.7.0", "kind: nvidia.com/gpu", "annotations:", '  metalserve.lab/simulated: "true"']
    lines += ["devices:"]
    for name, nodes in devices(lab):
        lines += [f'- name: "{name}"', "  containerEdits:", "    deviceNodes:"]
        lines += [f"    - path: {node}" for node in nodes]
    lines += ["containerEdits:", "  env:", "  - NVIDIA_VISIBLE_DEVICES=void", "  deviceNodes:"]
    lines += [f"  - path: {node}" for node in common_nodes(lab)]
    lines += ["  mounts:"]
    for path in MOUNTS:
        lines += [f"  - hostPath: {path}", f"    containerPath: {path}"]
        lines += ["    options: [ro, nosuid, nodev, rbind, rprivate]"]
    return "\n".join(lines) + "\n"


def _generate(lab: Lab, options: list[str], out: Out) -> int:
    if lab.module_version() is None or lab.module_version() != lab.stand_in("libnvidia-ml1"):
        _say("error", f"failed to generate CDI spec: {NO_DRIVER}")
        return 1
    text = specification(lab)
    path = _option(options, "--output")
    if not path:
        out(text.rstrip("\n"))
        return 0
    path = lab.file(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".new", "w", encoding="utf-8") as stream:
        stream.write(text)
    os.replace(path + ".new", path)
    _say("info", f"Generated CDI spec with version 0.7.0 at {path}")
    return 0


def _list(lab: Lab, out: Out) -> int:
    names = []
    for directory in ("/etc/cdi", "/var/run/cdi"):
        try:
            files = sorted(os.listdir(lab.file(directory)))
        except OSError:
            continue
        for file in (each for each in files if each.endswith((".yaml", ".json"))):
            with open(lab.file(f"{directory}/{file}"), encoding="utf-8") as stream:
                for line in stream:
                    if line.startswith("- name: "):
                        names.append(f"nvidia.com/gpu={line.split(': ', 1)[1].strip().strip(chr(34))}")
    _say("info", f"Found {len(names)} CDI devices")
    for name in names:
        out(name)
    return 0
