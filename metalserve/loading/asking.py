"""Asks two endpoints the questions of the quality check, each with temperature 0."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from metalserve.benching.document import document
from metalserve.benching.quality import Question, judge, questions
from metalserve.loading.client import Endpoint, open_session, reached

if TYPE_CHECKING:
    import aiohttp

AT_ONCE = 8
"""Questions at once: the load is to be light, and the same for both."""


async def run_quality(a: Endpoint, b: Endpoint, *, count: int, seed: int, max_tokens: int, insecure: bool) -> Any:
    """Ask both and return the result.

    Args:
        a: the plan that is trusted, such as BF16.
        b: the one in question, such as FP8.
        count: how many questions.
        seed: which ones.
        max_tokens: of an answer; a model that thinks aloud needs more.
        insecure: believe any certificate.

    Raises:
        MetalserveError: one of them does not answer.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    asked = questions(count, seed)
    async with open_session(insecure=insecure) as session:
        sides = [await reached(session, each) for each in (a, b)]
        told = [await _all(session, side, asked, max_tokens) for side in sides]
    answers = [[text for text, _ in side] for side in told]
    errors = sorted({error for side in told for _, error in side if error})
    return document(
        "quality",
        started,
        simulated=any(side.simulated for side in sides),
        endpoints={n: {"url": s.url, "model": s.model} for n, s in zip("AB", sides, strict=True)},
        seed=seed,
        judgement=judge(asked, answers[0], answers[1]),
        errors=errors[:10],
        questions=[
            {"kind": q.kind, "text": q.text, "answer": q.answer, "a": x, "b": y}
            for q, x, y in zip(asked, answers[0], answers[1], strict=True)
        ],
    )


async def _all(
    session: aiohttp.ClientSession, endpoint: Endpoint, asked: Sequence[Question], max_tokens: int
) -> list[tuple[str | None, str]]:
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(question: Question) -> tuple[str | None, str]:
        async with slots:
            return await _ask(session, endpoint, question, max_tokens)

    return await asyncio.gather(*(one(question) for question in asked))


async def _ask(
    session: aiohttp.ClientSession, endpoint: Endpoint, question: Question, max_tokens: int
) -> tuple[str | None, str]:
    """Return the answer and an empty text, or None and what went wrong."""
    import aiohttp

    body = {
        "model": endpoint.model,
        "messages": [{"role": "user", "content": question.text}],
        "max_tokens": max_tokens,
        "temperature": 0,
    }
    try:
        async with session.post(f"{endpoint.url}/v1/chat/completions", json=body, headers=endpoint.headers) as answer:
            text = await answer.text()
            if answer.status != 200:
                return None, f"HTTP {answer.status}"
            return str(json.loads(text)["choices"][0]["message"]["content"] or ""), ""
    except (TimeoutError, aiohttp.ClientError, ValueError, KeyError, IndexError, TypeError) as error:
        return None, f"{type(error).__name__}: {error}"[:160]
