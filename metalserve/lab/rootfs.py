"""Root file systems: one per Debian release, made once, and a thin layer on top that makes it a lab host.

The base is a fresh Debian server: what the roles install is not in it. The layer holds the lab's own files and the
simulated tools; it is quick to make, so that work on the simulation does not rebuild the base.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from metalserve.errors import MetalserveError
from metalserve.lab import guest
from metalserve.lab.layout import Layout
from metalserve.lab.mirrors import Mirrors
from metalserve.lab.system import run, unmount_below

PACKAGES = (
    "apt", "bash-completion", "ca-certificates", "cron", "curl", "dbus", "e2fsprogs", "fdisk", "iproute2",
    "iputils-ping", "kmod", "less", "libpam-systemd", "logrotate", "nano", "netbase", "openssh-server", "pciutils",
    "procps", "python3", "sudo", "systemd", "systemd-sysv", "systemd-timesyncd", "tzdata", "udev",
)  # fmt: skip
"""What a host has before metalserve comes to it. Python is for the simulated tools only."""

# Manual pages, translations and documents cost a third of the unpacking time and nobody reads them on a lab host.
_EXCLUDED = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*", "/usr/share/info/*")
_OPTIONS = ("--variant=minbase", "--mode=root", "--format=directory")

LAB = Path(__file__).resolve().parent
SIMULATION = LAB / "sim"


def base_path(layout: Layout, suite: str) -> Path:
    """Return where the base of a suite lies; its name changes with what it is made of."""
    recipe = repr((suite, PACKAGES, _EXCLUDED, _OPTIONS))
    return layout.cache / f"rootfs-{suite}-{hashlib.sha256(recipe.encode()).hexdigest()[:10]}"


def build_base(layout: Layout, suite: str, mirrors: Mirrors) -> Path:
    """Make the base of a suite with mmdebstrap, unless it is there.

    Raises:
        MetalserveError: mmdebstrap failed; the message names the log.
    """
    target = base_path(layout, suite)
    if target.is_dir():
        return target
    layout.cache.mkdir(parents=True, exist_ok=True)
    building = target.with_name(target.name + ".new")
    unmount_below(building)
    shutil.rmtree(building, ignore_errors=True)
    command = ["mmdebstrap", *_OPTIONS, f"--include={','.join(PACKAGES)}", "--dpkgopt=force-unsafe-io"]
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED]
    command += [f"--aptopt={option}" for option in _apt_network_options()]
    command += [suite, str(building), *mirrors.sources(suite)]
    log = layout.cache / f"rootfs-{suite}.log"
    with log.open("w") as stream:
        # systemd-nspawn and overlay need the tree to be readable by all, whatever umask the user has
        done = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False, umask=0o022)
    if done.returncode != 0:
        said = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("E:")]
        unmount_below(building)
        shutil.rmtree(building, ignore_errors=True)
        raise MetalserveError(
            f"mmdebstrap failed ({done.returncode}): {said[0] if said else 'no message'}", where=str(log)
        )
    building.chmod(0o755)
    building.rename(target)
    return target


def layer_path(layout: Layout, suite: str) -> Path:
    """Return where the lab layer of a suite lies; its name changes with what it is made of."""
    base = base_path(layout, suite)
    digest = tree_digest([LAB / "guest.py", SIMULATION], f"{base.name} {layout.service_url}")
    return layout.cache / f"layer-{suite}-{digest[:10]}"


def build_layer(layout: Layout, suite: str) -> Path:
    """Make the lab layer of a suite over its base, unless one of the same content is there.

    Returns:
        The directory to put above the base in an overlay.
    """
    base, target = base_path(layout, suite), layer_path(layout, suite)
    if target.is_dir():
        return target
    building = target.with_name(target.name + ".new")
    unmount_below(building)
    shutil.rmtree(building, ignore_errors=True)
    upper, work, root = building / "upper", building / "work", building / "root"
    for directory in (upper, work, root):
        directory.mkdir(parents=True)
    upper.chmod(0o755)
    mount_overlay(root, lower=[base], upper=upper, work=work)
    try:
        guest.configure(root, layout, suite)
        _install_simulation(root)
    finally:
        unmount_below(root)
    upper.rename(target)
    shutil.rmtree(building, ignore_errors=True)
    return target


def unpack_template(layout: Layout, packed: Path) -> Path:
    """Make the tree of an OS template (a root file system packed as tar.zst) one that lab hosts can stand on.

    It gets what the lab's own trees have beside Debian: the lab's apt source, the simulated tools, no guesses at
    hardware that a container lacks.

    Returns:
        The directory, complete, in the cache; made once for each content.

    Raises:
        MetalserveError: it cannot be unpacked, or lacks what a lab host needs.
    """
    with packed.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    digest = tree_digest([LAB / "guest.py", SIMULATION], f"{digest} {layout.service_url}")
    target = layout.cache / f"template-{digest[:10]}"
    if target.is_dir():
        return target
    building = target.with_name(target.name + ".new")
    unmount_below(building)
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        run(["tar", "--zstd", "-x", "--numeric-owner", "--xattrs", "-C", building, "-f", packed])
        release = (building / "etc/os-release").read_text()
        suite = re.search(r"^VERSION_CODENAME=(\w+)$", release, re.MULTILINE)
        if suite is None:
            raise MetalserveError("is of no Debian release", where=str(packed))
        guest.configure(building, layout, suite[1])
        if (building / "etc/cloud/cloud.cfg.d").is_dir():
            # a lab host keeps its SSH key over re-installations, as known_hosts has it
            (building / "etc/cloud/cloud.cfg.d/99-metalserve-lab.cfg").write_text("ssh_deletekeys: false\n")
        _install_simulation(building)
    finally:
        unmount_below(building)
    building.chmod(0o755)
    building.rename(target)
    return target


def _install_simulation(root: Path) -> None:
    """Run the simulation's installer (diverts lspci and others to the simulated ones) inside the root."""
    if not (SIMULATION / "install.sh").exists():
        return
    place = root / "opt/metalserve-lab"
    place.mkdir(parents=True, exist_ok=True)
    shutil.copytree(SIMULATION, place / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    run(["mount", "-t", "proc", "proc", root / "proc"])
    run(
        ["chroot", root, "sh", "/opt/metalserve-lab/lib/install.sh"],
        env={**_CLEAN, "SYSTEMD_OFFLINE": "1", "DEBIAN_FRONTEND": "noninteractive"},
    )


_CLEAN = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"}


def mount_overlay(target: Path, *, lower: Iterable[Path], upper: Path, work: Path) -> None:
    """Mount a copy-on-write view: `lower` are read-only, the first one on top."""
    below = ":".join(str(path).replace(":", "\\:") for path in lower)
    run(["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={below},upperdir={upper},workdir={work}", target])


def tree_digest(paths: Iterable[Path], extra: str = "") -> str:
    """Return a digest over names and contents of files and trees (missing ones count as empty)."""
    digest = hashlib.sha256(extra.encode())
    for path in paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                mode = os.stat(file).st_mode & 0o111
                digest.update(f"{file.relative_to(path.parent)} {mode}\n".encode())
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def prune(layout: Layout, kept: Iterable[Path]) -> None:
    """Remove cached trees of earlier recipes (call only while no host runs: they may stand on one)."""
    keep = set(kept)
    for pattern in ("rootfs-*", "layer-*", "distribution-*", "apt-*", "template-*"):
        for path in layout.cache.glob(pattern):
            if path.is_dir() and path not in keep:
                unmount_below(path.resolve())
                shutil.rmtree(path, ignore_errors=True)


def _apt_network_options() -> list[str]:
    """The machine's apt proxy settings, for mmdebstrap, which reads only the target's own configuration."""
    options = ['Acquire::Check-Valid-Until "false"', 'Acquire::Languages "none"', 'Acquire::Retries "3"']
    dump = run(["apt-config", "dump"], check=False).stdout
    options += re.findall(r'^(Acquire::https?::(?:Proxy|Proxy-Auto-Detect|CaInfo)\S* "[^"]+");$', dump, re.MULTILINE)
    return options
