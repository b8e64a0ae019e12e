"""Entry of all simulated tools, called through run.py by the wrappers in bin/."""

from __future__ import annotations

import os
import sys

from .state import ROOT, Lab

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

REAL = "/usr/metalserve-lab"
"""Where install.sh diverts the real tools to; at this depth their relative links still hold."""


def _out(line: str) -> None:
    sys.stdout.write(line + "\n")


def _err(line: str) -> None:
    sys.stderr.write(line + "\n")


def real(tool: str, args: list[str]) -> NoReturn:
    """Become the real tool."""
    path = f"{REAL}/{tool}"
    if not os.path.exists(path):
        _err(f"{tool}: not installed on this lab host (and not simulated for these arguments)")
        sys.exit(127)
    os.execv(path, [path, *args])  # noqa: S606


def _modprobe(lab: Lab, args: list[str]) -> int:
    from . import kmod

    words = [word for word in args if not word.startswith("-")]
    names = words[:1]
    remove = any(word in ("-r", "--remove") for word in args)
    dry = any(word in ("-n", "--dry-run", "--show") for word in args)
    everything = any(word in ("-a", "--all") for word in args)
    if everything or remove:
        names = words
    ours = [name for name in names if kmod.simulated(name)]
    if not ours:
        real("modprobe", args)
    if remove:
        return kmod.unload(lab, ours, _err, "modprobe")
    status = 0
    for name in ours:
        if dry:
            status |= int(kmod.module_file(lab, name) is None and name != "nouveau")
        else:
            status |= kmod.load(lab, name, _err)
    return status


def _rmmod(lab: Lab, args: list[str]) -> int:
    from . import kmod

    names = [word for word in args if not word.startswith("-")]
    if not any(kmod.simulated(name) for name in names):
        real("rmmod", args)
    return kmod.unload(lab, names, _err)


def _modinfo(lab: Lab, args: list[str]) -> int:
    from . import kmod

    field, release, names, words = None, None, [], list(args)
    while words:
        word = words.pop(0)
        if word in ("-F", "--field", "-k", "--set-version", "-b", "--basedir"):
            value = words.pop(0) if words else ""
            field = value if word in ("-F", "--field") else field
            release = value if word == "-k" else release
        elif word in ("-n", "--filename"):
            field = "filename"
        elif not word.startswith("-"):
            names.append(word)
    if not any(kmod.simulated(name) for name in names):
        real("modinfo", args)
    return kmod.modinfo(lab, names, field, _out, _err, release)


def _lsmod(lab: Lab, args: list[str]) -> int:
    from . import kmod, proc

    # in a container the machine's modules are not the host's
    hidden = os.path.ismount("/proc/modules") and not lab.only_gpus
    rest = [] if hidden else proc.real_modules(lab)
    lines = []
    for line in rest:
        name, size, count, users = line.split()[:4]
        lines.append(f"{name:<19} {size:>8}  {count} {'' if users == '-' else users.rstrip(',')}".rstrip())
    return kmod.lsmod(lab, _out, lines)


def run(lab: Lab, tool: str, args: list[str]) -> int:
    """Run one simulated tool; returns its exit status."""
    if tool in ("modprobe", "rmmod", "modinfo", "lsmod"):
        return {"modprobe": _modprobe, "rmmod": _rmmod, "modinfo": _modinfo, "lsmod": _lsmod}[tool](lab, args)
    if tool == "nvidia-smi":
        from . import smi

        return smi.main(lab, args, _out, _err)
    if tool == "lspci":
        from . import lspci

        return lspci.main(lab, args, _out, _err)
    if tool == "nvme":
        from . import nvme

        status = nvme.main(lab, args, _out, _err)
        return real("nvme", args) if status is None else status
    if tool == "dmesg":
        from . import dmesg

        _catch_up(lab)
        return dmesg.main(lab, args, _out, _err)
    if tool in ("nv-fabricmanager", "nvidia-persistenced"):
        from . import fabric

        return (fabric.main if tool == "nv-fabricmanager" else fabric.persistenced)(lab, args, _out, _err)
    if tool == "nvidia-ctk":
        from . import ctk

        return ctk.main(lab, args, _out, _err)
    if tool in ("nvidia-container-runtime", "nvidia-container-runtime-hook", "nvidia-container-cli"):
        from . import container

        call = {"runtime": container.runtime, "runtime-hook": container.hook, "cli": container.cli}
        return call[tool.removeprefix("nvidia-container-")](lab, args, _out, _err)
    if tool == "dcgmi":
        from . import dcgm

        return dcgm.main(lab, args, _out, _err)
    if tool == "dcgm-exporter":
        from . import dcgm_exporter

        return dcgm_exporter.main(lab, args, _out, _err)
    return _own(lab, tool, args)


def _own(lab: Lab, tool: str, args: list[str]) -> int:
    """The lab's own commands: boot, watch, fault-apply, udevadm, update-grub."""
    from . import boot, disks, effects, grub

    if tool == "update-grub":
        return grub.main(lab, args, _out, _err)
    if tool == "boot":
        return boot.main(lab, args, _out, _err)
    if tool == "watch":
        return boot.watch(lab, args, _out, _err)
    if tool == "udevadm":
        status = boot.udevadm(lab, args, _out, _err)
        return real("udevadm", args) if status is None else status
    if tool == "fault-apply":
        effects.sync(lab)
        disks.sync(lab)
        return 0
    _err(f"{tool}: no such tool in the metalserve lab")
    return 127


def _catch_up(lab: Lab) -> None:
    """A fault injected a moment ago must show in the log now, not at the watcher's next look."""
    if os.geteuid() == 0:
        from . import effects

        effects.sync(lab)


def main(argv: list[str]) -> NoReturn:
    """Run `argv[0]` with the rest as its arguments, and exit."""
    try:
        status = run(Lab(ROOT), argv[0], argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (head, grep -q) has gone; the real tools die of SIGPIPE here.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = 141
    sys.exit(status)
