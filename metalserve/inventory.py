"""Checks a whole inventory before any host is contacted: every problem of every host in one error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

from metalserve.catalogue.loader import load_cuda_drivers, load_gpus
from metalserve.catalogue.vllm_arguments import ArgProblem, read_args
from metalserve.catalogue.vllm_check import check_args
from metalserve.catalogue.vllm_conflicts import conflicts
from metalserve.errors import MetalserveError
from metalserve.releases import Release, check_release, load_release, release_warnings
from metalserve.secrets import SecretError, resolve
from metalserve.settings import HostSettings, SettingsError
from metalserve.settings.monitoring import monitoring_secrets
from metalserve.settings.router import router_secrets
from metalserve.weights.manifest import Manifest, ManifestError, load_manifest


def check_hosts(hosts: Iterable[tuple[str, Mapping[str, Any]]], source: str) -> dict[str, HostSettings]:
    """Validate the data of all hosts.

    Besides each host's own settings this checks that its release exists and is consistent, that its model's manifest
    exists and is of the same repository and revision, and that no two hosts are the same machine.

    Args:
        hosts: (name, data as pyinfra merged it) of each host.
        source: the inventory file, for messages.

    Returns:
        The settings of each host by name.

    Raises:
        SettingsError: with every problem of every host, one a line, `source: host: key: what`.
    """
    pairs = list(hosts)
    settings: dict[str, HostSettings] = {}
    problems: list[str] = []
    releases = _Releases()
    manifests: dict[str, Manifest | ManifestError] = {}
    for name, data in pairs:
        try:
            host = HostSettings.from_data(data, host=name, source=source)
        except SettingsError as error:
            problems += error.problems
            # What can be read is checked still, so that one run of the check shows everything.
            release = data.get("release")
            if isinstance(release, str) and release:
                problems += [f"{source}: {name}: release: {what}" for what in releases.problems(release)]
            continue
        settings[name] = host
        problems += [f"{source}: {name}: release: {what}" for what in releases.problems(host.release)]
        found = [*_branch(host, releases), *_manifest(host, manifests), *_arguments(host, releases, "error")]
        problems += [f"{source}: {name}: {what}" for what in found]
    problems += [f"{source}: {what}" for what in _same_machine(pairs)]
    if problems:
        raise SettingsError(_together(problems, source))
    return settings


def check_secrets(settings: Mapping[str, HostSettings], source: str) -> None:
    """Read every secret the hosts refer to once, so that a missing one stops the run before any host is contacted.

    The values are dropped at once. Commands are run, which may ask a human for a pass phrase.

    Args:
        settings: the settings of each host by name.
        source: the inventory file, for messages.

    Raises:
        SettingsError: with every secret that cannot be read, one a line; never with a value.
    """
    problems: list[str] = []
    failures: dict[str, str] = {}
    for name, host in settings.items():
        refs = router_secrets(host) | monitoring_secrets(host)
        if host.model is not None:
            given = {"engine.api_key": host.engine.api_key, "model.hf_token": host.model.hf_token}
            refs |= {key: ref for key, ref in given.items() if ref is not None}
        for key, ref in refs.items():
            seen = ref.model_dump_json()
            if seen not in failures:
                try:
                    resolve(ref)
                    failures[seen] = ""
                except SecretError as error:
                    failures[seen] = str(error)
            if failures[seen]:
                problems.append(f"{source}: {name}: {key}: {failures[seen]}")
    if problems:
        raise SettingsError(_together(problems, source))


def check_warnings(
    hosts: Iterable[tuple[str, Mapping[str, Any]]], settings: Mapping[str, HostSettings], source: str, *, today: date
) -> list[str]:
    """Return what is allowed but should be known of an inventory, each `source: hosts: key: what`.

    Args:
        hosts: (name, data) of each host, as for `check_hosts`.
        settings: what `check_hosts` returned.
        source: the inventory file, for messages.
        today: the day to compare ends of life with.
    """
    releases = _Releases()
    found = [
        f"{source}: {name}: {what}"
        for name, host in settings.items()
        for what in [*host.warnings(), *_arguments(host, releases, "warning")]
    ]
    for name, data in hosts:
        if name.startswith("@"):
            continue
        found += [f"{source}: {name}: {what}" for what in _connection_warnings(data)]
    found = _together(found, source)
    for release in sorted({host.release for host in settings.values()}):
        for what in release_warnings(load_release(release), load_cuda_drivers(), today=today):
            found.append(f"{source}: release {release}: {what}")
    return found


def _connection_warnings(data: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    if str(data.get("ssh_strict_host_key_checking", "accept-new")).lower() != "yes":
        found.append("ssh_strict_host_key_checking: is not 'yes', so whoever answers first at the address is believed")
    known_hosts = data.get("ssh_known_hosts_file")
    if isinstance(known_hosts, str) and not Path(known_hosts).expanduser().is_file():
        found.append(f"ssh_known_hosts_file: {known_hosts} does not exist, so every host key is unknown")
    if data.get("ssh_password") or data.get("_sudo_password"):
        found.append(
            "ssh_password or _sudo_password: pyinfra shows them with --debug; keys and NOPASSWD leave no trace"
        )
    return found


def _together(problems: list[str], source: str) -> list[str]:
    """Make one line of the same problem on several hosts: what a group shares is said once, not a thousand times."""
    hosts: dict[str, list[str]] = {}
    for line in problems:
        name, _, what = line.removeprefix(f"{source}: ").partition(": ")
        hosts.setdefault(what, [])
        if name not in hosts[what]:
            hosts[what].append(name)
    shown = 4
    lines = []
    for what, affected in hosts.items():
        more = f" and {len(affected) - shown} more" if len(affected) > shown else ""
        lines.append(f"{source}: {', '.join(affected[:shown])}{more}: {what}")
    return lines


class _Releases:
    """The releases the hosts name, each read and checked once: a thousand hosts share a few."""

    def __init__(self) -> None:
        """Know none yet."""
        self._seen: dict[str, tuple[Release | None, list[str]]] = {}

    def problems(self, name: str) -> list[str]:
        """Return what is wrong with release `name`."""
        return self._read(name)[1]

    def vllm(self, name: str) -> str | None:
        """Return the vLLM version of release `name`, or None when it cannot be read."""
        release = self._read(name)[0]
        return release.vllm.version if release else None

    def branch(self, name: str) -> int | None:
        """Return the driver branch of release `name`, or None when it cannot be read."""
        release = self._read(name)[0]
        return release.driver.branch if release else None

    def _read(self, name: str) -> tuple[Release | None, list[str]]:
        if name not in self._seen:
            try:
                release = load_release(name)
                self._seen[name] = (release, check_release(release, load_cuda_drivers()))
            except MetalserveError as error:
                self._seen[name] = (None, [str(error).removeprefix("release: ")])
        return self._seen[name]


def _branch(settings: HostSettings, releases: _Releases) -> list[str]:
    """Return what is wrong when the release's driver branch does not know the GPUs that were bought."""
    branch = releases.branch(settings.release)
    if settings.expect.gpu is None or branch is None:
        return []
    architecture = load_cuda_drivers().architecture(load_gpus().by_id(settings.expect.gpu).architecture)
    if architecture is None:
        return []
    if architecture.min_branch is not None and branch < architecture.min_branch:
        needs = f"{settings.expect.gpu} needs {architecture.min_branch} or newer"
        return [f"release: its driver branch {branch} is too old: {needs}"]
    if architecture.last_branch is not None and branch > architecture.last_branch:
        last = f"{architecture.last_branch} is the last that does"
        return [f"release: its driver branch {branch} no longer drives {settings.expect.gpu}; {last}"]
    return []


