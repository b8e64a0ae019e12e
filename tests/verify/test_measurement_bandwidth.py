"""Bandwidth: NVLS off, a link lost, PCIe in place of NVLink, and a set-up on which nothing works, told apart."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalserve.catalogue.loader import load_gpus
from metalserve.hardware.node import NodeHardware
from metalserve.verify.expectation import Expectation
from metalserve.verify.finding import Finding
from metalserve.verify.measurement import Nvlink
from metalserve.verify.measurement_bandwidth import check_bandwidth
from metalserve.verify.measurement_rules import INCONCLUSIVE, deviations
from tests.verify.measured import nvlink

CATALOGUE = load_gpus()


def expected(gpu: str = "h100-sxm", count: int = 8, joined: str = "nvswitch") -> Expectation:
    spec = CATALOGUE.by_id(gpu)
    classes = spec.nvlink.pair_classes if spec.nvlink and joined != "pcie" else ()
    return Expectation(spec, spec, count, joined, classes, None, "test")  # type: ignore[arg-type]


def judged(told: Nvlink, expectation: Expectation | None = None, link: str = "NV18") -> list[Finding]:
    pairs = itertools.combinations(range(8), 2)
    hardware = NodeHardware(links=dict.fromkeys(pairs, link))
    return check_bandwidth(told, expectation or expected(), hardware, CATALOGUE)


def busbw(findings: list[Finding]) -> Finding:
    (found,) = [f for f in findings if f.check == "busbw"]
    return found


@pytest.mark.parametrize(
    ("told", "status", "words"),
    [
        (nvlink(8, 478), "ok", "478 GB/s busbw over 8 GPUs"),
        (nvlink(8, 460), "ok", "460"),
        (nvlink(8, 450), "warn", "a little low"),
        (nvlink(8, 361, nvls=False), "ok", "(NVLS off)"),
        (nvlink(8, 370, nvls=None), "warn", "NVLS not in use"),
        (nvlink(8, 370, nvls=True), "fail", "link lost or slow"),
        (nvlink(8, 250, nvls=False), "fail", "link lost or slow"),
        (nvlink(8, 250, nvls=None), "fail", "link lost or slow"),
        (nvlink(8, 22, control=20.0), "fail", "PCIe path"),
        (nvlink(8, 0.9, control=0.8), INCONCLUSIVE, "peer-to-peer"),
        (nvlink(8, 250, control=None), "fail", "link lost or slow"),
        (nvlink(4, 340), "ok", "over 4 GPUs"),
        (nvlink(2, 329, nvls=False), "ok", "over 2 GPUs"),
    ],
)
def test_what_a_figure_means(told: Nvlink, status: str, words: str) -> None:
    found = busbw(judged(told))
    assert (found.status, words in found.observed) == (status, True), found
    assert found.source


def test_a_lost_link_names_its_gpu_and_is_not_taken_for_nvls_off() -> None:
    slow = {(min(5, n), max(5, n)): 347.0 for n in range(8) if n != 5}
    findings = judged(nvlink(8, 370, nvls=None, slow=slow))
    assert busbw(findings).status == "fail"
    (gpu,) = [f for f in findings if f.check == "pair-bandwidth"]
    assert (gpu.subject, gpu.status) == ("GPU 5", "fail")
    assert "all of its 7 pairs" in gpu.observed


def test_one_slow_pair_is_named_by_both_its_gpus() -> None:
    (pair,) = [f for f in judged(nvlink(8, 478, slow={(2, 6): 200.0})) if f.check == "pair-bandwidth"]
    assert (pair.subject, pair.status) == ("GPU 2 and GPU 6", "fail")


@given(st.floats(330, 450), st.lists(st.floats(-0.01, 0.01), min_size=28, max_size=28))
def test_pairs_that_are_nearly_alike_alarm_nobody(rate: float, noise: list[float]) -> None:
    keys = itertools.combinations(range(8), 2)
    told = nvlink(8, 478, slow={key: rate * (1 + n) for key, n in zip(keys, noise, strict=True)})
    assert [f.status for f in judged(told) if f.check == "pair-bandwidth"] == ["ok"]


def test_two_bridged_cards_with_twelve_links_of_eighteen_are_healthy() -> None:
    # 256 GB/s on real ones (Azure/azurehpc-health-checks issue 162)
    findings = judged(nvlink(2, 226, nvls=False, pair=256.0), expected("h100-nvl", 2, "bridge"), "NV12")
    assert {f.status for f in findings} == {"ok"}


@pytest.mark.parametrize("joined", ["pcie", "maybe-bridge", "unknown"])
def test_without_nvlink_a_figure_is_recorded_and_condemns_nobody(joined: str) -> None:
    findings = judged(nvlink(4, 1.6, pair=20.0), expected("l40s", 4, joined), "SYS")
    assert {f.status for f in findings} == {"ok"}
    assert "recorded" in busbw(findings).expected


def test_wrong_sums_fail_whatever_the_rate() -> None:
    (found,) = judged(nvlink(8, 478, wrong=3))
    assert found.status == "fail" and "3 elements" in found.observed


def test_when_both_arms_fail_it_is_the_set_up() -> None:
    broken = {"all_reduce": [], "pairs": [], "error": "rank 0 ended with 1: NCCL error"}
    both = nvlink(8, 0, **broken, control=None, control_error="rank 1 ended with 1: NCCL error")
    (found,) = judged(both)
    assert found.status == "inconclusive" and not found.failing
    (found,) = judged(nvlink(8, 0, **broken, control=18.0))
    assert found.status == "fail" and "with NCCL_P2P_DISABLE=1 it works" in found.observed


def test_one_gpu_or_a_run_on_the_cpu_prove_nothing() -> None:
    (one,) = judged(nvlink(2, 0, all_reduce=[], pairs=[]))
    assert one.status == "skipped"
    (cpu,) = judged(nvlink(2, 1.0, backend="gloo"))
    assert cpu.status == "inconclusive"


@given(st.lists(st.floats(0, 1e6), max_size=40), st.floats(1e-3, 10))
def test_the_median_deviates_from_nothing(values: list[float], floor: float) -> None:
    far = deviations(values, floor)
    assert len(far) == len(values)
    if len(values) % 2:
        assert sorted(far, key=abs)[0] == 0


@pytest.mark.parametrize("row", [r for r in CATALOGUE.busbw if r.gpu], ids=lambda r: r.platform)
def test_the_catalogues_figures_do_not_contradict_each_other(row: object) -> None:
    from metalserve.catalogue.models import Busbw

    assert isinstance(row, Busbw) and row.count and row.floor
    assert all(CATALOGUE.by_id(gpu) for gpu in row.gpu)
    assert row.measured is None or row.floor <= row.measured
    if row.floor_ring is not None:
        assert row.floor_ring <= row.floor
        assert row.measured_ring is None or row.floor_ring <= row.measured_ring
