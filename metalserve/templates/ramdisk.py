"""The installer's ramdisk: a Debian kernel and initramfs with the programs it needs, our script and public keys.

The kernel and programs are made once, from a tree of their own. The script and the keys are a small archive behind them
(the kernel unpacks all archives of an initrd, one after the other), so that a new key or script costs no new ramdisk.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from metalserve.errors import MetalserveError
from metalserve.paths import FILES, templates_directory
from metalserve.trees.debian import UNREAD, Bootstrap, apt_network_options, bootstrap, remove_tree
from metalserve.trees.inside import command_inside
from metalserve.trees.mirrors import Mirrors, machine_mirrors

SUITE: Final = "trixie"
PACKAGES: Final = (
    "apt", "busybox", "curl", "initramfs-tools", "jq", "kmod", "linux-image-amd64", "minisign", "udev", "zstd",
)  # fmt: skip
"""Firmware of network cards is not free in Debian's sense: `METALSERVE_INSTALLER_PACKAGES` adds its packages."""

SCRIPTS: Final = FILES / "templates" / "installer"
KEYS_INSIDE: Final = "etc/metalserve/keys"


@dataclass(frozen=True)
class Ramdisk:
    """What a machine boots to be installed.

    Attributes:
        kernel: the kernel's file.
        initrd: the base initrd's file; `complete` adds script and keys.
    """

    kernel: Path
    initrd: Path

    def complete(self, keys: Mapping[str, bytes]) -> bytes:
        """Return the whole initrd.

        Args:
            keys: name (`site.pub`) -> content of each public key that the installer takes images of.

        Raises:
            MetalserveError: there is no key, so that the installer could write nothing.
        """
        if not keys:
            raise MetalserveError("the installer needs a public key", where="template publish", remedy="give --key")
        files = {"scripts/deploy": ((SCRIPTS / "deploy.sh").read_bytes(), 0o644)}
        files |= {f"{KEYS_INSIDE}/{name}": (content, 0o644) for name, content in sorted(keys.items())}
        base = self.initrd.read_bytes()
        # The next archive begins at a multiple of four.
        return base + b"\0" * (-len(base) % 4) + gzip.compress(archive(files), mtime=0)


def ramdisk(mirrors: Mirrors | None = None) -> Ramdisk:
    """Return the installer's kernel and base initrd, making them when they are not there (about two minutes).

    Args:
        mirrors: where the packages come from; the machine's own apt sources when not given.

    Raises:
        MetalserveError: this is not root, there is no Debian mirror, or a program failed.
    """
    hook = (SCRIPTS / "hook").read_bytes()
    packages = (*PACKAGES, *os.environ.get("METALSERVE_INSTALLER_PACKAGES", "").split())
    digest = hashlib.sha256(repr((SUITE, packages)).encode() + hook).hexdigest()[:10]
    target = templates_directory() / "tools" / f"installer-{digest}"
    made = Ramdisk(target / "vmlinuz", target / "initrd")
    if made.initrd.is_file():
        return made
    if os.geteuid() != 0:
        raise MetalserveError("making the ramdisk needs root", where=str(target), remedy="run it with sudo")
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / ".installer-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.initrd.is_file():
            _make(target, packages, mirrors or machine_mirrors())
    return made


def _make(target: Path, packages: tuple[str, ...], mirrors: Mirrors) -> None:
    tree = target.with_name(f"{target.name}.tree")
    recipe = Bootstrap(
        SUITE, packages, tuple(mirrors.sources(SUITE)), excluded=UNREAD, apt_options=tuple(apt_network_options())
    )
    remove_tree(tree)
    try:
        bootstrap(recipe, tree, target.parent / f"{target.name}.log")
        hook = tree / "etc/initramfs-tools/hooks/metalserve-installer"
        hook.write_bytes((SCRIPTS / "hook").read_bytes())
        hook.chmod(0o755)
        kernels = sorted(tree.glob("boot/vmlinuz-*"))
        if len(kernels) != 1:
            raise MetalserveError(f"{len(kernels)} kernels, and one is needed", where=str(tree))
        version = kernels[0].name.removeprefix("vmlinuz-")
        making = target.with_name(f"{target.name}.new")
        remove_tree(making)
        making.mkdir()
        _mkinitramfs(tree, version, making)
        (making / "vmlinuz").write_bytes(kernels[0].read_bytes())
        making.rename(target)
    finally:
        remove_tree(tree)


def _mkinitramfs(tree: Path, version: str, into: Path) -> None:
    command = command_inside(
        tree, ["mkinitramfs", "-o", "/mnt/initrd", version], binds={into: "/mnt"}, environment={"TMPDIR": "/mnt"}
    )
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    # It ends well also when a hook could not copy a program.
    lost = [line for line in done.stderr.splitlines() if "not found" in line or line.startswith("E:")]
    if done.returncode != 0 or lost:
        said = (lost or done.stderr.strip().splitlines() or ["no message"])[-1]
        raise MetalserveError(f"mkinitramfs failed ({done.returncode}): {said}", where=str(tree))


def archive(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    """Return a cpio archive (newc) of files and the directories they need: the same bytes for the same files.

    Args:
        files: path without leading slash -> (content, mode).
    """
    directories = sorted({str(parent) for path in files for parent in Path(path).parents if str(parent) != "."})
    entries = [(path, b"", 0o040755) for path in directories]
    entries += [(path, content, 0o100000 | mode) for path, (content, mode) in sorted(files.items())]
    parts = [_entry(number, *entry) for number, entry in enumerate(entries, 1)]
    return b"".join([*parts, _entry(0, "TRAILER!!!", b"", 0)])


def _entry(inode: int, path: str, content: bytes, mode: int) -> bytes:
    name = path.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return head + b"\0" * (-len(head) % 4) + content + b"\0" * (-len(content) % 4)
