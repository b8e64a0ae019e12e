"""One streamed request to an OpenAI-compatible engine or router, with the time of each piece of its answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from metalserve.benching.results import Outcome
from metalserve.benching.workloads import Request, calibration_text
from metalserve.errors import MetalserveError
from metalserve.hardware.parsers.metrics import parse_metrics
from metalserve.hardware.parsers.text import ParseError

if TYPE_CHECKING:
    import aiohttp

TIMEOUT_S = 600
"""Seconds that one answer may take."""


@dataclass(frozen=True)
class Endpoint:
    """Where requests go.

    Attributes:
        url: base, without `/v1`.
        model: the served name.
        key: API key, or None; never shown.
        context: tokens of prompt and answer together, as `/v1/models` says, or None.
        exact: ask for answers of exactly the wanted length (`ignore_eos`, vLLM's own).
        simulated: the engine says that it is a stand-in.
        metrics: base URLs whose `/metrics` count this endpoint's tokens.
    """

    url: str
    model: str = ""
    key: str | None = field(default=None, repr=False)
    context: int | None = None
    exact: bool = True
    simulated: bool = False
    metrics: tuple[str, ...] = ()

    @property
    def headers(self) -> dict[str, str]:
        """Headers of a request."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


def open_session(*, insecure: bool = False) -> aiohttp.ClientSession:
    """Return a session for any number of connections.

    Args:
        insecure: believe any certificate.

    Raises:
        MetalserveError: aiohttp is not installed.
    """
    try:
        import aiohttp
    except ImportError:
        raise MetalserveError(
            "aiohttp is not installed", where="metalserve bench", remedy="pip install 'metalserve[lab]'"
        ) from None
    # An engine drops idle connections after 5 s (vLLM's keep-alive): they are given up before that.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=3, ssl=not insecure)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S, sock_connect=30)
    return aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False, read_bufsize=2**18)


