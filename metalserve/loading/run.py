"""Whole runs: steps to the knee, a sustained load, two endpoints in turn, and the quality check."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalserve.benching.arrivals import Arrivals
from metalserve.benching.compare import compare_blocks
from metalserve.benching.document import CLOSED_WORDS, OPEN_WORDS, document
from metalserve.benching.drift import drift
from metalserve.benching.knee import GAIN, find_knee
from metalserve.benching.workloads import Request, Sizing, read_jsonl, repeated, requests_of
from metalserve.catalogue.workloads import load_workloads
from metalserve.loading.client import Endpoint, open_session, reached, tokens_per_word
from metalserve.loading.steps import Load, run_step
from metalserve.loading.telemetry import Telemetry

if TYPE_CHECKING:
    import aiohttp

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What a run is given.

    Attributes:
        workload: name in the catalogue; `jsonl` a user's own file instead.
        prompt: median tokens of a prompt instead of the catalogue's; answer likewise.
        insecure: believe any certificate.
        inventory: to watch `hosts` of it meanwhile.
    """

    workload: str = "chat"
    jsonl: Path | None = None
    prompt: int | None = None
    answer: int | None = None
    seed: int = 1
    warmup_s: float = 10.0
    window_s: float = 60.0
    arrivals: Arrivals | None = None
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    gain: float = GAIN
    insecure: bool = False
    inventory: str | None = None
    hosts: tuple[str, ...] = ()


@dataclass
class Ready:
    """An endpoint that answers, and what is sent to it."""

    endpoint: Endpoint
    plan: Plan
    per_word: float

    def requests(self, seed: int) -> Iterator[Request]:
        """Return requests without end; the same seed gives the same ones."""
        plan = self.plan
        if plan.jsonl is not None:
            return repeated(read_jsonl(plan.jsonl, plan.answer or 256))
        sizing = Sizing(self.per_word, self.endpoint.context or 32_768, plan.prompt, plan.answer)
        return requests_of(load_workloads()[plan.workload], sizing, seed)

    def load(self, mode: str, load: float, **times: float) -> Load:
        """Return the load of a step; `times` (`window_s`, `warmup_s`) go before the plan's."""
        shape = load_workloads().get(self.plan.workload)
        kind = self.plan.arrivals or (shape.arrivals if shape else "poisson")
        window, warmup = times.get("window_s", self.plan.window_s), times.get("warmup_s", self.plan.warmup_s)
        cv = shape.burst_cv if shape and shape.burst_cv > 1 else 4.0
        return Load("open" if mode == "open" else "closed", load, warmup, window, kind, cv, self.plan.seed)

    def described(self) -> dict[str, Any]:
        """Return what a result says of endpoint and workload."""
        plan, endpoint = self.plan, self.endpoint
        if plan.jsonl is not None:
            workload: dict[str, Any] = {"name": plan.jsonl.name, "shape": {"file": plan.jsonl.name}, "source": "user"}
        else:
            shape = load_workloads()[plan.workload]
            own = {"prompt": plan.prompt or shape.prompt, "answer": plan.answer or shape.answer}
            workload = {
                "name": plan.workload,
                "shape": {**shape.model_dump(exclude={"source", "name"}), **own},
                "source": shape.source,
            }
        return {
            "generator": "metalserve",
            "endpoint": {"url": endpoint.url, "model": endpoint.model, "max_model_len": endpoint.context},
            "workload": {**workload, "seed": plan.seed, "tokens_per_word": round(self.per_word, 4)},
            "objectives": {"ttft_ms_p95": plan.ttft_ms, "tpot_ms_p95": plan.tpot_ms},
        }


async def ready_of(session: aiohttp.ClientSession, endpoint: Endpoint, plan: Plan) -> Ready:
    """Return an endpoint that answers, with its tokenizer's tokens a word; raises MetalserveError as `reached`."""
    found = await reached(session, endpoint)
    return Ready(found, plan, await tokens_per_word(session, found))


def same_texts(sides: Mapping[str, Ready]) -> None:
    """Let A and B get the same texts: sized by A's tokenizer, and no longer than either of them takes."""
    shortest = min(side.endpoint.context or 32_768 for side in sides.values())
    for side in sides.values():
        side.per_word = sides["A"].per_word
        side.endpoint = replace(side.endpoint, context=shortest)


