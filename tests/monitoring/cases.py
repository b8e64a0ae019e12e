"""For every alert: what a host tells that makes it fire, alone, and what is as near to it and must not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

GPU = 'job="gpu",host="a",gpu="0",UUID="GPU-1"'
HOST = 'job="node",host="a"'
ENGINE = 'job="engine",host="a",instance="a:8000",model_name="m"'
FS = 'job="node",host="a",device="/dev/nvme0n1",fstype="xfs",mountpoint="/srv/models"'
TB = 10**12


@dataclass(frozen=True)
class Case:
    """One alert.

    Attributes:
        bad: series -> values a minute from 0 on, as promtool writes them; the alert fires at `at`, and nothing else.
        good: the same; nothing fires at `at`.
        at: minutes after the start.
        also: alerts that the same fault brings with it.
        good_at: `at` of the good series.
    """

    bad: Mapping[str, str]
    good: Mapping[str, str]
    at: int = 20
    also: frozenset[str] = field(default=frozenset())
    good_at: int | None = None


def steady(value: float, minutes: int = 300) -> str:
    """A value that stays."""
    return f"{value}+0x{minutes}"


def growing(step: float, start: float = 0, minutes: int = 300) -> str:
    """A value that grows by `step` a minute."""
    return f"{start}+{step}x{minutes}" if step >= 0 else f"{start}-{-step}x{minutes}"


def late(value: float, after: int, minutes: int = 300) -> str:
    """A series that is not there for a while."""
    return f"_x{after} {value}+0x{minutes}"


def reasons(mask: int) -> dict[str, str]:
    return {f"DCGM_FI_DEV_CLOCKS_EVENT_REASONS{{{GPU}}}": steady(mask)}


def one(metric: str, labels: str, bad: str, good: str, **more: object) -> Case:
    return Case({f"{metric}{{{labels}}}": bad}, {f"{metric}{{{labels}}}": good}, **more)  # type: ignore[arg-type]


def xid(number: int) -> Case:
    series = f'metalserve_xid_last_timestamp_seconds{{{HOST},xid="{number}"}}'
    # Ten minutes after the start it comes; an hour later it is old news.
    return Case({series: late(600, 10)}, {series: late(600, 10)}, good_at=90)


def up(minutes: int = 1) -> dict[str, str]:
    """What a host tells in every case unless the case itself says otherwise; `minutes` between two of its values."""
    return {
        f"up{{{HOST}}}": steady(1),
        f"metalserve_collector_timestamp_seconds{{{HOST}}}": growing(60 * minutes),
    }


TTFT = f"vllm:time_to_first_token_seconds_bucket{{{ENGINE},le="


def ttft(within_2_5: float) -> dict[str, str]:
    """Requests a minute, all within 10 s, some of them within 2.5 s."""
    return {
        f'{TTFT}"1"}}': growing(within_2_5 * 0.9),
        f'{TTFT}"2.5"}}': growing(within_2_5),
        f'{TTFT}"10"}}': growing(100),
        f'{TTFT}"+Inf"}}': growing(100),
    }


CASES: dict[str, Case] = {
    "GpuHardwareThermalSlowdown": Case(reasons(0x48), reasons(0x4)),
    "GpuSoftwareThermalSlowdown": Case(reasons(0x20), reasons(0x5)),
    "GpuPowerBrake": Case(reasons(0x88), reasons(0x2)),
    "GpuHardwareSlowdown": Case(reasons(0x8), reasons(0x1 | 0x10 | 0x100)),
    "GpuThermalMarginLow": one("DCGM_FI_DEV_GPU_TEMP_LIMIT", GPU, steady(2), steady(12)),
    "GpuXidFatal": xid(79),
    "GpuXidWarning": xid(154),
    "GpuXidApplication": xid(31),
    "GpuNvlinkErrors": one("DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL", GPU, growing(30), steady(7)),
    "GpuNvlinkReplays": one("DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL", GPU, growing(120), growing(6)),
    "FabricNotCompleted": one("metalserve_gpu_fabric_completed", 'job="node",host="a",gpu="0"', steady(0), steady(1)),
    "FabricManagerDown": one(
        "node_systemd_unit_state", f'{HOST},name="nvidia-fabricmanager.service",state="active"', steady(0), steady(1)
    ),
    "GpuRowRemapPending": one("DCGM_FI_DEV_ROW_REMAP_PENDING", GPU, steady(1), steady(0)),
    "GpuRowRemapFailed": one("DCGM_FI_DEV_ROW_REMAP_FAILURE", GPU, steady(1), steady(0)),
    "GpuMissing": Case(
        {f"metalserve_gpus_answering{{{HOST}}}": steady(7), f"metalserve_gpus_expected{{{HOST}}}": steady(8)},
        {f"metalserve_gpus_answering{{{HOST}}}": steady(8), f"metalserve_gpus_expected{{{HOST}}}": steady(8)},
    ),
    "EngineDown": one("up", 'job="engine",host="a",instance="a:8000"', steady(0), steady(1)),
    "EngineNotReady": one("metalserve_engine_state", f'{HOST},replica="0",state="stalled"', steady(1), steady(0)),
    "EngineGateRefuses": one("metalserve_engine_gate_open", f'{HOST},replica="0"', steady(0), steady(1)),
    "EngineKvCacheFull": one("vllm:kv_cache_usage_perc", ENGINE, steady(0.99), steady(0.9)),
    "EngineQueueGrowing": one("vllm:num_requests_waiting", ENGINE, growing(1, 30), steady(30)),
    "EngineTtftAboveObjective": Case(ttft(50), ttft(99)),
    "RouterDown": one("up", 'job="router",host="a",instance="a:8405"', steady(0), steady(1)),
    # A host that is down tells nothing: its collector's age is not news of its own.
    "NodeDown": Case(
        {f"up{{{HOST}}}": steady(0), f"metalserve_collector_timestamp_seconds{{{HOST}}}": "_x300"},
        {f"up{{{HOST}}}": steady(1)},
    ),
    "GpuExporterDown": one("up", 'job="gpu",host="a"', steady(0), steady(1)),
    "CollectorStale": Case(
        {f"metalserve_collector_timestamp_seconds{{{HOST}}}": steady(600)},
        {f"metalserve_collector_timestamp_seconds{{{HOST}}}": growing(60, -120)},
    ),
    "CollectorPartFailed": one("metalserve_collector_success", f'{HOST},part="gpus"', steady(0), steady(1)),
    "DiskFull": Case(
        {f"node_filesystem_avail_bytes{{{FS}}}": steady(0.04 * TB), f"node_filesystem_size_bytes{{{FS}}}": steady(TB)},
        {f"node_filesystem_avail_bytes{{{FS}}}": steady(0.06 * TB), f"node_filesystem_size_bytes{{{FS}}}": steady(TB)},
    ),
    # 300 GB free and 1 GB a minute: gone in five hours. 900 GB free is none of tomorrow's worries at that rate.
    "DiskFilling": Case(
        {
            f"node_filesystem_avail_bytes{{{FS}}}": growing(-1e9, 0.4 * TB),
            f"node_filesystem_size_bytes{{{FS}}}": steady(TB),
        },
        {
            f"node_filesystem_avail_bytes{{{FS}}}": growing(-0.05e9, 0.39 * TB),
            f"node_filesystem_size_bytes{{{FS}}}": steady(TB),
        },
        at=100,
    ),
    "NvmeLinkDegraded": Case(
        {
            f'metalserve_nvme_link_width{{{HOST},device="nvme0"}}': steady(1),
            f'metalserve_nvme_link_width_max{{{HOST},device="nvme0"}}': steady(4),
            f'metalserve_nvme_link_speed_gts{{{HOST},device="nvme0"}}': steady(16),
            f'metalserve_nvme_link_speed_gts_max{{{HOST},device="nvme0"}}': steady(16),
        },
        {
            f'metalserve_nvme_link_width{{{HOST},device="nvme0"}}': steady(4),
            f'metalserve_nvme_link_width_max{{{HOST},device="nvme0"}}': steady(4),
            f'metalserve_nvme_link_speed_gts{{{HOST},device="nvme0"}}': steady(16),
            f'metalserve_nvme_link_speed_gts_max{{{HOST},device="nvme0"}}': steady(16),
        },
    ),
    "NvmeHot": one("metalserve_nvme_temperature_celsius", f'{HOST},device="nvme0"', steady(75), steady(60)),
    "ReleaseDrift": one(
        "metalserve_release_drift", f'{HOST},component="driver",wanted="1",installed="2"', steady(1), steady(0)
    ),
    "RebootPending": one("metalserve_reboot_pending", HOST, steady(1), steady(1), at=25 * 60, good_at=23 * 60),
    "WeightsVerificationOld": one(
        "metalserve_weights_verified_timestamp_seconds",
        f'{HOST},model="m"',
        steady(-9 * 86400),
        steady(-7 * 86400),
        at=70,
    ),
}
