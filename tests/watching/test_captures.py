"""What real drivers and engines printed is read: skipped where the captures are not there."""

from __future__ import annotations

import pytest

from metalserve.watching.frames import Section
from metalserve.watching.sample import engines_of, gpus_of
from tests.hardware.captures import ROOT

QUERIES = sorted(ROOT.glob("query-gpu-csv/*.csv"))
METRICS = sorted(ROOT.glob("vllm-metrics/*vllm*.txt"))


@pytest.mark.skipif(not QUERIES, reason="no captures")
def test_every_captured_query_gives_its_gpus() -> None:
    found = {path.name: gpus_of(Section(0, 0, 0, path.read_text())) for path in QUERIES}
    for name, answer in found.items():
        assert not answer.failure and answer.gpus, name
        gpu = answer.gpus[0]
        assert gpu.power_w and gpu.temperature_c and gpu.memory_total_mib and gpu.sm_mhz, name
        assert gpu.held is not None, name
    busy = found["h100-80gb-hbm3-590.48.01-load-nge.csv"].gpus[0]
    assert (busy.power_w, busy.power_limit_w, busy.margin_c, busy.margin_from) == (631.95, 700, 26, "T.Limit")
    assert found["h100-mig-590.48.01-load-nge.csv"].gpus[0].utilisation is None


@pytest.mark.skipif(not METRICS, reason="no captures")
def test_every_captured_engine_gives_its_figures() -> None:
    for path in METRICS:
        text = f"@@engine 0 8000 active 200 5.0\n{path.read_text()}"
        (engine,) = engines_of(Section(0, 0, 0, text))
        told = (engine.running, engine.waiting, engine.kv_usage, engine.generation_tokens)
        assert any(value is not None for value in told), path.name
