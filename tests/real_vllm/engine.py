"""A real vLLM server as a child of the test: started, asked, stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

START_S = 1800
"""Seconds that a start may take: 20 s on a calm machine with two cores, many minutes on one that others use as well."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Engine:
    """`vllm serve` with the environment that the role's containers get."""

    def __init__(self, python: str, args: list[str], port: int, directory: Path, *, key: str | None = None) -> None:
        self.port, self.key = port, key
        self.log = directory / "log"
        self.header = directory / "auth"
        self.header.write_text(f"Authorization: Bearer {key}\n" if key else "")
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_HOST_IP": "127.0.0.1",
            "VLLM_CACHE_ROOT": str(directory / "cache"),
            **({"VLLM_API_KEY": key} if key else {}),
        }
        vllm = str(Path(python).parent / "vllm")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [vllm, "serve", *args], stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_until_ready(self) -> float:
        """Wait for /health; return the seconds that it took."""
        started = time.monotonic()
        while time.monotonic() - started < START_S:
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.text[-3000:]}"
            if self.status("/health") == 200:
                return time.monotonic() - started
            time.sleep(0.5)
        raise AssertionError(f"not ready within {START_S} s:\n{self.text[-3000:]}")

    def open(
        self, path: str, body: dict[str, Any] | None = None, *, key: str | None = "", timeout_s: float = 600
    ) -> Any:
        """Return the open answer; `key` "" sends the engine's own, None sends none."""
        headers = {"Content-Type": "application/json"}
        token = self.key if key == "" else key
        if token:
            headers["Authorization"] = f"Bearer {token}"
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers)
        return urllib.request.urlopen(request, timeout=timeout_s)

    def ask(self, path: str, body: dict[str, Any] | None = None, **options: Any) -> Any:
        """Return the JSON of an answer."""
        with self.open(path, body, **options) as answer:
            return json.load(answer)

    def status(self, path: str, body: dict[str, Any] | None = None, **options: Any) -> int:
        """Return the HTTP status, 0 when nothing answered."""
        try:
            with self.open(path, body, **options) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def events(self, path: str, body: dict[str, Any]) -> Iterator[str]:
        """Yield the events of a stream."""
        with self.open(path, {**body, "stream": True}) as answer:
            for line in answer:
                if line.startswith(b"data: "):
                    yield line.removeprefix(b"data: ").decode().strip()

    def metric(self, name: str) -> float:
        """Return a counter or gauge, summed over its labels."""
        with self.open("/metrics") as answer:
            text = answer.read().decode()
        found = re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
        assert found, f"no metric {name}"
        return sum(map(float, found))

    def children(self, word: str) -> list[int]:
        """Return the processes of this engine whose name holds a word (vLLM names them)."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                session = int((place / "stat").read_text().rpartition(")")[2].split()[3])
                name = (place / "comm").read_text() + (place / "cmdline").read_text()
            except (OSError, ValueError):
                continue
            if session == self.process.pid and word in name and int(place.name) != self.process.pid:
                found.append(int(place.name))
        return found

    def kill(self) -> None:
        """End the engine with everything that it started: its workers outlive a killed server."""
        for pid in [*self.children(""), self.process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(timeout=30)
