"""A Debian tree with a kernel of its own, from the machine's mirrors, in which packages can be installed."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from metalserve.errors import MetalserveError
from metalserve.trees.mirrors import machine_mirrors
from metalserve.trees.system import unmount_below

PACKAGES = "apt,ca-certificates,kmod,procps,systemd-sysv"


@dataclass(frozen=True)
class Tree:
    """A root file system of this machine's own.

    Attributes:
        root: its directory.
        suite: Debian release.
    """

    root: Path
    suite: str

    def run(self, *words: str, check: bool = True) -> str:
        """Run a program in the tree and return what it printed."""
        done = subprocess.run(["chroot", str(self.root), *words], capture_output=True, text=True, check=False)
        if check and done.returncode != 0:
            raise MetalserveError(f"{' '.join(words)}: {done.stderr.strip()[-400:]}", where=str(self.root))
        return done.stdout

    @property
    def kernel(self) -> str:
        """The kernel that the tree would boot."""
        return sorted(path.name.removeprefix("vmlinuz-") for path in (self.root / "boot").glob("vmlinuz-*"))[-1]

    def add_newest_kernel(self) -> None:
        """Install the kernel of the archive; its headers are for the role to bring."""
        self.run("apt-get", "-q", "update")
        self.run("apt-get", "-q", "-y", "--no-install-recommends", "install", "linux-image-amd64")

    def add_kernel_of_the_release(self) -> None:
        """Install the kernel that the release came with last; security updates may be ahead of it."""
        self.run("apt-get", "-q", "update")
        self.run("apt-get", "-q", "-y", "--no-install-recommends", "install", f"linux-image-amd64/{self.suite}")

    def add_kernel(self, version: str, build: str) -> bool:
        """Install an earlier kernel with its headers from the mirror's pool; False when it is no longer there.

        Args:
            version: such as "6.12.94".
            build: what follows it in names of packages, such as "+deb13".
        """
        pool = f"{machine_mirrors().archive}/pool/main/l"
        names = [
            f"{pool}/linux-signed-amd64/linux-image-{version}{build}-amd64_{version}-1_amd64.deb",
            f"{pool}/linux/linux-headers-{version}{build}-amd64_{version}-1_amd64.deb",
            f"{pool}/linux/linux-headers-{version}{build}-common_{version}-1_all.deb",
            f"{pool}/linux/linux-kbuild-{version}{build}_{version}-1_amd64.deb",
        ]
        self.run("apt-get", "-q", "update")
        place = self.root / "var/tmp"
        for name in names:
            if subprocess.run(["curl", "-fsSL", "--remote-name", "--output-dir", str(place), name]).returncode != 0:
                return False
        files = [f"/var/tmp/{name.rsplit('/', 1)[1]}" for name in names]
        self.run("apt-get", "-q", "-y", "--no-install-recommends", "install", *files)
        return True

    def installed(self, package: str) -> str:
        """Return the installed version of a package, held or not; empty when it is not installed."""
        shown = self.run("dpkg-query", "-W", "-f=${db:Status-Abbrev}${Version}", package, check=False)
        return shown[3:] if shown[1:3] == "i " else ""


@contextlib.contextmanager
def debian_tree(directory: Path, suite: str) -> Iterator[Tree]:
    """Make a tree with `main` alone, so that whoever needs more of the archive has to ask for it.

    Raises:
        MetalserveError: there is no Debian mirror here, or mmdebstrap failed.
    """
    root = directory / suite
    proxies = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    options = re.findall(r'^(Acquire::https?::(?:Proxy|Proxy-Auto-Detect|CaInfo)\S* "[^"]+");$', proxies, re.MULTILINE)
    command: Sequence[str] = [
        "mmdebstrap", "--variant=minbase", "--mode=root", "--format=directory", f"--include={PACKAGES}",
        "--dpkgopt=force-unsafe-io", *(f"--dpkgopt=path-exclude=/usr/share/{d}/*" for d in ("man", "doc", "locale")),
        *(f"--aptopt={o}" for o in ('Acquire::Check-Valid-Until "false"', 'Acquire::Languages "none"', *options)),
        suite, str(root), *machine_mirrors().sources(suite),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, umask=0o022)
    if done.returncode != 0:
        raise MetalserveError(f"mmdebstrap {suite}: {done.stderr.strip()[-400:]}")
    try:
        for kind, place in (("proc", "proc"), ("sysfs", "sys"), ("devpts", "dev/pts")):
            (root / place).mkdir(exist_ok=True)
            subprocess.run(["mount", "-t", kind, kind, str(root / place)], check=True)
        # Packages must start nothing in a tree.
        policy = root / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        (root / "etc/resolv.conf").unlink(missing_ok=True)
        shutil.copyfile("/etc/resolv.conf", root / "etc/resolv.conf")
        yield Tree(root, suite)
    finally:
        unmount_below(root)
        shutil.rmtree(root, ignore_errors=True)
