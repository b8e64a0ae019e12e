"""Types of what decides speed: tensor-core rates, measured all-reduces, the fitted roofline. Each says its source."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Way = Literal["custom", "nccl"]
LinkFamily = Literal["nvlink3", "nvlink4", "nvlink5", "pcie4", "pcie5"]


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Compute(_Row):
    """Dense rates of a GPU's tensor cores, TFLOP/s; None where they cannot compute in that type."""

    bf16: float
    fp8: float | None = None
    int8: float | None = None
    fp4: float | None = None
    source: str


class AllReduceRow(_Row):
    """One measured curve: microseconds at each size of the table."""

    system: str = Field(description="the machine it was measured on")
    link: LinkFamily
    gpus: int
    way: Way
    us: tuple[float, ...]


class AllReduceTable(_Row):
    """All curves and the message sizes they share."""

    source: str
    sizes_kib: tuple[int, ...]
    rows: tuple[AllReduceRow, ...]

    @model_validator(mode="after")
    def _whole(self) -> AllReduceTable:
        if any(len(row.us) != len(self.sizes_kib) for row in self.rows):
            raise ValueError("a row has another number of points than there are sizes")
        return self

    def row(self, system: str, gpus: int, way: Way) -> AllReduceRow | None:
        """Return the curve of a machine, or None."""
        return next((r for r in self.rows if (r.system, r.gpus, r.way) == (system, gpus, way)), None)


class LinkFacts(_Row):
    """What the measured tables do not say about links."""

    cross_socket: float = Field(description="factor of time between sockets against within one")
    no_p2p_us: float = Field(description="latency that a pair gains without peer-to-peer, microseconds")
    pcie_gb_s: dict[int, float] = Field(description="PCIe generation -> GB/s one way over 16 lanes")
    source: str


class Speeds(_Row):
    """The file speeds.yaml."""

    sources: dict[str, str]
    compute: dict[str, Compute] = Field(description="by catalogue id of the GPU")
    all_reduce: AllReduceTable
    links: LinkFacts


class Parameters(_Row):
    """The five parameters of the roofline. They are fitted together and mean little one by one."""

    weights: float = Field(gt=0, le=1, description="share of the memory bandwidth at which weights are read")
    kv: float = Field(gt=0, le=1, description="share of the memory bandwidth at which the KV cache is read")
    compute: float = Field(gt=0, le=1, description="share of the tensor cores' rate")
    layer_us: float = Field(ge=0, description="microseconds a layer and step beside all that")
    step_ms: float = Field(ge=0, description="milliseconds a step beside all that")


class Roofline(_Row):
    """The file roofline.yaml: parameters, and how far the results may be off."""

    parameters: Parameters
    fitted_on: str
    rows: int = Field(description="measured points that it was fitted on")
    date: str
    source: str
    tpot_error: dict[Literal["fitted", "dense", "mixture", "pipeline", "unmeasured_links"], float] = Field(
        description="half width of the stated range, as a share of the value"
    )
    throughput_error_extra: float = Field(description="added to it for throughput")
    ttft_queue: float = Field(description="saturated TTFT = unloaded x (1 + this x log2 of the requests at once)")
    request_ms: float = Field(description="milliseconds of the API server a request")
    errors_source: str
