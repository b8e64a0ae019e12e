"""vLLM's own load generator, `vllm bench serve` in the engine's image: its command, and its result as ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from metalserve.benching.document import document
from metalserve.benching.knee import find_knee
from metalserve.benching.results import PERCENTILES
from metalserve.errors import MetalserveError


def command(
    url: str, model: str, tokenizer: str, image: str, directory: str, *, clients: int, prompt: int, answer: int,
    requests: int,
) -> list[str]:  # fmt: skip
    """Return the command that loads an engine from its host, in the engine's own image, without a GPU.

    Args:
        url: base URL of the engine.
        model: served name.
        tokenizer: directory of the model on the host.
        image: the engine's.
        directory: where the result goes on the host.
        clients: requests at once.
        prompt: tokens of each prompt; answer: of each answer.
        requests: how many in all.
    """
    return [
        "docker", "run", "--rm", "--network", "host", "--entrypoint", "vllm", "-e", "HF_HUB_OFFLINE=1",
        "-v", f"{tokenizer}:/tokenizer:ro", "-v", f"{directory}:/results", image,
        "bench", "serve", "--backend", "openai", "--base-url", url, "--endpoint", "/v1/completions",
        "--model", model, "--tokenizer", "/tokenizer", "--dataset-name", "random",
        "--random-input-len", str(prompt), "--random-output-len", str(answer), "--num-prompts", str(requests),
        "--max-concurrency", str(clients), "--request-rate", "inf", "--ignore-eos", "--seed", "1",
        "--percentile-metrics", "ttft,tpot,itl,e2el",
        "--metric-percentiles", ",".join(map(str, PERCENTILES)),
        "--save-result", "--save-detailed", "--result-dir", "/results", "--result-filename", f"clients-{clients}.json",
    ]  # fmt: skip


def result_of(files: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return a result of kind `steps` from files of `vllm bench serve`, one a load.

    Args:
        files: (name, content) each.

    Raises:
        MetalserveError: a file is none of its results, or they are of different models.
    """
    steps = sorted((_step(name, told) for name, told in files), key=lambda step: (step["mode"], step["load"]))
    models = {str(told["model_id"]) for _, told in files}
    if len(models) != 1:
        raise MetalserveError(f"the files are of different models: {', '.join(sorted(models))}", where="bench import")
    if len({step["mode"] for step in steps}) != 1:
        raise MetalserveError("some files are of a rate, others of a concurrency", where="bench import")
    lengths = {
        name: round(
            sum(told[f"total_{name}_tokens"] for _, told in files) / sum(told["completed"] for _, told in files)
        )
        for name in ("input", "output")
    }
    return document(
        "steps",
        _started(files[0][1]),
        generator="vllm bench serve",
        simulated=False,
        endpoint={"url": None, "model": models.pop(), "max_model_len": None},
        workload={"name": "random", "shape": lengths, "seed": None, "source": "vllm bench serve --dataset-name random"},
        steps=steps,
        knee=find_knee(steps).as_dict(),
        telemetry=[],
        notes=["vLLM's generator counts its whole run, start and end included: there is no warm-up to leave out"],
    )


def _started(told: Mapping[str, Any]) -> str:
    try:
        return datetime.strptime(str(told["date"]), "%Y%m%d-%H%M%S").replace(tzinfo=UTC).isoformat()
    except (KeyError, ValueError):
        return ""


def _step(name: str, told: Mapping[str, Any]) -> dict[str, Any]:
    try:
        limit, rate = told["max_concurrency"], told["request_rate"]
        closed = rate == "inf" or rate == float("inf")
        if closed and not limit:
            raise MetalserveError("all requests were sent at once: neither a rate nor a concurrency", where=name)
        return {
            "mode": "closed" if closed else "open",
            "load": float(limit if closed else rate),
            "arrivals": None if closed else "poisson",
            "warmup_s": 0.0,
            "from_s": 0.0,
            "to_s": told["duration"],
            "duration_s": told["duration"],
            "requests": told["completed"] + told.get("failed", 0),
            "completed": told["completed"],
            "failed": told.get("failed", 0),
            "errors": {},
            "input_tokens": told["total_input_tokens"],
            "output_tokens": told["total_output_tokens"],
            "cached_tokens": None,
            "cached_from": None,
            "requests_s": told["request_throughput"],
            "input_tokens_s": told["total_input_tokens"] / told["duration"],
            "output_tokens_s": told["output_throughput"],
            **{f"{ours}_ms": _spread(told, theirs) for ours, theirs in
               (("ttft", "ttft"), ("tpot", "tpot"), ("itl", "itl"), ("e2e", "e2el"))},
            "generator_lag_ms": None,
            "buckets": [],
            "samples": _samples(told),
            "totals": None,
            "counters": None,
            "counters_agree": None,
        }  # fmt: skip
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise MetalserveError(f"is no result of `vllm bench serve`: {error!r}", where=name) from error


def _spread(told: Mapping[str, Any], name: str) -> dict[str, float] | None:
    keys = {"mean": f"mean_{name}_ms", **{f"p{p}": f"p{p}_{name}_ms" for p in PERCENTILES}}
    return {ours: told[theirs] for ours, theirs in keys.items()} if all(k in told for k in keys.values()) else None


def _samples(told: Mapping[str, Any]) -> dict[str, list[float | None]]:
    ttfts, itls = told.get("ttfts") or [], told.get("itls") or []
    if len(ttfts) != len(itls):
        ttfts, itls = [], []
    answers = [(ttft, gaps) for ttft, gaps in zip(ttfts, itls, strict=True) if ttft]
    return {
        "due_s": [0.0] * len(answers),
        "ttft_ms": [1000 * ttft for ttft, _ in answers],
        "tpot_ms": [1000 * sum(gaps) / len(gaps) if gaps else None for _, gaps in answers],
        "e2e_ms": [1000 * (ttft + sum(gaps)) for ttft, gaps in answers],
    }
