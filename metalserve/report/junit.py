"""JUnit XML of a report: a suite a host, a case a check and its subject, so that CI can gate on it."""

from __future__ import annotations

from xml.etree import ElementTree

from metalserve.report.model import Entry, Host, Report
from metalserve.report.values import utc

_NO_TIME = "1970-01-01T00:00:00"
"""The schema demands a time; this one is of a report that does not say its own."""


def junit_xml(report: Report) -> bytes:
    """Return the report as JUnit XML (Ant's schema, as windyroad/JUnit-Schema writes it down), UTF-8.

    `fail` and `unknown` are failures, `inconclusive` and `skipped` are skipped with a message, `warn` passes with its
    words in `system-out`. A host that the run did not get through is an error.
    """
    root = ElementTree.Element("testsuites")
    for number, host in enumerate(report.hosts):
        root.append(_suite(host, number, _time(report.started), report))
    ElementTree.indent(root)
    body: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return body + b"\n"


def _time(started: str) -> str:
    """Return a time as the schema wants it: UTC, without zone and fractions."""
    found = utc(started)
    return found.replace(tzinfo=None, microsecond=0).isoformat() if found else _NO_TIME


def _suite(host: Host, number: int, started: str, report: Report) -> ElementTree.Element:
    cases = [_case(host, entry) for entry in host.entries]
    stopped = bool(host.reason)
    if stopped:
        cases.insert(0, _stopped(host))
    suite = ElementTree.Element(
        "testsuite",
        {
            "name": host.name,
            "package": "metalserve",
            "id": str(number),
            "timestamp": started,
            "hostname": host.name,
            "tests": str(len(cases)),
            "failures": str(sum(c.find("failure") is not None for c in cases)),
            "errors": str(sum(c.find("error") is not None for c in cases)),
            "skipped": str(sum(c.find("skipped") is not None for c in cases)),
            "time": f"{max(report.seconds or 0.0, 0.0):.3f}",
        },
    )
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in (
        ("simulated", str(host.simulated).lower()),
        ("release", host.release),
        ("metalserve", report.version),
    ):
        if value:
            ElementTree.SubElement(properties, "property", {"name": name, "value": value})
    suite.extend(cases)
    warned = [str(line) for line in _warnings(host)]
    ElementTree.SubElement(suite, "system-out").text = "\n".join(warned)
    ElementTree.SubElement(suite, "system-err")
    return suite


def _warnings(host: Host) -> list[str]:
    return [f"warn: {e.check}: {e.subject}: {e.observed}; do: {e.remedy}" for e in host.at("warn")] + list(
        host.warnings
    )


def _case(host: Host, entry: Entry) -> ElementTree.Element:
    name = f"{entry.check}: {entry.subject}"
    case = ElementTree.Element("testcase", {"name": name, "classname": _class(host, entry.role), "time": "0"})
    message = f"{entry.observed or 'nothing observed'}; expected {entry.expected or 'nothing that was said'}"
    if entry.status in ("fail", "unknown"):
        failure = ElementTree.SubElement(case, "failure", {"type": entry.status, "message": message})
        failure.text = "\n".join(_details(entry))
    elif entry.status in ("inconclusive", "skipped"):
        ElementTree.SubElement(case, "skipped", {"message": f"{entry.status}: {message}"})
    return case


def _details(entry: Entry) -> list[str]:
    lines = [f"expected: {entry.expected}", f"observed: {entry.observed}"]
    lines += [f"{name}: {value}" for name, value in _more(entry) if value]
    return lines


def _more(entry: Entry) -> tuple[tuple[str, str], ...]:
    return (
        ("evidence", entry.evidence),
        ("impact", entry.impact),
        ("do", entry.remedy),
        ("source", entry.source),
    )


def _stopped(host: Host) -> ElementTree.Element:
    case = ElementTree.Element("testcase", {"name": "run", "classname": _class(host, "run"), "time": "0"})
    kind = "error" if host.verdict == "fail" else "failure"
    element = ElementTree.SubElement(case, kind, {"type": host.outcome or host.verdict, "message": host.reason})
    parts = [("role", "role"), ("stage", "stage"), ("evidence", "evidence"), ("remedy", "do")]
    element.text = "\n".join(f"{said}: {host.failure[key]}" for key, said in parts if host.failure.get(key))
    return case


def _class(host: Host, role: str) -> str:
    # CI systems group by the dots of a class name, and a host's name has dots of its own.
    return f"{host.name.replace('.', '_')}.{role or 'verify'}"
