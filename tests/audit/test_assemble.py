"""What the audit says of a node: proved only where it was seen, unknown where nobody knows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from metalserve.audit.assemble import assemble
from metalserve.audit.known import Known
from metalserve.audit.record import STATES, Audit, NodeRecord
from metalserve.pyinfra_seam.report import HostReport
from metalserve.releases import load_release
from tests.audit.samples import (
    MODEL,
    NOW,
    RELEASE,
    REVISION,
    evidence,
    failed_host,
    finding,
    known,
    report,
    settings,
    verified_host,
)

KEYS = [
    "release", "release_consistent", "release_current", "gpus", "driver", "kernel_modules", "fabric_manager", "cuda",
    "container_toolkit", "docker", "model", "revision", "manifest", "image", "plan", "quantisation", "answers", "drift",
    "last_change", "last_upgrade", "last_recovery",
]  # fmt: skip


def audit_of(*reports: dict[str, object], what: Known | None = None, inventory: str = "prod.py") -> Audit:
    return assemble(known("n1") if what is None else what, evidence(*reports), now=NOW, inventory=inventory)


def node_of(*reports: dict[str, object], what: Known | None = None) -> NodeRecord:
    (node,) = audit_of(*reports, what=what).nodes
    return node


def test_a_node_of_which_nothing_is_known_is_a_row_of_what_is_wanted() -> None:
    node = node_of()
    assert [item.name for item in node.items] == KEYS
    assert node.verified.verdict == "never"
    assert node.get("driver").state == "wanted"
    assert node.get("drift").state == "unknown"
    assert node.get("drift").value == "unknown"
    assert node.get("last_recovery").value == "none recorded"
    assert not node.states["proved"] - 1, "only the release's consistency is known without a host"


def test_a_node_that_nobody_knows_at_all_is_a_row_of_unknowns() -> None:
    node = node_of(what=Known(settings={"n1": None}, problems={"n1": "release: is missing"}))
    assert set(node.states) <= {"unknown", "none"}
    assert node.exceptions == ("inventory: release: is missing",)


def test_what_a_verification_saw_is_proved() -> None:
    node = node_of(report(verified_host(depth="deep"), verifies=True))
    for name in ("release", "gpus", "driver", "cuda", "model", "revision", "manifest", "answers"):
        assert node.get(name).state == "proved", name
    assert node.get("driver").seen == load_release(RELEASE).driver.version
    assert node.get("driver").source == "r0.json (2026-11-25 06:00 UTC)"
    assert node.get("docker").seen == "26.1.5+dfsg1"
    assert node.get("kernel_modules").seen == "open"
    assert node.get("fabric_manager").state == "none"
    assert node.get("revision").seen == REVISION[:12]
    # Reports do not say which image runs, nor which toolkit is installed: they are not called proved.
    assert node.get("image").state == "wanted"
    assert "no digest is recorded" in node.get("image").note
    assert node.get("container_toolkit").state == "wanted"
    assert node.verified.verdict == "ok"
    assert node.verified.depth == "deep"
    assert node.verified.days == pytest.approx(0.25)


def test_a_quick_verification_says_so() -> None:
    assert node_of(report(verified_host(), verifies=True)).verified.depth == "quick"


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"hardware": {"schema": 1, "module_version": "570.1"}}, "driver"),
        ({"hardware": {"schema": 1, "gpus": [{"index": 0, "name": "NVIDIA L4", "device_id": "27b8"}]}}, "gpus"),
        ({"proofs": {"weights": f"other/model@{REVISION[:12]}, proved"}}, "model"),
        ({"proofs": {"weights": "some/model@0123456789ab, proved"}}, "revision"),
        ({"findings": [finding("published", "fail")]}, "manifest"),
        ({"findings": [finding("cuda-driver", "fail")]}, "cuda"),
        ({"findings": [finding("answers", "fail", "no answer")], "proofs": {}}, "answers"),
    ],
)
def test_what_was_seen_otherwise_differs(change: dict[str, object], name: str) -> None:
    node = node_of(report(replace(verified_host(), **change), verifies=True))  # type: ignore[arg-type]
    item = node.get(name)
    assert item.state in ("differs", "wanted"), item
    assert item.state != "proved"
    if name in ("gpus", "driver", "model", "revision"):
        assert item.state == "differs"


def test_the_newest_verification_counts_also_when_it_is_bad() -> None:
    bad = verified_host(findings=[finding("nvlink", "fail", "link 3 is down")])
    node = node_of(report(verified_host(), hour=4, verifies=True), report(bad, hour=8, verifies=True))
    assert node.verified.verdict == "fail"
    assert node.verified.failed == ("nvlink: n1: link 3 is down",) or "link 3 is down" in node.verified.failed[0]
    assert node.get("release").state == "wanted"
    assert "last verification is fail" in node.get("release").note


def test_a_host_that_could_not_be_reached_is_not_verified() -> None:
    gone = HostReport("n1", connected=False)
    node = node_of(report(verified_host(), hour=4, verifies=True), report(gone, hour=8, verifies=True))
    assert node.verified.verdict == "fail"
    assert node.get("driver").state == "wanted"


def test_drift_is_what_a_dry_main_job_would_change() -> None:
    dry = replace(verified_host(), findings=[], hardware={}, planned=[("base", "configure", "file /etc/x: other")])
    node = node_of(report(dry))
    assert (node.get("drift").state, node.get("drift").seen) == ("differs", "1 difference")
    assert "file /etc/x: other" in node.get("drift").note
    same = replace(dry, planned=[])
    assert node_of(report(same)).get("drift").state == "proved"
    # A dry run of another deploy (the router's) says nothing of drift.
    other = HostReport("n1", release=RELEASE, proofs={"routes": "3 replicas"})
    assert node_of(report(other)).get("drift").state == "unknown"


def test_drift_of_the_drift_command_goes_first() -> None:
    what = known("n1", drift={"n1": ["base: file /etc/x"]}, drift_source="drift.json")
    node = node_of(report(verified_host(), executed=True), what=what)
    assert node.get("drift").seen == "1 difference"
    assert node.get("drift").source == "drift.json"


def test_changes_upgrades_and_recoveries_are_told_with_their_source() -> None:
    changed = replace(verified_host(), findings=[], changes=[("base", "install", "package x")] * 3)
    up = replace(
        verified_host(), findings=[], changes=[("upgrade", "install", "driver")],
        proofs={"upgrade": "2026.10-lts -> 2026.11-lts: done", "release": RELEASE},
    )  # fmt: skip
    node = node_of(report(changed, hour=5, executed=True), report(up, hour=3, executed=True))
    assert node.get("last_change").seen == "3 changes, the host then changed"
    assert node.get("last_upgrade").seen == "2026.10-lts -> 2026.11-lts: done"
    assert node.get("last_upgrade").source.startswith("r1.json")
    data = report(changed, executed=True)
    data["hosts"]["n1"]["recovery"] = {"words": "GPU 3 reset after Xid 79"}
    assert node_of(data).get("last_recovery").seen == "GPU 3 reset after Xid 79"


def test_a_failed_run_proves_nothing() -> None:
    node = node_of(report(failed_host(), executed=True))
    assert node.get("release").state == "wanted"
    assert node.get("drift").state == "unknown"


def test_what_a_launch_printed_is_the_plan_that_was_seen() -> None:
    learned = {"tensor_parallel": 2, "pipeline_parallel": 1, "vllm": "0.33.0"}
    node = node_of(report(replace(verified_host(), learned=learned), executed=True))
    assert node.get("plan").seen == "TP2 PP1, vLLM 0.33.0"


def test_exceptions_are_settings_warnings_and_findings_below_fail() -> None:
    host = verified_host(findings=[finding("answers"), finding("pcie", "warn", "width 8 of 16")])
    host.warnings.append("something to know")
    node = node_of(report(host, verifies=True))
    assert any("engine.api_key" in words for words in node.exceptions), "the API is open"
    assert any("vllm.digest" in words for words in node.exceptions)
    assert "something to know" in node.exceptions
    assert any(words.startswith("warn: pcie") for words in node.exceptions)


def test_a_host_without_a_model_serves_none() -> None:
    bare = settings("n1", model=None)
    node = node_of(what=known(settings={"n1": bare}))
    for name in ("model", "revision", "manifest", "plan", "answers"):
        assert node.get(name).state == "none", name


def test_a_host_that_only_a_report_knows_is_a_row_too() -> None:
    audit = audit_of(report(verified_host("stranger"), verifies=True))
    assert [(n.name, n.inventory) for n in audit.nodes] == [("n1", True), ("stranger", False)]
    alone = audit_of(report(verified_host("stranger"), verifies=True), what=Known(), inventory="")
    assert [(n.name, n.inventory) for n in alone.nodes] == [("stranger", None)]


def test_simulated_hosts_say_so() -> None:
    host = replace(verified_host(), simulated=True)
    assert node_of(report(host, verifies=True)).simulated
    assert audit_of(report(host, verifies=True)).as_dict()["simulated"] is True


def test_an_older_release_is_not_the_newest() -> None:
    node = node_of(what=known("n1", newest={RELEASE: "2027.01-lts"}))
    assert node.get("release_current").seen == "no: 2027.01-lts is there"
    assert node.get("release_consistent").state == "proved"


names = st.text("abcdefgh-0123456789", min_size=1, max_size=12)
outcomes = st.sampled_from(["verified", "failed", "gone", "changed", "dry", "absent"])


@given(st.dictionaries(names, outcomes, max_size=8), st.lists(names, max_size=4))
@limits(max_examples=40, deadline=None)
def test_every_host_of_the_inventory_is_one_row_whatever_is_known(hosts: dict[str, str], strangers: list[str]) -> None:
    made = {
        "verified": lambda n: verified_host(n),
        "failed": failed_host,
        "gone": lambda n: HostReport(n, connected=False),
        "changed": lambda n: HostReport(n, changes=[("base", "install", "x")]),
        "dry": lambda n: HostReport(n, planned=[("base", "install", "x")]),
    }
    there = [made[how](name) for name, how in hosts.items() if how != "absent"]
    what = Known(settings={name: settings() if how != "gone" else None for name, how in hosts.items()})
    audit = audit_of(report(*there, *[HostReport(n) for n in strangers if n not in hosts]), what=what)
    assert [n.name for n in audit.nodes] == sorted({*hosts, *strangers})
    for node in audit.nodes:
        assert [item.name for item in node.items] == KEYS
        assert {item.state for item in node.items} <= set(STATES)
        assert all(item.value for item in node.items)
        assert all(item.seen or item.state != "proved" for item in node.items)
    assert MODEL["name"] == "some/model"
