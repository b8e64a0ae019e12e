"""Measurements as the probes give them, made for tests."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from metalserve.verify.measurement import Measurement, Nvlink, SoakGpu, read_value

GIB = 1 << 30


def gpu(
    index: int,
    tflops: Sequence[float],
    *,
    heat: Sequence[float] | None = None,
    reasons: Sequence[str] | None = ("sw_power_cap",),
    margin: float | None = 25.0,
    step: float = 10.0,
) -> SoakGpu:
    """One GPU under load; a point every `step` seconds."""
    n = len(tflops)
    data = {
        "index": index,
        "t_s": [step * (k + 1) for k in range(n)],
        "tflops": list(tflops),
        "temperature_c": list(heat) if heat is not None else [60.0] * n,
        "tlimit_margin_c": [margin] * n,
        "power_w": [698.0] * n,
        "sm_mhz": [1600.0] * n,
        "reasons": [list(reasons) if reasons is not None else None] * n,
    }
    return read_value(SoakGpu, data)


def nvlink(
    count: int,
    busbw: float,
    *,
    nvls: bool | None = True,
    control: float | None = 20.0,
    control_error: str | None = None,
    pair: float = 390.0,
    slow: Mapping[tuple[int, int], float] | None = None,
    **more: Any,
) -> Nvlink:
    """What bandwidth.py says of `count` GPUs."""
    pairs = [
        {"a": a, "b": b, "gb_s": (rate := (slow or {}).get((a, b), pair)), "bidirectional_gb_s": rate * 1.9}
        for a, b in itertools.combinations(range(count), 2)
    ]
    row = {"gpus": list(range(count)), "size_bytes": 8 * GIB, "busbw_gb_s": busbw, "algbw_gb_s": busbw / 2}
    data = {
        "backend": "nccl", "nvls": nvls, "all_reduce": [row], "pairs": pairs,
        "control": {"p2p_off_busbw_gb_s": control, "error": control_error}, "wrong": 0, "error": None, **more,
    }  # fmt: skip
    return read_value(Nvlink, data)


def measurement(
    *,
    nvlink: Nvlink | None = None,
    soak: Sequence[SoakGpu] = (),
    stopped: str | None = None,
    drive: float | None = 6.7,
    **more: Any,
) -> Measurement:
    """One host's measurement."""
    data = {
        "schema": 1, "depth": "standard", "started": "2026-11-25T14:00:00Z",
        "nvlink": nvlink.model_dump(mode="json") if nvlink else None,
        "soak": {
            "backend": "cuda", "seconds": 600.0, "asked_seconds": 600.0, "interval_s": 10.0, "stopped": stopped,
            "gpus": [g.model_dump(mode="json") for g in soak],
        },
        "storage": {"path": "/srv/models", "device": "nvme0n1", "read_gb_s": drive, "direct": True},
        **more,
    }  # fmt: skip
    return Measurement.from_dict(data)
