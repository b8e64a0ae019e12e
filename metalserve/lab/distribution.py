"""The lab's copy of the part of Debian that the roles install: lab hosts reach no other network.

The packages are the real ones, downloaded by apt from the machine's own mirror when the lab is built.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from metalserve.errors import MetalserveError
from metalserve.lab.layout import Layout
from metalserve.lab.repository import SigningKey, make_flat_repository
from metalserve.lab.system import read_json, run, write_json
from metalserve.trees.mirrors import Mirrors

GROUPS: tuple[tuple[str, ...], ...] = (
    ("docker.io", "iptables", "ca-certificates"),
    ("xfsprogs", "nvme-cli", "pciutils", "e2fsprogs"),
    ("chrony",),
    ("systemd-timesyncd",),
    ("gnupg", "gpg", "curl", "jq", "numactl", "ethtool", "rsync", "zstd", "lsof", "socat"),
    ("unattended-upgrades", "python3-apt"),
    ("logrotate", "lsb-release", "locales", "tzdata"),
    ("haproxy", "openssl"),
    ("python3-libtorrent",),
)
"""What hosts can install. One group is resolved at a time, because chrony and systemd-timesyncd exclude each other."""

EXTRA: dict[str, tuple[tuple[str, ...], ...]] = {
    "monitoring": (("prometheus-node-exporter", "prometheus", "prometheus-alertmanager"),),
    "headers": (("linux-headers-amd64",),),
}
"""Sets that only a fleet carries which asks for them (`also` in its file): a start would fetch half as much again.
`headers` is for machines with a kernel of their own (bench/templates/loop_gpu.py).
Measured for monitoring: 16 s and 37 MB for bookworm, 38 s for both suites, on a busy machine of two cores."""

ONLY: dict[str, tuple[tuple[str, ...], ...]] = {"trixie": (("docker-cli",),)}
"""Packages that only one Debian release has."""


def groups_of(suite: str) -> tuple[tuple[str, ...], ...]:
    """Return the package groups that are carried for a suite."""
    return GROUPS + ONLY.get(suite, ())


def path(layout: Layout, suite: str, base: Path) -> Path:
    """Return where the packages of a suite lie; the name changes with what is asked for."""
    recipe = hashlib.sha256(repr((base.name, groups_of(suite))).encode()).hexdigest()[:10]
    return layout.cache / f"distribution-{suite}-{recipe}"


def extra_path(layout: Layout, suite: str, base: Path, name: str) -> Path:
    """Return where set `name` of `EXTRA` lies for a suite."""
    recipe = hashlib.sha256(repr((base.name, EXTRA[name])).encode()).hexdigest()[:10]
    return layout.cache / f"distribution-{suite}-{name}-{recipe}"


def fetch(layout: Layout, suite: str, base: Path, mirrors: Mirrors, extra: str | None = None) -> Path:
    """Download the packages of a suite with what they need beyond the base, unless that has been done.

    Args:
        layout: the lab.
        suite: Debian release.
        base: root file system whose installed packages count as there.
        mirrors: where to download from.
        extra: a set of `EXTRA` instead of what every lab carries.

    Returns:
        Directory of .deb files.

    Raises:
        MetalserveError: apt cannot resolve or download a group.
    """
    target = path(layout, suite, base) if extra is None else extra_path(layout, suite, base, extra)
    if target.is_dir():
        return target
    groups = groups_of(suite) if extra is None else EXTRA[extra]
    state = layout.cache / (f"apt-{suite}" if extra is None else f"apt-{suite}-{extra}")
    shutil.rmtree(state, ignore_errors=True)
    archives = state / "archives"
    for directory in (state / "lists/partial", archives / "partial"):
        directory.mkdir(parents=True)
    (state / "sources.list").write_text("\n".join(mirrors.sources(suite)) + "\n")
    configuration = state / "apt.conf"
    # the machine's own apt configuration (proxies, certificates) stays in force; only what is below is the lab's
    configuration.write_text(
        "\n".join(
            f'{key} "{value}";'
            for key, value in {
                "Dir::State": state,
                "Dir::State::lists": state / "lists",
                "Dir::State::status": base / "var/lib/dpkg/status",
                "Dir::Cache": state,
                "Dir::Cache::archives": archives,
                "Dir::Etc::sourcelist": state / "sources.list",
                "Dir::Etc::sourceparts": "/dev/null",
                "Dir::Etc::preferences": "/dev/null",
                "Dir::Etc::preferencesparts": "/dev/null",
                "APT::Sandbox::User": "root",
                "APT::Get::List-Cleanup": "false",
                "Acquire::Languages": "none",
                "Acquire::Retries": "3",
                "Acquire::Check-Valid-Until": "false",
            }.items()
        )
        + "\n"
    )
    environment = {"APT_CONFIG": str(configuration), "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    _apt(["update"], environment, suite)
    for group in groups:
        # --reinstall: what the base has is carried too, so that a role may name it on any host
        _apt(["install", "--download-only", "--reinstall", *group], environment, suite)
    (archives / "lock").unlink(missing_ok=True)
    (archives / "partial").rmdir()
    archives.rename(target)
    shutil.rmtree(state, ignore_errors=True)
    return target


def publish(layout: Layout, suite: str, packages: Path, key: SigningKey, *, also: Sequence[Path] = ()) -> Path:
    """Serve directories of packages as the signed repository `www/distribution/SUITE`."""
    target = layout.www / "distribution" / suite
    stamp = target / ".stamp"
    wanted = {"packages": " ".join(each.name for each in (packages, *also)), "key": key.fingerprint}
    if read_json(stamp) == wanted:
        return target
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for directory in (packages, *also):
        for package in directory.glob("*.deb"):
            if not (target / package.name).exists():
                _link(package, target / package.name)
    make_flat_repository(target, key=key, origin="metalserve-lab", label=f"Debian {suite}, the lab's part")
    write_json(stamp, wanted)
    return target


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def _apt(arguments: list[str], environment: dict[str, str], suite: str) -> None:
    done = run(
        ["apt-get", "--yes", "--quiet", "--no-install-recommends", *arguments],
        check=False,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment},
    )
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("E:")] or ["no message"]
        raise MetalserveError(
            f"apt-get {' '.join(arguments)} failed: {errors[0]}",
            where=f"lab packages of {suite}",
            remedy="check that this machine's apt sources work (apt-get update)",
        )
