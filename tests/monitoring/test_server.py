"""What Prometheus and Alertmanager are told, and which endpoints are scraped: values in, text out."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from metalserve.errors import MetalserveError
from metalserve.monitoring import paths, server
from metalserve.monitoring.exporters import collector_config, counters_text, gpu_drop_in, node_drop_in
from metalserve.monitoring.model import rules_text
from metalserve.monitoring.rules import rule_groups
from metalserve.monitoring.targets import (
    Watched,
    listen_address,
    out_of_reach,
    read_targets,
    scrape_targets,
    targets_text,
)
from metalserve.releases import load_release
from metalserve.settings import HostSettings, SettingsError
from metalserve.settings.monitoring import MonitoringServerSettings, monitoring_secrets, monitoring_warnings
from tests.settings.samples import host_data

HOOK = "https://hooks.example.invalid/T0/secret-part-77"


def settings(**changes: Any) -> HostSettings:
    data = host_data(**{"monitoring": {}, **changes})
    return HostSettings.from_data(data, host="gpu-01", source="prod.py")


def host(name: str, address: str = "10.0.0.11", replicas: tuple[int, ...] | None = (0, 1), **changes: Any) -> Watched:
    return Watched(name, address, ("hgx",), settings(**{"engine": {"host": "0.0.0.0"}, **changes}), replicas, True)


def where(groups: list[dict[str, Any]]) -> list[str]:
    return [target for group in groups for target in group["targets"]]


def test_every_host_is_scraped_with_its_labels() -> None:
    found = scrape_targets([host("b", "10.0.0.12", monitoring={"rack": "r1"}), host("a")], own="watch", before={})
    assert where(found["node"]) == ["10.0.0.11:9100", "10.0.0.12:9100"]
    assert where(found["gpu"]) == ["10.0.0.11:9400", "10.0.0.12:9400"]
    assert where(found["engine"]) == ["10.0.0.11:8000", "10.0.0.11:8001", "10.0.0.12:8000", "10.0.0.12:8001"]
    assert found["router"] == []
    labels = {"host": "a", "group": "hgx", "release": "2026.11-lts", "model": "organisation/model"}
    assert found["node"][0]["labels"] == labels
    assert found["engine"][1]["labels"]["rack"] == "r1"


def test_a_host_without_monitoring_is_not_scraped() -> None:
    found = scrape_targets([host("a", monitoring=None)], own="watch", before={})
    assert all(groups == [] for groups in found.values())


def test_a_host_that_was_not_seen_keeps_its_engines() -> None:
    first = scrape_targets([host("a", replicas=(0, 3))], own="watch", before={})
    before = {job: read_targets(targets_text(groups)) for job, groups in first.items()}
    again = scrape_targets([host("a", replicas=None)], own="watch", before=before)
    assert where(again["engine"]) == ["10.0.0.11:8000", "10.0.0.11:8003"]
    assert where(scrape_targets([host("a", replicas=None)], own="watch", before={})["engine"]) == []
    given = host("a", replicas=None, engine={"host": "0.0.0.0", "replicas": 2, "tensor_parallel": 4})
    assert where(scrape_targets([given], own="watch", before={})["engine"]) == ["10.0.0.11:8000", "10.0.0.11:8001"]


def test_what_listens_on_loopback_is_left_out_and_said() -> None:
    hosts = [host("a", engine={"host": "127.0.0.1"}, router={}), host("watch", router={})]
    found = scrape_targets(hosts, own="watch", before={})
    assert where(found["engine"]) == ["127.0.0.1:8000", "127.0.0.1:8001"]
    assert where(found["router"]) == ["127.0.0.1:8405"]
    assert out_of_reach(hosts, own="watch") == [
        "a: engine.host is 127.0.0.1",
        "a: router.metrics_address is 127.0.0.1",
    ]


def test_a_host_without_gpus_has_no_gpu_target() -> None:
    bare = host("a", expect={"count": 0}, model=None)
    assert scrape_targets([bare], own="watch", before={})["gpu"] == []


@pytest.mark.parametrize(
    ("reached_at", "given", "expected"),
    [
        ("10.0.0.11", {}, "10.0.0.11"),
        ("fd00::1", {}, "fd00::1"),
        ("gpu-01.example", {"address": "10.1.0.1"}, "10.1.0.1"),
        ("8.8.8.8", {"address": "8.8.8.8"}, "8.8.8.8"),
    ],
)
def test_exporters_listen_on_the_private_address(reached_at: str, given: dict[str, Any], expected: str) -> None:
    assert listen_address("gpu-01", settings(monitoring=given), reached_at) == expected


@pytest.mark.parametrize(("reached_at", "words"), [("gpu-01.example", "is a name"), ("8.8.8.8", "is a public address")])
def test_a_name_or_a_public_address_is_refused(reached_at: str, words: str) -> None:
    with pytest.raises(MetalserveError, match=f"gpu-01: .*{words}") as error:
        listen_address("gpu-01", settings(), reached_at)
    assert "monitoring.address" in str(error.value)


def given(**changes: Any) -> MonitoringServerSettings:
    receivers = [
        {"name": "hook", "kind": "webhook", "url": {"env": "TEST_HOOK"}},
        {"name": "chat", "kind": "slack", "url": {"env": "TEST_HOOK"}, "channel": "#gpu", "severities": ["critical"]},
        {"name": "mail", "kind": "email", "to": "ops@example.invalid", "sender": "gpu@example.invalid",
         "smarthost": "mail.example.invalid:587", "username": "gpu", "password": {"env": "TEST_MAIL"}},
    ]  # fmt: skip
    return MonitoringServerSettings.model_validate({"receivers": receivers, **changes})


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_HOOK", HOOK)
    monkeypatch.setenv("TEST_MAIL", "mail-password-42")


def test_alerts_go_to_the_receivers_of_their_severity() -> None:
    value = yaml.safe_load(server.alertmanager_text(given()))
    routes = {route["receiver"]: route["matchers"] for route in value["route"]["routes"]}
    assert routes["chat"] == ['severity=~"critical"'] and routes["hook"] == ['severity=~"critical|warning"']
    assert all(route["continue"] for route in value["route"]["routes"])
    by_name = {receiver["name"]: receiver for receiver in value["receivers"]}
    assert by_name["hook"]["webhook_configs"][0]["url"] == HOOK
    assert by_name["chat"]["slack_configs"][0]["channel"] == "#gpu"
    assert by_name["mail"]["email_configs"][0]["auth_password"] == "mail-password-42"
    first = value["inhibit_rules"][0]
    assert first["source_matchers"] == ['alertname="NodeDown"'] and first["equal"] == ["host"]


def test_the_secret_is_in_no_other_file() -> None:
    texts = [
        server.prometheus_text(given(), "10.0.0.5", "watch"),
        server.prometheus_drop_in(given(), "10.0.0.5"),
        server.alertmanager_drop_in(given(), "10.0.0.5"),
        collector_config(settings(), load_release("2026.11-lts"), 8),
    ]
    assert all("secret-part" not in text and "mail-password" not in text for text in texts)
    assert "secret-part" not in repr(given())


def test_prometheus_takes_its_configuration(promtool: Path, tmp_path: Path) -> None:
    text = server.prometheus_text(given(scrape_interval_s=5), "fd00::5", "watch")
    (tmp_path / "targets").mkdir()
    for job in ("node", "gpu", "engine", "router"):
        (tmp_path / "targets" / f"{job}.json").write_text(
            targets_text(scrape_targets([host("a")], own="w", before={})[job])
        )
    (tmp_path / "rules.yml").write_text(rules_text(rule_groups(server.options_of(given(), 30))))
    (tmp_path / "prometheus.yml").write_text(text.replace(paths.DIRECTORY, str(tmp_path)))
    done = subprocess.run([promtool, "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    value = yaml.safe_load(text)
    assert [job["job_name"] for job in value["scrape_configs"]] == [
        "node", "gpu", "engine", "router", "prometheus", "alertmanager",
    ]  # fmt: skip
    assert value["scrape_configs"][4]["static_configs"][0]["targets"] == ["[fd00::5]:9090"]


def test_drop_ins_name_the_address_once() -> None:
    for text, flag in (
        (node_drop_in("10.0.0.5", 9100), "--web.listen-address=10.0.0.5:9100 "),
        (gpu_drop_in("10.0.0.5", 9400), " -a 10.0.0.5:9400 "),
        (server.prometheus_drop_in(given(), "10.0.0.5"), "--web.listen-address=10.0.0.5:9090"),
        (server.alertmanager_drop_in(given(), "10.0.0.5"), "--web.listen-address=10.0.0.5:9093 "),
    ):
        assert text.count("ExecStart=/") == 1 and text.count("ExecStart=\n") == 1
        assert flag in text
        assert "0.0.0.0:" not in text.replace("10.0.0.5:", "")


def test_counters_are_as_the_exporter_reads_them() -> None:
    rows = [line.split(",") for line in counters_text().splitlines() if not line.startswith("#")]
    assert len(rows) >= 20
    assert all(len(row) >= 3 and row[1].strip() in ("gauge", "counter") for row in rows)


def test_the_collector_is_told_what_the_release_wants() -> None:
    value = json.loads(collector_config(settings(), load_release("2026.11-lts"), 8))
    assert value["release"] == "2026.11-lts" and value["gpus"] == 8
    assert {each["name"] for each in value["components"]} == {"driver", "fabric manager", "container toolkit", "DCGM"}
    assert value["weights"][0]["marker"].endswith("/.metalserve-manifest")
    assert json.loads(collector_config(settings(model=None), load_release("2026.11-lts"), 0))["components"] == []


@pytest.mark.parametrize(
    ("monitoring", "words"),
    [
        ({"address": "gpu-01"}, "monitoring.address: must be an IP address"),
        ({"node_port": 9400}, "monitoring.gpu_port: is 9400, as monitoring.node_port is"),
        ({"node_port": 8001}, "monitoring.node_port: is 8001, which an engine of this host has"),
        ({"server": {"alertmanager_port": 9090}}, "monitoring.server: port and alertmanager_port are the same"),
        (
            {"server": {"receivers": [{"name": "a", "kind": "slack"}]}},
            "monitoring.server.receivers.0: a slack receiver needs url",
        ),
        (
            {"server": {"receivers": [{"name": "a", "kind": "email", "to": "b@c"}]}},
            "monitoring.server.receivers.0: an email receiver needs to, sender and smarthost",
        ),
    ],
)
def test_settings_that_cannot_be(monitoring: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as error:
        settings(monitoring=monitoring)
    assert words in str(error.value)


def test_what_is_allowed_and_should_be_known() -> None:
    assert any(
        "monitoring.address" in line for line in monitoring_warnings(settings(monitoring={"address": "8.8.8.8"}))
    )
    assert any("receivers" in line for line in monitoring_warnings(settings(monitoring={"server": {}})))
    assert monitoring_warnings(settings(monitoring={"address": "10.0.0.1"})) == []
    data = {"server": {"receivers": [{"name": "a", "kind": "webhook", "url": {"env": "HOOK"}}]}}
    assert list(monitoring_secrets(settings(monitoring=data))) == ["monitoring.server.receivers.a.url"]
