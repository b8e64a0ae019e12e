from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest

from metalserve.report.page import html_page
from metalserve.report.reading import report_from
from tests.report.parsing import Element, parse
from tests.report.samples import finding, fleet, host, report

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;{{ 7*7 }}"


def page(*hosts: dict[str, Any], **more: Any) -> Element:
    return parse(html_page(report_from(report(hosts, **more))))


@pytest.fixture(scope="module")
def short_of_links() -> Element:
    return page(host("a", fault="nvlink-degraded", soak_s=60), host("b", soak_s=60), host("c"))


def node(tree: Element, name: str) -> Element:
    return next(d for d in tree.all("details", cls="node") if d.attributes["data-host"] == name)


def test_the_page_needs_nothing_from_elsewhere(short_of_links: Element) -> None:
    for tag in ("link", "img", "iframe", "object", "embed", "base"):
        assert short_of_links.all(tag) == [], tag
    assert [s.attributes for s in short_of_links.all("script")] == [{}]
    style = "".join(s.text for s in short_of_links.all("style"))
    assert "url(" not in style and "@import" not in style
    policy = short_of_links.all("meta", **{"http-equiv": "Content-Security-Policy"})[0].attributes["content"]
    assert policy.startswith("default-src 'none';")
    assert "script-src 'sha256-" in policy


def test_title_time_version_and_release_are_there(short_of_links: Element) -> None:
    head = short_of_links.all("header", cls="top")[0].text
    assert "Verification of 3 nodes" in head
    assert "2026-11-25 14:37:07 UTC" in head
    assert "metalserve 0.1.0" in head
    assert "release 2026.11-production" in head
    assert short_of_links.all("title")[0].text == "SIMULATED: 3 nodes, verified 2026-11-25 14:37:07 UTC"


def test_what_is_simulated_says_so_and_what_is_not_does_not(short_of_links: Element) -> None:
    assert "SIMULATED" in short_of_links.all("p", cls="simulated")[0].text
    real = page({**host("a"), "simulated": False})
    assert real.all("p", cls="simulated") == []
    assert "simulated" not in real.text.lower().split("it folds")[0].split("@media")[0].replace(".simulated", "")
    some = page({**host("a"), "simulated": False}, host("b"))
    assert "1 of 2 nodes" in some.all("p", cls="simulated")[0].text
    assert node(some, "b").all("span", cls="sim") and not node(some, "a").all("span", cls="sim")


def test_the_fleet_table_links_to_every_node_worst_first(short_of_links: Element) -> None:
    rows = short_of_links.all("table", cls="fleet")[0].all("tbody")[0].all("tr")
    assert [r.attributes["data-host"] for r in rows] == ["a", "b", "c"]
    assert [r.attributes["data-verdict"] for r in rows] == ["fail", "ok", "ok"]
    anchors = {d.attributes["id"] for d in short_of_links.all("details", cls="node")}
    assert {a.attributes["href"].removeprefix("#") for a in short_of_links.all("a")} == anchors
    assert "not measured" in rows[2].text and "not measured" not in rows[1].text


def test_missing_links_are_marked_in_words_on_their_gpu_alone(short_of_links: Element) -> None:
    nvlink = node(short_of_links, "a").section("NVLink")
    cells = [td for td in nvlink.all("td") if td.attributes.get("title")]
    assert len(cells) == 56
    short = [td for td in cells if td.has(cls="short")]
    assert len(short) == 14
    assert all("NV16 of 18" in td.text and "GPU 3" in td.attributes["title"] for td in short)
    assert "▼ GPU 3: NV16 instead of NV18 to GPU 0, 1, 2, 4, 5, 6, 7" in nvlink.text
    assert "16 of 18 links up; down: 16, 17" in nvlink.text
    healthy = node(short_of_links, "b").section("NVLink")
    assert not healthy.all("td", cls="short") and not healthy.all("p", cls="miss")


def test_low_bandwidth_is_marked_against_the_catalogue(short_of_links: Element) -> None:
    low = node(short_of_links, "a").section("Bandwidth and storage").all("td", cls="low")
    assert [re.sub(r"\d+", "N", td.text) for td in low] == ["▼ N GB/s"]
    assert "NV18: 450 nominal each way" in node(short_of_links, "a").section("Bandwidth and storage").all("tr")[3].text
    words = node(short_of_links, "b").section("Bandwidth and storage").text
    assert "about 480 when healthy, alarm below 460" in words


