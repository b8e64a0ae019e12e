"""An engine whose latencies are known: so many slots, a time to the first token and a token. It counts as vLLM does.

Time is the loop's: `run` gives it a clock that jumps to the next timer when nothing is to be read, so that minutes of
load take seconds and what the machine does meanwhile changes no figure. The sockets are real.
"""

from __future__ import annotations

import asyncio
import json
import selectors
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiohttp import web

NAME = "known"


T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    ahead = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            return super().select(None)
        self.ahead += timeout
        return []


class Loop(asyncio.SelectorEventLoop):
    """A loop whose time passes only while it waits."""

    def __init__(self) -> None:
        self._own = _Selector()
        super().__init__(self._own)

    def time(self) -> float:
        return 1000.0 + self._own.ahead


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(coroutine)


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Known:
    """The model. `stall`: (from, to) in seconds after its start in which nothing comes out; `answers` by question."""

    slots: int = 4
    first_s: float = 0.04
    token_s: float = 0.004
    stall: tuple[float, float] | None = None
    fail_every: int = 0
    broken_every: int = 0
    counts: dict[str, int] = field(default_factory=lambda: {"prompt": 0, "generation": 0, "requests": 0})
    answers: dict[str, str] = field(default_factory=dict)
    key: str = ""

    def __post_init__(self) -> None:
        self.began = now()
        self._slots = asyncio.Semaphore(self.slots)

    async def _until(self, at: float) -> None:
        if self.stall is not None and self.stall[0] <= at - self.began < self.stall[1]:
            at = self.began + self.stall[1]
        await asyncio.sleep(max(0.0, at - now()))

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.counts["requests"] += 1
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        if self.fail_every and self.counts["requests"] % self.fail_every == 0:
            return web.json_response({"error": {"message": "EngineCore is dead"}}, status=500)
        chat = "messages" in body
        text = " ".join(m["content"] for m in body["messages"]) if chat else body["prompt"]
        length, wanted = len(text.split()), body["max_tokens"]
        if not body.get("stream"):
            answer = self.answers.get(text, "I do not know")
            return web.json_response({"choices": [{"message": {"role": "assistant", "content": answer}}]})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        async with self._slots:
            self.counts["prompt"] += length
            at = now() + self.first_s
            await self._until(at)
            await response.prepare(request)
            for number in range(wanted):
                if number:
                    at += self.token_s
                    await self._until(at)
                if self.broken_every and self.counts["requests"] % self.broken_every == 0 and number == wanted // 2:
                    assert request.transport is not None
                    request.transport.close()
                    return response
                self.counts["generation"] += 1
                piece = {"delta": {"content": " x"}} if chat else {"text": " x"}
                await self._event(response, {"choices": [{"index": 0, **piece}]})
        usage = {"prompt_tokens": length, "completion_tokens": wanted, "prompt_tokens_details": {"cached_tokens": 1}}
        await self._event(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response

    @staticmethod
    async def _event(response: web.StreamResponse, event: object) -> None:
        await response.write(f"data: {json.dumps(event)}\n\n".encode())

    async def metrics(self, _: web.Request) -> web.Response:
        names = {"prompt": "prompt_tokens_total", "generation": "generation_tokens_total"}
        lines = [f'vllm:{name}{{model_name="{NAME}"}} {self.counts[key]}.0' for key, name in names.items()]
        return web.Response(text="\n".join([*lines, ""]))

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": NAME, "max_model_len": 8192}], "simulated": True})


@asynccontextmanager
async def serving(model: Known) -> AsyncIterator[str]:
    """Serve the model; gives its URL."""
    app = web.Application(client_max_size=2**24)
    app.add_routes(
        [web.post("/v1/completions", model.complete), web.post("/v1/chat/completions", model.complete),
         web.get("/metrics", model.metrics), web.get("/v1/models", model.models)]
    )  # fmt: skip
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
