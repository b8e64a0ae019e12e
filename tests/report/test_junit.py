from __future__ import annotations

import re
from xml.etree import ElementTree

from metalserve.report.junit import junit_xml
from metalserve.report.reading import report_from
from tests.report.samples import finding, host, report

REQUIRED = {
    "testsuite": {"name", "timestamp", "hostname", "tests", "failures", "errors", "time", "package", "id"},
    "testcase": {"name", "classname", "time"},
    "failure": {"type"},
    "error": {"type"},
    "property": {"name", "value"},
}
ALLOWED = {**{k: set(v) for k, v in REQUIRED.items()}, "skipped": {"message"}, "testsuites": set()}
ALLOWED["testsuite"] |= {"skipped"}
ALLOWED["failure"] |= {"message"}
ALLOWED["error"] |= {"message"}
INNER = {
    "testsuites": ["testsuite"],
    "testsuite": ["properties", "testcase", "system-out", "system-err"],
    "properties": ["property"],
    "testcase": ["skipped", "error", "failure"],
}


def checked(content: bytes) -> ElementTree.Element:
    """Parse it, held against what windyroad/JUnit-Schema's JUnit.xsd (Ant) says."""
    root = ElementTree.fromstring(content)
    assert root.tag == "testsuites"
    for element in root.iter():
        names = [child.tag for child in element]
        order = INNER.get(element.tag, [])
        assert set(names) <= set(order), element.tag
        assert names == sorted(names, key=order.index), element.tag
        assert set(element.attrib) >= REQUIRED.get(element.tag, set()), element.tag
        assert set(element.attrib) <= ALLOWED.get(element.tag, set()), element.tag
        if element.tag == "testcase":
            assert len(names) <= 1
        if element.tag == "testsuite":
            assert names.count("properties") == names.count("system-out") == names.count("system-err") == 1
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", element.attrib["timestamp"])
            assert element.attrib["name"] and element.attrib["hostname"]
            cases = element.findall("testcase")
            assert int(element.attrib["tests"]) == len(cases)
            for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
                assert int(element.attrib[attribute]) == sum(c.find(tag) is not None for c in cases)
    return root


def test_every_status_has_its_place() -> None:
    sick = {"name": "gpu-1.example", "simulated": True, "status": "unchanged"}
    sick["findings"] = [
        finding("a", "ok"),
        finding("b", "fail", "GPU 1", evidence="line <1>", remedy="mend", impact="slow", source="book"),
        finding("c", "unknown"),
        finding("d", "inconclusive", observed="the rig"),
        finding("e", "skipped", observed="MIG"),
        finding("f", "warn", observed="close"),
    ]
    suite = checked(junit_xml(report_from(report([sick])))).find("testsuite")
    assert suite is not None
    cases = {c.attrib["name"]: c for c in suite.findall("testcase")}
    assert [len(c) for c in cases.values()] == [0, 1, 1, 1, 1, 0]
    assert {c.attrib["classname"] for c in cases.values()} == {"gpu-1_example.topology"}
    failure = cases["b: GPU 1"].find("failure")
    assert failure is not None and failure.attrib == {
        "type": "fail",
        "message": "something else; expected what was bought",
    }
    assert (failure.text or "").splitlines() == [
        "expected: what was bought",
        "observed: something else",
        "evidence: line <1>",
        "impact: slow",
        "do: mend",
        "source: book",
    ]
    assert cases["c: host"].find("failure") is not None
    skipped = cases["d: host"].find("skipped")
    assert skipped is not None and skipped.attrib["message"].startswith("inconclusive: the rig")
    assert "warn: f: host: close" in (suite.findtext("system-out") or "")
    assert suite.find("properties/property[@name='simulated']").attrib["value"] == "true"  # type: ignore[union-attr]


def test_a_host_that_was_not_checked_does_not_pass() -> None:
    made = report(
        [
            {"name": "away", "connected": False, "status": "unreachable"},
            {"name": "bare", "status": "unchanged"},
            {"name": "broken", "status": "failed", "failure": {"role": "vllm", "stage": "start", "what": "died"}},
        ]
    )
    suites = checked(junit_xml(report_from(made))).findall("testsuite")
    assert [(s.attrib["errors"], s.attrib["failures"]) for s in suites] == [("1", "0"), ("0", "1"), ("1", "0")]
    assert [s.attrib["id"] for s in suites] == ["0", "1", "2"]


def test_a_failure_that_findings_tell_is_counted_once() -> None:
    suite = checked(junit_xml(report_from(report([host("a", fault="pcie-downgraded")])))).find("testsuite")
    assert suite is not None
    assert (suite.attrib["failures"], suite.attrib["errors"]) == ("1", "0")


def test_no_hosts_and_odd_times() -> None:
    assert len(checked(junit_xml(report_from(report([]))))) == 0
    for started in ("", "yesterday", "0001-01-01T00:00:00Z", "2026-11-25T14:37:07.123456+01:00", "2026-99-99T00:00:00"):
        checked(junit_xml(report_from(report([host("a")], started=started))))
