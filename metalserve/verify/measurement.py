"""What was measured on one host, as typed values: schema 1, kept under `measurements` of the host in a run's report.

    {"schema": 1, "simulated": false, "depth": "standard", "started": "2026-11-25T14:00:00Z",
     "skipped": null | why nothing was measured,
     "nvlink": {...} | null, "soak": {...} | null, "storage": {...} | null, "dcgm": {...} | null,
     "baseline": {...} | null}

The parts are the classes below, field by field. Rates are decimal GB/s and TFLOP/s, temperatures degrees C, power W,
clocks MHz, times seconds. What could not be read is null. Fields that are not named here are left out when read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from metalserve.errors import MetalserveError

Depth = Literal["quick", "standard", "deep"]


class MeasurementError(MetalserveError):
    """What should be a measurement has another shape."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)


class AllReduce(_Value):
    """One all-reduce: which GPUs, how many bytes each, and how fast."""

    gpus: tuple[int, ...] = Field(min_length=2)
    size_bytes: int = Field(gt=0)
    busbw_gb_s: float = Field(ge=0, description="as nccl-tests count it: algbw * 2 (n - 1) / n")
    algbw_gb_s: float = Field(ge=0)
    spread_percent: float | None = Field(None, description="between the slowest and the fastest round")


class Pair(_Value):
    """Copies between two GPUs."""

    a: int
    b: int
    gb_s: float = Field(ge=0)
    bidirectional_gb_s: float = Field(ge=0, description="both directions at once, added up")
    peer_access: bool | None = None


class Control(_Value):
    """The control arm: the same all-reduce with NCCL's peer-to-peer switched off."""

    p2p_off_busbw_gb_s: float | None = None
    error: str | None = None


class Nvlink(_Value):
    """Bandwidth between the GPUs."""

    backend: Literal["nccl", "gloo"] | None = None
    nccl: str | None = Field(None, description="version of NCCL")
    nvls: bool | None = Field(None, description="NVLink SHARP in use; None: NCCL did not say")
    transports: tuple[str, ...] = Field((), description="as NCCL's log names them, such as P2P/CUMEM")
    all_reduce: tuple[AllReduce, ...] = ()
    pairs: tuple[Pair, ...] = ()
    control: Control = Control()
    wrong: int = Field(0, ge=0, description="elements of sums and copies that were not right")
    error: str | None = None

    def largest(self) -> AllReduce | None:
        """Return the all-reduce over the most GPUs, at its largest size."""
        return max(self.all_reduce, key=lambda r: (len(r.gpus), r.size_bytes), default=None)


class SoakGpu(_Value):
    """One GPU under load; the lists have one entry a point and all the same length."""

    index: int
    t_s: tuple[float, ...] = ()
    tflops: tuple[float | None, ...] = ()
    temperature_c: tuple[float | None, ...] = ()
    tlimit_margin_c: tuple[float | None, ...] = ()
    power_w: tuple[float | None, ...] = ()
    sm_mhz: tuple[float | None, ...] = ()
    reasons: tuple[tuple[str, ...] | None, ...] = Field((), description="clocks-event reasons by nvidia-smi's names")
    drift_percent: float | None = Field(None, description="rate at the end against the start; negative: it fell")

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        series = (self.tflops, self.temperature_c, self.tlimit_margin_c, self.power_w, self.sm_mhz, self.reasons)
        if any(len(values) != len(self.t_s) for values in series):
            raise ValueError("the series of a GPU have different lengths")
        return self


class Soak(_Value):
    """Sustained load on all GPUs at once."""

    backend: Literal["cuda", "cpu"] | None = None
    seconds: float = Field(0.0, ge=0)
    asked_seconds: float | None = None
    interval_s: float = Field(1.0, gt=0, description="seconds that one point stands for")
    stopped: str | None = Field(None, description="why the load ended before its time")
    telemetry: str = Field("nvidia-smi", description="where heat, power and clocks come from; `none: ...` without")
    gpus: tuple[SoakGpu, ...] = ()
    error: str | None = None


class Storage(_Value):
    """Sequential read of the drive that holds the models."""

    path: str = ""
    device: str = ""
    read_gb_s: float | None = Field(None, ge=0)
    direct: bool | None = Field(None, description="past the page cache")
    method: str | None = None
    seconds: float | None = None
    temperature_start_c: float | None = None
    temperature_end_c: float | None = None
    model_load_s: float | None = Field(None, description="seconds to read the model at this rate")
    error: str | None = None


class Dcgm(_Value):
    """`dcgmi diag`: level, exit status and what it printed."""

    level: int
    rc: int
    output: Any = None


class Baseline(_Value):
    """The figures that later runs are compared with."""

    started: str
    figures: dict[str, float]
    gpus: tuple[str, ...] = Field((), description="UUIDs of the GPUs that they were measured on")
    simulated: bool = False


class Measurement(_Value):
    """All that was measured on one host in one run."""

    schema_version: Literal[1] = Field(1, alias="schema")
    simulated: bool = False
    depth: Depth
    started: str
    skipped: str | None = None
    nvlink: Nvlink | None = None
    soak: Soak | None = None
    storage: Storage | None = None
    dcgm: Dcgm | None = None
    baseline: Baseline | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `as_dict` made.

        Raises:
            MeasurementError: a field is missing or has another type.
        """
        return read_value(cls, data)

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return self.model_dump(mode="json", by_alias=True)


_Read = TypeVar("_Read", bound=BaseModel)


def read_value(kind: type[_Read], data: object) -> _Read:
    """Read one of the classes above from JSON-ready values.

    Raises:
        MeasurementError: a field is missing or has another type.
    """
    try:
        # By way of JSON: there a list is a tuple, and nothing else is converted.
        return kind.model_validate_json(json.dumps(data))
    except (ValidationError, TypeError, ValueError) as error:
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False, include_input=False)[0]
            what = f"{'.'.join(str(part) for part in first['loc']) or kind.__name__}: {first['msg']}"
        else:
            what = str(error)
        raise MeasurementError(f"is no {kind.__name__.lower()} of schema 1: {what}") from error