def test_soak_has_four_panels_on_one_time_axis_and_a_table() -> None:
    tree = page(host("hot", fault="thermal-throttle", gpu=5, soak_s=300))
    soak = tree.section("Soak")
    assert [f.all("figcaption")[0].text.split(",")[0] for f in soak.all("figure")] == [
        "Temperature",
        "Power",
        "SM clock",
        "Throughput",
        "Slowed down by heat or power brake",
    ]
    assert len(soak.all("path", **{"data-gpu": "5"})) == 4
    assert {p.attributes["class"] for p in soak.all("path", **{"data-gpu": "5"})} == {"c1"}
    assert {p.attributes["class"] for p in soak.all("path", **{"data-gpu": "0"})} == {"c0"}
    assert [lane.all("span")[0].text for lane in soak.all("div", cls="lane")] == ["GPU 5"]
    assert soak.all("div", cls="lane")[0].all("i")[0].attributes["title"] == "sw_thermal_slowdown, hw_thermal_slowdown"
    assert len(soak.all("div", cls="times")) == 1
    rows = soak.all("tbody")[0].all("tr")
    assert len(rows) == 8
    assert "hw_thermal_slowdown" in rows[5].text and rows[0].text.endswith("100 % no")


def test_a_downgraded_link_is_marked_in_the_tree() -> None:
    for tree in (True, False):
        pcie = page(host("a", fault="pcie-downgraded", gpu=2, tree=tree)).section("PCIe and NUMA")
        bad = pcie.all("span", cls="bad")
        assert [b.text for b in bad] == ["▼ Gen3 x8 of Gen5 x16"], tree
        assert len(pcie.all("div", cls="s-fail")) == 1
        assert [h.text for h in pcie.all("h4")][:2] == ["NUMA node 0", "NUMA node 1"]
        assert ("The ports above the devices are not in this report" in pcie.text) is not tree


def test_findings_say_everything_worst_first() -> None:
    sick = host("a")
    sick["findings"] += [
        finding("one", "warn", "GPU 1", remedy="look at `x`"),
        finding("two", "fail", "GPU 2", evidence="line 1\nline 2", impact="cost", remedy="mend", source="book"),
        finding("three", "inconclusive"),
        finding("four", "unknown"),
        finding("five", "skipped"),
    ]
    section = page(sick).section("Findings")
    articles = section.all("article")
    assert [a.all("b")[0].text for a in articles] == ["two", "four", "three", "one"]
    assert articles[0].text == (
        "✕ fail two GPU 2 something else Expected what was bought Impact cost Do mend Source book line 1 line 2"
    )
    assert articles[3].all("code")[0].text == "x"
    assert "1 skipped" in section.all("summary")[0].text


def test_alike_findings_are_told_once_with_all_their_subjects() -> None:
    sick = host("a")
    sick["findings"] += [finding("heat", "fail", f"GPU {i}") for i in range(8)]
    articles = page(sick).section("Findings").all("article")
    assert len(articles) == 1
    assert "GPU 0, GPU 1, GPU 2" in articles[0].text and "GPU 7" in articles[0].text


def test_values_are_escaped_wherever_they_stand() -> None:
    sick: dict[str, Any] = json.loads(json.dumps(host("x", soak_s=5)).replace("NVIDIA", "NVIDIA@@"))
    sick["name"] = EVIL
    for key in ("release", "status"):
        sick[key] = EVIL
    sick["warnings"], sick["proofs"] = [EVIL], {EVIL: EVIL}
    sick["failure"] = dict.fromkeys(("role", "stage", "what", "evidence", "remedy"), EVIL)
    words = dict.fromkeys(("expected", "observed", "evidence", "impact", "remedy", "source"), EVIL)
    sick["findings"] += [finding(EVIL, status, EVIL, **words) for status in ("fail", "warn", "ok", "skipped")]
    sick["measurements"]["dcgm"] = {EVIL: EVIL}
    sick["measurements"]["nvlink"]["error"] = EVIL
    sick["measurements"]["soak"]["gpus"][0]["reasons"] = [["hw_slowdown", EVIL]] * 5
    sick["measurements"]["soak"]["stopped"] = EVIL
    hardware = json.loads(json.dumps(sick["hardware"]).replace("NVIDIA@@", EVIL.replace('"', '\\"')))
    hardware["links"] = dict.fromkeys(hardware["links"], EVIL)
    hardware["pcie_tree"][0]["numa"] = EVIL
    sick["hardware"] = hardware
    html = html_page(report_from(report([sick, host("b")], metalserve=EVIL, started=EVIL)))
    tree = parse(html)
    assert html.count("<script") == 1 and "<img" not in html
    assert "onerror" not in {name for e in _every(tree) for name in e.attributes}
    assert "{{ 7*7 }}" in tree.text and "49" not in tree.all("h1")[0].text


def _every(element: Element) -> list[Element]:
    below = [e for child in element.children if isinstance(child, Element) for e in _every(child)]
    return [element, *below]


