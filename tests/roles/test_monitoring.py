"""What monitoring wants of its host, by tables; a second run wants nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from metalserve.desired.model import Desired
from metalserve.desired.node import Node
from metalserve.monitoring import paths
from metalserve.monitoring.targets import Watched
from roles.monitoring import desired, proof
from tests.roles.helpers import after, changes, make_node

ADDRESS = "10.0.0.5"
SERVER: dict[str, Any] = {"receivers": [{"name": "hook", "kind": "webhook", "url": {"env": "TEST_HOOK"}}]}


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_HOOK", "https://hooks.example.invalid/secret-77")


def watcher(**server: Any) -> Node:
    return make_node(settings={"monitoring": {"server": {**SERVER, **server}}}, gpus=())


def hosts(node: Node, *, seen: bool = True) -> tuple[Watched, ...]:
    gpu = make_node(settings={"monitoring": {}, "engine": {"replicas": 1}})
    return (
        Watched("node", ADDRESS, (), node.settings, () if seen else None, False),
        Watched("gpu-01", "10.0.0.11", ("hgx",), gpu.settings, () if seen else None, True),
    )


def stages(node: Node) -> tuple[Desired, ...]:
    return (desired.install(node, ADDRESS), desired.configure(node, ADDRESS, hosts(node)), desired.activate(node))


def wanted(node: Node) -> list[str]:
    return [change for wish in stages(node) for change in changes(wish, node)]


def told(when: float, good: int = 1) -> dict[str, str]:
    found = {}
    for what in ("prometheus", "alertmanager"):
        name = f"{what}_config_last_reload"
        found[f"monitoring-{what}"] = f"{name}_successful {good}\n{name}_success_timestamp_seconds {when!r}\n"
    return found


def targets(**health: str) -> str:
    made = [
        {
            "labels": {"job": job, "host": host},
            "health": health.get(f"{job}_{host}".replace("-", "_"), "up"),
            "scrapeUrl": f"http://{host}/metrics",
            "lastError": "connection refused",
        }
        for job, host in (("node", "node"), ("node", "gpu-01"), ("gpu", "gpu-01"), ("engine", "gpu-01"))
    ]
    return json.dumps({"data": {"activeTargets": made}})


def settled(node: Node) -> Node:
    files = node.observed.files
    for wish in stages(node):
        node = after(node, wish)
    assert node.observed.files != files
    now = max(file.mtime for file in node.observed.files.values())
    before = "".join(
        f"@@targets:{job}\n{file.content}"
        for job in ("node", "gpu", "engine", "router")
        for file in desired.configure(node, ADDRESS, hosts(node)).files
        if file.path == paths.targets(job)
    )
    return after(node, sections={**told(now + 1), desired.BEFORE: before, proof.TARGETS: targets()})


def test_from_a_bare_host_to_one_that_needs_nothing_more() -> None:
    found = wanted(watcher())
    assert "package prometheus: absent -> installed" in found
    assert f"file {paths.ALERTMANAGER}: absent -> written" in found
    assert f"file {paths.targets('gpu')}: absent -> written" in found
    assert f"unit {paths.PROMETHEUS_UNIT}: absent -> enable, start" in found
    assert found[-2:] == ["load the configuration of prometheus", "load the configuration of alertmanager"]
    node = settled(watcher())
    assert wanted(node) == []
    assert {finding.status for finding in desired.check(node, hosts(node))} == {"ok"}
    assert proof.in_words(node) == "4 of 4 targets up: 1 engine, 1 gpu, 2 node"


def test_the_secret_is_alertmanagers_and_hidden() -> None:
    files = {file.path: file for file in desired.configure(watcher(), ADDRESS, hosts(watcher())).files}
    held = files.pop(paths.ALERTMANAGER)
    assert (held.mode, held.owner, held.group, held.secret) == ("0640", "root", "prometheus", True)
    assert "secret-77" in (held.content or "")
    assert all("secret-77" not in (file.content or "") for file in files.values())


def test_rules_that_were_written_and_not_read_are_loaded() -> None:
    node = settled(watcher())
    late = node.with_observation(
        replace(
            node.observed,
            files={
                **node.observed.files,
                paths.RULES: replace(node.observed.files[paths.RULES], mtime=9_000_000_000.0),
            },
        )
    )
    assert wanted(late) == ["load the configuration of prometheus"]
    refused = after(node, sections=told(9_000_000_000.0, good=0))
    assert wanted(refused) == ["load the configuration of prometheus", "load the configuration of alertmanager"]


def test_without_a_server_nothing_is_wanted_and_one_that_was_ends() -> None:
    node = make_node(settings={"monitoring": {}})
    assert wanted(node) == []
    assert desired.check(node, ()) == ()
    was = make_node(files={desired.PROMETHEUS_DROP_IN: "x"})
    assert wanted(was) == ["end the monitoring, which is not this host's any longer"]


@pytest.mark.parametrize(
    ("health", "seen", "status"),
    [
        ({"node_gpu_01": "down"}, True, "fail"),
        ({"gpu_gpu_01": "down"}, True, "fail"),
        ({"node_gpu_01": "unknown"}, True, "fail"),  # not looked at yet
        ({"engine_gpu_01": "down"}, True, "warn"),  # the alerts' and the role vllm's business
        ({"node_gpu_01": "down"}, False, "warn"),  # not part of this run
    ],
)
def test_a_target_that_is_down(health: dict[str, str], seen: bool, status: str) -> None:
    node = after(settled(watcher()), sections={proof.TARGETS: targets(**health)})
    findings = [f for f in desired.check(node, hosts(node, seen=seen)) if f.check == "targets-up"]
    assert [f.status for f in findings] == [status]
    assert "gpu-01" in findings[0].subject and "connection refused" in findings[0].observed


def test_what_prometheus_does_not_know_or_does_not_say_is_not_taken_for_good() -> None:
    node = settled(watcher())
    silent = after(node, sections={proof.TARGETS: ""})
    assert "unknown" in {f.status for f in desired.check(silent, hosts(node))}
    none = after(node, sections={proof.TARGETS: json.dumps({"data": {"activeTargets": []}})})
    assert [f.status for f in desired.check(none, hosts(node)) if f.check == "targets-up"] == ["fail", "fail"]
    dead = after(node, sections={"monitoring-prometheus": "", "monitoring-alertmanager": ""})
    assert [f.status for f in desired.check(dead, hosts(node)) if f.check == "configuration-loaded"] == ["fail", "fail"]


def test_a_grafana_is_provisioned_where_the_settings_say_so() -> None:
    assert not any("grafana" in change for change in wanted(watcher()))
    found = wanted(watcher(grafana={}))
    assert "file /etc/grafana/provisioning/datasources/metalserve.yaml: absent -> written" in found
    assert "package grafana: absent -> installed" not in found
    repository = {
        "url": "https://apt.grafana.example.invalid",
        "suite": "stable",
        "components": ["main"],
        "key": {"url": "https://apt.grafana.example.invalid/gpg.key", "fingerprint": "A" * 40},
    }
    installed = wanted(watcher(grafana={"repository": repository}))
    assert "package grafana: absent -> installed" in installed
    assert any("metalserve-grafana.sources" in change for change in installed)
    assert "unit grafana-server.service: absent -> enable, start" in installed
