"""Checks of each GPU by itself: PCIe, memory, heat and power, and what the driver asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from metalserve.catalogue.loader import load_xids
from metalserve.catalogue.models import GpuCatalogue
from metalserve.hardware.node import Gpu, NodeHardware
from metalserve.verify.finding import Finding
from metalserve.verify.links import subject
from metalserve.verify.memory import MEMORY_GUIDE, check_memory, unread_finding
from metalserve.verify.pcie import check_pcie
from metalserve.verify.thermal import BAD_REASONS, NVML, check_thermal

__all__ = ["BAD_REASONS", "check_gpus"]

_PERSISTENCE = "docs.nvidia.com/deploy/driver-persistence"


def check_gpus(hardware: NodeHardware, catalogue: GpuCatalogue) -> list[Finding]:
    """Check every GPU that nvidia-smi shows."""
    findings = check_pcie(hardware, catalogue)
    findings += check_memory(hardware, catalogue)
    findings += check_thermal(hardware, catalogue)
    for gpu in hardware.gpus:
        findings += _recovery(gpu, "smi-q" in hardware.unread)
    findings += _persistence(hardware)
    return findings


def _recovery(gpu: Gpu, unread: bool) -> Iterator[Finding]:
    wanted = "the driver asks for no recovery action"
    if gpu.recovery_action is None:
        if unread:
            yield unread_finding("recovery-action", gpu, wanted, "`nvidia-smi -q` could not be read", MEMORY_GUIDE)
        return  # drivers before 570 do not print it
    known = load_xids().recovery(gpu.recovery_action)
    evidence = f"GPU Recovery Action : {gpu.recovery_action}"
    if known is not None and known.status == "ok":
        yield Finding("recovery-action", "ok", subject(gpu), wanted, "none", source=known.source, evidence=evidence)
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
            evidence,
        )


def _persistence(hardware: NodeHardware) -> Iterator[Finding]:
    modes = Counter(gpu.persistence for gpu in hardware.gpus)
    if not modes[True] and not modes[False]:
        return
    off = [f"GPU {gpu.index}" for gpu in hardware.gpus if gpu.persistence is False]
    yield Finding(
        "persistence",
        "warn" if off else "ok",
        "host",
        "persistence mode on",
        f"off on {', '.join(off)}" if off else f"on on all {modes[True]} GPU(s)",
        "the driver is torn down between programs: each start takes seconds longer, settings are lost" if off else "",
        "enable nvidia-persistenced (role nvidia_driver does)" if off else "",
        _PERSISTENCE,
    )