def now_words() -> str:
    """Return the time as results carry it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def told(step: dict[str, Any]) -> str:
    """Return a step in a line."""
    unit = "clients" if step["mode"] == "closed" else "requests/s"
    ttft, tpot = step["ttft_ms"], step["tpot_ms"]
    late = f", TTFT p95 {ttft['p95']:.0f} ms" if ttft else ""
    each = f", TPOT p50 {tpot['p50']:.1f} ms" if tpot else ""
    failed = f", {step['failed']} failed ({next(iter(step['errors']), '')})" if step["failed"] else ""
    return f"{step['load']:g} {unit}: {step['output_tokens_s']:.1f} output tokens/s{late}{each}{failed}"


def notes_of(steps: Sequence[dict[str, Any]], watched: bool) -> list[str]:
    """Return what a reader of the steps should know: how the load came, and where the figures are weak."""
    notes = [CLOSED_WORDS if steps[0]["mode"] == "closed" else OPEN_WORDS] if steps else []
    if not watched:
        notes.append("no inventory was given: the GPUs were not watched")
    late = [s for s in steps if s["generator_lag_ms"] is not None and s["generator_lag_ms"] > 20]
    if late:
        notes.append(
            f"the generator itself was late by up to {max(s['generator_lag_ms'] for s in late):.0f} ms (p99): it is "
            "the limit at loads " + ", ".join(f"{s['load']:g}" for s in late)
        )
    for step in steps:
        if step["counters_agree"] is False:
            counted, sent = step["counters"]["generation_tokens"], step["totals"]["output_tokens"]
            notes.append(
                f"at load {step['load']:g} the engine counted {counted:.0f} output tokens and this run {sent}: "
                "somebody else loads it, or answers broke off"
            )
    return notes


async def run_steps(endpoint: Endpoint, plan: Plan, mode: str, loads: Sequence[float], most: int, say: Say) -> Any:
    """Step the load up and return the result with its knee.

    Args:
        endpoint: where to.
        plan: what.
        mode: `closed` (loads are clients) or `open` (requests a second).
        loads: in rising order; none doubles the clients from 1 until two steps beyond the knee, or `most`.
        most: clients.
        say: is told each step.

    Raises:
        MetalserveError: the endpoint does not answer, or the nodes cannot be watched.
    """
    started, start = now_words(), asyncio.get_running_loop().time()
    steps: list[dict[str, Any]] = []
    async with open_session(insecure=plan.insecure) as session:
        ready = await ready_of(session, endpoint, plan)
        async with Telemetry(plan.inventory, plan.hosts, start) as telemetry:
            for number, load in enumerate(loads or _doubling(steps, plan, most)):
                step = await run_step(
                    session, ready.endpoint, ready.requests(plan.seed + number), ready.load(mode, load), start
                )
                steps.append(step)
                say(told(step))
    knee = find_knee(steps, gain=plan.gain, ttft_ms=plan.ttft_ms, tpot_ms=plan.tpot_ms)
    return document(
        "steps",
        started,
        simulated=ready.endpoint.simulated or telemetry.simulated,
        **ready.described(),
        steps=steps,
        knee=knee.as_dict(),
        telemetry=telemetry.rows,
        notes=notes_of(steps, plan.inventory is not None),
    )


def _doubling(steps: list[dict[str, Any]], plan: Plan, most: int) -> Iterator[float]:
    load, beyond = 1, 0
    while load <= most and beyond < 2:
        yield load
        knee = find_knee(steps, gain=plan.gain)
        beyond = sum(1 for step in steps if knee.load is not None and step["load"] > knee.load) if knee.reached else 0
        if not steps[-1]["completed"]:
            return
        load *= 2


async def run_sustained(endpoint: Endpoint, plan: Plan, mode: str, load: float, say: Say) -> Any:
    """Keep one load for `plan.window_s` and return the result with its drift; raises as `run_steps`."""
    started, start = now_words(), asyncio.get_running_loop().time()
    async with open_session(insecure=plan.insecure) as session:
        ready = await ready_of(session, endpoint, plan)
        async with Telemetry(plan.inventory, plan.hosts, start) as telemetry:
            say(f"{load:g} {'clients' if mode == 'closed' else 'requests/s'} for {plan.window_s / 60:g} min")
            step = await run_step(session, ready.endpoint, ready.requests(plan.seed), ready.load(mode, load), start)
    say(told(step))
    return document(
        "sustained",
        started,
        simulated=ready.endpoint.simulated or telemetry.simulated,
        **ready.described(),
        steps=[step],
        drift=drift(step, telemetry.rows),
        telemetry=telemetry.rows,
        notes=notes_of([step], plan.inventory is not None),
    )


async def run_ab(
    a: Endpoint, b: Endpoint, plan: Plan, mode: str, load: float, pairs: int, say: Say
) -> Any:  # fmt: skip
    """Load two endpoints in turn, A B B A A B ..., each for `plan.window_s`; raises as `run_steps`."""
    started, start = now_words(), asyncio.get_running_loop().time()
    blocks: list[dict[str, Any]] = []
    async with open_session(insecure=plan.insecure) as session:
        sides = {"A": await ready_of(session, a, plan), "B": await ready_of(session, b, plan)}
        same_texts(sides)
        async with Telemetry(plan.inventory, plan.hosts, start) as telemetry:
            for pair in range(pairs):
                for name in "AB" if pair % 2 == 0 else "BA":
                    ready = sides[name]
                    requests = ready.requests(plan.seed + pair)  # the same ones for both of a pair
                    step = await run_step(session, ready.endpoint, requests, ready.load(mode, load), start)
                    blocks.append({"side": name, **step})
                    say(f"{name} {pair + 1}/{pairs}: {told(step)}")
    described = sides["A"].described()
    described["endpoints"] = {"A": described.pop("endpoint"), "B": sides["B"].described()["endpoint"]}
    return document(
        "ab",
        started,
        simulated=any(s.endpoint.simulated for s in sides.values()) or telemetry.simulated,
        **described,
        steps=blocks,
        comparison=compare_blocks(blocks),
        telemetry=telemetry.rows,
        notes=[
            "each pair sends both the same requests, and the order turns with every pair: a steady drift cancels",
            *notes_of(blocks, plan.inventory is not None),
        ],
    )


def run(coroutine: Any) -> Any:
    """Run one of the above to its end."""
    return asyncio.run(coroutine)


def with_metrics(endpoint: Endpoint, urls: Sequence[str]) -> Endpoint:
    """Return the endpoint with the engines that count its tokens, for a router."""
    return dataclasses.replace(endpoint, metrics=tuple(url.rstrip("/") for url in urls))
