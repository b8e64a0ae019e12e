"""What `monitoring` wants of the host that watches the others: pure. Prometheus, Alertmanager, dashboards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from metalserve.desired.model import Action, Desired, Directory, File, Package, Unit, Watch
from metalserve.desired.node import Node
from metalserve.desired.observed import Observation
from metalserve.driver.platform import Platform, platform_of
from metalserve.driver.repository import repository_wish, source_path
from metalserve.hardware.node import node_hardware
from metalserve.monitoring import dashboards, paths, server
from metalserve.monitoring.model import rules_text
from metalserve.monitoring.rules import rule_groups
from metalserve.monitoring.targets import (
    JOBS,
    Watched,
    joined,
    listen_address,
    read_targets,
    scrape_targets,
    targets_text,
)
from metalserve.releases import Release
from metalserve.settings import HostSettings, MonitoringServerSettings
from metalserve.verify.finding import Finding
from roles.monitoring import proof
from roles.vllm.paths import QUADLET_GLOB, UNIT_GLOB, replica_of

PROMETHEUS_DROP_IN = paths.drop_in(paths.PROMETHEUS_UNIT)
ALERTMANAGER_DROP_IN = paths.drop_in(paths.ALERTMANAGER_UNIT)
BEFORE = "monitoring-targets"
GRAFANA = "grafana"
_BREAK = "@@targets:"


def watch(settings: HostSettings, release: Release) -> Watch:
    """What an observation must look at: the engines' units on any watched host, the monitoring's own on its host."""
    if settings.monitoring is None:
        return Watch(paths=(PROMETHEUS_DROP_IN,))
    engines = Watch(paths=(UNIT_GLOB, QUADLET_GLOB, PROMETHEUS_DROP_IN))
    given = settings.monitoring.server
    if given is None:
        return engines
    grafana = () if given.grafana is None else tuple(_grafana_paths(given.grafana.provisioning))
    before = "".join(f"echo {_BREAK}{job}; cat {paths.targets(job)} 2>/dev/null; " for job in JOBS) + ":"
    return engines | Watch(
        paths=(
            paths.DIRECTORY,
            f"{paths.DIRECTORY}/*",
            f"{paths.TARGETS}/*",
            f"{paths.DASHBOARDS}/*",
            ALERTMANAGER_DROP_IN,
            source_path(GRAFANA),
            *grafana,
        ),
        units=(paths.PROMETHEUS_UNIT, paths.ALERTMANAGER_UNIT, "grafana-server.service"),
        commands={BEFORE: before, **proof.commands(PROMETHEUS_DROP_IN, ALERTMANAGER_DROP_IN)},
    )


def watched(
    name: str, address: str, groups: Sequence[str], settings: HostSettings, observed: Observation | None
) -> Watched:
    """Return a host of the inventory as the monitoring host needs it."""
    replicas, has_gpus = None, None
    if observed is not None:
        begins = tuple(pattern.split("*")[0] for pattern in (UNIT_GLOB, QUADLET_GLOB))
        numbers = (replica_of(path) for path in observed.files if path.startswith(begins))
        replicas = tuple(sorted(number for number in numbers if number is not None))
        has_gpus = bool(node_hardware(observed.sections).pci_gpus)
    return Watched(name, address, tuple(groups), settings, replicas, has_gpus)


def _server(node: Node) -> MonitoringServerSettings | None:
    return node.settings.monitoring.server if node.settings.monitoring is not None else None


def install(node: Node, reached_at: str) -> Desired:
    """Prometheus and Alertmanager of the distribution; their addresses are settled before they start.

    Raises:
        MetalserveError: no private address is known.
    """
    given = _server(node)
    if given is None:
        return _removal(node)
    address = listen_address(node.name, node.settings, reached_at)
    wish = Desired(
        packages=(Package("prometheus"), Package("prometheus-alertmanager"), Package("curl")),
        files=(
            File(PROMETHEUS_DROP_IN, server.prometheus_drop_in(given, address)),
            File(ALERTMANAGER_DROP_IN, server.alertmanager_drop_in(given, address)),
        ),
    )
    if given.grafana is not None and given.grafana.repository is not None:
        wish += repository_wish(GRAFANA, given.grafana.repository, _platform(node), server.HEAD)
        wish += Desired(packages=(Package(GRAFANA),))
    return wish


def _platform(node: Node) -> Platform:
    return platform_of(node.observed.os_id, node.observed.facts.get("arch", "x86_64"))


def configure(node: Node, reached_at: str, hosts: Sequence[Watched]) -> Desired:
    """Rules, targets, dashboards, and where alerts go; what holds a receiver's secret is Alertmanager's alone.

    Raises:
        MetalserveError: a host has no private address, or a receiver's secret cannot be read.
    """
    given = _server(node)
    if given is None or node.settings.monitoring is None:
        return Desired()
    address = listen_address(node.name, node.settings, reached_at)
    options = server.options_of(given, _slowest(hosts, node.settings.monitoring.collect_interval_s))
    targets = scrape_targets(hosts, own=node.name, before=_before(node.observed))
    files = [
        File(paths.CONFIGURATION, server.prometheus_text(given, address, node.name)),
        File(paths.RULES, server.HEAD + rules_text(rule_groups(options))),
        File(paths.ALERTMANAGER, server.alertmanager_text(given), mode="0640", group="prometheus", secret=True),
        *(File(paths.targets(job), targets_text(targets[job])) for job in JOBS),
        *(
            File(f"{paths.DASHBOARDS}/{each.uid}.json", dashboards.dashboard_text(each))
            for each in dashboards.load_dashboards()
        ),
    ]
    if given.grafana is not None:
        source, provider = _grafana_paths(given.grafana.provisioning)
        files += [
            File(source, dashboards.datasource_text(f"http://{joined(address, given.port)}")),
            File(provider, dashboards.provider_text(paths.DASHBOARDS)),
        ]
    directories = (Directory(paths.DIRECTORY), Directory(paths.TARGETS), Directory(paths.DASHBOARDS))
    return Desired(directories=directories, files=tuple(files))


def _slowest(hosts: Sequence[Watched], own: int) -> int:
    """The longest time between two runs of a collector: what is stale must be so for the slowest of them."""
    return max([own, *(h.settings.monitoring.collect_interval_s for h in hosts if h.settings.monitoring is not None)])


def _grafana_paths(provisioning: str) -> tuple[str, str]:
    return (f"{provisioning}/datasources/metalserve.yaml", f"{provisioning}/dashboards/metalserve.yaml")


def _before(observed: Observation) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    found = {}
    for block in observed.text(BEFORE).split(_BREAK)[1:]:
        job, _, text = block.partition("\n")
        found[job.strip()] = read_targets(text)
    return found


def activate(node: Node) -> Desired:
    """Both run, and what runs is what was written: checked by their own tools before it is loaded."""
    given = _server(node)
    if given is None:
        return Desired()
    grafana: tuple[Unit, ...] = ()
    if given.grafana is not None:
        # Data sources are read at its start only; a Grafana that is elsewhere has no unit here.
        source, provider = _grafana_paths(given.grafana.provisioning)
        grafana = (
            Unit("grafana-server.service", restart_on=(source, provider), optional=given.grafana.repository is None),
        )
    return Desired(
        units=(
            Unit(paths.PROMETHEUS_UNIT, restart_on=(PROMETHEUS_DROP_IN,)),
            Unit(paths.ALERTMANAGER_UNIT, restart_on=(ALERTMANAGER_DROP_IN,)),
            *grafana,
        ),
        actions=(
            _load(paths.PROMETHEUS_UNIT, "prometheus", "promtool check config", (paths.CONFIGURATION, paths.RULES)),
            _load(paths.ALERTMANAGER_UNIT, "alertmanager", "amtool check-config", (paths.ALERTMANAGER,)),
        ),
    )


def _load(unit: str, what: str, checker: str, files: Sequence[str]) -> Action:
    """Have a running server read its files again; one that it refuses leaves the old ones in force."""

    def loaded(observed: Observation) -> bool:
        state = observed.units.get(unit)
        if state is None or state.active not in ("active", "reloading"):
            return False
        when, good = proof.loaded(observed, what)
        return good and all(path in observed.files and observed.files[path].mtime <= when for path in files)

    script = (
        f"said=$({checker} {files[0]} 2>&1) || {{ printf '%s\\n' \"$said\" | tail -n 20; "
        f"ms_fail '{checker.split()[0]} refuses {files[0]}, the running configuration is left -> see the lines "
        f"above'; }}\n"
        # One that is only starting takes a reload for a signal to end.
        f"{proof.wait_script(unit, what)}"
        f"systemctl reload {unit}\n"
        f"{proof.wait_script(unit, what, after_reload=True)}"
    )
    return Action(f"load the configuration of {what}", loaded, script, phase="late")


def _removal(node: Node) -> Desired:
    """A host that watches nobody any more keeps what it measured, and nothing that listens or holds a secret."""
    if PROMETHEUS_DROP_IN not in node.observed.files:
        return Desired()
    directories = " ".join(path.rpartition("/")[0] for path in (PROMETHEUS_DROP_IN, ALERTMANAGER_DROP_IN))
    files = f"{paths.CONFIGURATION} {paths.RULES} {paths.ALERTMANAGER} {paths.TARGETS} {paths.DASHBOARDS}"
    script = (
        f"for unit in {paths.PROMETHEUS_UNIT} {paths.ALERTMANAGER_UNIT}; do systemctl -q disable --now $unit || :; "
        f"done\n"
        f"rm -rf {directories} {files}\nsystemctl daemon-reload\n"
    )
    return Desired(
        actions=(
            Action(
                "end the monitoring, which is not this host's any longer",
                lambda observed: PROMETHEUS_DROP_IN not in observed.files,
                script,
                phase="early",
            ),
        )
    )


def check(node: Node, hosts: Sequence[Watched]) -> Sequence[Finding]:
    """Prove that both servers run what was written and that every target of a host that this run saw is up."""
    if _server(node) is None:
        return ()
    return proof.findings(node, hosts)


__all__ = ["activate", "check", "configure", "install", "watch", "watched"]
