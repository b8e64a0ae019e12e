"""What an image must not carry: identities that every node would share, traces of the build, secrets, dates.

`clean` takes them away; `checks.py` looks for them again, so that neither is believed alone.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from metalserve.errors import MetalserveError
from metalserve.templates.spec import OsSpec
from metalserve.trees.image import STAND_INS
from metalserve.trees.mirrors import Mirrors

IDENTITIES = (
    "etc/ssh/ssh_host_*",
    "etc/nvme/hostid",  # nvme-cli's postinst makes one: NVMe over fabrics breaks where two nodes have the same
    "etc/nvme/hostnqn",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "var/lib/chrony/*",
    "var/lib/cloud/*",
    "var/lib/dhcp/*",
    "var/lib/dkms/mok.*",  # a key that DKMS makes for itself to sign modules with: private, and of this build alone
    "var/lib/shim-signed/mok/*",
    "var/lib/NetworkManager/*",
)

TRACES = (
    "boot/*.old",
    "etc/*-",
    "etc/.pwd.lock",
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/apt/sources.list",
    "etc/dkms/framework.conf.d/metalserve-build.conf",  # see machine.py
    "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "root/.*_history",
    "root/.cache",
    "root/.gnupg",
    "root/.wget-hsts",
    "run/*",
    "tmp/*",
    "var/cache/apt/*",
    "var/cache/debconf/*-old",
    "var/cache/dnf/*",
    "var/cache/ldconfig/aux-cache",
    "var/lib/apt/lists/*",
    "var/lib/dpkg/*-old",
    "var/lib/dkms/*/*/*/*/log",
    "var/lib/ucf/*.[0-9]",
    "var/tmp/*",
    *STAND_INS,
)

_KEPT_DIRECTORIES = ("var/lib/apt/lists/partial", "var/cache/apt/archives/partial")
"""apt wants them."""


def clean(root: Path, system: OsSpec, mirrors: Mirrors) -> None:
    """Take away what an image must not carry, and name the places that a node gets its packages from.

    Args:
        root: the tree; no link in it is followed.
        system: the distribution.
        mirrors: what the build has read from.

    Raises:
        MetalserveError: a directory on the way to something is a link.
    """
    for pattern in (*IDENTITIES, *TRACES):
        for path in matches(root, pattern):
            remove(path)
    for path in _logs(root):
        path.unlink()
    # Empty, not "uninitialized": the latter makes systemd enable again every unit that a role has disabled.
    write(root, "etc/machine-id", "")
    write(root, "etc/hostname", "localhost\n")
    if not (root / "etc/resolv.conf").is_symlink():
        remove(root / "etc/resolv.conf")
    for name in _KEPT_DIRECTORIES if system.family == "apt" else ():
        inside(root, name).mkdir(parents=True, exist_ok=True)
    if system.family == "apt":
        _sources(root, system, mirrors)


def apt_sources(system: OsSpec) -> str:
    """Return the apt sources of an installed node, in deb822 form."""
    name, keyring = system.codename, f"/usr/share/keyrings/{system.distribution}-archive-keyring.gpg"
    places = [(system.mirror, f"{name} {name}-updates")]
    if system.security:
        places.append((system.security, f"{name}-security"))
    return "\n".join(
        f"Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: {' '.join(system.components)}\nSigned-By: {keyring}\n"
        for uri, suites in places
    )


def _sources(root: Path, system: OsSpec, mirrors: Mirrors) -> None:
    write(root, f"etc/apt/sources.list.d/{system.distribution}.sources", apt_sources(system))
    # What roles wrote beside it (further components of the archive) names the mirror of the build.
    given = {mirrors.archive: system.mirror, **({mirrors.security: system.security or ""} if mirrors.security else {})}
    for path in matches(root, "etc/apt/sources.list.d/*"):
        if path.is_symlink() or not path.is_file():
            continue
        text = path.read_text()
        # the longer one first: a security archive's address may begin with the archive's
        for ours, theirs in sorted(given.items(), key=lambda pair: -len(pair[0])):
            text = text.replace(ours, theirs)
        write(root, str(path.relative_to(root)), text)


def _logs(root: Path) -> Iterator[Path]:
    top = inside(root, "var/log")
    for directory, _, files in os.walk(top):
        for name in files:
            yield Path(directory) / name


def inside(root: Path, relative: str) -> Path:
    """Return `relative` of the tree, having seen that no directory on the way is a link out of it.

    Raises:
        MetalserveError: one is a link.
    """
    path = root
    for part in Path(relative).parts[:-1]:
        path = path / part
        if path.is_symlink():
            raise MetalserveError("is a link, and could lead out of the image", where=str(path))
    return root / relative


def matches(root: Path, pattern: str) -> list[Path]:
    """Return what there is of a pattern below the tree, in order; links are found and not followed."""
    found = [root]
    for part in Path(pattern).parts:
        above = [path for path in found if path.is_dir() and not path.is_symlink()]
        if any(character in part for character in "*?["):
            found = [path for each in above for path in sorted(each.glob(part))]
        else:
            found = [each / part for each in above if os.path.lexists(each / part)]
    return found


def remove(path: Path) -> None:
    """Remove a file, link or tree; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write(root: Path, relative: str, text: str, mode: int = 0o644) -> None:
    """Write a file of the tree, in place of whatever is there, with the directories on the way."""
    path = inside(root, relative)
    path.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(path):
        remove(path)
    path.write_text(text)
    path.chmod(mode)


def settle_times(root: Path, epoch: int) -> None:
    """Give everything that is younger than `epoch` (seconds since 1970) that time, as what is built twice must."""
    os.utime(root, (epoch, epoch), follow_symlinks=False)
    for directory, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            if status.st_mtime > epoch:
                os.utime(path, (epoch, epoch), follow_symlinks=False)
