"""The JSON of measurements: what is written is read back, and what has another shape is refused."""

from __future__ import annotations

from typing import Any

import pytest

from metalserve.verify.measurement import Measurement, MeasurementError
from tests.verify.measured import gpu, measurement, nvlink


def test_what_is_written_is_read_back() -> None:
    whole = measurement(nvlink=nvlink(8, 478), soak=[gpu(0, [700.0] * 20), gpu(1, [690.0] * 20)])
    data = whole.as_dict()
    assert data["schema"] == 1 and data["nvlink"]["all_reduce"][0]["gpus"] == list(range(8))
    assert Measurement.from_dict(data) == whole


def _without(data: dict[str, Any], *path: Any) -> None:
    for key in path[:-1]:
        data = data[key]
    del data[path[-1]]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("schema",), 2, "schema"),
        (("depth",), "thorough", "depth"),
        (("simulated",), "yes", "simulated"),
        (("nvlink", "all_reduce", 0, "busbw_gb_s"), "478", "busbw_gb_s"),
        (("nvlink", "all_reduce", 0, "busbw_gb_s"), float("nan"), "busbw_gb_s"),
        (("nvlink", "all_reduce", 0, "gpus"), [0], "gpus"),
        (("nvlink", "backend"), "mpi", "backend"),
        (("soak", "gpus", 0, "tflops"), [1.0], "different lengths"),
        (("soak", "gpus"), {"0": {}}, "gpus"),
        (("storage",), [], "storage"),
    ],
)
def test_another_shape_is_refused(path: tuple[Any, ...], value: object, words: str) -> None:
    data: Any = measurement(nvlink=nvlink(8, 478), soak=[gpu(0, [700.0] * 20)]).as_dict()
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(MeasurementError, match=words):
        Measurement.from_dict(data)


@pytest.mark.parametrize("field", ["depth", "started"])
def test_a_missing_field_is_refused(field: str) -> None:
    data = measurement().as_dict()
    _without(data, field)
    with pytest.raises(MeasurementError, match=field):
        Measurement.from_dict(data)


@pytest.mark.parametrize("data", [None, [], "text", 7, {"depth": object()}])
def test_what_is_no_object_at_all_is_refused(data: Any) -> None:
    with pytest.raises(MeasurementError):
        Measurement.from_dict(data)
