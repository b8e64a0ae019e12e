"""fio's JSON (`--output-format=json`, `json+`, `json,normal`), of fio 2 and 3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from metalserve.hardware.parsers.jsontext import find_object, objects, real, whole, words
from metalserve.hardware.parsers.text import ParseError, clean

_DIRECTIONS = ("read", "write", "trim")


@dataclass(frozen=True, slots=True)
class FioDirection:
    """What one direction of a job did.

    Attributes:
        iops: operations a second.
        bytes_per_s: bytes a second.
        io_bytes: bytes moved.
        runtime_ms: ms that this direction ran.
        latency_mean_us: mean total latency, us.
        latency_p99_us: 99th percentile of the completion latency, us; None when fio did not print it.
    """

    iops: float | None
    bytes_per_s: int | None
    io_bytes: int | None
    runtime_ms: int | None
    latency_mean_us: float | None
    latency_p99_us: float | None


@dataclass(frozen=True, slots=True)
class FioJob:
    """One job, or the sum of a reporting group.

    Attributes:
        name: job name.
        error: fio's error number, 0 when it went well.
        options: job options as text, the global ones included.
        directions: `read`, `write`, `trim` -> figures, only those that moved anything.
    """

    name: str
    error: int | None
    options: dict[str, str]
    directions: dict[str, FioDirection]


@dataclass(frozen=True)
class FioRun:
    """A run: fio's version, its jobs, and lines around the JSON that hold an error."""

    version: str | None
    jobs: tuple[FioJob, ...]
    notes: tuple[str, ...] = ()


def parse_fio(text: str) -> FioRun:
    """Read fio's JSON; banners before it and text after it do no harm.

    Raises:
        ParseError: no JSON of fio, or it is cut.
    """
    data, around = find_object(clean(text), ("fio version", "jobs", "client_stats"))
    jobs = objects(data.get("jobs", data.get("client_stats")), "fio: `jobs`")
    if not jobs:
        raise ParseError("fio: the JSON has no job")
    common = _options(data.get("global options"))
    notes = [line.strip()[:200] for line in around.splitlines() if _tells_of_error(line)]
    return FioRun(words(data.get("fio version")), tuple(_job(job, common) for job in jobs), tuple(notes[:20]))


def _job(job: dict[str, Any], common: dict[str, str]) -> FioJob:
    name = words(job.get("jobname"))
    if name is None:
        raise ParseError("fio: a job without a name")
    directions = {}
    for direction in _DIRECTIONS:
        part = job.get(direction)
        if isinstance(part, dict):
            read = _direction(part)
            if read.io_bytes or read.bytes_per_s or read.iops:
                directions[direction] = read
    return FioJob(name, whole(job.get("error")), {**common, **_options(job.get("job options"))}, directions)


def _direction(part: dict[str, Any]) -> FioDirection:
    new = "bw_bytes" in part or "lat_ns" in part  # fio 3; fio 2 counts KiB and us
    bandwidth = whole(part.get("bw_bytes"))
    if bandwidth is None and (kib := real(part.get("bw"))) is not None:
        bandwidth = int(kib * 1024)
    moved = whole(part.get("io_bytes"))
    if moved is not None and not new:
        moved *= 1024
    mean = _mean(part.get("lat_ns"), 1000) if new else _mean(part.get("lat"), 1)
    p99 = _percentile(part.get("clat_ns"), 1000) if new else _percentile(part.get("clat"), 1)
    return FioDirection(real(part.get("iops")), bandwidth, moved, whole(part.get("runtime")), mean, p99)


def _mean(part: object, divisor: int) -> float | None:
    found = real(part.get("mean")) if isinstance(part, dict) else None
    return None if found is None else round(found / divisor, 3)


def _percentile(part: object, divisor: int) -> float | None:
    percentiles = part.get("percentile") if isinstance(part, dict) else None
    found = real(percentiles.get("99.000000")) if isinstance(percentiles, dict) else None
    return None if found is None else round(found / divisor, 3)


def _options(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {str(k)[:80]: str(v)[:300] for k, v in value.items() if isinstance(v, str | int | float)}


def _tells_of_error(line: str) -> bool:
    low = line.lower()
    return ("err=" in low and "err= 0" not in low and "err=0" not in low) or low.startswith("fio:")
