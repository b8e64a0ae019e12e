"""Compares the planner's memory arithmetic with vLLM start-up logs: `python bench/planner/memory.py FILE.tsv`.

FILE has the columns of data/memory_points.tsv. Prints each row that can be compared with its error, which rows are
excluded and why, and how well the two exact parts (weights, bytes a token) agree on their own; the last line is JSON.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.planner.points import Excluded, Row, model_of, number, read_rows, whole
from metalserve.planning.memory import (
    GIB,
    HIDDEN_FROM_CUDA_MIB,
    Share,
    batched_tokens,
    kv_bytes_per_token,
    share_of,
    weights_bytes,
)
from metalserve.planning.model import ModelConfig

GRAPHS_COUNTED_SINCE = (0, 21)
UTILIZATION_SINCE = (0, 22)  # 0.92 instead of 0.9
# The dense logs on which the overhead was fitted (planner research of 2026-11): those with every figure it needs, and
# sizes of H100, A5000 and L40S.
FITTED = {"m12", "m15", "m42", "m43", "m44", "m45", "m46", "m47", "m48", "m49", "m50"}


@dataclass(frozen=True)
class Point:
    """A start-up log beside the plan."""

    row: Row
    family: str
    share: Share
    kv_gib: float
    predicted: float
    measured: float
    unit: str

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


def version_of(text: str) -> tuple[int, int] | None:
    """Return (0, 16) of `0.16.0`; None of a date or nothing."""
    found = re.match(r"v?(\d)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def graphs_counted(row: Row) -> bool:
    """Tell whether the engine takes CUDA graphs out of the budget before it sizes the KV cache.

    Raises:
        Excluded: the row does not say it.
    """
    version = version_of(row["vllm"])
    if row["eager"].lower().startswith("y"):
        return False
    if version:
        return version >= GRAPHS_COUNTED_SINCE
    if "0.9" in row["vllm"]:  # the default share, 0.92 since 0.22, dates it
        return False
    if row["vllm"].startswith("2026"):
        return True
    raise Excluded("vLLM's version is not given, so neither is whether CUDA graphs are counted")


def batched_of(row: Row, memory_mib: float) -> int:
    """Return --max-num-batched-tokens: from the note, else vLLM's default for the memory."""
    found = re.search(r"(?:max_num_)?batched(?:_tokens)?[ =:]+(\d+)|(\d+) batched", row.get("note", ""))
    if found:
        return int(found[1] or found[2])
    return batched_tokens(memory_mib, "a100" if "A100" in row["gpu"] else "")


def kv_dtype_bytes(row: Row) -> float:
    """Return the bytes of an element of the KV cache."""
    if row["kv_elem_bytes"]:
        return number(row, "kv_elem_bytes")
    return 1.0 if re.search(r"fp8[_a-z0-9]* KV|KV[ -]*fp8", row.get("note", "")) else 2.0


def point_of(row: Row) -> Point:
    """Return a row beside the plan's figures.

    Raises:
        Excluded: the row cannot be compared, and why.
    """
    if "unified" in row.get("note", "") or row["gpu"].startswith(("GB10", "GH200")):
        raise Excluded("unified memory: the engine counts it otherwise")
    if not row["kv_tokens"] and not row["kv_gib_per_gpu"]:
        raise Excluded("neither KV tokens nor KV memory are given")
    if "refused" in row.get("note", ""):
        raise Excluded("start-up was refused: what it printed is no KV cache that was made")
    if re.search(r"pair|patched|AMD|\bMTP\b", f"{row['gpu']} {row['vllm']} {row['model']}"):
        raise Excluded("patched build, other vendor's GPU, or a draft model beside it")
    total = number(row, "gpu_total_gib")
    version = version_of(row["vllm"])
    if row["util"]:
        utilization = number(row, "util")
    elif version:
        utilization = 0.92 if version >= UTILIZATION_SINCE else 0.9
    else:
        raise Excluded("neither the share of memory nor the version is given")
    model = model_of({**row, "weight_dtype": _dtype(row)})
    tensor, pipeline = int(number(row, "tp")), whole(row, "pp")
    memory_mib = total * 1024 + HIDDEN_FROM_CUDA_MIB
    share = share_of(
        model, memory_mib, utilization, tensor_parallel=tensor, pipeline_parallel=pipeline,
        batched=batched_of(row, memory_mib), eager=not graphs_counted(row), kv_element_bytes=kv_dtype_bytes(row),
    )  # fmt: skip
    family = "moe" if model.is_moe or model.rough or model.window else "dense"
    kv_gib = share.kv_bytes / GIB
    if row["kv_tokens"]:
        return Point(row, family, share, kv_gib, share.printed_tokens, number(row, "kv_tokens"), "tokens")
    return Point(row, family, share, kv_gib, kv_gib, number(row, "kv_gib_per_gpu"), "GiB")


