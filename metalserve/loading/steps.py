"""Keeps a load on an endpoint for a warm-up and a window: clients (closed loop), or requests a second (open loop)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from metalserve.benching.arrivals import Arrivals, gaps
from metalserve.benching.results import Outcome, summary, totals
from metalserve.benching.workloads import Request
from metalserve.loading.client import Endpoint, counters, send

if TYPE_CHECKING:
    import aiohttp

MOST_OPEN = 20_000
"""Requests of an open loop that may run at once; beyond it they are counted as failed, not silently left out."""


@dataclass(frozen=True)
class Load:
    """One load.

    Attributes:
        mode: `closed`: `load` clients, each with one request at a time; `open`: `load` requests a second.
        warmup_s: seconds before the window, which count for nothing.
        window_s: seconds that count.
        arrivals: of an open loop.
        cv: variation of bursty gaps.
    """

    mode: Literal["closed", "open"]
    load: float
    warmup_s: float
    window_s: float
    arrivals: Arrivals = "poisson"
    cv: float = 4.0
    seed: int = 0


async def run_step(
    session: aiohttp.ClientSession, endpoint: Endpoint, requests: Iterator[Request], load: Load, start: float
) -> dict[str, Any]:
    """Apply a load and return what its window says.

    Args:
        session: see `open_session`.
        endpoint: where to.
        requests: without end.
        load: which.
        start: when the run began, by the loop's clock; times of the step count from there.

    Returns:
        The step: mode, load, times, `summary`, all tokens sent and got, and how the engine's counters grew meanwhile.
        The load stays on until every request of the window has ended: its last ones see what its first ones saw.
    """
    before = await counters(session, endpoint)
    outcomes: list[Outcome] = []
    began = asyncio.get_running_loop().time() + load.warmup_s
    ended = began + load.window_s
    if load.mode == "closed":
        await _closed(session, endpoint, requests, load, began, ended, outcomes)
    else:
        await _open(session, endpoint, requests, load, ended, outcomes)
    after = await counters(session, endpoint)
    grown = {key: after[key] - before[key] for key in after if key in before} if before and after else None
    own = totals(outcomes)
    told = summary(outcomes, began, ended)
    if told["cached_tokens"] is None and grown is not None and grown.get("prefix_cache_queries"):
        # only the whole step's share is known: what the counters say of the window would be as wide as its edges
        share = grown.get("prefix_cache_hits", 0.0) / grown["prefix_cache_queries"]
        told["cached_tokens"], told["cached_from"] = round(told["input_tokens"] * share), "engine counters"
    else:
        told["cached_from"] = "usage" if told["cached_tokens"] is not None else None
    return {
        "mode": load.mode,
        "load": load.load,
        "arrivals": load.arrivals if load.mode == "open" else None,
        "warmup_s": load.warmup_s,
        "from_s": round(began - start, 3),
        "to_s": round(ended - start, 3),
        **told,
        "totals": own,
        "counters": grown,
        "counters_agree": _agree(own["output_tokens"], grown),
    }


def _agree(output_tokens: int, grown: dict[str, float] | None) -> bool | None:
    counted = grown.get("generation_tokens") if grown else None
    return None if counted is None else round(counted) == output_tokens


async def _closed(
    session: aiohttp.ClientSession, endpoint: Endpoint, requests: Iterator[Request], load: Load, began: float,
    ended: float, outcomes: list[Outcome],
) -> None:  # fmt: skip
    sessions = groupby(requests, key=lambda request: request.session)
    open_in_window = 0
    clients = max(1, round(load.load))
    clock = asyncio.get_running_loop().time

    async def client(number: int) -> None:
        nonlocal open_in_window
        # Not all at one moment: prompts that come together are read together, which users never see.
        await asyncio.sleep(number / clients * min(load.warmup_s / 2, 5.0))
        failures = 0
        while True:
            for request in list(next(sessions)[1]):
                due = clock()
                if due >= ended and not open_in_window:
                    return
                counts = began <= due < ended
                open_in_window += counts
                try:
                    outcome = await send(session, endpoint, request, due)
                finally:
                    open_in_window -= counts
                outcomes.append(outcome)
                failures = 0 if outcome.ok else failures + 1
                if failures:
                    await asyncio.sleep(min(1.0, 0.05 * 2**failures))

    await asyncio.gather(*(client(number) for number in range(clients)))


async def _open(
    session: aiohttp.ClientSession, endpoint: Endpoint, requests: Iterator[Request], load: Load, ended: float,
    outcomes: list[Outcome],
) -> None:  # fmt: skip
    running: set[asyncio.Task[None]] = set()
    counting = 0
    clock = asyncio.get_running_loop().time
    due = clock()
    began = due + load.warmup_s

    async def one(request: Request, at: float) -> None:
        nonlocal counting
        counts = began <= at < ended
        counting += counts
        try:
            outcomes.append(await send(session, endpoint, request, at))
        finally:
            counting -= counts

    for gap in gaps(load.load, load.arrivals, cv=load.cv, seed=load.seed):
        due += gap
        # Slept to the moment, not for the gap: what one request is late does not shift all after it.
        await asyncio.sleep(max(0.0, due - clock()))
        if due >= ended and not counting:
            break
        if due >= ended + 120:  # it falls behind for ever: what is open is waited for, nothing more is sent
            break
        if len(running) >= MOST_OPEN:
            outcomes.append(Outcome(due, clock(), error=f"not sent: {MOST_OPEN} requests run already"))
            continue
        task = asyncio.create_task(one(next(requests), due))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
