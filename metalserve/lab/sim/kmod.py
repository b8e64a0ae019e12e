"""modprobe, rmmod, modinfo and lsmod for the NVIDIA modules and nouveau; everything else goes to the real tools."""

from __future__ import annotations

import os

from .grub import kernel
from .proc import refresh
from .state import Lab, alive
from .view import forget_fabric, gpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Out = Callable[[str], None]

NEEDS = {
    "nvidia": (),
    "nvidia_uvm": ("nvidia",),
    "nvidia_modeset": ("nvidia",),
    "nvidia_drm": ("nvidia_modeset", "nvidia"),
    "nvidia_peermem": ("nvidia",),
    "nouveau": (),
}
"""Simulated modules, each with what it stands on."""

SIZES = {
    "nvidia": 14405632,
    "nvidia_uvm": 2117632,
    "nvidia_modeset": 1724416,
    "nvidia_drm": 139264,
    "nvidia_peermem": 16384,
    "nouveau": 3096576,
}


def simulated(name: str) -> bool:
    """Whether a module is one of ours."""
    return name.replace("-", "_") in NEEDS


def module_file(lab: Lab, name: str, release: str | None = None) -> dict[str, str] | None:
    """What the stand-in module on disk says about itself, or None when it was not built for that kernel.

    Without a release: for the running kernel.
    """
    path = lab.file(f"/lib/modules/{release or kernel(lab)}/updates/dkms/{name.replace('_', '-')}.ko")
    try:
        with open(path, encoding="utf-8") as stream:
            lines = stream.read().splitlines()
    except OSError:
        return None
    found = dict(line.split(": ", 1) for line in lines if ": " in line)
    found["filename"] = path
    return found


