"""Compares the planner's speed model with measured points: `python bench/planner/speed.py FILE.tsv`.

FILE has the columns of data/llama70b_points.tsv. Prints which rows were fitted, which are excluded and why, the errors
by GPU and model, and the regret of deciding by the model; the last line is JSON.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.planner.points import Comparison, Excluded, Row, gpu_of, model_of, number, read_rows, whole
from metalserve.catalogue.speeds import Parameters
from metalserve.planning.allreduce import nvlink_curve
from metalserve.planning.memory import batched_tokens, share_of
from metalserve.planning.speed import Estimate, Speed, compute_of
from metalserve.planning.work import Split
from metalserve.planning.workload import Workload

UTILIZATION = 0.9
LIMITS_MS = (20.0, 40.0)
REGRET = 0.05
BROKEN = 0.10  # a limit that the measured time a token exceeds by more makes the choice a miss, whatever its throughput

# A set of runs that is known to be wrong: for two of its three models (Llama 3.1 8B, Qwen3 235B) two independent models
# of speed find twice the measured time a token, so the concurrency is not what its label says; the third is off by 2.4.
MISLABELLED = ("aic:", "vllm 0.12.0")


# How the InferenceX runs were made, from the scripts of its repository (SemiAnalysisAI/InferenceX, benchmarks/70b_fp8_*
# and 70b_fp4_*, gptoss_fp4_* of 2025-10; RANDOM_RANGE_RATIO of its README): the columns of the rows do not say it.
MEAN_LENGTH = 0.9  # lengths are drawn evenly from 0.8 to 1.0 of the nominal ones
FP8_KV = (("Llama-3.1-70B", ""), ("gpt-oss-120b", "B200"))  # kv-cache-dtype: fp8


def conditions_of(row: Row) -> tuple[float, float]:
    """Return (mean length of prompts and answers against the nominal one, bytes of an element of the KV cache)."""
    kv_bytes = 1.0 if row.get("kv_dtype", "").startswith("fp8") else 2.0
    if not row["id"].startswith("aic:"):
        return 1.0, kv_bytes
    if any(row["model"].endswith(model) and row["gpu"].startswith(gpu) for model, gpu in FP8_KV):
        kv_bytes = 1.0
    return MEAN_LENGTH, kv_bytes


def is_fitted(row: Row) -> bool:
    """Tell whether the roofline was fitted on such rows: Llama 70B on H100 SXM of the InferenceX set."""
    return row["id"].startswith("aic:") and row["model"].endswith("Llama-3.1-70B") and row["gpu"].startswith("H100-SXM")


def engine_of(row: Row, parameters: Parameters | None = None) -> tuple[Speed, Workload]:
    """Return the planner's engine for a row and its workload.

    Raises:
        Excluded: the row cannot be compared, and why.
    """
    if row["id"].startswith(MISLABELLED[0]) and row["engine"] == MISLABELLED[1]:
        raise Excluded("concurrency mislabelled by two in this set (vLLM 0.12.0)")
    if not row["engine"].lower().startswith("vllm"):
        raise Excluded(f"engine is not vLLM ({row['engine'].split(' ')[0]})")
    if "llm-d" in row["engine"]:
        raise Excluded("open-loop run: no concurrency that was held")
    if "mtp" in row["weight_dtype"].lower() or "dflash" in row["weight_dtype"].lower():
        raise Excluded("speculative decoding")
    model, spec = model_of(row), gpu_of(row)
    tensor, pipeline = int(number(row, "tp")), whole(row, "pp")
    data, expert = whole(row, "dp"), whole(row, "ep") > 1
    length, kv_bytes = conditions_of(row)
    workload = Workload(int(number(row, "isl") * length), int(number(row, "osl") * length), assumed=False)
    compute = compute_of(spec)
    if compute is None:
        raise Excluded("memory bandwidth or tensor cores of the GPU not in the catalogue")
    on_board = spec.fabric in {"nvswitch", "nvlink5"}
    if tensor * data > 1 and not on_board and "nvlink" not in row["interconnect"].lower():
        raise Excluded("links of the host not known")
    memory = spec.memory.mib or int((spec.memory.gb or 0) * 953.67)
    ranks = tensor * data if expert else 0
    share = share_of(model, memory, UTILIZATION, tensor_parallel=tensor, pipeline_parallel=pipeline, gpu_id=spec.id,
                     kv_element_bytes=kv_bytes, expert_ranks=ranks)  # fmt: skip
    if share.kv_tokens <= 0:
        raise Excluded("does not fit by the planner's count")
    curve = nvlink_curve(spec, tensor) if tensor > 1 else None
    spread = nvlink_curve(spec, tensor * data) if expert and tensor * data > 1 else None
    speed = Speed(
        model,
        Split(tensor, pipeline, data, expert),
        spec,
        compute,
        curve,
        kv_tokens=share.kv_tokens * data,
        batched=batched_tokens(memory, spec.id),
        most_at_once=4096,  # the runs set --max-num-seqs to their concurrency or to 512
        kv_element_bytes=kv_bytes,
        expert_curve=spread,
        parameters=parameters,
    )
    return speed, workload


def concurrency_of(row: Row) -> float:
    """Return the requests that one engine held at once."""
    return number(row, "concurrency")


@dataclass(frozen=True)
class Point:
    """A row, the planner's estimate for it, and what was measured."""

    row: Row
    estimate: Estimate
    family: str
    gpus: int

    @property
    def tpot(self) -> float:
        return number(self.row, "tpot_ms")

    @property
    def measured_per_gpu(self) -> float:
        return number(self.row, "out_tok_s") / self.gpus

    @property
    def predicted_per_gpu(self) -> float:
        return self.estimate.tokens_s.value / self.gpus


