"""Prometheus text of an inference engine (`/metrics`): vLLM V0 and V1 names, SGLang, routers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from metalserve.hardware.parsers.text import ParseError, clean, first_line

_SAMPLE = re.compile(
    r"\s*([A-Za-z_:][A-Za-z0-9_:]{0,200})(?:\{(.{0,4000})\})?\s+([+-]?(?:\d[0-9.eE+-]{0,40}|Inf|NaN))(?:\s+-?\d{1,20})?\s*"
)
_LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]{0,100})="((?:[^"\\]|\\.){0,2000})"')
_TYPE = re.compile(r"# TYPE ([A-Za-z_:][A-Za-z0-9_:]{0,200}) (\w{1,20})\s*")
_ENGINE = re.compile(r"(vllm|sglang):")

FIGURES: Final = {
    "running": ("vllm:num_requests_running", "sglang:num_running_reqs"),
    "waiting": ("vllm:num_requests_waiting", "sglang:num_queue_reqs"),
    "kv_cache_usage": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "sglang:token_usage"),
    "prompt_tokens": ("vllm:prompt_tokens_total", "sglang:prompt_tokens_total"),
    "generation_tokens": ("vllm:generation_tokens_total", "sglang:generation_tokens_total"),
    "ttft_count": ("vllm:time_to_first_token_seconds_count", "sglang:time_to_first_token_seconds_count"),
    "ttft_sum_seconds": ("vllm:time_to_first_token_seconds_sum", "sglang:time_to_first_token_seconds_sum"),
    "prefix_cache_queries": ("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"),
    "prefix_cache_hits": ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
}
"""Figure -> names of the metric, newest first. Label sets (engines, ranks) are added; usage takes the highest."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One line: name, labels, value; None for NaN and infinity."""

    name: str
    labels: Mapping[str, str]
    value: float | None


@dataclass(frozen=True)
class Metrics:
    """All samples, and the families that they belong to (name -> type).

    Attributes:
        samples: in the order of the text.
        families: name -> `gauge`, `counter`, `histogram` ..., `untyped` where the text does not say.
        notes: lines that are no samples.
    """

    samples: tuple[Sample, ...]
    families: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def engine(self) -> str | None:
        """`vllm` or `sglang` by the metrics' prefix."""
        found = next((m for s in self.samples if (m := _ENGINE.match(s.name))), None)
        return found.group(1) if found else None

    @property
    def names(self) -> int:
        """Number of different sample names; a histogram has three."""
        return len({sample.name for sample in self.samples})

    @property
    def figures(self) -> dict[str, float | None]:
        """The figures that both generations of engines have, under one name; None when not there."""
        found: dict[str, float | None] = {}
        for figure, names in FIGURES.items():
            values: list[float] = []
            for name in names:
                values = [s.value for s in self.samples if s.name == name and s.value is not None]
                if values:
                    break
            found[figure] = (max(values) if figure == "kv_cache_usage" else sum(values)) if values else None
        return found


def parse_metrics(text: str) -> Metrics:
    """Read Prometheus text.

    Raises:
        ParseError: no sample of an engine, or a sample with damaged labels or value.
    """
    samples: list[Sample] = []
    types: dict[str, str] = {}
    notes: list[str] = []
    for line in clean(text).splitlines():
        stripped = line.strip()
        if not stripped:
            continue
        kind = _TYPE.fullmatch(stripped)
        if kind:
            types[kind.group(1)] = kind.group(2)
        elif not stripped.startswith("#"):
            found = _SAMPLE.fullmatch(line)
            if found:
                samples.append(Sample(found.group(1), _labels(found.group(2) or ""), _value(found.group(3))))
            elif _ENGINE.match(stripped):
                raise ParseError(f"metric not understood, cut or run together: {stripped[:80]!r}")
            else:
                notes.append(stripped[:200])
    if not any(_ENGINE.match(sample.name) for sample in samples):
        raise ParseError(f"no metric of vLLM or SGLang; the text begins with {first_line(text)!r}")
    families: dict[str, str] = {}
    for sample in samples:
        name = next((n for n in (sample.name, *_bases(sample.name)) if n in types), _bases(sample.name)[-1])
        families.setdefault(name, types.get(name, "untyped"))
    return Metrics(tuple(samples), families, tuple(notes[:50]))


def _bases(name: str) -> list[str]:
    return [
        name.removesuffix(suffix) for suffix in ("_bucket", "_sum", "_count", "_total") if name.endswith(suffix)
    ] or [name]


def _labels(text: str) -> dict[str, str]:
    labels: dict[str, str] = {}
    at = 0
    while at < len(text):
        found = _LABEL.match(text, at)
        if not found:
            raise ParseError(f"metric labels not understood: {text[at : at + 60]!r}")
        labels[found.group(1)] = found.group(2)
        at = found.end()
        while at < len(text) and text[at] in ", ":
            at += 1
    return labels


def _value(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError as error:
        raise ParseError(f"metric value {text[:40]!r} is no number") from error
    return value if abs(value) < 1e300 else None
