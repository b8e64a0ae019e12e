"""What is asked of an engine: lengths, concurrency and limits. Tokens, milliseconds; pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from metalserve.settings import EngineSettings

Intent = Literal["latency", "throughput", "balanced"]

INTENTS: tuple[Intent, ...] = ("latency", "balanced", "throughput")

TPOT_LIMIT_MS: dict[Intent, float | None] = {"latency": None, "balanced": 50.0, "throughput": 150.0}
"""Time a token that a plan keeps to when no limit is set: 50 ms is 20 tokens a second, faster than reading; 150 ms is
what a reader still bears; for latency it is the goal and no limit."""

LATENCY_CONCURRENCY = 8
"""Requests at once on the host for which a latency plan is compared when none are given."""


@dataclass(frozen=True)
class Workload:
    """The requests that a plan is made for.

    Attributes:
        prompt: tokens of a prompt.
        answer: tokens of an answer.
        concurrency: requests at once on the whole host; None: the planner finds how many pay.
        tpot_ms: longest time a token, milliseconds; None: what the intent says.
        ttft_ms: longest time to the first token without queue, milliseconds; None: no limit.
        assumed: no length was set, so the defaults stand.
    """

    prompt: int = 1024
    answer: int = 512
    concurrency: int | None = None
    tpot_ms: float | None = None
    ttft_ms: float | None = None
    assumed: bool = True

    @property
    def context(self) -> float:
        """Tokens in the KV cache of a request on average: the prompt and half the answer."""
        return self.prompt + self.answer / 2

    def limit(self, intent: Intent) -> float | None:
        """Return the longest time a token, milliseconds, or None."""
        return self.tpot_ms if self.tpot_ms is not None else TPOT_LIMIT_MS[intent]

    def within(self, context: int) -> Workload:
        """Return the workload shortened to a model's context of so many tokens, with the same ratio."""
        whole = self.prompt + self.answer
        if whole <= context:
            return self
        prompt = max(1, self.prompt * context // whole)
        return replace(self, prompt=prompt, answer=max(1, context - prompt))


def workload_of(engine: EngineSettings) -> Workload:
    """Return the workload that the settings describe."""
    asked = engine.workload
    plain = Workload()
    return Workload(
        prompt=asked.prompt_tokens or plain.prompt,
        answer=asked.answer_tokens or plain.answer,
        concurrency=asked.concurrency,
        tpot_ms=asked.tpot_ms,
        ttft_ms=asked.ttft_ms,
        assumed=asked.prompt_tokens is None and asked.answer_tokens is None,
    )
