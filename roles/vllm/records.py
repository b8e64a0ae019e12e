"""What the engines' own logs said of their last start, as the host keeps it: text in, words out. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from metalserve.desired.observed import Observation
from metalserve.hardware.parsers.text import ParseError
from metalserve.hardware.parsers.vllm_log import VllmLog, parse_vllm_log
from metalserve.planning import LaunchPlan
from metalserve.planning.calibration import Learned, correction_after, deviations
from roles.vllm.paths import LAUNCHES

SECTION: Final = "engine-launches"
COMMAND: Final = f"cat {LAUNCHES}/[0-9]*.json 2>/dev/null || :"


@dataclass(frozen=True, slots=True)
class Launch:
    """The record of one start.

    Attributes:
        replica: number of the engine.
        ready_after_s: seconds from the start of its unit to its first token, `None` when not known.
        lines: lines of vLLM's start-up log.
        at: when it had answered, UTC, ISO 8601.
        log: what they say.
    """

    replica: int
    ready_after_s: float | None
    lines: tuple[str, ...]
    log: VllmLog
    at: str = ""

    @property
    def figures(self) -> str:
        """The figures that the log gave, as one line; times are left out, which differ from engine to engine."""
        log, said = self.log, []
        if log.weights is not None:
            said.append(f"weights {log.weights:g} {log.weights_unit} a GPU")
        if log.kv_cache_tokens is not None:
            said.append(f"KV cache {log.kv_cache_tokens:,} tokens")
        return ", ".join(said) or "its log gave no figures"


def launches(observed: Observation) -> tuple[Launch, ...]:
    """Return the records of the host's engines; a broken one is left out."""
    return tuple(sorted(_read(observed.text(SECTION)), key=lambda launch: launch.replica))


def _read(text: str) -> Iterator[Launch]:
    for line in text.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if not isinstance(found, dict) or found.get("schema") != 1 or not isinstance(found.get("lines"), list):
            continue
        lines = tuple(line for line in found["lines"] if isinstance(line, str))
        try:
            log = parse_vllm_log("\n".join(lines))
        except ParseError:
            log = VllmLog()
        seconds = found.get("ready_after_s")
        yield Launch(
            replica=int(found["replica"]) if isinstance(found.get("replica"), int) else -1,
            ready_after_s=float(seconds) if isinstance(seconds, int | float) else None,
            lines=lines,
            log=log,
            at=found["at"] if isinstance(found.get("at"), str) else "",
        )


def in_words(observed: Observation) -> str:
    """Return the report's line: what the engines' logs said of their start, alike ones together; "" without any."""
    said: dict[str, list[Launch]] = {}
    for launch in launches(observed):
        said.setdefault(launch.figures, []).append(launch)
    return "; ".join(f"engine {_numbers(alike)}: {figures}{_times(alike)}" for figures, alike in said.items())


def against_plan(observed: Observation, plan: LaunchPlan, *, host: str, model: str) -> tuple[str, Learned | None]:
    """Hold what the first engine printed when it started against the plan that it was started from.

    Returns:
        The report's line ("" when no engine printed a figure that was planned), and what the next plan of this host,
        model and version is to know; None where nothing can be learned from it.
    """
    records = launches(observed)
    if not records or plan.memory is None:
        return "", None
    log = records[0].log
    said = "; ".join(map(str, deviations(plan.memory, log, plan.split.data)))
    correction = correction_after(plan.memory, log)
    if isinstance(correction, str):
        return said and f"{said}; nothing to learn from it: {correction}", None
    learned = Learned(
        host=host,
        model=model,
        vllm=_release(log.version) or plan.vllm_version,
        tensor_parallel=plan.tensor_parallel,
        pipeline_parallel=plan.pipeline_parallel,
        weights_factor=correction.weights_factor,
        overhead_bytes=correction.overhead,
        observed=records[0].at,
    )
    return said, learned


def _release(version: str | None) -> str | None:
    found = re.match(r"\d+\.\d+\.\d+", version or "")
    return found[0] if found else None


def _numbers(alike: Sequence[Launch]) -> str:
    numbers = [launch.replica for launch in alike]
    joined = len(numbers) > 1 and numbers[-1] - numbers[0] == len(numbers) - 1
    return f"{numbers[0]} to {numbers[-1]}" if joined else ", ".join(map(str, numbers))


def _times(alike: Sequence[Launch]) -> str:
    words = []
    for what, found in (
        ("loaded in", [launch.log.load_seconds for launch in alike]),
        ("a token after", [launch.ready_after_s for launch in alike]),
    ):
        seconds = sorted(round(value) for value in found if value is not None)
        if seconds:
            spread = f"{seconds[0]} to {seconds[-1]}" if seconds[0] != seconds[-1] else f"{seconds[0]}"
            words.append(f", {what} {spread} s")
    return "".join(words)
