from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from metalserve.errors import MetalserveError
from metalserve.report.diff import compare
from metalserve.report.history import keep
from metalserve.report.junit import junit_xml
from metalserve.report.page import html_page
from metalserve.report.reading import read_report, report_from
from metalserve.report.summary import summary_dict
from metalserve.report.terminal import print_report
from metalserve.report.values import address, gpu_index, number, text, whole
from tests.report.parsing import parse
from tests.report.samples import finding, host, report

BAD: list[tuple[bytes, str]] = [
    (b"", "no JSON"),
    (b"{", "no JSON"),
    (b"\xff\xfe\x00", "no JSON"),
    (b"[" * 100_000, "no JSON"),
    (b"9" * 10_000, "no JSON"),
    (b"null", "it has no hosts"),
    (b"[1, 2]", "it has no hosts"),
    (b"{}", "it has no hosts"),
    (b'{"schema": 1, "hosts": []}', "it has no hosts"),
    (b'{"hosts": {}}', "schema unknown"),
    (b'{"schema": 2, "hosts": {}}', "schema 2"),
    (b'{"schema": true, "hosts": {}}', "schema true"),
    (b'{"schema": "1", "hosts": {}}', "schema 1"),
]


@pytest.mark.parametrize(("content", "words"), BAD, ids=[repr(c[:30]) for c, _ in BAD])
def test_what_is_no_report_is_refused_in_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(MetalserveError, match=words) as refused:
        read_report(path)
    assert "\n" not in str(refused.value) and str(path) in str(refused.value)


def test_a_file_that_is_not_there_names_the_way_to_one(tmp_path: Path) -> None:
    with pytest.raises(MetalserveError, match=r"deploys/verify\.py"):
        read_report(tmp_path / "none.json")
    with pytest.raises(MetalserveError, match="cannot be read"):
        read_report(tmp_path)


def test_a_status_that_is_not_known_is_unknown_and_a_host_without_ok_is_not_ok() -> None:
    read = report_from(
        report(
            [
                {"name": "a", "findings": [finding("x", "ok"), {**finding("y", "ok"), "status": "splendid"}]},
                {"name": "b", "findings": [finding("x", "skipped")]},
                {"name": "c", "findings": []},
                {"name": "d", "findings": ["words"]},
                {"name": "e", "findings": [finding("x", "ok")], "status": "unreachable"},
                {"name": "f", "findings": [finding("x", "ok"), finding("x", "inconclusive"), finding("z", "warn")]},
            ]
        )
    )
    assert [h.verdict for h in read.hosts] == ["unknown", "unknown", "unknown", "unknown", "fail", "inconclusive"]
    assert "splendid" in read.hosts[0].at("unknown")[0].observed


def test_values_that_would_break_a_terminal_or_xml_are_taken_out() -> None:
    assert text("a\x1b[31mb\x00\ud800\u202e") == "a\ufffd[31mb\ufffd\ufffd\ufffd"
    assert text("a\r\nb\tc é") == "a\nb\tc é"
    assert text([1, None, "x", {"k": 1.5}]) == '1\n\nx\n{"k": 1.5}'


def test_numbers_are_numbers() -> None:
    assert [number(v) for v in (1, 1.5, True, "1", None, float("nan"), float("inf"), 10**400)] == [
        1.0,
        1.5,
        *[None] * 6,
    ]
    assert [whole(v) for v in (3, 3.0, 3.5, "3", "x", "-1", "٣")] == [3, 3, None, 3, None, None, None]


def test_subjects_are_understood() -> None:
    assert (gpu_index("GPU 3 (0000:5d:00.0)"), address("GPU 3 (0000:5d:00.0)")) == (3, "0000:5d:00.0")
    assert (gpu_index("lab GPU 11"), address("NVMe 5d:00.0")) == (11, "0000:5d:00.0")
    assert (gpu_index("host"), address("host")) == (None, None)


