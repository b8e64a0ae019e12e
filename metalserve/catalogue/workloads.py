"""Shapes of requests that a benchmark makes, with where their lengths come from."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from metalserve.yaml_text import read_yaml


class WorkloadShape(BaseModel):
    """One kind of request; see workloads.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    name: str
    prompt: int = Field(gt=0)
    answer: int = Field(gt=0)
    cv: float = Field(ge=0)
    shared: int = Field(ge=0)
    pool: int = Field(ge=1)
    turns: int = Field(ge=1)
    append: int = Field(ge=0)
    arrivals: Literal["constant", "poisson", "bursty"]
    burst_cv: float = Field(gt=0)
    source: str


@cache
def load_workloads() -> dict[str, WorkloadShape]:
    """Return the shapes by name."""
    text = resources.files("metalserve.catalogue").joinpath("workloads.yaml").read_text(encoding="utf-8")
    data = read_yaml(text)
    return {
        name: WorkloadShape(name=name, **{**row, "source": data["sources"][row["source"]]})
        for name, row in data["workloads"].items()
    }
