"""The speed model: what it says of measured points, and what must hold for any host."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalserve.catalogue.loader import load_gpus, load_speeds
from metalserve.paths import ROOT
from metalserve.planning import hardware_by_name
from metalserve.planning.allreduce import Curve, MeasuredLinks, curve_for, nvlink_curve
from metalserve.planning.known import known_model, known_models
from metalserve.planning.model import Quantisation
from metalserve.planning.speed import Speed, compute_of
from metalserve.planning.work import Split, Work
from metalserve.planning.workload import Workload
from tests.planning.conftest import host

GPUS = load_gpus()
H100, L40S = GPUS.by_id("h100-sxm"), GPUS.by_id("l40s")
CHAT = Workload(1024, 512)
LLAMA = known_model("Llama-3.3-70B-Instruct")
FP8 = replace(LLAMA, quantisation=Quantisation("fp8", 1.0))
KNOWN = [gpu.id for gpu in GPUS.gpus if compute_of(gpu)]


def engine(model: str = "Llama-3.3-70B-Instruct", gpu: str = "h100-sxm", tensor: int = 8, **more: object) -> Speed:
    spec = GPUS.by_id(gpu)
    compute = compute_of(spec)
    assert compute is not None
    curve = nvlink_curve(spec, tensor) if tensor > 1 else None
    return Speed(known_model(model), Split(tensor), spec, compute, curve, **more)  # type: ignore[arg-type]


def bench(name: str, file: str) -> dict[str, object]:
    command = [sys.executable, str(ROOT / "bench" / "planner" / name), str(ROOT / "bench" / "planner" / "data" / file)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
    last: dict[str, object] = json.loads(told.stdout.splitlines()[-1])
    return last


def test_measured_points_that_were_not_fitted() -> None:
    told = bench("speed.py", "llama70b_points.tsv")
    assert told["fitted_rows"] == 33
    by_gpu = told["by_gpu"]
    assert isinstance(by_gpu, dict)
    assert by_gpu["H200-SXM-141"]["tpot_mean_abs_error_pct"] < 8
    assert by_gpu["B200-SXM-180"]["tpot_mean_abs_error_pct"] < 18
    assert float(str(told["in_range_pct"])) >= 80
    assert float(str(told["regret_within_5_pct"])) >= 95


def test_start_up_logs() -> None:
    told = bench("memory.py", "memory_points.tsv")
    assert int(str(told["n"])) >= 9
    assert float(str(told["dense"])) <= 3


def test_the_fit_in_the_catalogue_is_what_the_script_finds() -> None:
    script = ROOT / "bench" / "planner" / "fit.py"
    told = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, cwd=ROOT)
    written = (ROOT / "metalserve" / "catalogue" / "roofline.yaml").read_text()
    assert told.stdout.partition(": mean error")[0] in written


def test_an_all_reduce_is_read_from_the_table() -> None:
    curve = nvlink_curve(H100, 8)
    assert curve.seconds(64 * 1024) == pytest.approx(6.4e-6)
    assert curve.seconds(16) == curve.seconds(8192) == pytest.approx(4.9e-6)
    between = curve.seconds(128 * 1024)
    assert 6.4e-6 < between < 10.8e-6
    assert curve.seconds(2**28) == pytest.approx(2 * 577.4e-6)


@given(size=st.floats(1, 2**31), more=st.floats(1, 64))
def test_more_bytes_never_take_less(size: float, more: float) -> None:
    for row in load_speeds().all_reduce.rows:
        spec = {"a100-sxm": "a100-sxm-80", "b200-sxm": "b200"}.get(row.system, row.system)
        if row.link.startswith("nvlink"):
            curve = nvlink_curve(GPUS.by_id(spec), row.gpus)
            assert curve.seconds(size * more) >= curve.seconds(size) * 0.999


def test_this_hosts_own_bandwidth_goes_before_the_table() -> None:
    hardware = hardware_by_name("8xL40S", GPUS)
    table = curve_for(hardware, L40S, range(8))
    own = curve_for(hardware, L40S, range(8), MeasuredLinks(((8, 2**26, 16.0),)))
    assert table is not None
    assert own is not None
    assert not table.sure
    assert own.sure
    assert own.seconds(2**26) == pytest.approx(2 * 7 / 8 * 2**26 / 16e9, rel=0.01)
    assert own.seconds(2**26) < table.seconds(2**26) / 3
    assert own.seconds(1024) == table.seconds(1024)
    assert "16 GB/s measured on this host" in own.source


def test_links_decide_the_curve() -> None:
    bridged = host({(0, 1): "NV12", (2, 3): "NV12"}, 4)
    pair, across = curve_for(bridged, H100, (0, 1)), curve_for(bridged, H100, (0, 2))
    assert isinstance(pair, Curve)
    assert isinstance(across, Curve)
    assert pair.nvlink
    assert not across.nvlink
    assert pair.seconds(2**26) < across.seconds(2**26) / 3
    quad = curve_for(hardware_by_name("4xL40S", GPUS), L40S, range(4))
    assert quad is not None
    assert not quad.custom  # vLLM's own all-reduce is off over more than two PCIe GPUs
    assert curve_for(bridged, H100, (0,)) is None


def test_limits_are_named() -> None:
    assert engine(tensor=4).estimate(1, CHAT).tpot.limited_by == "memory bandwidth"
    assert engine(tensor=4).estimate(128, Workload(8192, 128)).tpot.limited_by == "compute"
    slow = engine(gpu="l40s", tensor=8)
    slow.curve = curve_for(hardware_by_name("8xL40S", GPUS), L40S, range(8))
    assert slow.estimate(64, CHAT).tpot.limited_by == "all-reduce"


def test_requests_that_the_kv_cache_does_not_hold_wait() -> None:
    small = engine(tensor=4, kv_tokens=12_800).estimate(64, CHAT)
    assert small.running == 10
    assert small.tokens_s.value == engine(tensor=4).estimate(10, CHAT).tokens_s.value


def test_mixtures_read_only_the_experts_that_are_met() -> None:
    work = Work(known_model("DeepSeek-V3"), Split(8))
    assert work.weight_bytes(1) < work.weight_bytes(8) < work.weight_bytes(512)
    assert work.active_params / 1e9 == pytest.approx(36.6, rel=0.03)  # 37 B active, the embedding's lookup not


def test_latent_attention_is_not_split_by_tensor_parallel() -> None:
    model = known_model("DeepSeek-V3")
    assert Work(model, Split(8)).kv_bytes(1000) == Work(model, Split(1)).kv_bytes(1000)
    assert Work(LLAMA, Split(8)).kv_bytes(1000) * 8 == Work(LLAMA, Split(1)).kv_bytes(1000)


def test_windows_bound_what_is_read() -> None:
    work = Work(known_model("gpt-oss-120b"), Split(1))
    assert work.kv_bytes(100_000) < 0.51 * 100_000 * 36 * 2 * 8 * 64 * 2
    assert work.kv_bytes(64) == 64 * 36 * 2 * 8 * 64 * 2


@pytest.mark.parametrize("gpu", KNOWN)
def test_every_known_gpu_has_a_speed(gpu: str) -> None:
    told = engine("Llama-3.1-8B-Instruct", gpu, 1).estimate(4, CHAT)
    assert 1 < told.tpot_ms.value < 500
    assert told.tpot_ms.low < told.tpot_ms.value < told.tpot_ms.high
    assert told.ttft_ms[0] <= told.ttft_ms[1]


WORKLOADS = st.builds(Workload, prompt=st.integers(1, 32768), answer=st.integers(1, 8192))


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(known_models()), workload=WORKLOADS, running=st.integers(1, 512), more=st.floats(1, 8))
def test_more_bandwidth_is_never_slower(name: str, workload: Workload, running: int, more: float) -> None:
    speed = engine(name)
    before = speed.estimate(running, workload)
    speed.bandwidth *= more
    after = speed.estimate(running, workload)
    assert after.tpot.total <= before.tpot.total
    assert after.tokens_s.value >= before.tokens_s.value * 0.999


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(known_models()), workload=WORKLOADS, running=st.integers(1, 400), more=st.integers(1, 100))
def test_more_requests_never_shorten_a_token(name: str, workload: Workload, running: int, more: int) -> None:
    speed = engine(name)
    few, many = speed.decode_terms(running, workload), speed.decode_terms(running + more, workload)
    assert many.total >= few.total * 0.999


def test_fp8_weights_are_read_twice_as_fast_and_4_bit_ones_are_multiplied_in_16() -> None:
    compute = compute_of(H100)
    assert compute is not None
    plain = Speed(LLAMA, Split(4), H100, compute, nvlink_curve(H100, 4))
    small = Speed(FP8, Split(4), H100, compute, nvlink_curve(H100, 4))
    ratio = plain.decode_terms(1, CHAT).weights / small.decode_terms(1, CHAT).weights
    assert ratio == pytest.approx(2, rel=0.04)
    awq = replace(LLAMA, quantisation=Quantisation("awq", 0.52, block=128))
    assert Work(awq, Split(4)).rate(compute) == Work(LLAMA, Split(4)).rate(compute)
    assert Work(FP8, Split(4)).rate(compute) > Work(LLAMA, Split(4)).rate(compute)


def test_a_pipeline_gives_throughput_and_no_latency() -> None:
    compute = compute_of(L40S)
    assert compute is not None
    curve = None
    alone = Speed(LLAMA, Split(1, 1), L40S, compute, curve)
    staged = Speed(LLAMA, Split(1, 4), L40S, compute, curve)
    assert staged.estimate(1, CHAT).tpot.total >= alone.estimate(1, CHAT).tpot.total
    # four times the requests, so that each stage has as many at a time: four times the tokens, less the bubble
    gain = staged.estimate(256, CHAT).tokens_s.value / alone.estimate(64, CHAT).tokens_s.value
    assert 2 < gain < 4
    assert staged.estimate(64, CHAT).tpot.bubble > 0