def points_of(rows: Sequence[Row], parameters: Parameters | None = None) -> tuple[list[Point], Counter[str]]:
    """Return the rows that can be compared, and how many are excluded for which reason."""
    found, excluded = [], Counter[str]()
    for row in rows:
        try:
            speed, workload = engine_of(row, parameters)
            number(row, "tpot_ms")
            estimate = speed.estimate(concurrency_of(row), workload)
        except Excluded as error:
            excluded[f"{row['id'].partition(':')[0]} {row['model']} on {row['gpu']}: {error}"] += 1
            continue
        family = "mixture" if speed.model.is_moe or speed.model.rough else "dense"
        found.append(Point(row, estimate, family, speed.split.gpus))
    return found, excluded


def compared(points: Iterable[Point]) -> list[Comparison]:
    """Return the errors of the time a token."""
    return [
        Comparison(
            p.row, is_fitted(p.row), p.family, p.estimate.tpot_ms.value, p.tpot, p.estimate.tpot_ms.holds(p.tpot)
        )
        for p in points
    ]


@dataclass(frozen=True)
class Decision:
    """One choice of split and concurrency under a limit, by the planner, judged by what was measured."""

    where: str
    limit_ms: float
    chosen: Point
    best: Point
    family: str

    @property
    def kept(self) -> bool:
        """The measured time a token keeps the limit, to 5 %."""
        return self.chosen.tpot <= self.limit_ms * (1 + REGRET)

    @property
    def regret(self) -> float:
        """Share of the best measured tokens a second that the choice gives away; all of it when it broke the limit."""
        if self.chosen.tpot > self.limit_ms * (1 + BROKEN):
            return 1.0
        return max(0.0, 1 - self.chosen.measured_per_gpu / self.best.measured_per_gpu)


