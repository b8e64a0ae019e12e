"""Fits the five parameters of the roofline: `python bench/planner/fit.py [FILE.tsv] [--write]`.

Only rows of Llama 70B on H100 SXM are used (`speed.is_fitted`); all others are left for the comparison. The sum of the
absolute logarithmic errors is made least (a few runs of the set are far off and would pull a sum of squares), by trying
steps along each parameter and each pair of them. With --write the catalogue's roofline.yaml gets the result.
"""

from __future__ import annotations

import datetime
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.planner.points import number, read_rows
from bench.planner.speed import concurrency_of, engine_of, is_fitted
from metalserve.catalogue.speeds import Parameters
from metalserve.paths import CATALOGUE

DATA = Path(__file__).parent / "data" / "llama70b_points.tsv"
ROOFLINE = CATALOGUE / "roofline.yaml"

NAMES = ("weights", "kv", "compute", "layer_us", "step_ms")
# Bounds from measurements of others, so that no parameter takes over what belongs to another: copies reach 0.93 of the
# nominal memory bandwidth; the best FP8 matrix products of an H100 reach 0.71 of theirs (stas00/ml-engineering). One
# model has one number of layers, so time a layer and a step cannot be told apart: the time a layer is held at 21 us, as
# an earlier fit on 45 rows found it.
BOUNDS = ((0.5, 0.93), (0.3, 0.93), (0.3, 0.71), (21.0, 21.0), (0.0, 10.0))
START = (0.85, 0.7, 0.65, 21.0, 3.0)
STEPS = (0.1, 0.1, 0.1, 0.0, 1.0)


def parameters_of(values: Sequence[float]) -> Parameters:
    return Parameters(**dict(zip(NAMES, values, strict=True)))


def fit(rows: Sequence[dict[str, str]]) -> tuple[Parameters, float, int]:
    """Return the parameters, the mean absolute logarithmic error, and the rows that were fitted."""
    engines = [(*engine_of(row), concurrency_of(row), number(row, "tpot_ms") / 1e3) for row in rows if is_fitted(row)]
    if not engines:
        sys.exit("no row of Llama 70B on H100 SXM to fit on")

    def cost(values: Sequence[float]) -> float:
        parameters = parameters_of(values)
        total = 0.0
        for speed, workload, asked, measured in engines:
            speed.parameters = parameters
            running = max(1.0, min(asked, speed.kv_tokens / workload.context))
            total += abs(math.log(speed.decode_terms(running, workload).total / measured))
        return total / len(engines)

    best, scale = list(START), 1.0
    least = cost(best)
    moves = [((i, di),) for i in range(5) for di in (1, -1)]
    moves += [((i, di), (j, dj)) for i in range(5) for j in range(i) for di in (1, -1) for dj in (1, -1)]
    while scale > 1e-3:
        better = False
        for move in moves:
            tried = list(best)
            for place, sign in move:
                low, high = BOUNDS[place]
                tried[place] = min(max(tried[place] + sign * scale * STEPS[place], low), high)
            if (value := cost(tried)) < least - 1e-9:
                best, least, better = tried, value, True
        scale = scale if better else scale / 2
    return parameters_of([round(value, 4) for value in best]), least, len(engines)


def main(arguments: Sequence[str]) -> int:
    """Fit, print, and write when asked to."""
    paths = [word for word in arguments if not word.startswith("--")]
    found, error, rows = fit(read_rows(Path(paths[0]) if paths else DATA))
    text = ", ".join(f"{name}: {getattr(found, name):g}" for name in NAMES)
    print(f"{{{text}}}: mean error {100 * error:.1f} % on {rows} rows")
    if "--write" in arguments:
        old = ROOFLINE.read_text(encoding="utf-8")
        new = re.sub(r"^parameters: .*$", f"parameters: {{{text}}}", old, flags=re.M)
        new = re.sub(r"^rows: .*$", f"rows: {rows}", new, flags=re.M)
        new = re.sub(r"^date: .*$", f"date: '{datetime.datetime.now(datetime.UTC).date()}'", new, flags=re.M)
        ROOFLINE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
