"""Checks of each GPU by itself: memory, PCIe, ECC and row remapping, heat and power, what the driver asks for."""

from __future__ import annotations

from collections.abc import Iterator

from metalserve.catalogue.loader import load_xids
from metalserve.catalogue.models import GpuCatalogue, GpuSpec
from metalserve.hardware.node import Gpu, NodeHardware
from metalserve.verify.expectation import spec_of
from metalserve.verify.finding import Finding
from metalserve.verify.links import subject

MEMORY_GUIDE = "docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt"
NVML = "NVML header of CUDA 13.3 (NVIDIA/go-nvml 2026-07-01)"
SMI_DOC = "nvidia-smi documentation: pcie.link.*"

_MEMORY_FLOOR = 0.92
"""memory.total lies 0.4 to 6.7 % under the marketed size (captures of H200, L40S, B300)."""

BAD_REASONS = {
    "hw_slowdown": "the hardware slows the clocks down",
    "sw_thermal_slowdown": "the driver slows the clocks down because of heat",
    "hw_thermal_slowdown": "the hardware slows the clocks down because of heat",
    "hw_power_brake_slowdown": "the board's power brake slows the clocks down",
}
"""Clocks-event reasons of mask 0xE8 (NVML): none of them is normal under load. The power cap (0x4) is."""


def check_gpus(hardware: NodeHardware, catalogue: GpuCatalogue) -> list[Finding]:
    """Check every GPU that nvidia-smi shows."""
    unread = "smi-q" in hardware.unread
    findings = []
    for gpu in hardware.gpus:
        spec = spec_of(gpu, catalogue)
        for check in (_memory(gpu, spec), _pcie(gpu, spec), _power(gpu, spec)):
            findings += list(check)
        for check in (_remaps(gpu, unread), _reasons(gpu), _recovery(gpu, unread)):
            findings += list(check)
    return findings


def _memory(gpu: Gpu, spec: GpuSpec | None) -> Iterator[Finding]:
    if spec is None or (spec.memory.mib is None and spec.memory.gb is None) or gpu.mig_enabled or spec.id == "gb10":
        return
    full = spec.memory.mib or (spec.memory.gb or 0) * 1024
    wanted, source = f"about {full:.0f} MiB", f"catalogue row {spec.id}"
    if gpu.memory_mib is None:
        yield _unread("memory", gpu, wanted, "memory size not read", source)
    elif gpu.memory_mib < full * _MEMORY_FLOOR:
        yield Finding(
            "memory",
            "fail",
            subject(gpu),
            wanted,
            f"{gpu.memory_mib} MiB",
            "models planned for this GPU do not fit",
            "look for Xid 168 and retired memory; ask the vendor",
            source,
        )
    else:
        yield Finding("memory", "ok", subject(gpu), wanted, f"{gpu.memory_mib} MiB", source=source)


def _pcie(gpu: Gpu, spec: GpuSpec | None) -> Iterator[Finding]:
    if spec is not None and spec.pcie.width is None:
        return
    now, top, gen = gpu.pcie_width_current, gpu.pcie_width_max, gpu.pcie_gen_max
    if now is None or top is None:
        yield _unread("pcie-width", gpu, "PCIe width", "PCIe width not read", SMI_DOC)
        return
    card = spec.pcie.width if spec and spec.pcie.width else top
    source = f"catalogue row {spec.id}; {SMI_DOC}" if spec else SMI_DOC
    if now < top:
        yield Finding(
            "pcie-width",
            "fail",
            subject(gpu),
            f"x{top}",
            f"x{now}",
            f"loading and offload run at {now / top:.0%} of the bandwidth",
            "reseat card, riser and cables; if it stays, the slot or the card is damaged",
            source,
        )
    elif top < card:
        yield Finding(
            "pcie-width",
            "warn",
            subject(gpu),
            f"x{card}",
            f"x{top} is all that slot and card can do together",
            "loading and offload are slower than the card allows",
            "use a full-width slot, check bifurcation in the firmware",
            source,
        )
    else:
        yield Finding("pcie-width", "ok", subject(gpu), f"x{card}", f"x{now}", source=source)
    # The present generation says nothing: an idle GPU goes down to Gen1. What both sides can do does.
    if gen is not None and spec is not None and spec.pcie.gen is not None and "pcie" not in str(spec.unconfirmed):
        low = gen < spec.pcie.gen
        yield Finding(
            "pcie-generation",
            "warn" if low else "ok",
            subject(gpu),
            f"Gen{spec.pcie.gen}",
            f"Gen{gen} at most",
            "loading and offload run at half the bandwidth or less" if low else "",
            "check the firmware's PCIe speed setting, riser and slot" if low else "",
            f"catalogue row {spec.id}",
        )


