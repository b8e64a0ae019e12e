"""Rules about hosts: reachable, told of, as their release says, with room on their drives."""

from __future__ import annotations

from metalserve.monitoring.model import DRAIN, MAIN_JOB, NODE_METRICS, Alert, Group, Options

NO_DRIVE = "tmpfs|ramfs|overlay|squashfs|iso9660|fuse.*|nsfs"
"""File systems that are no drive, or a second view of one."""

_FS = f'{{fstype!~"{NO_DRIVE}"}}'
_HOST = "{{ $labels.host }}"


def host_rules(options: Options) -> tuple[Group, ...]:
    """Return the groups about hosts."""
    return (
        Group("metalserve-host", alerts=(*_reachable(options), *_told(options))),
        Group("metalserve-drives", alerts=_drives(options)),
        Group("metalserve-release", alerts=_release(options)),
    )


def _reachable(options: Options) -> tuple[Alert, ...]:
    return (
        Alert(
            "NodeDown", 'up{job="node"} == 0', options.hold(2), "critical",
            f"{_HOST} does not answer",
            "The host, its network or its node_exporter is down; other alerts of this host are held back.",
            "look at its console or BMC; `pyinfra INVENTORY deploys/monitoring.py --limit HOST` once it is reached "
            "again",
        ),
        Alert(
            "GpuExporterDown", 'up{job="gpu"} == 0', options.hold(5), "warning",
            f"{_HOST}: the DCGM exporter does not answer",
            "Nothing is known of temperatures, clocks and errors of this host's GPUs: silence is not health.",
            f"`journalctl -u nvidia-dcgm-exporter -n 50` on the host; {NODE_METRICS}",
        ),
    )  # fmt: skip


def _told(options: Options) -> tuple[Alert, ...]:
    stamp = "metalserve_collector_timestamp_seconds"
    return (
        Alert(
            "CollectorStale",
            f'time() - {stamp} > {options.stale_s} or (up{{job="node"}} == 1 unless on (host) {stamp})',
            options.hold(2), "warning",
            f"{_HOST}: metalserve's collector has stopped",
            "Fabric, Xids, drives, weights, release and gate of this host are as they were when it stopped.",
            f"`journalctl -u metalserve-metrics -n 30` on the host; {NODE_METRICS}",
        ),
        Alert(
            "CollectorPartFailed", "metalserve_collector_success == 0", options.hold(5), "warning",
            f"{_HOST}: {{{{ $labels.part }}}} could not be read",
            "What is not read is not known, and no alert about it can fire.",
            "`/usr/local/lib/metalserve/collect-metrics` on the host says why",
        ),
    )  # fmt: skip


def _drives(options: Options) -> tuple[Alert, ...]:
    free, size = f"node_filesystem_avail_bytes{_FS}", f"node_filesystem_size_bytes{_FS}"
    room = f"{free} / {size}"
    place = f"{_HOST} {{{{ $labels.mountpoint }}}}"
    return (
        Alert(
            "DiskFull", f"{room} < 0.05", options.hold(5), "critical",
            f"{place} has {{{{ $value | humanizePercentage }}}} left",
            "Nothing can be staged, logged or compiled there.",
            "`du -xh --max-depth=2 MOUNT | sort -h | tail` on the host; weights that no engine serves are the "
            "usual cause",
        ),
        Alert(
            "DiskFilling",
            # the second half keeps a large file that was just written from being read as a trend towards the end
            f"predict_linear({free}[{options.span(60)}], 24 * 3600) < 0 and {room} < 0.4",
            options.hold(30), "warning",
            f"{place} will be full within a day",
            "At the rate of the last hour there is no room left tomorrow.",
            "`du -xh --max-depth=2 MOUNT | sort -h | tail` on the host",
        ),
        Alert(
            "NvmeLinkDegraded",
            "metalserve_nvme_link_width < metalserve_nvme_link_width_max "
            "or metalserve_nvme_link_speed_gts < metalserve_nvme_link_speed_gts_max",
            options.hold(5), "warning",
            f"{_HOST} {{{{ $labels.device }}}}: the drive's PCIe link runs at {{{{ $value }}}}, less than it can",
            "Models load several times slower.",
            "reseat the drive; `pyinfra INVENTORY deploys/verify.py --data depth=standard --limit HOST` measures it",
        ),
        Alert(
            "NvmeHot", "metalserve_nvme_temperature_celsius > 70", options.hold(10), "warning",
            f"{_HOST} {{{{ $labels.device }}}} is at {{{{ $value }}}} C",
            "Drives slow down at 70 to 80 C.",
            "check the airflow over the drive; `nvme smart-log` on the host shows its own warning and critical "
            "temperature",
        ),
    )  # fmt: skip


def _release(options: Options) -> tuple[Alert, ...]:
    days = options.weights_verified_days
    return (
        Alert(
            "ReleaseDrift", "metalserve_release_drift == 1", options.hold(15), "warning",
            f"{_HOST}: {{{{ $labels.component }}}} is {{{{ $labels.installed }}}}, its release says "
            f"{{{{ $labels.wanted }}}}",
            "The host does not run what was tested together; fabric manager and driver of two versions do not start.",
            f"`metalserve drift INVENTORY` shows all of it, {MAIN_JOB} mends it",
        ),
        Alert(
            "RebootPending", "metalserve_reboot_pending == 1", options.hold(24 * 60), "info",
            f"{_HOST} waits for a reboot",
            "A package asks for it; what runs is older than what is installed.",
            f"{DRAIN}, reboot, then {MAIN_JOB}",
        ),
        Alert(
            "WeightsVerificationOld", f"time() - metalserve_weights_verified_timestamp_seconds > {days * 86400}",
            options.hold(60), "warning",
            f"{_HOST}: {{{{ $labels.model }}}} was last verified {{{{ $value | humanizeDuration }}}} ago",
            "Drives lose bits in silence, and an engine loads them without a word.",
            "`pyinfra INVENTORY roles.weights.weights --limit HOST`",
        ),
    )  # fmt: skip


__all__ = ["host_rules"]
