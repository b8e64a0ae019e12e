"""The root file system that a template begins with: the distribution's own, before any role.

What is to be run is pure (`apt_recipe`, `dnf_command`); `make_rootfs` runs it.
"""

from __future__ import annotations

import hashlib
import shlex
import subprocess
import urllib.request
from dataclasses import replace
from pathlib import Path

from metalserve.errors import MetalserveError
from metalserve.templates import boot_chain
from metalserve.templates.archive import Archive, keyring_of
from metalserve.templates.spec import PoolFile, TemplateSpec
from metalserve.trees.debian import Bootstrap, apt_network_options, bootstrap, dpkg_error
from metalserve.trees.image import command_in_image
from metalserve.trees.inside import CONTAINED
from metalserve.trees.mirrors import Mirrors
from metalserve.trees.system import blame_room, read_text_tail

APT_PACKAGES = (
    "apt", "ca-certificates", "curl", "dbus", "e2fsprogs", "fdisk", "initramfs-tools", "iproute2", "kmod", "less",
    "libpam-systemd", "logrotate", "netbase", "openssh-server", "parted", "pciutils", "procps", "python3-minimal",
    "sudo", "systemd", "systemd-sysv", "tzdata", "udev", "zstd",
)  # fmt: skip
"""What a server has before metalserve comes to it."""

RESOLVED = "systemd-resolved"
"""A package of its own from Debian 12 and Ubuntu 24.04 on; before, it is in `systemd`."""

CLOUD_INIT = ("cloud-init", "cloud-guest-utils")

DNF_PACKAGES = (
    "systemd", "systemd-udev", "openssh-server", "sudo", "iproute", "pciutils", "nvme-cli", "ca-certificates", "curl",
    "dnf", "dracut-network", "e2fsprogs", "chrony", "rocky-release", "zstd", "python3",
)  # fmt: skip

EXCLUDED = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*", "/usr/share/info/*")
INCLUDED = ("/usr/share/doc/*/copyright",)
"""Licences stay: an image is handed on."""

_UPDATE = "/usr/sbin/update-initramfs"
_HOLD_INITRD = f'chroot "$1" dpkg-divert --quiet --local --rename --add {_UPDATE} && ln -s /usr/bin/true "$1"{_UPDATE}'
_MAKE_INITRD = (
    f'rm "$1"{_UPDATE} && chroot "$1" dpkg-divert --quiet --local --rename --remove {_UPDATE} || exit 1; '
    f'[ -x "$1"{_UPDATE} ] || exit 0; cd "$1"/usr/lib/modules 2>/dev/null || exit 0; '
    f'for kernel in *; do [ ! -d "$kernel" ] || chroot "$1" update-initramfs -c -k "$kernel" || exit 1; done'
)
_ONE_INITRD = (f"--essential-hook={_HOLD_INITRD}", f"--customize-hook={_MAKE_INITRD}")
"""The initial RAM disk is made once, when every package is there: the kernel's package makes one before most others are
set up, and the packages' triggers make it again (6 s each of the 61 s that Debian 13 takes)."""


def packages_of(spec: TemplateSpec) -> tuple[str, ...]:
    """Return the packages of the bootstrap, each once."""
    system = spec.os
    names = list(APT_PACKAGES if system.family == "apt" else DNF_PACKAGES)
    if system.family == "apt" and system.id != "ubuntu-22.04":
        names.append(RESOLVED)
    if spec.first_boot.cloud_init:
        names += CLOUD_INIT if system.family == "apt" else ("cloud-init", "cloud-utils-growpart")
    if spec.chain == "distribution":
        names += boot_chain.PACKAGES
    if spec.kernel.package is not None:
        names.append(spec.kernel.package)
    return tuple(dict.fromkeys((*names, *spec.packages)))


def apt_recipe(
    spec: TemplateSpec, mirrors: Mirrors, keyring: Path, *, cache: Path | None, options: tuple[str, ...] = ()
) -> Bootstrap:
    """Return what mmdebstrap is to make.

    Args:
        spec: the template.
        mirrors: where packages are read from.
        keyring: of the archive.
        cache: directory of package files, kept from build to build on the work directory's file system.
        options: apt's network settings of this machine.
    """
    further = ["--skip=cleanup/apt/lists"]
    if spec.chain == "distribution":
        answers = " ".join(map(shlex.quote, boot_chain.ANSWERS))
        further.append(f"--essential-hook=printf '%s\\n' {answers} | chroot \"$1\" debconf-set-selections")
    if cache is not None:
        # Hard links, so that nothing is copied; apt checks every file against the signed index before it takes it.
        place, inside = shlex.quote(str(cache)), '"$1"/var/cache/apt/archives'
        further += [
            "--skip=essential/unlink",
            f"--setup-hook=mkdir -p {inside}/partial; cp -aln {place}/*.deb {inside}/ 2>/dev/null || :",
            f"--customize-hook=cp -aln {inside}/*.deb {place}/ 2>/dev/null || :",
        ]
    return Bootstrap(
        spec.os.codename,
        packages_of(spec),
        tuple(mirrors.sources(spec.os.codename, spec.os.components, keyring)),
        excluded=EXCLUDED,
        apt_options=options,
        architecture=spec.architecture,
        included=INCLUDED,
        further=tuple(further),
    )