def _power(gpu: Gpu, spec: GpuSpec | None) -> Iterator[Finding]:
    if spec is None or spec.power.default_w is None or "tdp_w" in str(spec.unconfirmed) or gpu.power_limit_w is None:
        return
    if gpu.power_limit_w < spec.power.default_w * 0.98:
        yield Finding(
            "power-limit",
            "warn",
            subject(gpu),
            f"{spec.power.default_w:.0f} W",
            f"{gpu.power_limit_w:.0f} W",
            "clocks under load are lower than those of its peers",
            "raise it with `nvidia-smi -pl` if nobody meant it so",
            f"catalogue row {spec.id}",
        )


def _remaps(gpu: Gpu, unread: bool) -> Iterator[Finding]:
    wanted = "no row remap pending or failed"
    if gpu.remapped_failure or gpu.sram_threshold_exceeded:
        yield Finding(
            "memory-remap",
            "fail",
            subject(gpu),
            wanted,
            "a row remap failed" if gpu.remapped_failure else "too many errors in on-chip memory",
            "memory errors will kill programs",
            "take the node out of service, run NVIDIA's field diagnostic; candidate for replacement",
            MEMORY_GUIDE,
        )
    elif gpu.remapped_pending:
        yield Finding(
            "memory-remap",
            "warn",
            subject(gpu),
            wanted,
            "a row remap is pending",
            "the bad row stays in use until the next reset; programs may run on",
            "reset the GPU (`nvidia-smi -r -i N`) or reboot at a convenient time",
            MEMORY_GUIDE,
        )
    elif gpu.remapped_pending is None and gpu.remapped_failure is None:
        if unread:
            yield _unread("memory-remap", gpu, wanted, "`nvidia-smi -q` could not be read", MEMORY_GUIDE)
        else:
            yield Finding(
                "memory-remap", "skipped", subject(gpu), wanted, "nvidia-smi prints none here", source=MEMORY_GUIDE
            )
    else:
        rows = f"{gpu.remapped_correctable or 0} + {gpu.remapped_uncorrectable or 0} rows remapped, none pending"
        yield Finding("memory-remap", "ok", subject(gpu), wanted, rows, source=MEMORY_GUIDE)
    if gpu.ecc_uncorrectable_volatile:
        yield Finding(
            "ecc",
            "warn",
            subject(gpu),
            "no uncorrectable ECC error since the driver was loaded",
            f"{gpu.ecc_uncorrectable_volatile} uncorrectable error(s)",
            "a program was killed or got wrong data",
            "look for Xid 48, 63, 64, 94, 95; reset the GPU; run `dcgmi diag -r 3` when it repeats",
            MEMORY_GUIDE,
        )


def _reasons(gpu: Gpu) -> Iterator[Finding]:
    wanted = "no slowdown by heat or power brake"
    if gpu.event_reasons is None:
        yield _unread("slowdown", gpu, wanted, "clocks-event reasons not read", NVML)
        return
    bad = [BAD_REASONS[r] for r in gpu.event_reasons if r in BAD_REASONS]
    if bad:
        heat = f" at {gpu.temperature_c:.0f} C" if gpu.temperature_c is not None else ""
        yield Finding(
            "slowdown",
            "fail",
            subject(gpu),
            wanted,
            f"{'; '.join(bad)} ({', '.join(r for r in gpu.event_reasons if r in BAD_REASONS)}){heat}",
            "this GPU slows the whole node down",
            "check fans, air flow, dust, inlet temperature and power supplies",
            NVML,
        )
    else:
        yield Finding("slowdown", "ok", subject(gpu), wanted, ", ".join(gpu.event_reasons) or "none", source=NVML)


def _recovery(gpu: Gpu, unread: bool) -> Iterator[Finding]:
    wanted = "the driver asks for no recovery action"
    if gpu.recovery_action is None:
        if unread:
            yield _unread("recovery-action", gpu, wanted, "`nvidia-smi -q` could not be read", MEMORY_GUIDE)
        return  # drivers before 570 do not print it
    known = load_xids().recovery(gpu.recovery_action)
    if known is not None and known.status == "ok":
        yield Finding("recovery-action", "ok", subject(gpu), wanted, "none", source=known.source)
    elif gpu.recovery_action.strip().lower() in ("n/a", "[n/a]"):
        yield Finding("recovery-action", "skipped", subject(gpu), wanted, "not available", source=MEMORY_GUIDE)
    else:
        yield Finding(
            "recovery-action",
            "fail",
            subject(gpu),
            wanted,
            gpu.recovery_action,
            "the GPU is not fit for work until then",
            known.remedy if known else "ask the vendor: this action is not in the catalogue",
            known.source if known else NVML,
        )


def _unread(check: str, gpu: Gpu, wanted: str, observed: str, source: str) -> Finding:
    return Finding(
        check,
        "unknown",
        subject(gpu),
        wanted,
        observed,
        "health not known",
        "run `nvidia-smi -q` on the host and read what it says",
        source,
    )
