"""Rules about GPUs, their links, their memory and what the driver logs of them."""

from __future__ import annotations

from collections.abc import Iterable

from metalserve.catalogue.loader import load_thresholds, load_xids
from metalserve.monitoring.model import DRAIN, VERIFY, Alert, Group, Options, Recorded, dcgm

SANE = 1_000_000
"""DCGM prints numbers near 2^63 for what a GPU does not have (DCGM_INT64_BLANK and its like); no real value is so "
"high."""

HW_SLOWDOWN, SW_THERMAL, HW_THERMAL, POWER_BRAKE = 0x8, 0x20, 0x40, 0x80
"""Bits of the clocks event reasons that are bad under load (nvml.h); idle, application clocks and power cap are not."""

_GPU = "{{ $labels.host }} GPU {{ $labels.gpu }}"


def gpu_rules(options: Options) -> tuple[Group, ...]:
    """Return the groups about GPUs."""
    return (
        Group("metalserve-gpu-recorded", recorded=_recorded(options)),
        Group("metalserve-gpu-clocks", alerts=_clocks(options)),
        Group("metalserve-gpu-errors", alerts=(*_xids(options), *_links(options), *_memory(options))),
    )


def bit(value: int) -> str:
    """Return PromQL that is there for the GPUs whose clocks are held down for this reason; PromQL has no `and` of "
    "bits."""
    return f"floor(gpu:clocks_event_reasons / {value}) % 2 == 1"


def _recorded(options: Options) -> tuple[Recorded, ...]:
    plain = {
        "gpu:temperature_celsius": "DCGM_FI_DEV_GPU_TEMP",
        "gpu:memory_temperature_celsius": "DCGM_FI_DEV_MEMORY_TEMP",
        "gpu:temperature_margin_celsius": "DCGM_FI_DEV_GPU_TEMP_LIMIT",
        "gpu:power_watts": "DCGM_FI_DEV_POWER_USAGE",
        "gpu:power_limit_watts": "DCGM_FI_DEV_ENFORCED_POWER_LIMIT",
        "gpu:clocks_event_reasons": "DCGM_FI_DEV_CLOCKS_EVENT_REASONS",
        "gpu:last_xid": "DCGM_FI_DEV_XID_ERRORS",
        "gpu:rows_remapped": "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS",
        "gpu:row_remap_pending": "DCGM_FI_DEV_ROW_REMAP_PENDING",
        "gpu:row_remap_failed": "DCGM_FI_DEV_ROW_REMAP_FAILURE",
    }
    found = [Recorded(name, f"({dcgm(field)}) < {SANE}") for name, field in plain.items()]
    span = options.span(5)
    errors = (
        "NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL",
        "NVLINK_CRC_DATA_ERROR_COUNT_TOTAL",
        "NVLINK_RECOVERY_ERROR_COUNT_TOTAL",
    )
    rates = [f"({dcgm(f'DCGM_FI_DEV_{name}', f'rate({{}}[{span}])')})" for name in errors]
    # A generation of NVLink that lacks one of the counters still has the sum of the others.
    any_of = f"({' or '.join(rates)})"
    total = " + ".join(f"({rate} or 0 * {any_of})" for rate in rates)
    replays = dcgm("DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL", f"rate({{}}[{span}])")
    pcie = dcgm("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", f"rate({{}}[{span}])")
    return (
        *found,
        Recorded("gpu:memory_used:ratio", "DCGM_FI_DEV_FB_USED / (DCGM_FI_DEV_FB_USED + DCGM_FI_DEV_FB_FREE)"),
        Recorded("gpu:nvlink_errors:rate", total),
        Recorded("gpu:nvlink_replays:rate", replays),
        Recorded("gpu:pcie_replays:rate", pcie),
    )


def _clocks(options: Options) -> tuple[Alert, ...]:
    margin = load_thresholds().get("temperature-margin").value
    return (
        Alert(
            "GpuHardwareThermalSlowdown", bit(HW_THERMAL), options.hold(1), "critical",
            f"{_GPU} is slowed down by its own thermal protection",
            "The GPU passed its slowdown temperature: clocks are halved or worse, and tensor parallel runs at the "
            "speed of its slowest GPU.",
            "check airflow, fans and inlet temperature; `metalserve read smi-q` shows margins; drain the host "
            f"({DRAIN}) until it is cool",
        ),
        Alert(
            "GpuSoftwareThermalSlowdown", bit(SW_THERMAL), options.hold(2), "warning",
            f"{_GPU} is held down by the driver because it is hot",
            "The driver lowers clocks to keep the GPU below its highest operating temperature.",
            f"look at the inlet temperature and the neighbours; {VERIFY} checks the rest",
        ),
        Alert(
            "GpuPowerBrake", bit(POWER_BRAKE), options.hold(1), "critical",
            f"{_GPU} is slowed down by the power brake",
            "The board or a power supply asked for less power: a supply failed, a cable is loose, or the rack is "
            "over its budget.",
            f"look at the BMC's power supplies and the rack's budget; {VERIFY}",
        ),
        Alert(
            "GpuHardwareSlowdown", f"{bit(HW_SLOWDOWN)} unless ({bit(HW_THERMAL)} or {bit(POWER_BRAKE)})",
            options.hold(1), "critical",
            f"{_GPU} is slowed down by hardware, and neither heat nor the power brake is named",
            "HW slowdown alone: power that does not suffice at the board, or a reason that the driver does not tell.",
            "`metalserve read smi-q` on the output of `nvidia-smi -q -d PERFORMANCE` of the host; then the BMC's "
            "event log",
        ),
        Alert(
            "GpuThermalMarginLow", f"gpu:temperature_margin_celsius < {margin:g}", options.hold(5), "warning",
            f"{_GPU} has {{{{ $value }}}} degrees left before it slows down",
            "T.Limit is nearly used up; under more load, or on a warmer day, the GPU will throttle.",
            "look at fans, filters, inlet temperature; compare with the other hosts on the dashboard `thermals`; "
            "`pyinfra INVENTORY deploys/verify.py --data depth=standard --limit HOST` soaks it",
        ),
    )  # fmt: skip


