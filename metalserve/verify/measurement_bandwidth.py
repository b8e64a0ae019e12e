"""Judges the bandwidth between GPUs: healthy, NVLS off, a link lost, or PCIe where NVLink should be. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from statistics import median

from metalserve.catalogue.models import Busbw, GpuCatalogue
from metalserve.hardware.node import NodeHardware
from metalserve.verify.expectation import Expectation
from metalserve.verify.finding import Finding
from metalserve.verify.measurement import AllReduce, Nvlink, Pair
from metalserve.verify.measurement_rules import (
    CONTROL_GB_S,
    NEAR_FLOOR,
    OUTLIER,
    PAIR_SHARE,
    PCIE_SHARE,
    RATE_FLOOR,
    deviations,
    inconclusive,
)

CHECK, PAIRS = "busbw", "pair-bandwidth"
_AGAIN = "read the probe's error, then measure again"
_LINKS = "`nvidia-smi nvlink -s` and `-e`, `dmesg | grep -e Xid -e SXid`; reset the GPUs or reboot, then reseat"


def check_bandwidth(
    measured: Nvlink, expected: Expectation, hardware: NodeHardware, catalogue: GpuCatalogue
) -> list[Finding]:
    """Judge all-reduces and copies between GPUs.

    Args:
        measured: what the probe said.
        expected: how the GPUs should be joined.
        hardware: the host, for the class of each pair.
        catalogue: healthy and alarm figures.
    """
    if measured.wrong:
        return [
            Finding(
                CHECK,
                "fail",
                "host",
                "right sums and copies",
                f"{measured.wrong} elements were wrong",
                "models give wrong answers, in silence",
                "take the host out; look for ECC errors, Xids, and IOMMU or ACS settings; test the GPUs in pairs",
                "probe bandwidth.py",
            )
        ]
    row = measured.largest()
    if measured.error and row is None and not measured.pairs:
        return [_failed(measured)]
    if measured.backend == "gloo":
        return [inconclusive(CHECK, "host", "a measurement on the GPUs", "it ran on the CPU (gloo)", _AGAIN)]
    if row is None:
        return [Finding(CHECK, "skipped", "host", "two GPUs or more", "one GPU: nothing to measure between GPUs")]
    pairs = list(_pairs(measured, expected, hardware))
    findings = [_all_reduce(measured, row, expected, catalogue, lost=any(f.status == "fail" for f in pairs)), *pairs]
    if measured.error:
        findings.append(_failed(measured))
    return findings


def _failed(measured: Nvlink) -> Finding:
    control = measured.control
    if control.p2p_off_busbw_gb_s is not None and measured.backend == "nccl":
        return Finding(
            CHECK,
            "fail",
            "host",
            "an all-reduce over all GPUs",
            f"it fails: {measured.error}; with NCCL_P2P_DISABLE=1 it works ({control.p2p_off_busbw_gb_s:g} GB/s)",
            "engines over several GPUs do not start, or hang",
            f"the way between GPUs is broken, not the set-up: fabric manager, IOMMU and ACS; {_LINKS}",
            "control arm of the probe",
        )
    both = f", and with NCCL_P2P_DISABLE=1 too: {control.error}" if control.error else ""
    return inconclusive(
        CHECK, "host", "an all-reduce over all GPUs", f"the probe failed: {measured.error}{both}", _AGAIN
    )


def _all_reduce(
    measured: Nvlink, row: AllReduce, expected: Expectation, catalogue: GpuCatalogue, *, lost: bool
) -> Finding:
    count, rate = len(row.gpus), row.busbw_gb_s
    figures = catalogue.busbw_of(expected.spec.id, count) if expected.spec else None
    told = f"{rate:g} GB/s busbw over {count} GPUs at {row.size_bytes / 2**20:g} MiB"
    control = measured.control.p2p_off_busbw_gb_s
    if figures is None or figures.floor is None or expected.joined in ("pcie", "maybe-bridge", "unknown"):
        return Finding(
            CHECK, "ok", "host", "recorded: no figure is known to hold it against", told, source="measured here"
        )
    source = f"catalogue row {figures.platform}: {figures.source}"
    off = measured.nvls is False and figures.floor_ring is not None
    floor = figures.floor_ring if off and figures.floor_ring is not None else figures.floor
    wanted = f"{_healthy(figures, off=off)}at least {floor:g} GB/s{' without NVLS' if off else ''}"
    if rate >= floor:
        return Finding(CHECK, "ok", "host", wanted, told + (" (NVLS off)" if off else ""), source=source)
    broken = "model-parallel engines run slower, the more so the longer the prompts"
    if control is not None and control < CONTROL_GB_S.value and rate < CONTROL_GB_S.value * PCIE_SHARE.value:
        why = f"{told}, and only {control:g} GB/s with peer-to-peer off: neither way works on this set-up"
        remedy = "see that nothing else loads CPU, memory and GPUs, and that the container has shared memory"
        return inconclusive(CHECK, "host", wanted, why, remedy, CONTROL_GB_S.in_words)
    if control is not None and rate < control * PCIE_SHARE.value:
        return Finding(
            CHECK,
            "fail",
            "host",
            wanted,
            f"PCIe path: {told}, hardly more than the {control:g} GB/s with peer-to-peer off",
            f"NVLink is not used at all; {broken}",
            "is fabric manager running, peer-to-peer allowed (NCCL_P2P_DISABLE, `nvidia-smi topo -p2p r`), ACS off?",
            f"{source}; {PCIE_SHARE.in_words}",
        )
    if not lost and measured.nvls is None and figures.floor_ring is not None and rate >= figures.floor_ring:
        return _nvls_off(wanted, told, figures, source)
    near = rate >= floor * NEAR_FLOOR.value and not lost
    return Finding(
        CHECK,
        "warn" if near else "fail",
        "host",
        wanted,
        f"{'a little low' if near else 'link lost or slow'}: {told}",
        broken,
        "measure again; compare with its peers" if near else f"see which pairs are slow below; {_LINKS}",
        source,
    )


def _healthy(figures: Busbw, *, off: bool) -> str:
    healthy = figures.measured_ring if off else figures.measured
    return f"about {healthy:g}, " if healthy is not None else ""


def _nvls_off(wanted: str, told: str, figures: Busbw, source: str) -> Finding:
    return Finding(
        CHECK,
        "warn",
        "host",
        wanted,
        f"NVLS not in use: {told}, what rings give without NVLS (about {figures.measured_ring:g})",
        "all-reduces are slower than they could be; no link is broken",
        "is NCCL_NVLS_ENABLE=0 set, is the fabric state Completed, does the container see all GPUs of the board?",
        source,
    )


def _pairs(measured: Nvlink, expected: Expectation, hardware: NodeHardware) -> Iterator[Finding]:
    """Hold pairs of one class against each other, and those over NVLink against their links' rate."""
    classes: dict[str, list[Pair]] = defaultdict(list)
    # Held to the class that they should have: a pair that lost links would else be a class of its own.
    whole = expected.pair_classes[0] if expected.joined in ("nvswitch", "direct") and expected.pair_classes else None
    for pair in measured.pairs:
        shown = hardware.links.get((pair.a, pair.b)) or hardware.links.get((pair.b, pair.a)) or "unknown"
        classes[whole or shown].append(pair)
    slow: dict[tuple[int, int], tuple[Pair, str, str]] = {}
    for name, pairs in classes.items():
        middle = median(p.gb_s for p in pairs)
        far = deviations([p.gb_s for p in pairs], max(middle * RATE_FLOOR.value, 1e-9))
        for pair, deviation in zip(pairs, far, strict=True):
            nominal = _nominal(name, expected)
            under = nominal is not None and pair.gb_s < nominal * PAIR_SHARE.value
            odd = name.startswith("NV") and deviation < -OUTLIER.value and len(pairs) > 2
            if under or odd:
                peers = f"its peers give {middle:g} GB/s" if odd else ""
                links = f"{name} has {nominal:g} GB/s nominally" if under else ""
                source = PAIR_SHARE.in_words if under else OUTLIER.in_words
                slow[pair.a, pair.b] = (pair, "; ".join(filter(None, (links, peers))), source)
    if slow:
        yield from _slow(slow, measured.pairs)
    elif measured.pairs:
        low, high = min(p.gb_s for p in measured.pairs), max(p.gb_s for p in measured.pairs)
        told = f"{len(measured.pairs)} pairs, {low:g} to {high:g} GB/s one way"
        yield Finding(
            PAIRS, "ok", "host", "no pair slower than its links or its peers", told, source=PAIR_SHARE.in_words
        )


