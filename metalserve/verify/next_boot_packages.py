"""Checks of what will change a host before its next boot: dpkg, apt, unattended-upgrades, ends of life, room. Pure."""

from __future__ import annotations

import re
from fnmatch import fnmatch

from metalserve.catalogue.loader import load_cuda_drivers, threshold
from metalserve.hardware.boot import DiskKernel, Upgrade
from metalserve.releases.check import last_day
from metalserve.releases.model import version_key
from metalserve.releases.rules import load_rules, load_vulnerabilities
from metalserve.verify.finding import Finding
from metalserve.verify.next_boot_case import HOST, Case, Look, good, unclear, upstream, without

_UNATTENDED = "unattended-upgrades: Origins-Pattern, Package-Blacklist; apt-cache policy"
_PINNING = "docs.nvidia.com/datacenter/tesla/driver-installation-guide: version locking"
_MOVES = re.compile(r"nvidia|^libcuda|^cuda-drivers|^nvlsm$")
_KERNEL = re.compile(r"^linux-")
_DRIVER = re.compile(r"(lib)?nvidia-(?!container|driver-pinning)|^libcuda1$|^cuda-drivers")
_TOOLKITS = ("nvidia-container-toolkit-base", "nvidia-container-toolkit", "libnvidia-container1")
_FIELDS = {
    "o": "o", "origin": "o", "l": "l", "label": "l", "a": "a", "suite": "a", "archive": "a",
    "c": "c", "component": "c", "n": "n", "codename": "n",
}  # fmt: skip
"""Words of unattended-upgrades' patterns -> letters of `apt-cache policy` (its match_whitelist_string)."""


def check_half_installed(case: Case) -> Look:
    """Check that dpkg left nothing half-way."""
    check, expected, source = "next-boot-packages", "no package left half-way", "dpkg(1): package states"
    half = [p for p in case.boot.packages if not p.whole]
    if not half and not case.boot.interrupted:
        return good(check, expected, "none", source)
    names = ", ".join(f"{p.name} ({p.status.strip()})" for p in half[:8]) or "dpkg's journal is not empty"
    impact = "every further installation fails, and what they set up (modules, initramfs, units) may be missing"
    remedy = "dpkg --configure -a (role nvidia_driver does)"
    return Look(Finding(check, "warn", HOST, expected, names, impact, remedy, source))


def check_pins(case: Case) -> Look:
    """Check that nothing but a release moves the driver: a pin on its version, or a hold on each package."""
    check, wanted = "next-boot-pins", case.release.driver.version
    expected = f"apt keeps the driver at {wanted}"
    installed = [p for p in case.boot.packages if p.whole and _DRIVER.search(p.name)]
    if not installed:
        return without(check, expected, "no driver package is installed", _PINNING)
    pins = [(pin, file) for file, _, pin, priority in case.boot.apt.pins if priority >= 1000]
    exact = [(pin, file) for pin, file in pins if _pinned(pin).rstrip("*-.") == wanted]
    if exact:
        return good(check, expected, f"{exact[0][1]}: {exact[0][0]}", _PINNING)
    if all(p.held for p in installed):
        return good(check, expected, f"{len(installed)} packages are held", _PINNING)
    if pins:
        observed = f"{pins[0][1]} keeps it at {_pinned(pins[0][0])}"
    else:
        free = [p.name for p in installed if not p.held]
        observed = f"neither pinned nor held: {', '.join(free[:4])}"
    return Look(
        Finding(
            check,
            "warn",
            HOST,
            expected,
            observed,
            "an upgrade moves user space under the loaded module: NVML error 18 until a reboot",
            f"install nvidia-driver-pinning-{wanted} (role nvidia_driver does)",
            _PINNING,
        )
    )


def _pinned(pin: str) -> str:
    return pin.removeprefix("version").strip()


def check_upgrades(case: Case) -> list[Look]:
    """Check that unattended-upgrades will not change kernel, driver or Docker, or reboot the host, by itself."""
    apt, check = case.boot.apt, "next-boot-upgrades"
    expected = "no unattended upgrade of kernel, driver or Docker"
    if apt.unattended is None:
        return [without(check, expected, "the host has no apt", _UNATTENDED)]
    if not apt.unattended:
        return [good(check, expected, "unattended-upgrades is not installed or turned off", _UNATTENDED)]
    if apt.upgrades is None:
        remedy = "apt-cache policy; unattended-upgrade --dry-run"
        return [unclear(check, expected, "apt's candidates could not be read", remedy, _UNATTENDED, unsure=False)]
    held = {p.name for p in case.boot.packages if p.held}
    coming = [u for u in apt.upgrades if u.name not in held and _allowed(u, apt.allowed)]
    coming = [u for u in coming if not any(_matches(pattern, u.name) for pattern in apt.blacklist)]
    timer = f"apt-daily-upgrade.timer is {apt.timer}" if apt.timer not in ("active", "") else ""
    when = f"next at {apt.next_run}" if apt.next_run else timer or "when it next runs"
    looks = []
    if not coming:
        kept = f", {len(apt.upgrades)} newer version(s) are kept back" if apt.upgrades else ""
        looks.append(
            good(check, expected, f"unattended-upgrades is on ({when}) and would take none of them{kept}", _UNATTENDED)
        )
    else:
        names = "; ".join(f"{u.name} {u.installed} -> {u.candidate}" for u in coming[:6])
        observed = f"unattended-upgrades is about to upgrade ({when}): {names}"
        remedy = "add the names to Unattended-Upgrade::Package-Blacklist (role base does), or upgrade with a release"
        found = Finding(check, "warn", HOST, expected, observed, _upgrade_impact(coming), remedy, _UNATTENDED)
        looks.append(Look(found))
    if apt.reboot:
        observed = f"unattended-upgrades reboots the host by itself after an upgrade that asks for it ({apt.reboot})"
        impact = "a node that does not survive a reboot is lost at night, a serving one goes away"
        remedy = 'Unattended-Upgrade::Automatic-Reboot "false"'
        found = Finding(
            "next-boot-auto-reboot", "warn", HOST, "no reboot by itself", observed, impact, remedy, _UNATTENDED
        )
        looks.append(Look(found))
    return looks


