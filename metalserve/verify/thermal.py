"""Checks of heat, power and clocks of each GPU, as it stands now (under load is what measurements are for)."""

from __future__ import annotations

from collections.abc import Iterator

from metalserve.catalogue.loader import threshold
from metalserve.catalogue.models import GpuCatalogue, GpuSpec
from metalserve.hardware.node import Gpu, NodeHardware
from metalserve.verify.expectation import spec_of
from metalserve.verify.finding import Finding
from metalserve.verify.links import subject
from metalserve.verify.memory import unread_finding

NVML = "NVML header of CUDA 13.3 (NVIDIA/go-nvml 2026-07-01)"
_COOL = "check fans, air flow, dust, inlet temperature and the seat of the heat sink"

BAD_REASONS = {
    "hw_slowdown": "the hardware slows the clocks down",
    "sw_thermal_slowdown": "the driver slows the clocks down because of heat",
    "hw_thermal_slowdown": "the hardware slows the clocks down because of heat",
    "hw_power_brake_slowdown": "the board's power brake slows the clocks down",
}
"""Clocks-event reasons of mask 0xE8 (NVML): none of them is normal under load. The power cap (0x4) is."""


def check_thermal(hardware: NodeHardware, catalogue: GpuCatalogue) -> list[Finding]:
    """Check heat, power limit and clocks of every GPU that nvidia-smi shows."""
    findings: list[Finding] = []
    for gpu in hardware.gpus:
        spec = spec_of(gpu, catalogue)
        findings += [*_temperature(gpu, spec), *_power(gpu, spec), *_reasons(gpu), *_clocks(gpu, spec)]
    return findings


def _temperature(gpu: Gpu, spec: GpuSpec | None) -> Iterator[Finding]:
    margin, evidence = _margin(gpu, spec)
    if margin is None:
        return
    limit = threshold("temperature-margin")
    close = margin <= limit.value
    yield Finding(
        "temperature",
        "warn" if close else "ok",
        subject(gpu),
        f"more than {limit.value:.0f} C below the highest operating temperature",
        f"{margin:.0f} C below it" if margin >= 0 else f"{-margin:.0f} C above it",
        "the clocks go down with heat, and the node with this GPU" if close else "",
        _COOL if close else "",
        limit.source,
        evidence,
        limit,
    )


def _margin(gpu: Gpu, spec: GpuSpec | None) -> tuple[float | None, str]:
    """Degrees C to the highest operating temperature, and what told so."""
    details = gpu.details
    if details is not None and details.margin_c is not None:
        return details.margin_c, f"GPU T.Limit Temp : {details.margin_c:.0f} C"
    top = details.max_operating_c if details else None
    if top is None and spec is not None and spec.temperature_c is not None:
        top = spec.temperature_c.max_operating
    if top is None or gpu.temperature_c is None:
        return None, ""
    return top - gpu.temperature_c, f"temperature.gpu {gpu.temperature_c:.0f}, highest operating {top:.0f} C"


def _power(gpu: Gpu, spec: GpuSpec | None) -> Iterator[Finding]:
    known = spec is not None and spec.power.default_w is not None and "tdp_w" not in str(spec.unconfirmed)
    printed = gpu.details.power_default_w if gpu.details else None
    normal = spec.power.default_w if known and spec is not None else printed
    if normal is None or gpu.power_limit_w is None:
        return
    floor = threshold("power-limit-floor")
    low = gpu.power_limit_w < normal * floor.value
    yield Finding(
        "power-limit",
        "warn" if low else "ok",
        subject(gpu),
        f"{normal:.0f} W",
        f"{gpu.power_limit_w:.0f} W",
        "clocks under load are lower than those of its peers" if low else "",
        "raise it with `nvidia-smi -pl` if nobody meant it so" if low else "",
        f"catalogue row {spec.id}" if known and spec is not None else "default power limit that the GPU prints",
        f"power.limit {gpu.power_limit_w:.2f} W",
        floor,
    )


def _reasons(gpu: Gpu) -> Iterator[Finding]:
    wanted = "no slowdown by heat or power brake"
    if gpu.event_reasons is None:
        yield unread_finding("slowdown", gpu, wanted, "clocks-event reasons not read", NVML)
        return
    bad = [r for r in gpu.event_reasons if r in BAD_REASONS]
    if bad:
        heat = f" at {gpu.temperature_c:.0f} C" if gpu.temperature_c is not None else ""
        yield Finding(
            "slowdown",
            "fail",
            subject(gpu),
            wanted,
            f"{'; '.join(BAD_REASONS[r] for r in bad)} ({', '.join(bad)}){heat}",
            "this GPU slows the whole node down",
            "check fans, air flow, dust, inlet temperature and power supplies",
            NVML,
            f"Clocks Event Reasons, active: {', '.join(gpu.event_reasons)}",
        )
    else:
        yield Finding("slowdown", "ok", subject(gpu), wanted, ", ".join(gpu.event_reasons) or "none", source=NVML)


def _clocks(gpu: Gpu, spec: GpuSpec | None) -> Iterator[Finding]:
    details = gpu.details
    if details is None or details.clock_sm_max_mhz is None:
        return
    floor = threshold("max-clock-floor")
    top = spec.max_sm_mhz if spec and "max_sm_mhz" not in spec.unconfirmed else None
    able, chosen, usual = details.clock_sm_max_mhz, details.application_clock_mhz, details.default_application_clock_mhz
    evidence = f"Max Clocks / SM : {able} MHz; Applications Clocks / Graphics : {chosen} MHz, default {usual} MHz"
    wanted = f"{top} MHz" if top else "clocks as delivered"
    if top and able < top * floor.value:
        low, observed = True, f"{able} MHz at most"
    elif chosen is not None and usual is not None and chosen < usual * floor.value:
        low, wanted, observed = True, f"application clock {usual} MHz", f"set to {chosen} MHz"
    else:
        low, observed = False, f"{able} MHz at most"
    yield Finding(
        "clock-limit",
        "warn" if low else "ok",
        subject(gpu),
        wanted,
        observed,
        "this GPU computes more slowly than its peers" if low else "",
        "set it back with `nvidia-smi -rac` and `nvidia-smi -rgc` if nobody meant it so" if low else "",
        f"catalogue row {spec.id}" if spec and top else NVML,
        evidence,
        floor,
    )