def _slow(slow: dict[tuple[int, int], tuple[Pair, str, str]], pairs: tuple[Pair, ...]) -> Iterator[Finding]:
    """One finding for a GPU whose pairs are all slow, one for each other slow pair."""
    all_of: dict[int, set[tuple[int, int]]] = defaultdict(set)
    for pair in pairs:
        all_of[pair.a].add((pair.a, pair.b))
        all_of[pair.b].add((pair.a, pair.b))
    culprits = [gpu for gpu, own in all_of.items() if len(own) > 1 and own <= set(slow)]
    told: set[tuple[int, int]] = set()
    for gpu in culprits:
        told |= all_of[gpu]
        low = min((slow[key] for key in all_of[gpu]), key=lambda entry: entry[0].gb_s)
        yield _slow_finding(f"GPU {gpu}", f"all of its {len(all_of[gpu])} pairs are slow, the slowest", *low)
    for key, entry in slow.items():
        if key not in told:
            yield _slow_finding(f"GPU {key[0]} and GPU {key[1]}", "", *entry)


def _slow_finding(subject: str, words: str, pair: Pair, wanted: str, source: str) -> Finding:
    rate = f"{pair.gb_s:g} GB/s one way, {pair.bidirectional_gb_s:g} both ways"
    return Finding(
        PAIRS,
        "fail",
        subject,
        wanted,
        f"{words} {rate}".strip(),
        "every engine that spans these GPUs runs at the pace of the slowest link",
        _LINKS,
        source,
    )


def _nominal(name: str, expected: Expectation) -> float | None:
    links = name.removeprefix("NV")
    if not name.startswith("NV") or not links.isdigit() or expected.spec is None or expected.spec.nvlink is None:
        return None
    return int(links) * expected.spec.nvlink.link_gb_s