def _upgrade_impact(coming: list[Upgrade]) -> str:
    words = []
    if any(_MOVES.search(u.name) for u in coming):
        words.append("user space changes under the loaded module: NVML error 18 until a reboot")
    if any(_KERNEL.search(u.name) for u in coming):
        words.append("another kernel boots next, and needs headers and a module of its own")
    if any(u.name.startswith(("docker", "containerd", "runc")) for u in coming):
        words.append("Docker restarts")
    return "; ".join(words)


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.match(pattern, name) is not None  # as unattended-upgrades itself: from the start of the name
    except re.error:
        return False


def _allowed(upgrade: Upgrade, patterns: tuple[str, ...]) -> bool:
    """Whether one of the candidate's repositories is an allowed origin."""
    for release in upgrade.origins:
        has = dict(word.split("=", 1) for word in release.split(",") if "=" in word)
        for pattern in patterns:
            words = [word.split("=", 1) for word in pattern.split(",") if "=" in word]
            known = [(_FIELDS.get(what.strip()), value.strip()) for what, value in words]
            if known and all(field is not None and fnmatch(has.get(field, ""), value) for field, value in known):
                return True
    return False


def check_branch(case: Case) -> Look:
    """Check that the driver's branch still gets security fixes."""
    module = case.kernel.module if case.kernel is not None else None
    version = (module.version if module is not None else "") or case.hardware.module_version or ""
    check, expected = "next-boot-branch", "a driver branch that is supported"
    found = re.match(r"\d+", version)
    row = load_cuda_drivers().branch(int(found.group())) if found else None
    if row is None:
        why = f"branch {found.group()} is not in the catalogue" if found else "the driver's version is not known"
        return without(check, expected, why, "catalogue/cuda_drivers.yaml")
    end = last_day(row.eol) if row.eol else None
    if row.status != "eol" and (end is None or end >= case.today):
        until = f" until {end}" if end is not None else ""
        return good(check, expected, f"branch {row.branch} is supported{until}", row.source)
    when = f" on {end}" if end is not None else ""
    observed = f"branch {row.branch} had its end of life{when}"
    remedy = "give the host a release of a supported branch (`metalserve release list`)"
    return Look(Finding(check, "warn", HOST, expected, observed, "no security fixes any more", remedy, row.source))


def check_toolkit(case: Case) -> Look:
    """Check that the container toolkit has no known way out of a container."""
    rules = load_rules()
    rule = rules.container_toolkit
    source = rules.sources[rule.source]
    check, expected = "next-boot-toolkit", f"container toolkit {rule.minimum_safe} or newer"
    package = next((p for name in _TOOLKITS if (p := case.boot.package(name)) is not None), None)
    if package is None:
        return without(check, expected, "the container toolkit is not installed", source)
    version = upstream(package.version)
    if version_key(version) >= version_key(rule.minimum_safe):
        return good(check, expected, f"container toolkit {version}", source)
    open_to = [c for row in load_vulnerabilities().container_toolkit if row.opens(version) for c in row.cves]
    observed = f"container toolkit {version} is open to {', '.join(open_to) or 'known vulnerabilities'}"
    remedy = f"run role container_runtime with a release that has {rule.minimum_safe} or newer"
    impact = "a container can take over the host"
    return Look(Finding(check, "warn", HOST, expected, observed, impact, remedy, source, package.version))


def check_space(case: Case) -> list[Look]:
    """Check that the next kernel and the next driver find room."""
    looks = []
    need = boot_need_mib(case.boot.kernels)
    for path, wanted, source in (
        ("/boot", need, "largest kernel in /boot, its initramfs twice: the new one is written beside the old"),
        ("/var", threshold("var-free").value, threshold("var-free").source),
    ):
        space = case.boot.spaces.get(path)
        if space is None or not wanted:
            continue
        free = space.free_kib / 1024
        check, expected = "next-boot-space", f"{wanted:.0f} MiB free in {path}"
        observed = f"{free:.0f} MiB free in {path} (file system {space.mount})"
        if free >= wanted:
            looks.append(good(check, expected, observed, source))
            continue
        impact = "the next kernel or driver is installed half-way: no initramfs, no module"
        remedy = "apt-get autoremove --purge (old kernels), apt-get clean; or a larger file system"
        looks.append(Look(Finding(check, "warn", HOST, expected, observed, impact, remedy, source)))
    return looks


def boot_need_mib(kernels: tuple[DiskKernel, ...]) -> float:
    """Return the room in MiB that one more kernel takes in /boot; 0 when no kernel is there to judge by."""
    sizes = [k.image.size + 2 * (k.initrd.size if k.initrd else 0) for k in kernels if k.image is not None]
    return max(sizes, default=0) / 2**20