def decisions(points: Sequence[Point]) -> list[Decision]:
    """Return the decisions that the points allow: most tokens a second and GPU with the time a token under a limit.

    Points that were measured several times count once, with their median; a decision needs at least four
    configurations of which one, as measured, keeps the limit and one is ruled out.
    """
    groups: dict[tuple[str, ...], list[Point]] = defaultdict(list)
    for point in points:
        row = point.row
        groups[
            row["id"].partition(":")[0], row["model"], row["gpu"], row["weight_dtype"], row["isl"], row["osl"]
        ].append(point)
    found = []
    for key, members in sorted(groups.items()):
        several: dict[tuple[str, ...], list[Point]] = defaultdict(list)
        for point in members:
            row = point.row
            several[row["tp"], row["pp"], row["dp"], row["ep"], row["concurrency"]].append(point)
        single = [sorted(same, key=lambda p: p.tpot)[len(same) // 2] for same in several.values()]
        for limit in LIMITS_MS:
            keeping = [p for p in single if p.tpot <= limit]
            allowed = [p for p in single if p.estimate.tpot_ms.value <= limit] or [
                min(single, key=lambda p: p.estimate.tpot_ms.value)
            ]
            if len(single) < 4 or not keeping:
                continue
            found.append(
                Decision(
                    " ".join(key[1:]),
                    limit,
                    max(allowed, key=lambda p: p.predicted_per_gpu),
                    max(keeping, key=lambda p: p.measured_per_gpu),
                    single[0].family,
                )
            )
    return found


def _line(name: str, items: Sequence[Comparison]) -> str:
    errors = [100 * c.error for c in items]
    return (
        f"{name:58} {len(items):5} {mean(map(abs, errors)):8.1f} {median(map(abs, errors)):8.1f} {mean(errors):+8.1f} "
        f"{100 * mean(c.in_range for c in items):8.0f}"
    )


def _summary(items: Sequence[Comparison], made: Sequence[Decision]) -> dict[str, object]:
    """Return the figures of the last line for some of the rows."""
    errors = [100 * abs(c.error) for c in items]
    found: dict[str, object] = {
        "n": len(items),
        "tpot_median_abs_error_pct": round(median(errors), 2) if errors else None,
        "tpot_mean_abs_error_pct": round(mean(errors), 2) if errors else None,
        "in_range_pct": round(100 * mean(c.in_range for c in items), 1) if items else None,
    }
    if made:
        found |= {
            "regret_within_5_pct": round(100 * mean(d.regret <= REGRET for d in made), 1),
            "decisions": len(made),
            "limit_kept_pct": round(100 * mean(d.kept for d in made), 1),
        }
    return found


def _print_ttft(points: Sequence[Point]) -> None:
    """Print how the measured times to the first token lie to [unloaded, saturated]."""
    print(
        f"\nTime to the first token, measured under full load{'':9} {'n':>5} {'below':>7} {'within':>7} {'above':>7} %"
    )
    for family in ("dense", "mixture"):
        told = [
            (number(p.row, "ttft_ms"), *p.estimate.ttft_ms) for p in points if p.family == family and p.row["ttft_ms"]
        ]
        if not told:
            continue
        below, above = (100 * mean(t < low for t, low, _ in told), 100 * mean(t > high for t, _, high in told))
        print(f"{family:58} {len(told):5} {below:7.0f} {100 - below - above:7.0f} {above:7.0f}")


def main(path: str) -> int:
    """Print the comparison of one file."""
    points, excluded = points_of(read_rows(Path(path)))
    every = compared(points)
    held_out = [c for c in every if not c.fitted]
    print("Excluded rows")
    for reason, count in sorted(excluded.items()):
        print(f"  {count:5} {reason}")
    print(f"\nFitted rows (not counted below the line): {len(every) - len(held_out)}, Llama 70B on H100 SXM")
    print(f"\nTime a token, %\n{'':58} {'n':>5} {'MAPE':>8} {'median':>8} {'bias':>8} {'in range':>8}")
    groups: dict[str, list[Comparison]] = defaultdict(list)
    for item in every:
        name = f"{item.row['model']} {item.row['weight_dtype']} {item.row['gpu']}"
        groups[f"{'fitted: ' if item.fitted else ''}{name}"].append(item)
    for name, items in sorted(groups.items()):
        print(_line(name, items))
    for family in ("dense", "mixture"):
        if items := [c for c in held_out if c.family == family]:
            print(_line(f"all {family}, not fitted", items))
    for gpu in sorted({c.row["gpu"] for c in held_out if c.family == "dense"}):
        print(
            _line(f"all dense {gpu}, not fitted", [c for c in held_out if c.family == "dense" and c.row["gpu"] == gpu])
        )
    made = decisions(points)
    print(
        f"\nDecisions: most tokens/s and GPU under a limit; {'limit':>10} {'chosen':>16} {'best':>16} {'regret %':>9}"
    )
    for d in made:
        chosen, best = (f"TP{p.row['tp']} c{p.row['concurrency']}" for p in (d.chosen, d.best))
        note = "" if d.kept else f"  measured {d.chosen.tpot:.1f} ms"
        print(f"  {d.where:62} {d.limit_ms:4.0f} {chosen:>16} {best:>16} {100 * d.regret:9.1f}{note}")
    _print_ttft([p for p in points if not is_fitted(p.row)])
    print("\nThe last line counts dense models; mixtures, for which nothing was fitted, stand apart under moe.")
    families = {family: [c for c in held_out if c.family == family] for family in ("dense", "mixture")}
    summary = _summary(families["dense"], [d for d in made if d.family == "dense"])
    summary["moe"] = _summary(families["mixture"], [d for d in made if d.family == "mixture"])
    summary["by_gpu"] = {
        gpu: _summary([c for c in families["dense"] if c.row["gpu"] == gpu], [])
        for gpu in sorted({c.row["gpu"] for c in families["dense"]})
    }
    summary |= {"fitted_rows": len(every) - len(held_out), "excluded_rows": sum(excluded.values())}
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: speed.py FILE.tsv")
    sys.exit(main(sys.argv[1]))
