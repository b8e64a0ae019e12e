"""What the node does while it is loaded: `metalserve top --json` in a process of its own, on the run's time axis.

A process of its own because the hosts are reached with pyinfra, whose gevent would stand in the load's way.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from metalserve.errors import MetalserveError
from metalserve.paths import ROOT

_LINE = 2**24
"""Bytes that one line may have: a moment of hundreds of nodes."""


class Telemetry:
    """Samples of nodes from `start` on; without an inventory there are none, and the result says so."""

    def __init__(self, inventory: str | None, hosts: Sequence[str], start: float, interval_s: float = 2.0) -> None:
        """Name what to watch; `start` is the run's beginning by the loop's clock."""
        self.rows: list[dict[str, Any]] = []
        self.simulated = False
        self._offset = time.time() - asyncio.get_running_loop().time() + start
        limits = [word for host in hosts for word in ("--limit", host)]
        self._command = (
            [sys.executable, "-m", "metalserve", "top", inventory, *limits, "--json", "--interval", f"{interval_s:g}"]
            if inventory
            else None
        )
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Telemetry:
        """Begin, and wait for the first sample of every node.

        Raises:
            MetalserveError: the hosts cannot be watched.
        """
        if self._command is None:
            return self
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LINE,
            cwd=ROOT,
        )
        self._reader = asyncio.create_task(self._read())
        for _ in range(300):
            if self.rows or self._reader.done():
                break
            await asyncio.sleep(0.1)
        if not self.rows:
            said = ""
            if self._reader.done() and self._process.stderr is not None:
                said = (await self._process.stderr.read()).decode(errors="replace").strip().rpartition("\n")[2]
            await self.__aexit__()
            raise MetalserveError(f"the nodes cannot be watched: {said or 'no answer in 30 s'}", where="--inventory")
        return self

    async def __aexit__(self, *_: object) -> None:
        """End it."""
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()

    async def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        while line := await self._process.stdout.readline():
            told = json.loads(line)
            self.simulated = self.simulated or told["simulated"]
            self.rows += [_row(node, told["epoch"] - self._offset) for node in told["nodes"] if node["gpus"]]


def _row(node: dict[str, Any], at: float) -> dict[str, Any]:
    keys = ("power_w", "temperature_c", "margin_c", "sm_mhz", "utilisation", "held")
    figures = node["figures"]
    return {
        "t_s": round(at - (node["gpus_age_s"] or 0.0), 2),
        "node": node["name"],
        "state": node["state"],
        "gpus": [{"index": gpu["index"], **{key: gpu[key] for key in keys}} for gpu in node["gpus"]],
        "running": figures["running"],
        "waiting": figures["waiting"],
        "kv": figures["kv"],
    }
