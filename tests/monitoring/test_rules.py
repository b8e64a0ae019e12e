"""The rules, judged by Prometheus' own tool: each alert fires on what it is for, and on nothing else."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from metalserve.catalogue.dcgm_metrics import load_dcgm_metrics
from metalserve.catalogue.loader import load_xids
from metalserve.cli import COMMANDS
from metalserve.monitoring.dashboards import dashboard_text, load_dashboards, queries
from metalserve.monitoring.gpu_rules import codes
from metalserve.monitoring.model import Options, rules_text
from metalserve.monitoring.rules import alerts, recorded, rule_groups
from metalserve.paths import ROOT
from tests.monitoring.cases import CASES, ENGINE, GPU, Case, growing, steady, up

OPTIONS = Options()


Told = tuple[Mapping[str, str], int, set[str]]
"""What a host tells, and the alerts that fire then: series -> values, minutes after the start, names."""


def judge(promtool: Path, place: Path, tests: list[dict[str, Any]], every: str = "1m") -> None:
    """Have promtool run tests over the rules; its words are the failure's."""
    (place / "rules.yml").write_text(rules_text(rule_groups(OPTIONS)))
    value = {"rule_files": ["rules.yml"], "evaluation_interval": every, "tests": tests}
    (place / "tests.yml").write_text(yaml.safe_dump(value, sort_keys=False))
    done = subprocess.run([promtool, "test", "rules", "tests.yml"], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def fleet(hosts: Mapping[str, Told], minutes: int = 1) -> dict[str, Any]:
    """One test of promtool with all hosts in it: a database of its own for each would take ten times as long."""
    series, expected = [], []
    for host, (told, at, names) in hosts.items():
        own = {name.replace('host="a"', f'host="{host}"'): values for name, values in {**up(minutes), **told}.items()}
        series += [{"series": name, "values": values} for name, values in own.items()]
        samples = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(names)]
        asked = f'count by (alertname) (ALERTS{{alertstate="firing",host="{host}"}})'
        expected.append({"expr": asked, "eval_time": f"{at}m", "exp_samples": samples})
    return {"interval": f"{minutes}m", "input_series": series, "promql_expr_test": expected}


def test_every_alert_fires_on_its_fault_alone_and_not_beside_it(promtool: Path, tmp_path: Path) -> None:
    # What must hold for a day is evaluated every hour: a minute's steps would take promtool a minute.
    for minutes, every in ((1, "1m"), (60, "60m")):
        hosts: dict[str, Told] = {}
        for name, case in CASES.items():
            if (case.at > 600) == (minutes > 1):
                good_at = case.good_at if case.good_at is not None else case.at
                hosts[f"{name}-fires"] = (case.bad, case.at, {name, *case.also})
                hosts[f"{name}-does-not"] = (case.good, good_at, set())
        assert hosts
        judge(promtool, tmp_path, [fleet(hosts, minutes)], every)


def test_every_alert_has_its_case() -> None:
    names = [alert.name for alert in alerts(OPTIONS)]
    assert len(set(names)) == len(names)
    assert set(CASES) == set(names)


def test_what_is_no_news_is_not_told(promtool: Path, tmp_path: Path) -> None:
    reasons, waiting = f"DCGM_FI_DEV_CLOCKS_EVENT_REASONS{{{GPU}}}", f"vllm:num_requests_waiting{{{ENGINE}}}"
    hosts: dict[str, Told] = {
        "blank-of-dcgm": ({f"DCGM_FI_DEV_GPU_TEMP_LIMIT{{{GPU}}}": steady(9223372036854775794)}, 30, set()),
        "was-hot": ({reasons: "72+0x1 4+0x300"}, 30, set()),
        "short-queue": ({waiting: growing(1, 0, 15) + " 15+0x300"}, 20, set()),
        "xid-of-before": (
            {'metalserve_xid_last_timestamp_seconds{host="a",job="node",xid="79"}': steady(-4000)},
            5,
            set(),
        ),
    }
    judge(promtool, tmp_path, [fleet(hosts)])


def test_an_alert_ends_when_its_fault_does(promtool: Path, tmp_path: Path) -> None:
    series = {f"DCGM_FI_DEV_ROW_REMAP_PENDING{{{GPU}}}": "0+0x10 1+0x20 0+0x300"}
    times = {8: set(), 25: {"GpuRowRemapPending"}, 40: set[str]()}
    judge(promtool, tmp_path, [fleet({f"at-{at}": (series, at, names) for at, names in times.items()})])


def test_every_spelling_of_a_field_becomes_the_same_series(promtool: Path, tmp_path: Path) -> None:
    """A host with DCGM 4.6 names, and one with names of before, are told alike; so are engines old and new."""
    rows = {rule.name: rule.expr for rule in recorded(OPTIONS) if rule.expr.startswith("(DCGM")}
    assert len(rows) >= 10
    series: dict[str, tuple[str, float]] = {}
    for name, expr in rows.items():
        spellings = re.findall(r"DCGM_[A-Z0-9_]+", expr)
        for spelling in spellings:
            assert set(spellings) == set(load_dcgm_metrics().field(spelling).spellings)
            series[spelling] = (name, 33)
    for spelling in ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"):
        series[spelling] = ("engine:kv_cache_usage:ratio", 0.5)
    assert len(series) >= 19
    expected = [
        {"expr": f'{name}{{host="{spelling}"}}', "eval_time": "5m", "exp_samples": [
            {"labels": f'{name}{{host="{spelling}"}}', "value": value}
        ]}
        for spelling, (name, value) in series.items()
    ]  # fmt: skip
    told = [{"series": f'{each}{{host="{each}"}}', "values": steady(v, 9)} for each, (_, v) in series.items()]
    judge(promtool, tmp_path, [{"interval": "1m", "input_series": told, "promql_expr_test": expected}])


