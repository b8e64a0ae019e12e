"""A Debian or Ubuntu root file system from nothing, by mmdebstrap."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metalserve.errors import MetalserveError
from metalserve.trees.inside import CONTAINED
from metalserve.trees.system import blame_room, run, unmount_below

UNREAD = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*", "/usr/share/info/*")
"""What costs a third of the unpacking time and nobody reads on a server."""


@dataclass(frozen=True)
class Bootstrap:
    """What a tree is made of.

    Attributes:
        suite: release, such as "trixie".
        packages: beside what the variant brings.
        sources: apt source lines.
        excluded: path patterns that dpkg leaves out.
        apt_options: lines of apt's configuration, without the semicolon.
        architecture: of the packages.
        included: path patterns that dpkg unpacks although `excluded` has them.
        further: options of mmdebstrap.
    """

    suite: str
    packages: tuple[str, ...]
    sources: tuple[str, ...]
    excluded: tuple[str, ...] = UNREAD
    apt_options: tuple[str, ...] = ()
    architecture: str = "amd64"
    included: tuple[str, ...] = ()
    further: tuple[str, ...] = ()

    def command(self, target: Path) -> list[str]:
        """Return the mmdebstrap command line that makes the tree as the directory `target`."""
        command = [
            "mmdebstrap", "--variant=minbase", "--mode=root", "--format=directory",
            f"--architectures={self.architecture}", f"--include={','.join(self.packages)}",
            "--dpkgopt=force-unsafe-io",
        ]  # fmt: skip
        command += [f"--dpkgopt=path-exclude={pattern}" for pattern in self.excluded]
        command += [f"--dpkgopt=path-include={pattern}" for pattern in self.included]
        command += [f"--aptopt={option}" for option in self.apt_options]
        return [*command, *self.further, self.suite, str(target), *self.sources]


def bootstrap(recipe: Bootstrap, target: Path, log: Path, *, epoch: int | None = None) -> None:
    """Make a tree at `target`, which is there only when it is whole.

    Args:
        recipe: what it is made of.
        target: where it comes to lie; beside it stands `target`.new while it is made.
        log: what mmdebstrap says.
        epoch: SOURCE_DATE_EPOCH, in seconds since 1970.

    Raises:
        MetalserveError: mmdebstrap is missing or failed; the message names the log.
    """
    if shutil.which("mmdebstrap") is None:
        raise MetalserveError("mmdebstrap is not installed", where=str(target), remedy="apt-get install mmdebstrap")
    building = target.with_name(target.name + ".new")
    remove_tree(building)
    environment = dict(os.environ) | ({"SOURCE_DATE_EPOCH": str(epoch)} if epoch is not None else {})
    try:
        with log.open("w") as stream:
            # systemd-nspawn and overlay need the tree to be readable by all, whatever umask the user has
            done = subprocess.run(
                [*CONTAINED, *recipe.command(building)],
                stdout=stream, stderr=subprocess.STDOUT, check=False, umask=0o022, env=environment,
            )  # fmt: skip
        if done.returncode != 0:
            lines = log.read_text(errors="replace").splitlines()
            said = [line.removeprefix("E:").strip() for line in lines if line.startswith("E:")]
            words = dpkg_error(lines) or (said[0] if said else "no message")
            blame_room(target.parent, "mmdebstrap", words)
            raise MetalserveError(f"mmdebstrap failed ({done.returncode}): {words}", where=str(log))
        building.chmod(0o755)
        building.rename(target)
    finally:
        remove_tree(building)


def dpkg_error(lines: Sequence[str]) -> str:
    """Return what dpkg says of the first package that it could not install, in one line; "" when there is none."""
    for line, reason in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("dpkg: error processing"):
            return f"{line.strip()} {reason.strip()}".strip()
    return ""


def remove_tree(directory: Path) -> None:
    """Unmount what is mounted in a tree and remove it; nothing happens where there is none."""
    unmount_below(directory)
    shutil.rmtree(directory, ignore_errors=True)


def apt_network_options() -> list[str]:
    """Return the machine's apt proxy settings, for mmdebstrap, which reads only the target's own configuration."""
    options = ['Acquire::Check-Valid-Until "false"', 'Acquire::Languages "none"', 'Acquire::Retries "3"']
    dump = run(["apt-config", "dump"], check=False).stdout
    options += re.findall(r'^(Acquire::https?::(?:Proxy|Proxy-Auto-Detect|CaInfo)\S* "[^"]+");$', dump, re.MULTILINE)
    return options


def installed_packages(root: Path) -> dict[str, str]:
    """Return package -> version of what dpkg says is installed in a tree.

    Raises:
        MetalserveError: the tree has no dpkg database.
    """
    listed = run(
        ["dpkg-query", f"--admindir={root / 'var/lib/dpkg'}", "-W", "-f=${db:Status-Abbrev}\t${Package}\t${Version}\n"],
        where=str(root),
    ).stdout
    rows: Sequence[list[str]] = [line.split("\t") for line in listed.splitlines()]
    return {name: version for status, name, version in rows if status[1:2] == "i"}
