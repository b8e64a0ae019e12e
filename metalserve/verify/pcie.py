"""Checks of each GPU's PCIe path: its own link, every link above it, and packets that had to be sent again."""

from __future__ import annotations

from collections.abc import Iterator

from metalserve.catalogue.loader import threshold
from metalserve.catalogue.models import GpuCatalogue, GpuSpec
from metalserve.hardware.node import Gpu, NodeHardware
from metalserve.verify.expectation import spec_of
from metalserve.verify.finding import Finding
from metalserve.verify.links import subject
from metalserve.verify.paths import PathLink, by_address, path

SMI_DOC = "nvidia-smi documentation: pcie.link.*"
SYSFS = "link of both ends in sysfs (PCI Express base specification)"


def check_pcie(hardware: NodeHardware, catalogue: GpuCatalogue) -> list[Finding]:
    """Check the PCIe path of every GPU that nvidia-smi shows."""
    nodes = by_address(hardware.pcie_tree)
    findings: list[Finding] = []
    for gpu in hardware.gpus:
        spec = spec_of(gpu, catalogue)
        if spec is None or spec.pcie.width is not None:
            findings += _own(gpu, spec)
        if nodes:
            findings += _above(gpu, path(nodes, gpu.pci or "")[1:], spec)
        findings += _replays(gpu)
    if not nodes and "pcie-tree" in hardware.unread and hardware.gpus:
        findings.append(
            Finding(
                "pcie-path",
                "inconclusive",
                "host",
                "the PCIe tree of sysfs",
                "it could not be read",
                "whether a bridge above a GPU is slow is not known",
                "read /sys/bus/pci/devices on the host",
                SYSFS,
            )
        )
    return findings


def _own(gpu: Gpu, spec: GpuSpec | None) -> Iterator[Finding]:
    now, top, gen = gpu.pcie_width_current, gpu.pcie_width_max, gpu.pcie_gen_max
    if now is None or top is None:
        yield Finding(
            "pcie-width",
            "unknown",
            subject(gpu),
            "PCIe width",
            "PCIe width not read",
            "health not known",
            "run `nvidia-smi -q` on the host and read what it says",
            SMI_DOC,
        )
        return
    card = spec.pcie.width if spec and spec.pcie.width else top
    source = f"catalogue row {spec.id}; {SMI_DOC}" if spec else SMI_DOC
    evidence = f"pcie.link.width.current {now}, pcie.link.width.max {top}"
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
            evidence,
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
            evidence,
        )
    else:
        yield Finding("pcie-width", "ok", subject(gpu), f"x{card}", f"x{now}", source=source, evidence=evidence)
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
            f"pcie.link.gen.max {gen}",
        )


def _above(gpu: Gpu, links: list[PathLink], spec: GpuSpec | None) -> Iterator[Finding]:
    if not links:
        return  # directly below the root, as in most virtual machines
    wanted = "every link above the GPU as wide and fast as its two ends can do"
    bad = [link for link in links if link.narrow or link.slow]
    if bad:
        worst = bad[0]
        narrow = any(link.narrow for link in bad)
        yield Finding(
            "pcie-path",
            "fail" if narrow else "warn",
            subject(gpu),
            f"Gen{worst.gen_able} x{worst.width_able} between {worst.port.address} and {worst.below.address}",
            f"Gen{worst.gen} x{worst.width}",
            "all devices below this bridge share what is left of the bandwidth",
            "reboot; reseat the riser or board that carries the switch; check the firmware's PCIe settings",
            SYSFS,
            "; ".join(map(str, bad)),
        )
        return
    card = spec.pcie.gen if spec else None
    limits = [link for link in links if card is not None and link.gen_able is not None and link.gen_able < card]
    if limits:
        yield Finding(
            "pcie-path",
            "warn",
            subject(gpu),
            f"Gen{card} up to the root",
            f"Gen{limits[0].gen_able} is all that {limits[0].port.address} and {limits[0].below.address} can do",
            "loading and offload are slower than the card allows",
            "no fault when the machine was bought like this; else check the firmware's PCIe settings",
            SYSFS,
            "; ".join(map(str, limits)),
        )
        return
    told = "; ".join(map(str, links))
    yield Finding("pcie-path", "ok", subject(gpu), wanted, told, source=SYSFS, evidence=told)


def _replays(gpu: Gpu) -> Iterator[Finding]:
    count = gpu.details.pcie_replays if gpu.details else None
    if count is None:
        return
    limit = threshold("pcie-replays")
    bad = count >= limit.value
    yield Finding(
        "pcie-replays",
        "warn" if bad else "ok",
        subject(gpu),
        f"under {limit.value:.0f} packets sent again",
        f"{count} since the last reset",
        "the link is noisy: transfers slow down and may fail" if bad else "",
        "reseat card, riser and cables; watch whether the count grows" if bad else "",
        limit.source,
        f"Replays Since Reset : {count}",
        limit,
    )
