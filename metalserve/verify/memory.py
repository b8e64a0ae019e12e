"""Checks of each GPU's memory: size, ECC, row remapping, spare rows, repairs."""

from __future__ import annotations

from collections.abc import Iterator

from metalserve.catalogue.loader import threshold
from metalserve.catalogue.models import GpuCatalogue, GpuSpec
from metalserve.hardware.node import Gpu, NodeHardware
from metalserve.verify.expectation import spec_of
from metalserve.verify.finding import Finding
from metalserve.verify.links import subject

MEMORY_GUIDE = "docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt"
_FIELD_DIAGNOSTIC = "take the node out of service, run NVIDIA's field diagnostic; candidate for replacement"


def check_memory(hardware: NodeHardware, catalogue: GpuCatalogue) -> list[Finding]:
    """Check the memory of every GPU that nvidia-smi shows."""
    unread = "smi-q" in hardware.unread
    some_ecc = any(g.details is not None and g.details.ecc_enabled for g in hardware.gpus)
    findings: list[Finding] = []
    for gpu in hardware.gpus:
        spec = spec_of(gpu, catalogue)
        findings += [*_size(gpu, spec), *_remaps(gpu, unread), *_ecc(gpu)]
        findings += [*_ecc_mode(gpu, spec, some_ecc), *_banks(gpu), *_pages(gpu), *_repairs(gpu)]
    return findings


def unread_finding(check: str, gpu: Gpu, wanted: str, observed: str, source: str) -> Finding:
    """Say that a value of a GPU could not be read."""
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


def _size(gpu: Gpu, spec: GpuSpec | None) -> Iterator[Finding]:
    if spec is None or (spec.memory.mib is None and spec.memory.gb is None) or gpu.mig_enabled or spec.id == "gb10":
        return
    full = spec.memory.mib or (spec.memory.gb or 0) * 1024
    wanted, source = f"about {full:.0f} MiB", f"catalogue row {spec.id}"
    floor = threshold("memory-total-floor")
    if gpu.memory_mib is None:
        yield unread_finding("memory", gpu, wanted, "memory size not read", source)
    elif gpu.memory_mib < full * floor.value:
        yield Finding(
            "memory",
            "fail",
            subject(gpu),
            wanted,
            f"{gpu.memory_mib} MiB",
            "models planned for this GPU do not fit",
            "look for Xid 168 and retired memory; ask the vendor",
            source,
            f"memory.total {gpu.memory_mib} MiB",
            floor,
        )
    else:
        yield Finding("memory", "ok", subject(gpu), wanted, f"{gpu.memory_mib} MiB", source=source, threshold=floor)


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
            _FIELD_DIAGNOSTIC,
            MEMORY_GUIDE,
            "Remapping Failure Occurred : Yes" if gpu.remapped_failure else "SRAM Threshold Exceeded : Yes",
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
            "Remapped Rows / Pending : Yes",
        )
    elif gpu.remapped_pending is None and gpu.remapped_failure is None:
        if unread:
            yield unread_finding("memory-remap", gpu, wanted, "`nvidia-smi -q` could not be read", MEMORY_GUIDE)
        else:
            yield Finding(
                "memory-remap", "skipped", subject(gpu), wanted, "nvidia-smi prints none here", source=MEMORY_GUIDE
            )
    else:
        rows = f"{gpu.remapped_correctable or 0} + {gpu.remapped_uncorrectable or 0} rows remapped, none pending"
        yield Finding("memory-remap", "ok", subject(gpu), wanted, rows, source=MEMORY_GUIDE)


def _ecc(gpu: Gpu) -> Iterator[Finding]:
    wanted = "no uncorrectable ECC error since the driver was loaded"
    count = gpu.ecc_uncorrectable_volatile
    if count is None:
        return
    ever = gpu.details.ecc_uncorrectable_aggregate if gpu.details else None
    life = f", {ever} in the GPU's life" if ever is not None else ""
    yield Finding(
        "ecc",
        "warn" if count else "ok",
        subject(gpu),
        wanted,
        f"{count} uncorrectable error(s){life}",
        "a program was killed or got wrong data" if count else "",
        "look for Xid 48, 63, 64, 94, 95; reset the GPU; run `dcgmi diag -r 3` when it repeats" if count else "",
        MEMORY_GUIDE,
        f"ECC Errors / Volatile, uncorrectable : {count}",
    )


