"""Checks of how GPUs reach each other: NVSwitches, fabric state, class of each pair, active NVLinks."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from metalserve.catalogue.loader import threshold
from metalserve.hardware.node import Gpu, NodeHardware, NvlinkStatus
from metalserve.verify.driver import FABRIC_GUIDE
from metalserve.verify.expectation import Expectation
from metalserve.verify.finding import Finding, Status

_NO_FABRIC = (None, "N/A", "Not Supported")
_REMEDY = (
    "read `nvidia-smi nvlink -e` and the kernel log for Xid 74, 144-150 and SXid; restart fabric manager and reset "
    "the GPUs; if it stays, have the board or bridge replaced"
)


def subject(gpu: Gpu) -> str:
    """Name a GPU in findings."""
    return f"GPU {gpu.index} ({gpu.pci})" if gpu.pci else f"GPU {gpu.index}"


def check_links(hardware: NodeHardware, expected: Expectation) -> list[Finding]:
    """Check the paths between the GPUs of a host."""
    findings = _switches(hardware, expected)
    findings += _fabric(hardware, expected)
    if any(g.mig_enabled for g in hardware.gpus):
        findings.append(
            Finding(
                "pair-links", "skipped", "host", "links between GPUs", "MIG mode turns NVLink off", source=FABRIC_GUIDE
            )
        )
        return findings
    if len(hardware.gpus) > 1:
        findings += _pairs(hardware, expected)
    findings += _nvlinks(hardware, expected)
    return findings


def _switches(hardware: NodeHardware, expected: Expectation) -> list[Finding]:
    spec = expected.spec
    if expected.joined != "nvswitch" or spec is None or spec.fabric != "nvswitch" or not hardware.pci_gpus:
        return []
    per_8 = spec.nvlink.nvswitches_per_8 if spec.nvlink else None
    wanted = per_8 if per_8 and len(hardware.pci_gpus) == 8 else 1
    words = f"{wanted} NVSwitch PCI functions" if wanted > 1 else "NVSwitch PCI functions"
    observed = f"{hardware.nvswitch_count} NVSwitch PCI function(s)"
    if hardware.guest and hardware.nvswitch_count == 0:
        observed += ": in a virtual machine they belong to the machine beneath"
        return [Finding("nvswitch", "skipped", "host", words, observed, source=FABRIC_GUIDE)]
    if "lspci" in hardware.unread:
        impact, remedy = "whether the board is whole is not known", "run `lspci -Dnn` on the host and read what it says"
        return [
            Finding("nvswitch", "unknown", "host", words, "lspci could not be read", impact, remedy, FABRIC_GUIDE),
        ]
    if hardware.nvswitch_count >= wanted:
        return [Finding("nvswitch", "ok", "host", words, observed, source=FABRIC_GUIDE)]
    return [
        Finding(
            "nvswitch",
            "fail",
            "host",
            words,
            observed,
            "GPUs lose NVLink bandwidth, or all of it",
            "reboot; if a switch stays away, have the board looked at; without NVSwitch say links='direct'",
            FABRIC_GUIDE,
        )
    ]


def _fabric(hardware: NodeHardware, expected: Expectation) -> list[Finding]:
    spec = expected.spec
    passed_through = hardware.guest and expected.joined == "nvswitch"
    if not (hardware.needs_fabric_manager or hardware.needs_imex or passed_through):
        return []
    if spec is not None and spec.architecture == "Ampere":
        return []  # A100 has no fabric state; without fabric manager its links are inactive, which is checked below
    gpus = [g for g in hardware.gpus if not passed_through or g.fabric_state not in _NO_FABRIC]
    findings = [_fabric_of(gpu) for gpu in gpus]
    if len(findings) > 1 and len({(f.status, f.observed) for f in findings}) == 1:
        return [replace(findings[0], subject=f"all {len(findings)} GPUs")]
    return findings


def _fabric_of(gpu: Gpu) -> Finding:
    wanted = "fabric state Completed, status Success"
    if gpu.fabric_state is None:
        return Finding(
            "fabric-state",
            "unknown",
            subject(gpu),
            wanted,
            "fabric state not read",
            "whether the GPU has joined the NVLink fabric is not known",
            "read `nvidia-smi -q` on the host; drivers before 525 do not print it",
            FABRIC_GUIDE,
        )
    health = gpu.fabric_health or "N/A"
    observed = f"fabric state {gpu.fabric_state}, status {gpu.fabric_status or 'not printed'}"
    if health != "N/A":
        observed += f", health {health}"
    evidence = (
        f"Fabric / State : {gpu.fabric_state}, Status : {gpu.fabric_status}, Health / Summary : {gpu.fabric_health}"
    )
    good = gpu.fabric_state == "Completed" and gpu.fabric_status in ("Success", None)
    if good and health in ("N/A", "Healthy"):
        return Finding("fabric-state", "ok", subject(gpu), wanted, observed, source=FABRIC_GUIDE, evidence=evidence)
    remedy = "see that nvidia-fabricmanager runs and is of the driver's version, read /var/log/fabricmanager.log"
    if good:
        remedy = "read the health lines of the Fabric block in `nvidia-smi -q`, then reset the GPU"
    return Finding(
        "fabric-state",
        "fail",
        subject(gpu),
        wanted,
        observed,
        "CUDA fails with error 802, or GPUs talk over PCIe at a tenth of the speed",
        remedy,
        FABRIC_GUIDE,
        evidence,
    )


def _pairs(hardware: NodeHardware, expected: Expectation) -> list[Finding]:
    if not hardware.links:
        status: Status = "skipped" if expected.joined == "pcie" else "unknown"
        return [
            Finding(
                "pair-links",
                status,
                "host",
                "a topology matrix",
                "`nvidia-smi topo -m` could not be read",
                "how the GPUs reach each other is not known",
                "run `nvidia-smi topo -m` on the host and read what it says",
                expected.source,
            )
        ]
    bad = _bad_pairs(hardware, expected)
    wanted = _wanted(expected)
    if not bad:
        counts = Counter(hardware.links.values())
        seen = ", ".join(f"{n} pair(s) {kind}" for kind, n in counts.most_common())
        return [Finding("pair-links", "ok", "host", wanted, seen, source=expected.source)]
    if len(bad) == len(hardware.links) and len(bad) > 1:
        kinds = ", ".join(sorted(set(bad.values())))
        return [_pair_finding("host", wanted, f"all {len(bad)} pairs show {kinds}", expected)]
    findings = []
    up = {n.index: n.active for n in hardware.nvlinks}
    while bad:
        times = Counter(index for pair in bad for index in pair)
        culprit = max(times, key=lambda i: (times[i], -up.get(i, 0), -i))  # of two ends, the one with fewer links up
        mine = {p: k for p, k in bad.items() if culprit in p}
        bad = {p: k for p, k in bad.items() if culprit not in p}
        peers = ", ".join(f"{kind} to GPU {a if b == culprit else b}" for (a, b), kind in sorted(mine.items()))
        gpu = hardware.gpu(culprit)
        findings.append(_pair_finding(subject(gpu) if gpu else f"GPU {culprit}", wanted, peers, expected))
    return findings


def _wanted(expected: Expectation) -> str:
    classes = " or ".join(expected.pair_classes)
    if expected.joined in ("nvswitch", "direct"):
        return f"{classes or 'the same NVLink class'} between all pairs"
    if expected.joined == "bridge":
        return f"{classes or 'NVLink'} inside each bridge"
    if expected.joined == "maybe-bridge" and classes:
        return f"{classes} inside bridges, PCIe elsewhere"
    return "PCIe paths" if expected.joined == "pcie" else "one NVLink class for all linked pairs"


def _bad_pairs(hardware: NodeHardware, expected: Expectation) -> dict[tuple[int, int], str]:
    links, classes = hardware.links, expected.pair_classes
    nvlinked = {p: k for p, k in links.items() if k.startswith("NV")}
    if expected.joined in ("nvswitch", "direct"):
        right = classes or tuple(k for k, _ in Counter(nvlinked.values()).most_common(1))
        return {p: k for p, k in links.items() if k not in right}
    if expected.joined == "pcie":
        return {}
    usual = classes or tuple(k for k, _ in Counter(nvlinked.values()).most_common(1))
    bad = {p: k for p, k in nvlinked.items() if k not in usual}
    if expected.joined == "bridge":
        linked = {i for p, k in nvlinked.items() if k in usual for i in p}
        alone = sorted({g.index for g in hardware.gpus} - linked - {i for p in bad for i in p})
        for index in alone:  # a bridged card that no other card reaches: all of its pairs are wrong
            bad |= {p: k for p, k in links.items() if index in p and (p[0] in alone and p[1] in alone)} or {
                p: k for p, k in links.items() if index in p
            }
    return bad


def _pair_finding(who: str, wanted: str, observed: str, expected: Expectation) -> Finding:
    return Finding(
        "pair-links",
        "fail",
        who,
        wanted,
        observed,
        "tensor parallelism waits for the slowest path: throughput falls for the whole node",
        _REMEDY,
        expected.source,
        f"nvidia-smi topo -m: {observed}",
    )


def _nvlinks(hardware: NodeHardware, expected: Expectation) -> list[Finding]:
    if expected.joined == "pcie" and not expected.nvlinks:
        return []
    if expected.spec is not None and expected.spec.nvlink is None and not expected.nvlinks:
        return []
    by_index = {n.index: n for n in hardware.nvlinks}
    if len(hardware.gpus) == 1 and hardware.guest and not any(n.active for n in hardware.nvlinks):
        return [
            Finding(
                "nvlink-count",
                "skipped",
                subject(hardware.gpus[0]),
                "NVLinks to other GPUs of the same machine",
                "one GPU of a board, given to a virtual machine alone: it has nobody to be linked with",
                source="seen on a KVM guest with one H100 SXM, driver 580.159.04, 2026-11-25",
            )
        ]
    findings = []
    for gpu in hardware.gpus:
        status = by_index.get(gpu.index)
        if expected.nvlinks is None and status is None:
            continue
        findings.append(_nvlinks_of(gpu, status, expected))
    return findings


def _nvlinks_of(gpu: Gpu, status: NvlinkStatus | None, expected: Expectation) -> Finding:
    check, who, links = "nvlink-count", subject(gpu), expected.nvlinks
    spec = expected.spec.nvlink if expected.spec else None
    optional = links is None
    wanted = f"{links} active NVLinks" if links is not None else "all NVLinks of a bridge active, or none"
    if status is None or status.note == "..." or not (status.link_gb_per_s or status.note):
        return Finding(
            check,
            "unknown",
            who,
            wanted,
            "`nvidia-smi nvlink -s` could not be read for this GPU",
            "how many links are up is not known",
            "run `nvidia-smi nvlink -s` on the host and read what it says",
            expected.source,
        )
    observed = f"{status.active} active, {status.inactive} inactive"
    if status.note:
        observed = f"{status.active} active ({status.note})"
    floor = threshold("nvlink-rate-floor")
    slow = [
        n
        for n, rate in status.link_gb_per_s.items()
        if rate is not None and spec and spec.smi_gb_s and rate < spec.smi_gb_s * floor.value
    ]
    down = [n for n, rate in status.link_gb_per_s.items() if rate is None]
    evidence = status.note or "; ".join(f"Link {n}: <inactive>" for n in down[:18])
    right = links if links is not None else (spec.links if spec else status.active)
    if slow:
        assert spec is not None
        wanted = f"{wanted} at {spec.smi_gb_s} GB/s"
        evidence = f"Link {slow[0]}: {status.link_gb_per_s[slow[0]]} GB/s"
        observed += f", link(s) {', '.join(map(str, slow[:6]))} slower"
    elif status.active == right or (optional and status.active == 0):
        return Finding(check, "ok", who, wanted, observed, source=expected.source, evidence=evidence)
    return Finding(
        check,
        "warn" if optional and not slow else "fail",
        who,
        wanted,
        observed,
        "less bandwidth to other GPUs than was bought",
        _REMEDY,
        expected.source,
        evidence,
        floor if slow else None,
    )
