"""The tool root: the programs that pack, boot and serve images, as one pinned Debian 13 tree of our own.

The machine's own ones differ in what they write: e2fsprogs 1.47.0 (Debian 12) copies access times into an image, and
its objcopy-made UKI carries the time of day, so that no two images are the same.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metalserve.errors import MetalserveError
from metalserve.paths import templates_directory
from metalserve.trees.debian import UNREAD, Bootstrap, apt_network_options, bootstrap, installed_packages, remove_tree
from metalserve.trees.inside import MORTAL, command_inside
from metalserve.trees.mirrors import Mirrors, machine_mirrors
from metalserve.trees.system import read_json, write_json

SUITE = "trixie"
PACKAGES = (
    "apt", "ca-certificates", "cpio", "curl", "dnsmasq-base", "dosfstools", "e2fsprogs", "fdisk",
    "grub-efi-amd64-signed", "iproute2", "ipxe", "ipxe-qemu", "kmod", "minisign", "mtools", "openssh-client", "ovmf",
    "procps", "python3", "qemu-system-x86", "qemu-utils", "seabios", "shim-signed", "systemd-boot-efi",
    "systemd-ukify", "util-linux", "xorriso", "xz-utils", "zstd",
)  # fmt: skip
"""Changing this list makes the tool root anew, and with it the digest that templates record as an input."""


@dataclass(frozen=True)
class ToolRoot:
    """A tool root that is there.

    Attributes:
        path: its directory.
        packages: package -> version of everything in it.
    """

    path: Path
    packages: Mapping[str, str]

    @property
    def digest(self) -> str:
        """SHA-256 over the names and versions of its packages."""
        lines = "".join(f"{name} {version}\n" for name, version in sorted(self.packages.items()))
        return hashlib.sha256(lines.encode()).hexdigest()

    def command(
        self,
        argv: Sequence[str | Path],
        *,
        binds: Mapping[Path, str] | Sequence[Path] = (),
        environment: Mapping[str, str] | None = None,
        directory: str = "/",
    ) -> list[str]:
        """Return the command line that runs `argv` in the tool root, in this process' network namespace.

        Args:
            argv: program and arguments, with paths as the tool root sees them.
            binds: this machine's path -> path in the tool root; a plain sequence has each at its own path.
            environment: variables beside PATH, HOME and LC_ALL.
            directory: where it is run.
        """
        places = binds if isinstance(binds, Mapping) else {path: str(path) for path in binds}
        return command_inside(self.path, argv, binds=places, environment=environment, directory=directory)

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        binds: Mapping[Path, str] | Sequence[Path] = (),
        environment: Mapping[str, str] | None = None,
        directory: str = "/",
        check: bool = True,
        **keywords: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the tool root, which ends with us, and return what it printed.

        The arguments are those of `command`, and of `subprocess.run`.

        Raises:
            MetalserveError: it failed and `check` is set; the message has its last words.
        """
        keywords = {"capture_output": True, "text": True, "errors": "replace", **keywords}
        command = [*MORTAL, *self.command(argv, binds=binds, environment=environment, directory=directory)]
        done: subprocess.CompletedProcess[str] = subprocess.run(command, check=False, **keywords)
        if check and done.returncode != 0:
            said = ((done.stderr or "").strip() or (done.stdout or "").strip() or "no message").splitlines()
            raise MetalserveError(f"{argv[0]} failed ({done.returncode}): {said[-1]}", where="tool root")
        return done


def recipe_path() -> Path:
    """Return where the tool root of today's list of packages lies."""
    digest = hashlib.sha256(repr((SUITE, PACKAGES)).encode()).hexdigest()[:10]
    return templates_directory() / "tools" / f"{SUITE}-{digest}"


def tool_root(mirrors: Mirrors | None = None) -> ToolRoot:
    """Return the tool root, making it when it is not there (about a minute); older ones are removed then.

    Args:
        mirrors: where its packages come from; the machine's own apt sources when not given.

    Raises:
        MetalserveError: this is not root, there is no Debian mirror, or mmdebstrap failed.
    """
    target = recipe_path()
    record = target.with_name(target.name + ".json")
    known = read_json(record)
    if target.is_dir() and isinstance(known, dict):
        return ToolRoot(target, known)
    if os.geteuid() != 0:
        raise MetalserveError("making the tool root needs root", where=str(target), remedy="run it with sudo")
    target.parent.mkdir(parents=True, exist_ok=True)
    # two commands at once may need it: the second waits
    with (target.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            _make(target, mirrors or machine_mirrors())
        packages = installed_packages(target)
        write_json(record, packages)
    return ToolRoot(target, packages)


def _make(target: Path, mirrors: Mirrors) -> None:
    recipe = Bootstrap(
        SUITE,
        PACKAGES,
        tuple(mirrors.sources(SUITE)),
        excluded=UNREAD,
        apt_options=tuple(apt_network_options()),
    )
    bootstrap(recipe, target, target.parent / f"{target.name}.log")
    for old in target.parent.iterdir():
        if old.name.startswith(f"{SUITE}-") and not old.name.startswith(target.name):
            if old.is_dir():
                remove_tree(old)
            else:
                old.unlink()