def codes(*severities: str) -> str:
    """Return the Xids of these severities of the catalogue as a regular expression."""
    found = [xid.code for xid in load_xids().xids if xid.severity in severities]
    return "|".join(str(code) for code in sorted(found))


def _xids(options: Options) -> tuple[Alert, ...]:
    since = max(4 * options.scrape_interval_s, round(3600 * options.patience))

    def seen(*severities: str) -> str:
        return f'time() - metalserve_xid_last_timestamp_seconds{{xid=~"{codes(*severities)}"}} < {since}'

    text = "{{ $labels.host }} logged Xid {{ $labels.xid }}"
    return (
        Alert(
            "GpuXidFatal", seen("fatal"), "0s", "critical", f"{text}, after which a GPU must not serve",
            "The driver reports an error of a GPU, its memory or its links from which it does not recover by itself.",
            f"drain the host ({DRAIN}), then {VERIFY}: "
            "it names the GPU and the remedy of this Xid",
        ),
        Alert(
            "GpuXidWarning", seen("warning", "decode", "follow"), "0s", "warning", f"{text}",
            "The driver reports an error that may pass, or that another line of its log explains.",
            f"{VERIFY} reads the log and says what follows from it",
        ),
        Alert(
            "GpuXidApplication", seen("app"), "0s", "info", f"{text}, which is the program's fault",
            "A program on the GPU failed (illegal address, MMU fault ...): the engine has most likely ended and "
            "come back.",
            "`journalctl -u 'metalserve-vllm-*' -n 100` on the host; the same Xid on one GPU again and again is "
            "hardware: "
            f"{VERIFY}",
        ),
    )  # fmt: skip


def _links(options: Options) -> Iterable[Alert]:
    return (
        Alert(
            "GpuNvlinkErrors", "gpu:nvlink_errors:rate > 0", options.hold(1), "warning",
            f"{_GPU}: NVLink errors, {{{{ $value | humanize }}}} a second",
            "CRC errors or recoveries: a link that fails soon, or that has failed and runs slower.",
            f"{VERIFY} counts links and their speed; reseat the bridge or board",
        ),
        Alert(
            "GpuNvlinkReplays", "gpu:nvlink_replays:rate > 1", options.hold(10), "warning",
            f"{_GPU}: NVLink replays, {{{{ $value | humanize }}}} a second",
            "Packets are sent again: nothing is lost, but the link's signal is weak and all-reduce gets slower.",
            "`pyinfra INVENTORY deploys/verify.py --data depth=standard --limit HOST` measures the bandwidth",
        ),
        Alert(
            "FabricNotCompleted", "metalserve_gpu_fabric_completed == 0", options.hold(5), "critical",
            f"{_GPU} has not joined the NVLink fabric",
            "Engines over several GPUs do not start or hang in NCCL.",
            "`pyinfra INVENTORY roles.fabric_manager.fabric_manager --limit HOST`; then `journalctl -u "
            "nvidia-fabricmanager`",
        ),
        Alert(
            "FabricManagerDown",
            'node_systemd_unit_state{name="nvidia-fabricmanager.service",state="active"} == 0',
            options.hold(3), "critical",
            "{{ $labels.host }}: fabric manager does not run",
            "The fabric's state stays `Completed` (it is latched), so nothing else tells: the next reset or link "
            "error ends in an outage.",
            "`pyinfra INVENTORY roles.fabric_manager.fabric_manager --limit HOST`; a version that is not the "
            "driver's is the usual cause",
        ),
    )  # fmt: skip


def _memory(options: Options) -> Iterable[Alert]:
    return (
        Alert(
            "GpuRowRemapPending", "gpu:row_remap_pending > 0", options.hold(1), "warning",
            f"{_GPU}: a memory row waits for a reset to be remapped",
            "An uncorrectable error was found; programs run on, on other rows, and the repair waits for a GPU reset.",
            f"drain the host ({DRAIN}), reset the GPU or reboot, then run the main job again",
        ),
        Alert(
            "GpuRowRemapFailed", "gpu:row_remap_failed > 0", "0s", "critical",
            f"{_GPU}: a memory row could not be remapped",
            "The spare rows of a bank are used up: the card is a candidate for exchange.",
            f"take it out of service ({DRAIN}), run the field diagnostic, ask the vendor for an exchange",
        ),
        Alert(
            "GpuMissing", "metalserve_gpus_answering < metalserve_gpus_expected", options.hold(2), "critical",
            "{{ $labels.host }}: only {{ $value }} GPUs answer",
            "A GPU fell off the bus or hangs; there may be no Xid of it.",
            f"{VERIFY}; a reboot brings it back unless power, riser or card are bad",
        ),
    )  # fmt: skip


__all__ = ["bit", "codes", "gpu_rules"]
