"""Rows of measured points turned into what the planner knows: model and GPU.

Nothing is guessed: what is not clear is excluded, with the reason.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from metalserve.catalogue.loader import load_gpus
from metalserve.catalogue.models import GpuSpec
from metalserve.planning.known import known_model, known_models
from metalserve.planning.model import ModelConfig, Quantisation

Row = Mapping[str, str]

# What repositories add to the name of the same shapes.
_SUFFIXES = (
    "instruct", "chat", "hf", "it", "base", "fp8", "dynamic", "fp4", "nvfp4", "awq", "w4a16", "int4", "2507",
    "0528", "mtp",
)  # fmt: skip

QUANTISED = {
    "fp8": Quantisation("fp8", 1.0),
    "fp4": Quantisation("modelopt", 0.5 + 1 / 16, block=16),
    "nvfp4": Quantisation("modelopt", 0.5 + 1 / 16, block=16),
    "awq int4": Quantisation("awq", 0.5 + 2.5 / 128, block=128),
    "int4": Quantisation("compressed-tensors", 0.5 + 2.5 / 128, block=128),
}


class Excluded(Exception):
    """A row that is not compared; its text says why."""


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a tab-separated file with a header."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: value or "" for key, value in row.items() if key} for row in csv.DictReader(file, delimiter="\t")]


def number(row: Row, column: str) -> float:
    """Return a column as a positive number.

    Raises:
        Excluded: it is empty or no such number.
    """
    try:
        value = float(row.get(column, ""))
    except ValueError:
        raise Excluded(f"{column} is not given") from None
    if not 0 < value < float("inf"):
        raise Excluded(f"{column} is {value:g}")
    return value


def whole(row: Row, column: str, default: int = 1) -> int:
    """Return a column as a whole number, the default when it is empty.

    Raises:
        Excluded: it is no such number.
    """
    return int(number(row, column)) if row.get(column, "").strip() else default


# Models of other names with the shapes of one in the catalogue.
_SAME_SHAPES = {
    "llama-3-8b": "llama-3.1-8b", "llama-3-70b": "llama-3.1-70b", "deepseek-r1-distill-qwen-14b": "qwen2.5-14b",
    "deepseek-r1-distill-qwen-32b": "qwen2.5-32b", "deepseek-r1-distill-llama-70b": "llama-3.1-70b",
    "deepseek-r1-distill-llama-8b": "llama-3.1-8b", "qwq-32b": "qwen2.5-32b",
}  # fmt: skip


def _bare(name: str) -> str:
    text = (
        re.split(r" \(| class\b| bnb", name.lower().rpartition("/")[2])[0].removesuffix(" fp16").removesuffix(" bf16")
    )
    words = re.split(r"[-_ ]", text)
    while len(words) > 1 and words[-1] in _SUFFIXES:
        words.pop()
    bare = "-".join(words).removeprefix("meta-")
    return _SAME_SHAPES.get(bare, bare)


def model_of(row: Row) -> ModelConfig:
    """Return the model of a row with the weights of its `weight_dtype`.

    Raises:
        Excluded: the model or its weights are not known.
    """
    name = row["model"]
    wanted = _bare(name)
    matches = [known for known in known_models() if _bare(known) == wanted]
    if not matches:
        raise Excluded("model not in the catalogue")
    model = known_model(matches[0])
    dtype = row.get("weight_dtype", "").lower().strip()
    if dtype in {"bf16", "fp16"}:
        return replace(model, dtype="bfloat16" if dtype == "bf16" else "float16", quantisation=None)
    if dtype.startswith("mxfp4"):
        if model.quantisation is None or model.quantisation.method != "mxfp4":
            raise Excluded("MXFP4 of a model whose own weights are not")
        return model
    if dtype == "fp8" and model.quantisation and model.quantisation.method == "fp8":
        return model
    if dtype not in QUANTISED:
        raise Excluded(f"weights of type '{dtype}'" if dtype else "type of the weights not given")
    return replace(model, quantisation=QUANTISED[dtype])


def gpu_of(row: Row) -> GpuSpec:
    """Return the GPU of a row.

    Raises:
        Excluded: not in the catalogue, or several it could be.
    """
    gpus = load_gpus()
    text = row["gpu"].strip()
    if found := gpus.by_name(text):
        return found
    name = re.sub(r"[ _]+", "-", text.lower()).removeprefix("nvidia-")
    bare = re.sub(r"-\d+(gb)?$", "", name)
    linked = "nvlink" in row.get("interconnect", "").lower()
    for wanted in (name, bare, bare.removesuffix("-sxm"), f"{bare}-sxm" if linked else bare):
        if wanted in gpus.ids:
            return gpus.by_id(wanted)
    if linked and (size := re.search(r"-(\d+)(gb)?$", name)) and f"{bare}-sxm-{size[1]}" in gpus.ids:
        return gpus.by_id(f"{bare}-sxm-{size[1]}")
    raise Excluded(f"GPU '{text}' not in the catalogue, or not clear which")


@dataclass(frozen=True)
class Comparison:
    """A prediction beside its measurement."""

    row: Row
    fitted: bool
    family: str
    predicted: float
    measured: float
    in_range: bool

    @property
    def error(self) -> float:
        """Predicted against measured, as a share."""
        return self.predicted / self.measured - 1
