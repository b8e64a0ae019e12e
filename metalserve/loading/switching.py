"""Two launch plans on one node in turn: the engine is replaced between the blocks, and put back at the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from metalserve.benching.compare import compare_blocks
from metalserve.benching.document import document
from metalserve.loading.client import Endpoint, open_session
from metalserve.loading.run import Plan, Say, notes_of, now_words, ready_of, same_texts, told
from metalserve.loading.steps import run_step
from metalserve.loading.telemetry import Telemetry

Switch = Callable[[str], None]
"""Puts plan A or B into service and returns when it answers; raises MetalserveError when it does not. It blocks, in the
main thread: it runs pyinfra, which must be told of Ctrl-C."""

SIDES = "AB"


def order(pairs: int) -> str:
    """Return the sides of the blocks: B A A B B A ..., so that most blocks need no switch and a steady drift cancels.

    It begins with B because both are started once before the first block, A first.
    """
    return "".join("BA" if pair % 2 == 0 else "AB" for pair in range(pairs))


async def run_plans(
    endpoint: Endpoint, plan: Plan, mode: str, load: float, pairs: int, switch: Switch,
    described: Mapping[str, Any], say: Say,
) -> Any:  # fmt: skip
    """Load one node under two launch plans in turn.

    Args:
        endpoint: where the node answers under both.
        plan: what is sent.
        mode: `closed` or `open`, as in `run_steps`.
        load: clients, or requests a second.
        pairs: blocks of each plan.
        switch: see `Switch`.
        described: A and B in words, kept in the result as `plans`.
        say: is told each block.

    Raises:
        MetalserveError: a plan does not come into service, or the endpoint does not answer.
    """
    started, start = now_words(), asyncio.get_running_loop().time()
    switches: list[dict[str, Any]] = []
    blocks: list[dict[str, Any]] = []
    current = ""

    def to(side: str) -> None:
        nonlocal current
        if side == current:
            return
        before = time.monotonic()
        switch(side)
        current = side
        switches.append({"to": side, "seconds": round(time.monotonic() - before, 1)})
        say(f"plan {side} is in service after {switches[-1]['seconds']:g} s")

    found = {}
    for side in SIDES:  # both must start, and say what they take, before anything is measured
        to(side)
        async with open_session(insecure=plan.insecure) as session:
            found[side] = await ready_of(session, endpoint, plan)
    own = {side: each.described()["endpoint"] for side, each in found.items()}
    same_texts(found)
    async with Telemetry(plan.inventory, plan.hosts, start) as telemetry:
        for number, side in enumerate(order(pairs)):
            to(side)
            ready, pair = found[side], number // 2
            requests = ready.requests(plan.seed + pair)
            async with open_session(insecure=plan.insecure) as session:  # connections end with the engine
                step = await run_step(session, ready.endpoint, requests, ready.load(mode, load), start)
            blocks.append({"side": side, **step})
            say(f"{side} {pair + 1}/{pairs}: {told(step)}")
    head = found["A"].described()
    head.pop("endpoint")
    head["endpoints"] = own
    return document(
        "ab",
        started,
        simulated=any(each.endpoint.simulated for each in found.values()) or telemetry.simulated,
        **head,
        plans=dict(described),
        switches=switches,
        steps=blocks,
        comparison=compare_blocks(blocks),
        telemetry=telemetry.rows,
        notes=[
            "one node under two plans in turn; each pair sends both the same requests, in turned order: a steady "
            "drift cancels",
            "an engine that was just started has an empty prefix cache and cold graphs: --warmup is there for that",
            *notes_of(blocks, plan.inventory is not None),
        ],
    )
