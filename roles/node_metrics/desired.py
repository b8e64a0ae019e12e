"""What `node_metrics` wants of a host: pure. Exporters on the private address, and the collector of what they lack."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from metalserve.catalogue.dcgm_metrics import load_dcgm_metrics
from metalserve.desired.model import Action, Desired, Directory, File, Package, Unit, Watch
from metalserve.desired.node import Node
from metalserve.desired.observed import Observation
from metalserve.monitoring import exporters, paths
from metalserve.monitoring.targets import listen_address
from metalserve.paths import FILES
from metalserve.releases import Release
from metalserve.settings import HostSettings
from metalserve.verify.finding import Finding

SECTION = "node-metrics"
SERVICE_PATH = f"{paths.UNIT_DIRECTORY}/{paths.COLLECT_SERVICE}"
TIMER_PATH = f"{paths.UNIT_DIRECTORY}/{paths.COLLECT_TIMER}"
NODE_DROP_IN = paths.drop_in(paths.NODE_UNIT)
GPU_DROP_IN = paths.drop_in(paths.GPU_UNIT)

# What the exporters say to somebody who asks at the address that they were given, in a few lines.
_ASK = """\
ask() { # what is scraped at the address that the drop-in $1 names, lines that begin as $3 says
  address=$(sed -n 's/^ExecStart=.*{flag}\\([^ ]*\\).*/\\1/p' "$1" 2>/dev/null)
  [ -n "$address" ] || return 0
  echo "asked $2 $address"
  curl -sf --noproxy '*' --max-time 5 "http://$address/metrics" | grep -E "$3" || :
}
"""


def _ask(flag: str, drop_in: str, what: str, lines: str) -> str:
    return _ASK.replace("{flag}", flag) + f"ask {drop_in} {what} {shlex.quote(lines)}\n"


def watch(settings: HostSettings, release: Release) -> Watch:
    """What an observation must look at for this role."""
    if settings.monitoring is None:
        return Watch(paths=(NODE_DROP_IN, GPU_DROP_IN, TIMER_PATH))
    asked = _ask("--web.listen-address=", NODE_DROP_IN, "node", "^(node_uname_info|metalserve_collector_)")
    asked += _ask(" -a ", GPU_DROP_IN, "gpu", "^DCGM_FI_DEV_GPU_TEMP")
    return Watch(
        paths=(
            paths.DIRECTORY,
            paths.COLLECTOR,
            paths.COLLECTOR_CONFIG,
            paths.COUNTERS,
            NODE_DROP_IN,
            GPU_DROP_IN,
            SERVICE_PATH,
            TIMER_PATH,
        ),
        units=(paths.NODE_UNIT, paths.GPU_UNIT, paths.COLLECT_TIMER),
        commands={SECTION: asked},
    )


def expected_gpus(node: Node) -> int:
    """Return how many GPUs the host should have: what was bought, else what is on its PCI bus now."""
    count = node.settings.expect.count
    return count if count is not None else len(node.hardware.pci_gpus)


def exports_gpus(node: Node) -> bool:
    """Tell whether the host gets the DCGM exporter."""
    return node.settings.monitoring is not None and node.settings.monitoring.gpu_exporter and expected_gpus(node) > 0


def install(node: Node, reached_at: str) -> Desired:
    """node_exporter of the distribution; its address is settled before it starts for the first time.

    Args:
        node: the host.
        reached_at: where pyinfra reaches it.

    Raises:
        MetalserveError: no private address is known.
    """
    monitoring = node.settings.monitoring
    if monitoring is None:
        return _removal(node)
    address = listen_address(node.name, node.settings, reached_at)
    return Desired(
        packages=tuple(Package(name) for name in ("prometheus-node-exporter", "python3", "dbus", "curl")),
        files=(File(NODE_DROP_IN, exporters.node_drop_in(address, monitoring.node_port)),),
    )


def install_gpu(node: Node, reached_at: str) -> Desired:
    """The DCGM exporter that goes with the release's DCGM, from NVIDIA's repository.

    Raises:
        NotYetKnown: the driver, which brings the repository, is not there yet.
        MetalserveError: no private address is known, or no exporter of this DCGM.
    """
    monitoring = node.settings.monitoring
    if monitoring is None or not exports_gpus(node):
        return Desired()
    node.need_driver("the DCGM exporter")
    metrics, dcgm = load_dcgm_metrics(), node.release.dcgm.version
    address = listen_address(node.name, node.settings, reached_at)
    return Desired(
        packages=(
            Package("datacenter-gpu-manager-4-core", dcgm),
            Package(metrics.exporter_package, metrics.exporter_for(dcgm)),
        ),
        files=(File(GPU_DROP_IN, exporters.gpu_drop_in(address, monitoring.gpu_port)),),
    )


def configure(node: Node) -> Desired:
    """The collector with its timer, and the counters that DCGM is asked for."""
    monitoring = node.settings.monitoring
    if monitoring is None:
        return Desired()
    config = exporters.collector_config(node.settings, node.release, expected_gpus(node))
    counters = (File(paths.COUNTERS, exporters.counters_text()),) if exports_gpus(node) else ()
    return Desired(
        directories=(Directory(paths.DIRECTORY),),
        files=(
            File(paths.COLLECTOR, (FILES / "monitoring" / "collect.py").read_text(), mode="0755"),
            File(paths.COLLECTOR_CONFIG, config),
            File(SERVICE_PATH, exporters.collect_service()),
            File(TIMER_PATH, exporters.collect_timer(monitoring.collect_interval_s)),
            *counters,
        ),
    )


def activate(node: Node) -> Desired:
    """Exporters and timer run, with what was written."""
    if node.settings.monitoring is None:
        return Desired()
    gpu = (Unit(paths.GPU_UNIT, restart_on=(GPU_DROP_IN, paths.COUNTERS)),) if exports_gpus(node) else ()
    return Desired(
        units=(
            Unit(paths.NODE_UNIT, restart_on=(NODE_DROP_IN,)),
            *gpu,
            Unit(paths.COLLECT_TIMER, restart_on=(TIMER_PATH,)),
        )
    )


def _removal(node: Node) -> Desired:
    """A host that is not watched any more has nothing listening; the packages stay."""
    if not {NODE_DROP_IN, GPU_DROP_IN, TIMER_PATH} & set(node.observed.files):
        return Desired()

    def gone(observed: Observation) -> bool:
        return not {NODE_DROP_IN, GPU_DROP_IN, TIMER_PATH} & set(observed.files)

    units = f"{paths.NODE_UNIT} {paths.GPU_UNIT} {paths.COLLECT_TIMER}"
    script = (
        f"for unit in {units}; do systemctl -q disable --now $unit 2>/dev/null || :; done\n"
        f"rm -rf {paths.drop_in(paths.NODE_UNIT).rpartition('/')[0]} "
        f"{paths.drop_in(paths.GPU_UNIT).rpartition('/')[0]} "
        f"{SERVICE_PATH} {TIMER_PATH} {paths.COLLECTOR} {paths.COLLECTOR_CONFIG} {paths.COUNTERS} {paths.TEXTFILE}\n"
        "systemctl daemon-reload\n"
    )
    return Desired(
        actions=(Action("end the exporters of a host that is not watched any more", gone, script, phase="early"),)
    )


def check(node: Node) -> Sequence[Finding]:
    """Prove that the exporters answer at their address, and that every part of the collector could be read."""
    if node.settings.monitoring is None:
        return ()
    lines = node.observed.text(SECTION).splitlines()
    return (*_answers(node, lines), *_collector(node, lines))


def _answers(node: Node, lines: Sequence[str]) -> list[Finding]:
    wanted = {"node": ("node_uname_info", paths.NODE_UNIT)}
    if exports_gpus(node):
        wanted["gpu"] = ("DCGM_FI_DEV_GPU_TEMP{", paths.GPU_UNIT)
    found = []
    for what, (metric, unit) in wanted.items():
        asked = next((line.split()[2] for line in lines if line.startswith(f"asked {what} ")), "")
        count = sum(line.startswith(metric) for line in lines)
        found.append(
            Finding(
                check="exporter-answers",
                status="ok" if count else "fail",
                subject=f"{unit} {asked}".strip(),
                expected=f"metrics such as {metric.rstrip('{')}",
                observed=f"{count} of them" if count else "no answer",
                impact="" if count else "nothing is known of this host",
                remedy="" if count else f"journalctl -u {unit} -n 50; is the port free?",
                source="the exporter itself",
            )
        )
    return found


def _collector(node: Node, lines: Sequence[str]) -> list[Finding]:
    parts = {
        line.split('part="')[1].split('"')[0]: line.rsplit(" ", 1)[1] == "1"
        for line in lines
        if line.startswith("metalserve_collector_success{")
    }
    unread = sorted(part for part, good in parts.items() if not good)
    return [
        Finding(
            check="collector-reads",
            status="fail" if not parts else "warn" if unread else "ok",
            subject=paths.COLLECT_SERVICE,
            expected="every part is read",
            observed=f"not read: {', '.join(unread)}" if unread else f"{len(parts)} parts read" if parts else "nothing",
            impact="no alert about it can fire" if unread or not parts else "",
            remedy=f"{paths.COLLECTOR} on the host says why" if unread or not parts else "",
            source=paths.TEXTFILE,
        )
    ]


def in_words(node: Node) -> str:
    """Return the proved line of the report."""
    lines = node.observed.text(SECTION).splitlines()
    asked = [line.split()[2] for line in lines if line.startswith("asked ")]
    gpus = sum(line.startswith("DCGM_FI_DEV_GPU_TEMP{") for line in lines)
    return f"exporters on {', '.join(asked)}" + (f"; {gpus} GPUs" if exports_gpus(node) else "")


__all__ = ["activate", "check", "configure", "expected_gpus", "in_words", "install", "install_gpu", "watch"]