def test_what_was_made_by_a_run_is_read_whole() -> None:
    read = report_from(report([host("a", fault="remap-pending")]))
    assert read.hosts[0].counts["fail"] + read.hosts[0].counts["warn"] >= 2
    assert read.hosts[0].release == "2026.11-production" and read.version == "0.1.0" and read.complete is True


def test_only_names_the_hosts_there_are() -> None:
    read = report_from(report([host("a"), host("b")]))
    assert [h.name for h in read.only(["b"]).hosts] == ["b"]
    with pytest.raises(MetalserveError, match="it has a, b"):
        read.only(["c"])


# -- any report-shaped JSON

_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["fail", "ok", "NV18", "GPU 1", "0000:1b:00.0", "gloo", "root", "gpu", 10**400, 0, -1, 1e300]),
)
_ANY = st.recursive(_SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner))


def _shape(example: Any, depth: int = 0) -> st.SearchStrategy[Any]:
    """Values of the shape of `example`, with anything else in the place of any part of it."""
    if depth < 5 and isinstance(example, dict):
        own = st.fixed_dictionaries({}, optional={k: _shape(v, depth + 1) for k, v in example.items()})
        return st.one_of(own, own, own, _ANY)
    if depth < 6 and isinstance(example, list) and example:
        own_list = st.lists(_shape(example[0], depth + 1), max_size=4)
        return st.one_of(own_list, own_list, own_list, _ANY)
    return st.one_of(st.just(example), _SCALARS, _ANY)


_EXAMPLE = host("h", "a100-sxm-4", soak_s=3, fault="pcie-downgraded", gpu=1)
_EXAMPLE["failure"] = {"role": "r", "stage": "prove", "what": "w", "evidence": "e", "remedy": "do"}
_EXAMPLE["hardware"]["links"] = {"GPU0,GPU1": "NV12", "GPU1,GPU0": "SYS", "GPU1,GPU1": "X"}
_HOSTS = st.dictionaries(st.text(max_size=6), _shape(_EXAMPLE), max_size=3)
_REPORTS = st.builds(
    lambda hosts, more: {**more, "schema": 1, "hosts": hosts},
    _HOSTS,
    _shape({"started": "2026-11-25T14:37:07Z", "seconds": 1.5, "metalserve": "0.1.0", "complete": True}).filter(
        lambda v: isinstance(v, dict)
    ),
)


@settings(max_examples=60, deadline=None)
@given(_REPORTS, _REPORTS)
def test_no_report_shaped_json_breaks_anything(old: Any, new: Any) -> None:
    before, after = report_from(old), report_from(new)
    parse(html_page(after))
    junit_xml(after).decode()
    json.dumps(summary_dict(after), allow_nan=False)
    json.dumps(compare(before, after).as_dict(), allow_nan=False).encode()
    with Path("/dev/null").open("w", encoding="utf-8") as nowhere:
        print_report(after, Console(file=nowhere), everything=True)


@settings(max_examples=40, deadline=None)
@given(*[_shape(_EXAMPLE[part]) for part in ("measurements", "hardware")], _shape(_EXAMPLE["measurements"]["soak"]))
def test_no_hardware_and_no_measurement_breaks_the_page(measurements: Any, hardware: Any, soak: Any) -> None:
    whole = {"measurements": measurements, "hardware": hardware}
    soaked = {"measurements": {"soak": soak}, "hardware": _EXAMPLE["hardware"]}
    both = report_from({"schema": 1, "hosts": {"a": whole, "b": soaked}})
    parse(html_page(both))
    swapped = report_from({"schema": 1, "hosts": {"a": soaked, "b": whole}})
    json.dumps(compare(both, swapped).as_dict(), allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(_ANY)
def test_no_json_at_all_breaks_reading(value: Any) -> None:
    try:
        report_from(value)
    except MetalserveError:
        return
    assert value["schema"] == 1


def test_a_kept_report_reads_as_it_was(tmp_path: Path) -> None:
    made = report([host("a", soak_s=5)])
    path = keep(made, tmp_path / "verify")
    assert read_report(path) == report_from(made)