SECTIONS = ("Findings", "NVLink", "PCIe and NUMA", "Bandwidth and storage", "Soak")
PARTS = [
    (("findings",), "Findings", "nothing was checked in this run"),
    (("hardware",), "NVLink", "Not read"),
    (("hardware",), "PCIe and NUMA", "Not read"),
    (("hardware", "links"), "NVLink", "Not read"),
    (("hardware", "nvlinks"), "NVLink", "Expected: NV18"),
    (("hardware", "pcie_tree"), "PCIe and NUMA", "ports above the devices are not in this report"),
    (("hardware", "numa_nodes"), "PCIe and NUMA", "NUMA node 0"),
    (("measurements",), "Bandwidth and storage", "Not measured."),
    (("measurements",), "Soak", "Not measured."),
    (("measurements", "nvlink"), "Bandwidth and storage", "drive, sequential read"),
    (("measurements", "storage"), "Bandwidth and storage", "all-reduce, 8 GPUs"),
    (("measurements", "soak"), "Soak", "Not measured."),
    (("measurements", "nvlink", "pairs"), "NVLink", "NV18"),
    (("measurements", "nvlink", "all_reduce"), "Bandwidth and storage", "slowest pair"),
    (("measurements", "soak", "gpus"), "Soak", "Not measured."),
]


@pytest.mark.parametrize("empty", ["gone", None, {}, [], "words", 7])
@pytest.mark.parametrize(("path", "section", "words"), PARTS, ids=[".".join(p[0]) + "-" + p[1] for p in PARTS])
def test_every_part_may_be_missing(path: tuple[str, ...], section: str, words: str, empty: Any) -> None:
    whole = copy.deepcopy(host("a", soak_s=5))
    inner = whole
    for key in path[:-1]:
        inner = inner[key]
    if empty == "gone":
        del inner[path[-1]]
    else:
        inner[path[-1]] = empty
    tree = page(whole)
    for name in SECTIONS:
        assert tree.section(name).text
    if path == ("findings",) and empty in ("words", 7):
        words = "nothing was checked"
    assert words in tree.section(section).text


@pytest.mark.parametrize("key", ["temperature_c", "power_w", "sm_mhz", "tflops", "reasons", "tlimit_margin_c"])
def test_a_series_that_is_missing_is_told_and_not_drawn(key: str) -> None:
    sick = copy.deepcopy(host("a", soak_s=20))
    for gpu in sick["measurements"]["soak"]["gpus"]:
        gpu[key] = [None] * 20
    soak = page(sick).section("Soak")
    assert "not measured" in soak.text.lower()
    assert all(svg.all("path", **{"data-gpu": "0"}) for svg in soak.all("svg"))
    assert len(soak.all("svg")) == (4 if key in ("reasons", "tlimit_margin_c") else 3)


def test_a_host_without_gpus_and_an_old_report_still_render() -> None:
    bare = {"name": "old", "status": "failed", "failure": None, "findings": [finding("gpu-count", "ok")]}
    tree = page(bare, metalserve=None)
    assert "Not read" in tree.section("NVLink").text
    assert "version not recorded" in tree.all("p", cls="meta")[0].text
    gone = page({"name": "away", "status": "unreachable", "connected": False}, {"name": "new", "status": "unchanged"})
    assert "no connection" in node(gone, "away").text
    assert node(gone, "new").attributes["data-verdict"] == "unknown"
    assert "run 1 away no connection" in gone.all("table", cls="problems")[0].text


def test_one_gpu_has_no_links_to_others() -> None:
    assert "One GPU: there are no links between GPUs" in page(host("a", "l4-1")).section("NVLink").text


def test_no_host_at_all() -> None:
    assert "nodes in this report" in page().text


def test_hosts_whose_names_come_to_the_same_anchor_are_kept_apart() -> None:
    tree = page({**host("a"), "name": "a/b"}, {**host("a"), "name": "a b"}, {**host("a"), "name": "a_b"})
    assert len({d.attributes["id"] for d in tree.all("details", cls="node")}) == 3


def test_a_failure_that_the_findings_tell_is_not_told_twice() -> None:
    tree = page(host("a", fault="pcie-downgraded"))
    assert "run" not in [b.text for b in tree.all("b")]
    other = {**host("a"), "failure": {"role": "vllm", "stage": "observe", "what": "no answer", "remedy": "look"}}
    assert "vllm / observe no answer Do look" in page(other).text


@pytest.mark.slow
def test_two_hundred_nodes_stay_below_twenty_megabytes() -> None:
    html = html_page(report_from(fleet(200, 900)))
    assert 2e6 < len(html.encode()) < 20e6
    assert html.count('<details class="node ') == 200