def test_rates_of_both_spellings(promtool: Path, tmp_path: Path) -> None:
    hosts: dict[str, Told] = {}
    for spelling in ("NVLINK_RECOVERY_ERROR_COUNT_TOTAL", "NVLINK_RECOVERY_ERROR_TOTAL"):
        hosts[spelling] = ({f"DCGM_FI_DEV_{spelling}{{{GPU}}}": growing(60)}, 20, {"GpuNvlinkErrors"})
    test = fleet(hosts)
    for spelling in ("inter_token_latency_seconds", "time_per_output_token_seconds"):
        for bound in ("0.1", "+Inf"):
            bucket = f'vllm:{spelling}_bucket{{host="{spelling}",instance="i",model_name="m",le="{bound}"}}'
            test["input_series"].append({"series": bucket, "values": growing(100, 0, 60)})
        test["promql_expr_test"].append(
            {
                "expr": f'round(engine:token_latency_seconds:p95{{host="{spelling}"}}, 0.001)',
                "eval_time": "20m",
                "exp_samples": [{"labels": f'{{host="{spelling}",instance="i",model_name="m"}}', "value": 0.095}],
            }
        )
    judge(promtool, tmp_path, [test])


def test_dashboards_are_promql_and_grafanas_json(promtool: Path, tmp_path: Path) -> None:
    names = []
    for dashboard in load_dashboards():
        names.append(dashboard.uid)
        assert f'"uid": "{dashboard.uid}"' in dashboard_text(dashboard)
        asked = [query.replace("$host", ".*") for query in queries(dashboard)]
        rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(asked)]
        (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
        done = subprocess.run([promtool, "check", "rules", "panels.yml"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{dashboard.uid}: {done.stdout}{done.stderr}"
        assert all('host=~"$host"' in query or "ALERTS" in query for query in queries(dashboard)), dashboard.uid
    assert names == ["metalserve-fleet", "metalserve-node", "metalserve-engine", "metalserve-thermals"]


def test_a_table_is_one_table_with_the_columns_that_its_reader_wants() -> None:
    (node,) = (board for board in load_dashboards() if board.uid == "metalserve-node")
    panels = {panel["title"]: panel for panel in json.loads(dashboard_text(node))["panels"]}
    xids = panels["Xids since boot"]
    assert [each["id"] for each in xids["transformations"]] == ["merge", "organize"]
    options = xids["transformations"][1]["options"]
    assert options["renameByName"] == {"Value #A": "times", "Value #B": "seconds ago", "Value #C": "last of the GPU"}
    assert {"Time", "__name__", "job"} <= set(options["excludeByName"]) and "host" not in options["excludeByName"]
    (failed,) = panels["units that do not run"]["transformations"]
    assert failed["options"]["excludeByName"]["Value"] is True  # it is 1, always
    assert "transformations" not in panels["SM clock"]


def test_panels_lie_side_by_side_without_gaps_or_overlap() -> None:
    for board in load_dashboards():
        cells: set[tuple[int, int]] = set()
        for panel in json.loads(dashboard_text(board))["panels"]:
            place = panel["gridPos"]
            own = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
            assert place["x"] + place["w"] <= 24 and not cells & own, panel["title"]
            assert place["y"] == 0 or any((place["x"], place["y"] - 1) == cell for cell in cells), panel["title"]
            cells |= own


def test_every_alert_says_what_to_do() -> None:
    for alert in alerts(OPTIONS):
        commands = re.findall(r"`([^`]+)`", alert.do)
        assert commands, alert.name
        for command in commands:
            words = command.split()
            if words[0] == "metalserve":
                assert words[1] in COMMANDS, command
            if words[0] == "pyinfra":
                target = words[2]
                there = target if target.startswith("deploys/") else f"{target.rpartition('.')[0].replace('.', '/')}"
                assert (ROOT / there).exists(), command
        assert "$labels.host" in alert.summary or "$labels.instance" in alert.summary, alert.name
        assert len(alert.what) > 30 and alert.what.endswith("."), alert.name


def test_xids_are_of_the_catalogue_and_each_of_one_class() -> None:
    classes = {name: set(codes(*name.split("+")).split("|")) for name in ("fatal", "warning+decode+follow", "app")}
    assert "79" in classes["fatal"] and "31" in classes["app"] and "154" in classes["warning+decode+follow"]
    told_of = [code for each in classes.values() for code in each]
    assert len(set(told_of)) == len(told_of)
    ignored = {xid.severity for xid in load_xids().xids if str(xid.code) not in told_of}
    assert ignored <= {"info", "unused"}


def test_patience_shortens_what_is_waited_for_and_no_rate_sees_less_than_four_scrapes() -> None:
    quick = Options(patience=0.01, scrape_interval_s=2)
    assert quick.hold(10) == "6s" and quick.span(5) == "8s"
    assert Options().hold(10) == "600s" and Options().span(5) == "300s"
    assert Options(patience=0.01, collect_interval_s=5).stale_s == 15


def test_cases_are_as_different_as_they_claim() -> None:
    assert all(case.bad != case.good or case.good_at not in (None, case.at) for case in CASES.values())
    assert isinstance(next(iter(CASES.values())), Case)
