from __future__ import annotations

import json
from dataclasses import replace

import pytest

from metalserve.catalogue.loader import load_kernel_parameters, load_thresholds, threshold
from metalserve.catalogue.models import CatalogueError
from metalserve.verify.finding import EVIDENCE_LIMIT, Finding, worst
from metalserve.verify.groups import GROUPS, group_of

FINDING = Finding("memory", "fail", "GPU 1", "81559 MiB", "40000 MiB", "models do not fit", "ask the vendor", "row")


def test_inconclusive_is_no_fault_and_not_proven_either() -> None:
    finding = replace(FINDING, status="inconclusive")
    assert (finding.failing, finding.warning) == (False, True)
    assert worst([finding, replace(FINDING, status="warn")]) == "inconclusive"
    assert worst([finding, replace(FINDING, status="unknown")]) == "unknown"


@pytest.mark.parametrize(
    ("status", "failing", "warning"),
    [
        ("ok", False, False),
        ("skipped", False, False),
        ("warn", False, True),
        ("inconclusive", False, True),
        ("unknown", True, False),
        ("fail", True, False),
    ],
)
def test_how_each_status_counts(status: str, failing: bool, warning: bool) -> None:
    finding = replace(FINDING, status=status)  # type: ignore[arg-type]
    assert (finding.failing, finding.warning) == (failing, warning)


def test_json_has_evidence_and_the_threshold_with_its_source() -> None:
    floor = threshold("memory-total-floor")
    told = json.loads(json.dumps(replace(FINDING, evidence="x" * 5000, threshold=floor).as_dict()))
    assert len(told["evidence"]) == EVIDENCE_LIMIT
    assert told["threshold"]["value"] == 0.92
    assert told["threshold"]["basis"] == "measured"
    assert told["threshold"]["date"] == "2026-11-23"
    assert (told["group"], told["status"]) == ("memory", "fail")
    assert FINDING.as_dict()["threshold"] is None


def test_every_threshold_says_whether_it_was_measured() -> None:
    rows = load_thresholds().thresholds
    assert len(rows) > 5
    assert {row.basis for row in rows} <= {"documented", "measured", "guessed"}
    assert all(row.source for row in rows)
    assert str(threshold("temperature-margin")) == "3 degC (guessed, 2026-11-25)"
    with pytest.raises(CatalogueError, match="did you mean 'drive-wear'"):
        threshold("drive-waer")


def test_kernel_parameters_are_whole_words_or_begin_one() -> None:
    rules = {rule.match: rule for rule in load_kernel_parameters().parameters}
    assert rules["mem="].hits("mem=4G")
    assert not rules["mem="].hits("memhp_default_state=online")
    assert not rules["nosmt"].hits("nosmt=force")


def test_no_check_stands_in_two_groups() -> None:
    checks = [check for group in GROUPS.values() for check in group]
    assert len(checks) == len(set(checks))
    assert group_of("pcie-path") == "pcie"
    assert group_of("model") == ""