def _dtype(row: Row) -> str:
    text = row["weight_dtype"].lower()
    if text in {"awq int4", "awq"} or "AWQ" in row["model"]:
        return "awq int4"
    if text == "w8a8" or text == "int8":
        return "fp8"
    return text.split("(")[0]


def exact_parts(rows: Sequence[Row]) -> None:
    """Print how the computed weights and bytes a token agree with what the logs print."""
    print("\nExact parts (nothing fitted): computed against printed")
    for row in rows:
        try:
            model: ModelConfig = model_of({**row, "weight_dtype": _dtype(row)})
            tensor, pipeline = int(number(row, "tp")), whole(row, "pp")
        except Excluded:
            continue
        said = []
        if row["weights_gib_per_gpu"]:
            own = weights_bytes(model, tensor, pipeline) / GIB
            printed = number(row, "weights_gib_per_gpu")
            said.append(f"weights {own:7.2f} / {printed:7.2f} GiB ({100 * (own / printed - 1):+.1f} %)")
        if row["kv_tokens"] and row["kv_gib_per_gpu"]:
            each = kv_bytes_per_token(model, tensor, pipeline, kv_dtype_bytes(row))
            tokens, printed = number(row, "kv_gib_per_gpu") * GIB / each, number(row, "kv_tokens")
            said.append(f"tokens of the printed KV memory {100 * (tokens / printed - 1):+.2f} %")
        if said:
            print(f"  {row['id']:5} {row['model'][:44]:44} {'; '.join(said)}")


def main(path: str) -> int:
    """Print the comparison of one file."""
    rows = read_rows(Path(path))
    points, excluded = [], []
    for row in rows:
        try:
            points.append(point_of(row))
        except Excluded as error:
            excluded.append(f"{row['id']:5} {row['model'][:44]:44} {error}")
    print("Excluded rows")
    print("\n".join(f"  {line}" for line in excluded))
    exact_parts(rows)
    print(f"\nKV cache: plan against log{'':33} {'plan':>10} {'log':>10} {'error %':>8}")
    for p in points:
        where = f"TP{p.row['tp']} {p.row['gpu']} vLLM {p.row['vllm'].split(' ')[0]}"
        name = f"{p.row['model'].rpartition('/')[2][:30]} {where}"
        mark = " overhead fitted on it" if p.row["id"] in FITTED else ""
        print(f"  {p.row['id']:5} {name[:50]:50} {p.predicted:10,.0f} {p.measured:10,.0f} {100 * p.error:8.1f} "
              f"{p.unit}, {p.family}{mark}")  # fmt: skip
    errors = [100 * abs(p.error) for p in points]

    def of(family: str, *, fitted: bool | None = None) -> dict[str, object]:
        own = [
            100 * abs(p.error)
            for p in points
            if p.family == family and (fitted is None or (p.row["id"] in FITTED) == fitted)
        ]
        return {"n": len(own), "median_abs_error_pct": round(median(own), 2) if own else None}

    print(json.dumps({
        "n": len(points),
        "median_abs_error_pct": round(median(errors), 2) if errors else None,
        "dense": of("dense")["median_abs_error_pct"],
        "moe": of("moe")["median_abs_error_pct"],
        "dense_n": of("dense")["n"],
        "moe_n": of("moe")["n"],
        "dense_not_fitted": of("dense", fitted=False),
        "excluded_rows": len(excluded),
    }))  # fmt: skip
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: memory.py FILE.tsv")
    sys.exit(main(sys.argv[1]))
