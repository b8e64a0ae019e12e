"""Kinds that measuring and testing tools print."""

from __future__ import annotations

from typing import Any, Final

from metalserve.hardware.parsers.dcgm import parse_dcgm
from metalserve.hardware.parsers.fio import parse_fio
from metalserve.hardware.parsers.nccl import parse_nccl
from metalserve.hardware.readable.kind import Kind, marks, plain


def _nccl(text: str) -> dict[str, Any]:
    run = parse_nccl(text)
    largest = run.largest
    return {
        "program": run.program,
        "nccl": run.nccl,
        "ranks": run.ranks,
        "devices": [
            {"rank": rank, "host": host, "device": device, "bus": bus, "name": name}
            for rank, host, device, bus, name in run.devices
        ],
        "rows": len(run.rows),
        "largest_size_bytes": largest.size_bytes,
        "type": largest.type,
        "time_us_out_of_place": largest.out_of_place[0],
        "time_us_in_place": largest.in_place[0],
        "algbw_out_of_place": largest.out_of_place[1],
        "algbw_in_place": largest.in_place[1],
        "busbw_out_of_place": largest.out_of_place[2],
        "busbw_in_place": largest.in_place[2],
        "avg_busbw": run.average_busbw,
        "wrong": _short(run.wrong),
        "wrong_column": run.check,
        "rows_wrong": run.rows_wrong,
        "out_of_bounds": run.out_of_bounds,
        "complete": run.average_busbw is not None,
        "notes": list(run.notes),
    }


def _short(value: float | None) -> float | int | None:
    return int(value) if value is not None and value.is_integer() else value


def _fio(text: str) -> dict[str, Any]:
    run = parse_fio(text)
    jobs = []
    for job in run.jobs:
        options = job.options
        jobs.append(
            {
                "name": job.name,
                "error": job.error,
                "rw": options.get("rw") or options.get("readwrite"),
                "block_size": options.get("bs") or options.get("blocksize"),
                "depth": options.get("iodepth"),
                "engine": options.get("ioengine"),
                "direct": options.get("direct"),
                "read": plain(job.directions.get("read")),
                "write": plain(job.directions.get("write")),
                "trim": plain(job.directions.get("trim")),
                "options": dict(options),
            }
        )
    return {"version": run.version, "jobs": jobs, "notes": list(run.notes)}


def _dcgm(text: str) -> dict[str, Any]:
    run = parse_dcgm(text)
    return {
        "version": run.version,
        "driver": run.driver,
        "device_ids": list(run.device_ids),
        "status": run.status,
        "failed": [test.name for test in run.tests if test.status == "Fail"],
        "tests": plain(run.tests),
        "notes": list(run.notes),
    }


MEASURED_KINDS: Final = (
    Kind(
        "dcgm",
        "dcgmi diag -r 2, also -j",
        _dcgm,
        marks(r'"DCGM (?:GPU )?Diagnostic"|^[ \t]*\| ?Diagnostic +\| ?Result'),
    ),
    Kind(
        "nccl",
        "all_reduce_perf and other nccl-tests",
        _nccl,
        marks(r"\balgbw +busbw\b|nThread \d{1,6} nGpus \d|Avg bus bandwidth"),
    ),
    Kind("fio", "fio --output-format=json", _fio, marks(r'"fio version"|"jobname" ?: ?"')),
)