def _arguments(settings: HostSettings, releases: _Releases, severity: str) -> list[str]:
    """Return what the release's vLLM refuses of engine.extra_args, or only warns of."""
    version, extra = releases.vllm(settings.release), settings.engine.extra_args
    if version is None or not extra:
        return []
    try:
        found = _checked(tuple(extra), version)
    except MetalserveError as error:
        return [f"engine.extra_args: cannot be checked: {error}"] if severity == "error" else []
    return [f"engine.extra_args: {problem}" for problem in found if problem.severity == severity]


@lru_cache(maxsize=256)
def _checked(extra: tuple[str, ...], version: str) -> tuple[ArgProblem, ...]:
    # MODEL stands for the model, which has a setting of its own; a thousand hosts share a few lists of arguments.
    words = ["MODEL", *extra]
    opposed = conflicts(read_args(words, version), version)
    return (*check_args(words, version, entry="serve"), *(each.problem for each in opposed))


def _manifest(settings: HostSettings, manifests: dict[str, Manifest | ManifestError]) -> list[str]:
    """Return what is wrong with a host's manifest; `manifests` remembers what was read."""
    model = settings.model
    if model is None:
        return []
    if model.manifest not in manifests:
        try:
            manifests[model.manifest] = load_manifest(model.manifest)
        except ManifestError as error:
            manifests[model.manifest] = error
    manifest = manifests[model.manifest]
    if isinstance(manifest, ManifestError):
        return [f"model.manifest: {manifest}"]
    found = []
    if manifest.repository != model.name:
        found.append(f"model.manifest: {model.manifest} is of {manifest.repository}, but model.name is {model.name}")
    if manifest.revision != model.revision:
        found.append(
            f"model.manifest: {model.manifest} is of revision {manifest.revision}, "
            f"but model.revision is {model.revision}"
        )
    return found


def _same_machine(hosts: list[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Return every address and port that two hosts share, and every name that is given twice."""
    found: list[str] = []
    seen: dict[tuple[str, int], str] = {}
    names: set[str] = set()
    for name, data in hosts:
        if name in names:
            found.append(f"{name}: is in the inventory twice")
            continue
        names.add(name)
        if name.startswith("@"):  # a connector's host has no address of its own
            continue
        port = data.get("ssh_port")
        address = (str(data.get("ssh_hostname") or name).lower(), port if isinstance(port, int) else 22)
        if address in seen:
            found.append(f"{name}: ssh_hostname: is {address[0]}, the address of {seen[address]} too")
        else:
            seen[address] = name
    return found
