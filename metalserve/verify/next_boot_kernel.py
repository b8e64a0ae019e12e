"""Checks of the kernel that boots next: is it there, with headers, an initramfs, and without nouveau. Pure."""

from __future__ import annotations

import re

from metalserve.verify.finding import Finding
from metalserve.verify.next_boot_case import HOST, Case, Look, good, unclear, without
from metalserve.verify.next_kernel import initrd_wanted

_GUIDE = "docs.nvidia.com/datacenter/tesla/driver-installation-guide"
_ARGUMENT = re.compile(
    r"(?:^|\s)(?:nouveau\.modeset=0|nouveau\.blacklist=1|(?:modprobe\.blacklist|module_blacklist|rd\.driver\.blacklist)"
    r"=(?:\S*,)?nouveau(?:,\S*)?)(?:\s|$)"
)
_TAKES_NVIDIA = re.compile(r"/etc/initramfs-tools/modules:|(?:add|force)_drivers")


def check_kernel(case: Case) -> Look:
    """Tell which kernel boots next and why, and whether its files are there."""
    chosen, kernel, check, expected = case.chosen, case.kernel, "next-boot-kernel", "a kernel that is known and whole"
    if chosen.missing:
        return _bad(
            check,
            expected,
            f"{chosen.missing} is not in /boot; {chosen.why}",
            "the boot loader stops and waits for somebody at the console",
            "run update-grub (grub2-mkconfig), or install that kernel again",
            chosen.source,
            breaks=f"the boot loader is to start {chosen.missing}, which is not in /boot",
        )
    if chosen.release is None or kernel is None:
        why = chosen.why if chosen.release is None else f"kernel {chosen.release} ({chosen.why}) is not in /boot"
        remedy = "look at the boot loader's configuration by hand; make one kernel its default"
        return unclear(check, expected, f"which kernel boots next is not known: {why}", remedy, chosen.source)
    broken = _files(case)
    if broken:
        return broken
    running = "" if kernel.release == case.boot.running else f" (running now: {case.boot.running})"
    observed = f"kernel {kernel.release}{running}: {chosen.why}"
    if chosen.notes:
        return _bad(
            check,
            expected,
            f"{observed}; {'; '.join(chosen.notes)}",
            "another kernel boots than somebody meant to",
            "run update-grub (grub2-mkconfig), then look again",
            chosen.source,
        )
    return good(check, expected, observed, chosen.source)


def _files(case: Case) -> Look | None:
    kernel = case.kernel
    assert kernel is not None
    image, initrd = kernel.image, kernel.initrd
    what = ""
    if image is not None and image.size == 0:
        what = f"{image.path} is empty"
    elif initrd is not None and initrd.size == 0:
        what = f"{initrd.path} is empty"
    elif initrd is None and image is not None and initrd_wanted(case.boot, kernel):
        what = f"kernel {kernel.release} has no initramfs, the others have one"
    if not what:
        return None
    return _bad(
        "next-boot-kernel",
        "a kernel that is known and whole",
        what,
        "the kernel cannot mount its root file system: the host does not come back",
        f"make room in /boot, then `update-initramfs -c -k {kernel.release}` (dracut --force)",
        case.chosen.source,
        breaks=what,
    )


def check_headers(case: Case) -> Look:
    """Check that DKMS can build for the kernel that boots next."""
    check, source = "next-boot-headers", f"{_GUIDE}: kernel headers"
    expected = f"headers of kernel {case.name}"
    if not case.built_here:
        return without(check, expected, "the driver's modules are not built on this host", source)
    if case.kernel is None:
        return unclear(check, expected, "its kernel is not known", "", source, unsure=False)
    if case.kernel.headers:
        return good(check, expected, "they are there", source)
    return _bad(
        check,
        expected,
        f"/lib/modules/{case.name}/build leads to no headers",
        "DKMS cannot build a module for it, now or with the next driver",
        f"install linux-headers-{case.name} (role nvidia_driver does), and the headers' meta package for later ones",
        source,
    )


def check_nouveau(case: Case) -> Look:
    """Check that nouveau is kept from taking the GPUs at the next boot."""
    check, source, expected = "next-boot-nouveau", f"{_GUIDE}: disabling nouveau", "nouveau kept out"
    if case.kernel is None:
        return unclear(check, expected, "the kernel is not known", "", source, unsure=False)
    if not case.kernel.nouveau:
        return good(check, expected, f"kernel {case.name} has no nouveau", source)
    found = _ARGUMENT.search(case.chosen.arguments)
    if found:
        return good(check, expected, f"kept out by the kernel command line ({found.group().strip()})", source)
    if case.boot.blacklists:
        path, _, line = case.boot.blacklists[0]
        return good(check, expected, f"kept out by {path}", source, evidence=line)
    return _bad(
        check,
        expected,
        f"kernel {case.name} has nouveau, and nothing in modprobe.d or on its command line keeps it out",
        "nouveau takes the GPUs before the driver does: no CUDA",
        "blacklist nouveau and rebuild the initramfs (roles base and nvidia_driver do)",
        source,
        breaks="nouveau is not kept out and takes the GPUs",
    )


def check_initramfs(case: Case) -> Look:
    """Judge the initramfs by its time: what it was made before, it cannot know of."""
    check, expected = "next-boot-initramfs", "an initramfs that is newer than what it must hold"
    source = "initramfs-tools(7), dracut(8): modules and modprobe.d are copied when it is made"
    kernel = case.kernel
    if kernel is None or kernel.initrd is None:
        why = "the kernel is not known" if kernel is None else f"kernel {case.name} has no initramfs"
        return without(check, expected, why, source)
    initrd = kernel.initrd
    stale = [f for f in kernel.module_files if f.time > initrd.time]
    takes = [line for line in case.boot.early if _TAKES_NVIDIA.search(line) and "omit_drivers" not in line]
    if takes and stale:
        return _bad(
            check,
            expected,
            f"{initrd.path} holds the nvidia module, and is older than {stale[0].path}",
            "the old module is loaded from it, and user space does not fit",
            f"update-initramfs -u -k {case.name} (dracut --force)",
            source,
            evidence=takes[0],
            breaks=f"{initrd.path} loads an nvidia module from before the last build",
        )
    times = [stamp for _, stamp, _ in case.boot.blacklists]
    if kernel.nouveau and times and min(times) > initrd.time and not _booted_well(case, initrd.time):
        return Look(
            Finding(
                check,
                "warn",
                HOST,
                expected,
                f"{initrd.path} is older than the blacklist of nouveau",
                "where it holds nouveau, that takes the GPUs before the blacklist is read",
                f"update-initramfs -u -k {case.name} (role nvidia_driver does)",
                source,
                case.boot.blacklists[0][0],
            ),
            unsure=f"{initrd.path} is older than the blacklist of nouveau and may load it",
        )
    return good(check, expected, f"{initrd.path} is newer", source)


def _booted_well(case: Case, made: float) -> bool:
    """Whether this very initramfs started the host as it runs now, without nouveau."""
    booted = case.boot.booted_at
    same = case.chosen.release == case.boot.running and booted is not None and made <= booted
    return same and not case.hardware.nouveau_loaded


def _bad(
    check: str,
    expected: str,
    observed: str,
    impact: str,
    remedy: str,
    source: str,
    *,
    evidence: str = "",
    breaks: str = "",
) -> Look:
    return Look(Finding(check, "warn", HOST, expected, observed, impact, remedy, source, evidence), breaks)