def _ecc_mode(gpu: Gpu, spec: GpuSpec | None, some_have_it: bool) -> Iterator[Finding]:
    details = gpu.details
    if details is None or details.ecc_enabled is None:
        return
    meant = some_have_it or (spec is not None and "ecc" in spec.features)
    evidence = f"ECC Mode / Current : {details.ecc_enabled}, Pending : {details.ecc_pending}"
    changing = details.ecc_pending is not None and details.ecc_pending != details.ecc_enabled
    if (not details.ecc_enabled and meant) or changing:
        yield Finding(
            "ecc-mode",
            "warn",
            subject(gpu),
            "ECC on" if meant else "the ECC mode that will stay",
            "ECC changes at the next reset" if changing else "ECC off",
            "memory errors give wrong answers in silence" if not details.ecc_enabled else "the GPU will lose its ECC",
            "turn it on with `nvidia-smi -e 1` and reset the GPU",
            MEMORY_GUIDE,
            evidence,
        )
    else:
        words = "ECC on" if details.ecc_enabled else "ECC off, as such cards are sold"
        yield Finding("ecc-mode", "ok", subject(gpu), "ECC on, where the card has it", words, source=MEMORY_GUIDE)


def _banks(gpu: Gpu) -> Iterator[Finding]:
    details = gpu.details
    if details is None or details.banks_none is None:
        return
    spent, low = details.banks_none, details.banks_low or 0
    evidence = f"Bank Remap Availability Histogram: Max {details.banks_max}, Low {low}, None {spent}"
    wanted = "spare rows in every memory bank"
    if spent or low:
        yield Finding(
            "memory-banks",
            "warn",
            subject(gpu),
            wanted,
            f"{spent} bank(s) without spare rows, {low} with few",
            "the next bad row in them cannot be replaced: the GPU is then to be exchanged",
            "plan its replacement; run NVIDIA's field diagnostic",
            MEMORY_GUIDE,
            evidence,
        )
    else:
        observed = f"{details.banks_max} bank(s) have all of theirs"
        yield Finding("memory-banks", "ok", subject(gpu), wanted, observed, source=MEMORY_GUIDE, evidence=evidence)


def _pages(gpu: Gpu) -> Iterator[Finding]:
    pages = gpu.details.retired_pages if gpu.details else None
    pending = gpu.details.retirement_pending if gpu.details else None
    if pages is None:
        return  # Ampere and later remap rows instead
    limit = threshold("retired-pages")
    full = pages >= limit.value
    yield Finding(
        "memory-pages",
        "fail" if full else "warn" if pending else "ok",
        subject(gpu),
        f"under {limit.value:.0f} retired pages, none pending",
        f"{pages} retired" + (", more pending" if pending else ""),
        "memory errors will kill programs" if full else "a bad page stays in use until a reset" if pending else "",
        _FIELD_DIAGNOSTIC if full else "reset the GPU or reboot at a convenient time" if pending else "",
        MEMORY_GUIDE,
        f"Retired Pages / Double Bit ECC : {pages}, Pending Page Blacklist : {pending}",
        limit,
    )


def _repairs(gpu: Gpu) -> Iterator[Finding]:
    details = gpu.details
    if details is None:
        return
    known = (details.unrepairable_memory, details.channel_repair_pending, details.tpc_repair_pending)
    if all(value is None for value in known):
        return  # drivers before 590 do not print them
    wanted = "no repair pending, no memory beyond repair"
    if details.unrepairable_memory:
        yield Finding(
            "memory-repair",
            "fail",
            subject(gpu),
            wanted,
            "memory that cannot be repaired",
            "memory errors will kill programs",
            _FIELD_DIAGNOSTIC,
            MEMORY_GUIDE,
            "Unrepairable Memory : Yes",
        )
    elif details.channel_repair_pending or details.tpc_repair_pending:
        what = "channel" if details.channel_repair_pending else "TPC"
        yield Finding(
            "memory-repair",
            "warn",
            subject(gpu),
            wanted,
            f"a {what} repair is pending",
            "the bad part stays in use until the next reset",
            "reset the GPU (`nvidia-smi -r -i N`) or reboot at a convenient time",
            MEMORY_GUIDE,
            f"{what} Repair Pending : Yes",
        )
    else:
        yield Finding("memory-repair", "ok", subject(gpu), wanted, "none", source=MEMORY_GUIDE)
