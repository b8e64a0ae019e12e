"""Reads a report file, of whatever age and shape: `read_report`."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from metalserve.errors import MetalserveError
from metalserve.report.collector import no_collection
from metalserve.report.model import STATUSES, Entry, Host, Report
from metalserve.report.values import flag, items, line, mapping, number, text

LARGEST_BYTES: Final = 2 * 2**30
"""A report of 1,000 nodes with an hour of samples has about 1.5 GB; what is larger is taken for a mistake."""


@no_collection()
def read_report(path: Path) -> Report:
    """Return the report in a file.

    Raises:
        MetalserveError: it cannot be read, or is no report of metalserve.
    """
    return report_from(load(path), where=str(path))


def load(path: Path) -> Any:
    """Return a file's JSON; numbers that are none (`NaN`) become None.

    Raises:
        MetalserveError: it cannot be read, or is no JSON.
    """
    where = str(path)
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise MetalserveError(f"is larger than {LARGEST_BYTES // 2**30} GiB: no report is", where=where)
        content = path.read_bytes()
    except OSError as error:
        remedy = "pyinfra INVENTORY deploys/verify.py -y makes one" if isinstance(error, FileNotFoundError) else None
        raise MetalserveError(f"cannot be read: {error.strerror}", where=where, remedy=remedy) from error
    try:
        with no_collecting():
            return json.loads(content, parse_constant=lambda name: None)
    except (ValueError, RecursionError) as error:
        raise MetalserveError("is no report of metalserve: no JSON", where=where) from error


@contextmanager
def no_collecting() -> Iterator[None]:
    """Keep the garbage collector still: among millions of samples it finds nothing, and takes as long as reading."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def report_from(data: Any, *, where: str = "report") -> Report:
    """Return the report that a file's JSON holds.

    Raises:
        MetalserveError: it is no report of schema 1.
    """
    hosts = mapping_of_hosts(data, where=where)
    found = mapping(data)
    return Report(
        tuple(_host(line(name), mapping(values)) for name, values in hosts.items()),
        started=line(found.get("started")),
        seconds=number(found.get("seconds")),
        version=line(found.get("metalserve")),
        complete=flag(found.get("complete")),
    )


def mapping_of_hosts(data: Any, *, where: str) -> Mapping[str, Any]:
    """Return the hosts of a report's JSON.

    Raises:
        MetalserveError: it is no report of schema 1.
    """
    hosts = mapping(data).get("hosts")
    if not isinstance(hosts, Mapping):
        raise MetalserveError("is no report of metalserve: it has no hosts", where=where)
    schema = mapping(data).get("schema")
    if schema != 1 or isinstance(schema, bool):
        given = line(schema)[:20] or "unknown"
        raise MetalserveError(f"is a report of schema {given}; this metalserve reads schema 1", where=where)
    return hosts


def _host(name: str, values: Mapping[str, Any]) -> Host:
    measurements = mapping(values.get("measurements"))
    failure = {key: text(value) for key, value in mapping(values.get("failure")).items()}
    outcome = line(values.get("status"))
    if values.get("connected") is False:
        outcome = "unreachable"
    return Host(
        name or "(no name)",
        outcome=outcome,
        simulated=values.get("simulated") is True or measurements.get("simulated") is True,
        release=line(values.get("release")),
        entries=tuple(_entry(found, name) for found in items(values.get("findings"))),
        failure={key: line(value) if key in ("role", "stage", "what") else value for key, value in failure.items()},
        warnings=tuple(dict.fromkeys(line(w) for w in items(values.get("warnings")))),
        proofs=tuple((line(k), line(v)) for k, v in mapping(values.get("proofs")).items()),
        hardware=mapping(values.get("hardware")),
        measurements=measurements,
    )


def _entry(value: Any, host: str) -> Entry:
    found = mapping(value)
    if not found:
        return Entry("report", "unknown", ("host",), "a finding", line(value)[:200] or "nothing that can be read")
    status = line(found.get("status"))
    subject, observed = line(found.get("subject")), line(found.get("observed"))
    subject = subject.removeprefix(f"{host} ") if host else subject
    return Entry(
        check=line(found.get("check")) or "unnamed check",
        status=status if status in STATUSES else "unknown",
        subjects=("host" if subject in (host, "") else subject,),
        expected=line(found.get("expected")),
        observed=observed if status in STATUSES else f"status {status!r}: {observed}",
        evidence=text(found.get("evidence")).strip("\n"),
        impact=line(found.get("impact")),
        remedy=line(found.get("remedy")),
        source=line(found.get("source")),
        role=line(found.get("role")),
    )
