"""Requests to send: shapes of the catalogue, in so many words, or a user's own file. Same seed, same text."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any, Final

from metalserve.catalogue.workloads import WorkloadShape
from metalserve.errors import MetalserveError

_COMMON: Final = (
    "the of and to in is that for it was on are as with they be at one have this from or had by hot but some what "
    "there we can out other were all your when up use word how said an each she which do their time if will way about "
    "many then them would write like so these her long make thing see him two has look more day could go come did my "
    "sound no most number who over know water than call first people may down side been now find any new work part "
    "take get place made live where after back little only round man year came show every good me give our under "
    "name very through just form much great think say help low line before turn cause same mean differ move right boy "
    "old too does tell sentence set three want air well also play small end put home read hand port large spell add "
    "even land here must big high such follow act why ask men change went light kind off need house picture try us"
)
_WORDS: Final = _COMMON.split()


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Attributes:
        prompt: text, or chat messages.
        max_tokens: length of the answer, tokens.
        session: requests of one session are sent one after the other.
    """

    prompt: str | tuple[Mapping[str, str], ...]
    max_tokens: int
    session: int = 0


@dataclass(frozen=True)
class Sizing:
    """How long texts are.

    Attributes:
        tokens_per_word: of this model's tokenizer, measured.
        context: tokens of prompt and answer together that the engine takes.
        prompt: overrides the shape's median, tokens; answer likewise.
    """

    tokens_per_word: float = 1.0
    context: int = 32_768
    prompt: int | None = None
    answer: int | None = None


def calibration_text(words: int = 400) -> str:
    """Return a text of so many words: what the engine counts it as tells the tokens a word has."""
    return _text(random.Random(0), words)  # noqa: S311 (no secret)


def requests_of(shape: WorkloadShape, sizing: Sizing, seed: int) -> Iterator[Request]:
    """Yield requests of a shape without end.

    Raises:
        MetalserveError: the engine's context is too short for any of them.
    """
    rng = random.Random(seed)  # noqa: S311 (no secret)
    if sizing.context < 32:
        raise MetalserveError(f"the engine takes only {sizing.context} tokens", where="bench")
    scale = (sizing.prompt or shape.prompt) / shape.prompt
    shared = _fit(round(shape.shared * scale), sizing.context // 4)
    fronts = [_text(random.Random(f"{seed}-{n}"), _words(shared, sizing)) for n in range(shape.pool)]  # noqa: S311
    session = 0
    while True:
        session += 1
        front = rng.choice(fronts)
        fresh = max(1, _drawn(rng, sizing.prompt or shape.prompt, shape.cv) - shared)
        text = _text(rng, _words(fresh, sizing))
        length = shared + fresh
        for turn in range(shape.turns):
            answer = _fit(_drawn(rng, sizing.answer or shape.answer, shape.cv), sizing.context // 4)
            if turn:
                more = _drawn(rng, round(shape.append * scale), shape.cv)
                if length + more + answer > 0.9 * sizing.context:
                    break
                text = f"{text} {_text(rng, _words(more, sizing))}"
                length += more
            else:
                room = round(0.9 * sizing.context) - answer
                if length > room:
                    text, length = _cut(text, _words(max(1, room - shared), sizing)), room
            # The number makes each prompt new after its shared front: no cache may answer what users do not repeat.
            yield Request(f"{front} {session} {text}".strip(), answer, session)


def _fit(value: int, limit: int) -> int:
    return max(0 if value == 0 else 1, min(value, limit))


def _words(tokens: int, sizing: Sizing) -> int:
    return max(0, round(tokens / sizing.tokens_per_word))


def _cut(text: str, words: int) -> str:
    return " ".join(text.split(" ")[:words])


def _text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(_WORDS, k=words))


def _drawn(rng: random.Random, median: int, cv: float) -> int:
    """Return a log-normal number of tokens."""
    if cv == 0:
        return median
    sigma = math.sqrt(math.log(1 + cv * cv))
    return max(1, round(rng.lognormvariate(math.log(median), sigma)))


def read_jsonl(path: Path, answer: int = 256) -> list[Request]:
    """Return the requests of a user's file: a JSON object a line with `prompt` or `messages`, and maybe `max_tokens`.

    Args:
        path: the file.
        answer: tokens of the answer where a line does not say it.

    Raises:
        MetalserveError: it cannot be read, or a line is not such an object (named by its number).
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MetalserveError(f"cannot be read: {error}", where=str(path)) from error
    found = [_line(line, f"{path} line {n}", answer, n) for n, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise MetalserveError("holds no request", where=str(path))
    return found


def _line(line: str, where: str, answer: int, number: int) -> Request:
    try:
        value: Any = json.loads(line)
    except ValueError as error:
        raise MetalserveError(f"is no JSON: {error}", where=where) from None
    if not isinstance(value, dict):
        raise MetalserveError("is no JSON object", where=where)
    length = value.get("max_tokens", answer)
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise MetalserveError("max_tokens must be a number from 1 on", where=where)
    prompt, messages = value.get("prompt"), value.get("messages")
    if isinstance(prompt, str) and prompt:
        return Request(prompt, length, number)
    if isinstance(messages, list) and messages and all(_is_message(each) for each in messages):
        return Request(tuple(dict(each) for each in messages), length, number)
    raise MetalserveError("needs `prompt` (a text) or `messages` (role and content each)", where=where)


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)


def repeated(requests: list[Request]) -> Iterator[Request]:
    """Yield a user's requests again and again, in their order, each as a session of its own."""
    for number, request in enumerate(cycle(requests)):
        yield replace(request, session=number)