def _body(endpoint: Endpoint, request: Request) -> tuple[str, dict[str, Any]]:
    body: dict[str, Any] = {
        "model": endpoint.model,
        "max_tokens": request.max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if endpoint.exact:
        body["ignore_eos"] = True
    if isinstance(request.prompt, str):
        return "/v1/completions", {**body, "prompt": request.prompt}
    return "/v1/chat/completions", {**body, "messages": [dict(each) for each in request.prompt]}


async def send(session: aiohttp.ClientSession, endpoint: Endpoint, request: Request, due: float) -> Outcome:
    """Send a request and follow its answer to the end; what goes wrong is in the outcome, nothing is raised.

    Args:
        session: see `open_session`.
        endpoint: where to.
        request: what.
        due: when it should be sent, by the loop's clock.
    """
    import aiohttp

    path, body = _body(endpoint, request)
    clock = asyncio.get_running_loop().time
    outcome = Outcome(due, clock())
    try:
        async with session.post(f"{endpoint.url}{path}", json=body, headers=endpoint.headers) as answer:
            if answer.status != 200:
                said = (await answer.text())[:200]
                outcome.error = f"HTTP {answer.status}: {_message(said)}"
            else:
                outcome.error = await _follow(answer, outcome)
    except TimeoutError:
        outcome.error = f"no end within {TIMEOUT_S} s"
    except aiohttp.ClientError as error:
        outcome.error = f"{type(error).__name__}: {error}"[:200]
    outcome.ended = clock()
    return outcome


async def _follow(answer: aiohttp.ClientResponse, outcome: Outcome) -> str:
    done = False
    clock = asyncio.get_running_loop().time
    async for line in answer.content:
        if not line.startswith(b"data:"):
            continue
        now = clock()
        data = line[5:].strip()
        if data == b"[DONE]":
            done = True
            continue
        try:
            event = json.loads(data)
        except ValueError:
            return "the stream is no JSON"
        if "error" in event:
            return f"error in the stream: {_message(json.dumps(event))}"
        if event.get("choices") and _text(event["choices"][0]):
            outcome.chunks.append(now)
        if event.get("usage"):
            _count(event["usage"], outcome)
    if not done:
        return "the stream ended early"
    return "" if outcome.chunks else "an answer without a token"


def _text(choice: Mapping[str, Any]) -> str:
    if "text" in choice:
        return str(choice["text"] or "")
    delta = choice.get("delta") or {}
    # a reasoning model thinks before it answers, and these tokens are made and paid for as well
    return str(delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning") or "")


def _count(usage: Mapping[str, Any], outcome: Outcome) -> None:
    outcome.prompt_tokens = usage.get("prompt_tokens")
    outcome.output_tokens = usage.get("completion_tokens")
    details = usage.get("prompt_tokens_details")
    if isinstance(details, Mapping) and isinstance(details.get("cached_tokens"), int):
        outcome.cached_tokens = details["cached_tokens"]


def _message(text: str) -> str:
    try:
        value = json.loads(text)
        found = value.get("error", value.get("detail", value))
        return str(found.get("message", found) if isinstance(found, Mapping) else found)[:160]
    except (ValueError, AttributeError):
        return " ".join(text.split())[:160]


async def reached(session: aiohttp.ClientSession, endpoint: Endpoint) -> Endpoint:
    """Return the endpoint with its model's name and context, as `/v1/models` says.

    Raises:
        MetalserveError: nothing answers there, it refuses the key, or serves no such model.
    """
    import aiohttp

    where = endpoint.url
    try:
        async with session.get(f"{endpoint.url}/v1/models", headers=endpoint.headers) as answer:
            text = await answer.text()
            if answer.status != 200:
                remedy = "give the name of the variable with the key: --key-env NAME" if answer.status == 401 else None
                raise MetalserveError(f"/v1/models says HTTP {answer.status}", where=where, remedy=remedy)
            told = json.loads(text)
            rows = {row["id"]: row for row in told["data"]}
    except (aiohttp.ClientError, TimeoutError) as error:
        raise MetalserveError(f"nothing answers: {error}", where=where, remedy="is it http or https?") from error
    except (ValueError, KeyError, TypeError) as error:
        raise MetalserveError("/v1/models is not that of an engine or router", where=where) from error
    name = endpoint.model or next(iter(rows), "")
    if name not in rows:
        raise MetalserveError(f"serves no {name!r}", where=where, remedy=f"it serves {', '.join(rows) or 'nothing'}")
    length = rows[name].get("max_model_len")
    simulated = bool(told.get("simulated") or rows[name].get("simulated"))
    return Endpoint(
        endpoint.url, name, endpoint.key, length, endpoint.exact, simulated, endpoint.metrics or (endpoint.url,)
    )


async def tokens_per_word(session: aiohttp.ClientSession, endpoint: Endpoint) -> float:
    """Return how many tokens a word of our texts has for this model, from one request.

    Raises:
        MetalserveError: the request failed, or the engine does not say how long the prompt was.
    """
    words = min(400, max(8, (endpoint.context or 1024) // 16))
    request = Request(calibration_text(words), 1)
    outcome = await send(session, endpoint, request, asyncio.get_running_loop().time())
    if not outcome.ok or not outcome.prompt_tokens:
        why = outcome.error or "the answer has no usage"
        raise MetalserveError(f"the first request failed: {why}", where=endpoint.url)
    return outcome.prompt_tokens / words


async def counters(session: aiohttp.ClientSession, endpoint: Endpoint) -> dict[str, float] | None:
    """Return the engines' counters, added up; None where one of them does not tell."""
    import aiohttp

    total: dict[str, float] = {}
    for url in endpoint.metrics:
        try:
            async with session.get(f"{url}/metrics", timeout=aiohttp.ClientTimeout(total=10)) as answer:
                if answer.status != 200:
                    return None
                figures = parse_metrics(await answer.text()).figures
        except (aiohttp.ClientError, TimeoutError, ParseError, UnicodeDecodeError):
            return None
        for key in ("prompt_tokens", "generation_tokens", "prefix_cache_queries", "prefix_cache_hits"):
            value = figures.get(key)
            if value is not None:
                total[key] = total.get(key, 0.0) + value
    return total or None
