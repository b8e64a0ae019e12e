"""The catalogue's rates and all-reduces: whole, of known GPUs, and within what physics allows."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from metalserve.catalogue.loader import load_gpus, load_roofline, load_speeds
from metalserve.catalogue.speeds import AllReduceTable


def test_rates_are_of_gpus_that_the_catalogue_has() -> None:
    gpus, speeds = load_gpus(), load_speeds()
    assert set(speeds.compute) <= set(gpus.ids)
    for name, rates in speeds.compute.items():
        spec = gpus.by_id(name)
        assert rates.source
        assert (rates.fp8 is not None) == spec.fp8, name
        assert (rates.fp4 is not None) == spec.fp4, name
        assert rates.bf16 <= (rates.fp8 or rates.bf16) <= (rates.fp4 or rates.fp8 or rates.bf16), name


def test_every_gpu_with_a_bandwidth_has_rates() -> None:
    without = [g.id for g in load_gpus().gpus if g.memory.bandwidth_gb_s and g.id not in load_speeds().compute]
    assert without == []


def test_all_reduces_are_no_faster_than_the_links() -> None:
    table = load_speeds().all_reduce
    one_way_gb_s = {"nvlink3": 300, "nvlink4": 450, "nvlink5": 900, "pcie4": 32, "pcie5": 64}
    for row in table.rows:
        seconds = row.us[-1] * 1e-6
        busbw = 2 * (row.gpus - 1) / row.gpus * table.sizes_kib[-1] * 1024 / seconds / 1e9
        assert 1 < busbw < 1.05 * one_way_gb_s[row.link], row
        assert 3 < row.us[0] < 50


def test_each_system_has_both_ways_for_2_4_and_8_gpus() -> None:
    table = load_speeds().all_reduce
    for system in {row.system for row in table.rows}:
        for gpus in (2, 4, 8):
            for way in ("custom", "nccl"):
                assert table.row(system, gpus, way) is not None  # type: ignore[arg-type]


def test_a_row_with_a_point_missing_is_refused() -> None:
    row = {"system": "x", "link": "pcie5", "gpus": 2, "way": "nccl", "us": [1.0]}
    with pytest.raises(ValidationError, match="another number of points"):
        AllReduceTable.model_validate({"source": "s", "sizes_kib": [8, 16], "rows": [row]})


def test_the_roofline_says_where_it_is_from() -> None:
    roofline = load_roofline()
    assert roofline.rows >= 30
    assert "H100" in roofline.fitted_on
    assert set(roofline.tpot_error) == {"fitted", "dense", "mixture", "pipeline", "unmeasured_links"}
    assert min(roofline.tpot_error.values()) == roofline.tpot_error["fitted"]