def dnf_repositories(spec: TemplateSpec, mirrors: Mirrors) -> str:
    """Return the text of the dnf repository file that the RHEL family is installed from."""
    key = f"RPM-GPG-KEY-Rocky-{spec.os.release}"
    return "".join(
        f"[{name.lower()}]\nname=Rocky Linux {spec.os.release} - {name}\n"
        f"baseurl={mirrors.archive}/{spec.os.release}/{name}/x86_64/os/\n"
        f"gpgcheck=1\nenabled=1\ngpgkey={mirrors.archive}/{key}\n\n"
        for name in spec.os.components
    )


def dnf_command(spec: TemplateSpec, root: Path, repositories: Path, cache: Path) -> list[str]:
    """Return the command line that installs the RHEL family into `root`.

    Args:
        spec: the template.
        root: empty directory.
        repositories: directory with the file of `dnf_repositories`.
        cache: directory of package files.
    """
    return [
        "dnf", "--assumeyes", f"--installroot={root}", f"--releasever={spec.os.release}", "--forcearch=x86_64",
        f"--setopt=reposdir={repositories}", f"--setopt=cachedir={cache}", "--setopt=keepcache=True",
        "--setopt=install_weak_deps=False", "--setopt=tsflags=nodocs", "--setopt=module_platform_id=platform:el"
        + spec.os.release, "install", *packages_of(spec),
    ]  # fmt: skip


def make_rootfs(spec: TemplateSpec, archive: Archive, root: Path, *, cache: Path, log: Path) -> None:
    """Make the root file system of a template at `root`.

    Args:
        spec: the template.
        archive: what it is made from.
        root: where it comes to lie.
        cache: directory of package files, kept.
        log: what the programs say.

    Raises:
        MetalserveError: the bootstrapper is missing or failed; a package cannot be installed.
    """
    cache.mkdir(parents=True, exist_ok=True)
    if spec.os.family == "dnf":
        _install_by_dnf(spec, archive, root, cache, log)
        return
    keyring = keyring_of(spec.os)
    if not keyring.exists():
        package = f"{spec.os.distribution}-archive-keyring"
        raise MetalserveError(
            f"the archive keys of {spec.os.distribution} are not on this machine",
            where=str(keyring),
            remedy=f"install the package {package} (Debian 13 has those of Ubuntu)",
        )
    recipe = apt_recipe(spec, archive.mirrors, keyring, cache=cache, options=tuple(apt_network_options()))
    bootstrap(replace(recipe, further=(*recipe.further, *_ONE_INITRD)), root, log, epoch=archive.epoch)
    if spec.kernel.files:
        files = [fetch_pool_file(archive.mirrors, each, cache / "pool") for each in spec.kernel.files]
        names = [f"/mnt/{path.name}" for path in files]
        command = ["apt-get", "-q", "-y", "--no-install-recommends", "install", *names]
        line = command_in_image(root, command, binds={cache / "pool": "/mnt"}, epoch=archive.epoch)
        run_logged(line, log, f"the kernel of {spec.name}")


def fetch_pool_file(mirrors: Mirrors, wanted: PoolFile, directory: Path) -> Path:
    """Fetch a package file of the archive's pool, unless it is there already.

    Raises:
        MetalserveError: it is not in the archive, or not the file that was asked for.
    """
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / wanted.path.rsplit("/", 1)[1]
    url = f"{mirrors.archive}/{wanted.path}"
    if target.is_file() and hashlib.sha256(target.read_bytes()).hexdigest() == wanted.sha256:
        return target
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 - the scheme was checked
            content: bytes = answer.read()
    except OSError as error:
        raise MetalserveError(
            f"cannot be fetched: {error}", where=url, remedy="the archive may have dropped it: take another kernel"
        ) from error
    if hashlib.sha256(content).hexdigest() != wanted.sha256:
        raise MetalserveError("is not the file of the specification (its SHA-256 differs)", where=url)
    new = target.with_name(target.name + ".new")
    new.write_bytes(content)
    new.replace(target)
    return target


def _install_by_dnf(spec: TemplateSpec, archive: Archive, root: Path, cache: Path, log: Path) -> None:
    repositories = log.parent / "repositories"
    repositories.mkdir(exist_ok=True)
    (repositories / "rocky.repo").write_text(dnf_repositories(spec, archive.mirrors))
    root.mkdir()
    run_logged([*CONTAINED, *dnf_command(spec, root, repositories, cache)], log, f"dnf for {spec.name}")


def run_logged(command: list[str], log: Path, what: str) -> None:
    """Run a command with its words appended to a log.

    Raises:
        MetalserveError: it is missing or failed; the message has the line that says why.
    """
    try:
        with log.open("a") as stream:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, check=False
            )
    except FileNotFoundError as error:
        raise MetalserveError(f"{what}: {command[0]} is not installed", where=str(log)) from error
    if done.returncode != 0:
        lines = [line.strip() for line in read_text_tail(log).splitlines() if line.strip()]
        said = next((line for line in reversed(lines) if line.startswith(("E:", "Error", "dpkg: error"))), "")
        last = dpkg_error(lines) or said or (lines[-1] if lines else "no message")
        blame_room(log.parent, what, last)
        raise MetalserveError(f"{what} failed ({done.returncode}): {last}", where=str(log))
