"""Root file systems: one per Debian release, made once, and a thin layer on top that makes it a lab host.

The base is a fresh Debian server: what the roles install is not in it. The layer holds the lab's own files and the
simulated tools; it is quick to make, so that work on the simulation does not rebuild the base.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

from metalserve.errors import MetalserveError
from metalserve.lab import guest
from metalserve.lab.layout import Layout
from metalserve.lab.system import run, unmount_below
from metalserve.trees.debian import UNREAD, Bootstrap, apt_network_options, bootstrap, remove_tree
from metalserve.trees.mirrors import Mirrors
from metalserve.trees.system import mount_overlay, tree_digest

PACKAGES = (
    "apt", "bash-completion", "ca-certificates", "cron", "curl", "dbus", "e2fsprogs", "fdisk", "iproute2",
    "iputils-ping", "kmod", "less", "libpam-systemd", "logrotate", "nano", "netbase", "openssh-server", "pciutils",
    "procps", "python3", "sudo", "systemd", "systemd-sysv", "systemd-timesyncd", "tzdata", "udev",
)  # fmt: skip
"""What a host has before metalserve comes to it. Python is for the simulated tools only."""

_EXCLUDED = UNREAD
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
    if not target.is_dir():
        layout.cache.mkdir(parents=True, exist_ok=True)
        recipe = Bootstrap(
            suite,
            PACKAGES,
            tuple(mirrors.sources(suite)),
            excluded=_EXCLUDED,
            apt_options=tuple(apt_network_options()),
        )
        bootstrap(recipe, target, layout.cache / f"rootfs-{suite}.log")
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
    remove_tree(building)
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


def template_path(layout: Layout, suite: str, packed: Path) -> Path:
    """Return where the tree of an OS template lies when it has been unpacked; its name changes with its content."""
    with packed.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    made_of = tree_digest([LAB / "guest.py", SIMULATION], f"{digest} {layout.service_url}")
    return layout.cache / f"template-{suite}-{made_of[:10]}"


def unpack_template(layout: Layout, suite: str, packed: Path) -> Path:
    """Make the tree of an OS template (a root file system packed as tar.zst) one that lab hosts can stand on.

    Returns:
        The directory, complete, in the cache; made once for each content.

    Raises:
        MetalserveError: it cannot be unpacked, or is of another release.
    """
    target = template_path(layout, suite, packed)
    if target.is_dir():
        return target
    building = target.with_name(target.name + ".new")
    remove_tree(building)
    building.mkdir(parents=True)
    try:
        run(["tar", "--zstd", "-x", "--numeric-owner", "--xattrs", "-C", building, "-f", packed], where=str(packed))
        release = building / "usr/lib/os-release"
        if not release.is_file() or f"VERSION_CODENAME={suite}" not in release.read_text().splitlines():
            raise MetalserveError(f"is no root file system of {suite}", where=str(packed))
        guest.configure(building, layout, suite)
        _install_simulation(building)
        unmount_below(building)
        building.chmod(0o755)
        building.rename(target)
    finally:
        remove_tree(building)
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


def prune(layout: Layout, kept: Iterable[Path]) -> None:
    """Remove cached trees of earlier recipes (call only while no host runs: they may stand on one)."""
    keep = set(kept)
    for pattern in ("rootfs-*", "layer-*", "distribution-*", "apt-*", "template-*"):
        for path in layout.cache.glob(pattern):
            if path.is_dir() and path not in keep:
                unmount_below(path.resolve())
                shutil.rmtree(path, ignore_errors=True)
