"""A small check of answers beside speed: questions with one right answer each, asked of two endpoints.

It finds out whether a cheaper number format made answers worse here, or that so few questions cannot tell. It is no
benchmark of a model: what counts is the difference between two ways to run the same one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from metalserve.benching.statistics import mcnemar, paired_difference

LEAST: Final = 60
_ASK: Final = "Answer with the number alone, no words."
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its answer, worked out by this program."""

    kind: str
    text: str
    answer: int


def questions(count: int = 120, seed: int = 20) -> list[Question]:
    """Return questions of arithmetic and of tracing short programs, half of each; same seed, same questions."""
    rng = random.Random(seed)  # noqa: S311 (no secret)
    makers = (_sum, _product, _steps, _loop, _list, _branches)
    found: list[Question] = []
    seen: set[str] = set()
    while len(found) < count:
        question = makers[len(found) % len(makers)](rng)
        if question.text not in seen:
            seen.add(question.text)
            found.append(question)
    return found


def _sum(rng: random.Random) -> Question:
    a, b, c = (rng.randint(100, 9999) for _ in range(3))
    return Question("arithmetic", f"What is {a} + {b} - {c}? {_ASK}", a + b - c)


def _product(rng: random.Random) -> Question:
    a, b, c = rng.randint(12, 99), rng.randint(12, 99), rng.randint(10, 999)
    return Question("arithmetic", f"What is {a} * {b} + {c}? {_ASK}", a * b + c)


def _steps(rng: random.Random) -> Question:
    racks, nodes, gpus, spare = rng.randint(3, 12), rng.randint(2, 9), rng.choice((4, 8)), rng.randint(1, 20)
    text = (
        f"A hall has {racks} racks with {nodes} nodes each, and every node has {gpus} GPUs. {spare} GPUs are broken. "
        f"How many GPUs work? {_ASK}"
    )
    return Question("arithmetic", text, racks * nodes * gpus - spare)


def _loop(rng: random.Random) -> Question:
    start, stop, step, factor = rng.randint(0, 9), rng.randint(12, 30), rng.randint(2, 5), rng.randint(2, 4)
    code = f"t = {start}\nfor i in range({step}, {stop}, {step}):\n    t = t + i * {factor}\nprint(t)"
    return _traced(code, start + sum(i * factor for i in range(step, stop, step)))


def _list(rng: random.Random) -> Question:
    values = [rng.randint(1, 50) for _ in range(6)]
    limit = rng.randint(10, 40)
    code = f"v = {values}\nprint(sum(x for x in v if x > {limit}) - max(v) + len(v))"
    return _traced(code, sum(x for x in values if x > limit) - max(values) + len(values))


def _branches(rng: random.Random) -> Question:
    n, rounds = rng.randint(5, 60), rng.randint(4, 7)
    code = (
        f"n = {n}\nfor _ in range({rounds}):\n"
        "    if n % 2 == 0:\n        n = n // 2\n    else:\n        n = n * 3 + 1\nprint(n)"
    )
    for _ in range(rounds):
        n = n // 2 if n % 2 == 0 else n * 3 + 1
    return _traced(code, n)


def _traced(code: str, answer: int) -> Question:
    return Question("code", f"What does this Python program print?\n\n{code}\n\n{_ASK}", answer)


def answered(text: str) -> int | None:
    """Return the number that an answer gives: the last one in it, after what a model may think aloud; None without."""
    found = _NUMBER.findall(text.rpartition("</think>")[2])
    if not found:
        return None
    value = float(found[-1].replace(",", ""))
    return int(value) if value == int(value) else None


def judge(asked: Sequence[Question], a: Sequence[str | None], b: Sequence[str | None]) -> dict[str, Any]:
    """Return how the answers of B differ from those of A.

    Args:
        asked: the questions.
        a: answers of A in their order, None where none came.
        b: likewise of B.
    """
    right = [
        (answered(x) == q.answer, answered(y) == q.answer)
        for q, x, y in zip(asked, a, b, strict=True)
        if x is not None and y is not None
    ]
    n = len(right)
    unanswered = len(asked) - n
    if n < LEAST:
        says = f"only {n} questions were answered by both, {LEAST} are needed: nothing is said"
        return {"questions": len(asked), "compared": n, "unanswered": unanswered, "verdict": "unknown", "says": says}
    both = sum(1 for x, y in right if x and y)
    only_a = sum(1 for x, y in right if x and not y)
    only_b = sum(1 for x, y in right if y and not x)
    neither = n - both - only_a - only_b
    difference, low, high = paired_difference(both, only_a, only_b, neither)
    p = mcnemar(only_a, only_b)
    verdict = "cannot tell"
    # the exact test decides; the interval shows how much
    if p < 0.05:
        verdict = "worse" if only_a > only_b else "better"
    return {
        "questions": len(asked),
        "compared": n,
        "unanswered": unanswered,
        "right_a": both + only_a,
        "right_b": both + only_b,
        "only_a": only_a,
        "only_b": only_b,
        "same_text": sum(1 for x, y in zip(a, b, strict=True) if x is not None and x == y),
        "difference": round(difference, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "p": round(p, 6),
        "verdict": verdict,
        "says": _says(verdict, n, both + only_a, both + only_b, low, high, p),
    }


def _says(verdict: str, n: int, right_a: int, right_b: int, low: float, high: float, p: float) -> str:
    counted = f"A had {right_a} of {n} right, B {right_b}; the difference lies between {100 * low:+.1f} and " \
              f"{100 * high:+.1f} points (95 %), McNemar's exact p = {p:.3f}"  # fmt: skip
    if max(right_a, right_b) < 0.1 * n:
        return f"{counted}: neither can answer such questions, so this says nothing about a difference"
    if verdict == "cannot tell":
        return f"{counted}: these questions cannot tell A from B; a loss of up to {max(0.0, -100 * low):.1f} points " \
               "would not have been seen"  # fmt: skip
    return f"{counted}: B is {verdict} here"