def configuration(lab: Lab) -> list[list[str]]:
    """The statements of modprobe.d, each as its words; a file in /etc hides one of the same name elsewhere."""
    files: dict[str, str] = {}
    for directory in ("/usr/lib/modprobe.d", "/lib/modprobe.d", "/run/modprobe.d", "/etc/modprobe.d"):
        try:
            names = os.listdir(lab.file(directory))
        except OSError:
            continue
        files.update({name: lab.file(f"{directory}/{name}") for name in names if name.endswith(".conf")})
    statements = []
    for name in sorted(files):
        try:
            with open(files[name], encoding="utf-8", errors="replace") as stream:
                text = stream.read()
        except OSError:
            continue
        statements += [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return statements


def blacklisted(lab: Lab, name: str) -> bool:
    """Whether modprobe.d keeps a module from being loaded by itself at boot."""
    for words in configuration(lab):
        if words[:1] == ["blacklist"] and words[1:2] and words[1].replace("-", "_") == name:
            return True
        if words[:1] == ["install"] and words[1:2] == [name] and words[2:3] in (["/bin/false"], ["/bin/true"]):
            return True
    return False


def load(lab: Lab, name: str, err: Out) -> int:
    """`modprobe NAME` for a simulated module."""
    name = name.replace("-", "_")
    with lab.locked():
        return _load(lab, name, err)


def _load(lab: Lab, name: str, err: Out) -> int:
    loaded = lab.modules()
    if name in loaded:
        return 0
    if name == "nouveau":
        return _load_nouveau(lab, loaded, err)
    release = kernel(lab)
    on_disk = module_file(lab, name)
    if on_disk is None:
        err(f"modprobe: FATAL: Module {name.replace('_', '-')} not found in directory /lib/modules/{release}")
        return 1
    for needed in NEEDS[name]:
        status = _load(lab, needed, err)
        if status:
            return status
    if name == "nvidia":
        problem = _refusal(lab, loaded, on_disk)
        if problem:
            lab.log(*problem, level=4)
            err("modprobe: ERROR: could not insert 'nvidia': No such device")
            return 1
        _log_loading(lab, on_disk)
        lab.cure(("driver-mismatch",))
    loaded = lab.modules()
    loaded[name] = {"version": on_disk.get("version", ""), "flavour": on_disk.get("flavour", "open")}
    lab.set_modules(loaded)
    if name == "nvidia":
        for words in configuration(lab):
            if words[:3] == ["softdep", "nvidia", "post:"]:
                for extra in words[3:]:
                    if simulated(extra) and module_file(lab, extra) is not None:
                        _load(lab, extra.replace("-", "_"), err)
    refresh(lab)
    return 0


def _load_nouveau(lab: Lab, loaded: dict[str, dict[str, str]], err: Out) -> int:
    if not lab.profile["gpus"] or "nvidia" in loaded:
        err("modprobe: ERROR: could not insert 'nouveau': No such device")
        return 1
    loaded["nouveau"] = {"version": "", "flavour": "kernel"}
    lab.set_modules(loaded)
    for gpu in gpus(lab):
        lab.log(f"nouveau {gpu.slot['bus']}: NVIDIA {gpu.model['architecture']} (metalserve lab: simulated)")
    refresh(lab)
    return 0


def _refusal(lab: Lab, loaded: dict[str, dict[str, str]], on_disk: dict[str, str]) -> list[str]:
    """Kernel log lines of a load that finds no GPU to drive; empty when it succeeds."""
    found = gpus(lab)
    version = on_disk.get("version", "")
    if "nouveau" in loaded and found:
        return [
            f"NVRM: GPU {found[0].slot['bus']} is already bound to nouveau.",
            f"NVRM: The NVIDIA probe routine was not called for {len(found)} device(s).",
            "NVRM: This can occur when another driver was loaded and",
            "NVRM: obtained ownership of the NVIDIA device(s).",
            "NVRM: Try unloading the conflicting kernel module (and/or",
            "NVRM: reconfigure your kernel without the conflicting",
            "NVRM: driver(s)), then try loading the NVIDIA kernel module",
            "NVRM: again.",
            "NVRM: No NVIDIA devices probed.",
        ]
    if not found:
        return ["NVRM: No NVIDIA GPU found."]
    broken = lab.read("state/applied.json", {}).get("driver-fails-to-load")
    if broken and lab.fault("driver-fails-to-load") and version != broken["spared"]:
        return [
            f"NVRM: GPU {found[0].slot['bus']}: RmInitAdapter failed! (0x62:0x55:2477)",
            f"NVRM: GPU {found[0].slot['bus']}: rm_init_adapter failed, device minor number 0",
        ]
    if found[0].model["open_modules"] == "required" and on_disk.get("flavour") == "proprietary":
        lines = []
        for gpu in found:
            lines += [
                f"NVRM: The NVIDIA GPU {gpu.slot['bus']} (PCI ID: 10de:{gpu.model['pci_device']})",
                f"NVRM: installed in this system requires use of the NVIDIA open kernel modules ({version}).",
            ]
        return [*lines, "NVRM: None of the NVIDIA devices were initialized."]
    return []


def _log_loading(lab: Lab, on_disk: dict[str, str]) -> None:
    version, flavour = on_disk.get("version", ""), on_disk.get("flavour", "open")
    lab.log(
        "nvidia: loading out-of-tree module taints kernel.",
        "nvidia-nvlink: Nvlink Core is being initialized, major device number 510",
        *(f"nvidia {gpu.slot['bus']}: enabling device (0000 -> 0002)" for gpu in gpus(lab)),
        f"NVRM: loading NVIDIA UNIX {'Open ' if flavour == 'open' else ''}{_machine()} Kernel Module  {version}  "
        "Release Build  (metalserve-lab@simulated)",
    )


def _machine() -> str:
    return os.uname().machine


def unload(lab: Lab, names: list[str], err: Out, tool: str = "rmmod") -> int:
    """`rmmod NAME...` for simulated modules; like the real tool it goes on after a refusal."""
    status = 0
    with lab.locked():
        for raw in names:
            name = raw.replace("-", "_")
            loaded = lab.modules()
            users = [other for other in loaded if name in NEEDS[other]]
            if name not in loaded:
                refusal = "is not currently loaded"
            elif users:
                refusal = f"is in use by: {' '.join(users)}"
            elif _in_use(lab, name):
                refusal = "is in use"
            else:
                del loaded[name]
                lab.set_modules(loaded)
                if name == "nvidia":
                    forget_fabric(lab)
                    lab.log("nvidia-nvlink: Unregistered Nvlink Core, major device number 510")
                continue
            err(f"{tool}: ERROR: Module {name} {refusal}")
            status = 1
        refresh(lab)
    return status


def _in_use(lab: Lab, name: str) -> bool:
    """nouveau holds the console; nvidia is held by its daemons and by containers that run on the GPUs."""
    if name == "nouveau":
        return True
    if name == "nvidia_uvm":
        return _container_runs(lab)
    if name == "nvidia":
        if lab.fault("driver-held"):
            return True
        return any((lab.daemon("fabricmanager"), lab.daemon("persistenced"))) or _container_runs(lab)
    return False


def _container_runs(lab: Lab) -> bool:
    """Whether a container that the stand-in runtime gave GPUs to is alive (its pid file was noted)."""
    for path in lab.read("state/boot/containers.json", []):
        try:
            with open(path, encoding="utf-8") as stream:
                if alive(int(stream.read())):
                    return True
        except (OSError, ValueError):
            continue
    return False


def listing(lab: Lab) -> list[str]:
    """Lines of /proc/modules for the loaded simulated modules."""
    loaded = lab.modules()
    lines = []
    for name in reversed(list(loaded)):
        users = [other for other in loaded if name in NEEDS[other]]
        count = len(users) + int(_in_use(lab, name))
        lines.append(
            f"{name} {SIZES[name]} {count} {''.join(user + ',' for user in users) or '-'} Live 0x0000000000000000"
            f"{' (O)' if name.startswith('nvidia') else ''}"
        )
    return lines


def lsmod(lab: Lab, out: Out, real: list[str]) -> int:
    """`lsmod`: the simulated modules, then what the real tool says."""
    out("Module                  Size  Used by")
    for line in listing(lab):
        name, size, count, users = line.split()[:4]
        out(f"{name:<19} {size:>8}  {count} {'' if users == '-' else users.rstrip(',')}".rstrip())
    for line in real:
        out(line)
    return 0


def modinfo(lab: Lab, names: list[str], field: str | None, out: Out, err: Out, release: str | None = None) -> int:
    """`modinfo [-F FIELD] [-k KERNEL] NAME...` for simulated modules."""
    status = 0
    for name in names:
        if name.replace("-", "_") == "nouveau":
            out("kernel/drivers/gpu/drm/nouveau/nouveau.ko" if field == "filename" else "")
            continue
        found = module_file(lab, name, release)
        if found is None:
            err(f"modinfo: ERROR: Module {name} not found.")
            status = 1
        elif field is not None:
            if field in found:
                out(found[field])
        else:
            order = ("filename", "version", "license", "description", "name", "vermagic")
            for key in (k for k in order if k in found):
                out(f"{key + ':':<15} {found[key]}")
    return status
