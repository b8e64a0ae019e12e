"""Sensors, logs, GPUs and firmware: from the fake BMC, and from resources as BMCs of other kinds have them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalserve.bmc import redfish_parse as parse
from metalserve.bmc.evidence import FILES, collect
from tests.bmc.conftest import PASSWORD, Fake


def test_sensors_of_every_chassis(fake: Fake) -> None:
    fake.machine.up = True
    found = fake.client().sensors()
    assert found.missed == ()
    by_name = {each.name: each for each in found.items}
    assert by_name["inlet_temp"].value == 24.0
    assert by_name["inlet_temp"].unit == "Cel"
    assert sum(each.place.startswith("HGX_GPU_SXM_") for each in found.items) == 8


def test_what_does_not_answer_is_named_and_the_rest_is_read(fake: Fake) -> None:
    found = fake.client().sensors()  # off: the baseboard answers 503
    assert [each.name for each in found.items] == ["inlet_temp", "cpu0_temp", "fan0", "psu0_power"]
    assert {each.name: each.value for each in found.items}["cpu0_temp"] is None, "off is unknown, not zero"
    assert len(found.missed) == 8
    assert "HMCCommuicationFailed" in found.missed[0] or "HTTP 503" in found.missed[0]


def test_a_service_without_expand_gives_the_same(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    from metalserve.lab.bmc import tree

    fake.machine.up = True
    expanded = fake.client().sensors()
    right = tree.resource

    def plain(board: Any, path: str) -> Any:
        body = right(board, path)
        if body is not None:
            body.pop("ProtocolFeaturesSupported", None)
        return body

    monkeypatch.setattr(tree, "resource", plain)
    before = len(fake.asked("GET"))
    assert fake.client().sensors() == expanded
    assert len(fake.asked("GET")) - before > 20


def test_a_chassis_with_old_resources_only() -> None:
    thermal = {
        "Temperatures": [
            {"Name": "CPU1 Temp", "ReadingCelsius": 51, "Status": {"Health": "OK"}},
            {"Name": "Absent DIMM", "ReadingCelsius": None, "Status": {"State": "Absent"}},
            {"Name": "No reading", "ReadingCelsius": None},
        ],
        "Fans": [{"Name": "FAN1", "Reading": "12000", "ReadingUnits": "RPM", "Status": {"Health": "Critical"}}],
    }
    found = parse.old_sensors(thermal, "1")
    assert [(each.name, each.value, each.unit, each.health) for each in found] == [
        ("CPU1 Temp", 51.0, "Cel", "OK"),
        ("No reading", None, "Cel", ""),
        ("FAN1", 12000.0, "RPM", "Critical"),
    ]
    supplies = parse.old_sensors({"PowerSupplies": [{"MemberId": "0", "PowerInputWatts": 811}]}, "1")
    assert (supplies[0].name, supplies[0].value) == ("0", 811.0)


def test_gpus_as_the_baseboard_sees_them(fake: Fake) -> None:
    fake.machine.up = True
    fake.machine.struck = [
        {"kind": "thermal-throttle", "gpu": 2, "at": time.time()},
        {"kind": "gpu-off-bus", "gpu": 5, "at": time.time()},
        {"kind": "nvlink-degraded", "gpu": 0, "at": time.time()},
    ]
    found = fake.client().gpu_telemetry()
    assert len(found.items) == 8
    assert found.missed == ()
    assert all(gpu.simulated and gpu.serial for gpu in found.items)
    by_name = {gpu.name: gpu for gpu in found.items}
    idle = by_name["GPU_SXM_1"].temperature_c
    assert idle is not None
    hot = by_name["GPU_SXM_3"].temperature_c
    assert hot is not None and hot > idle + 30
    lost = by_name["GPU_SXM_6"]
    assert (lost.health, lost.temperature_c, lost.ecc_uncorrected) == ("Critical", None, None)
    downed = {name: sum(gpu.metrics.values()) for name, gpu in by_name.items()}
    assert downed["GPU_SXM_1"] == 2
    assert downed["GPU_SXM_2"] == 0
    assert len(by_name["GPU_SXM_1"].metrics) == 18


def test_xids_are_in_the_events_once_though_two_logs_have_them(fake: Fake) -> None:
    fake.machine.up = True
    at = time.time() - 60
    fake.machine.struck = [{"kind": "gpu-off-bus", "gpu": 5, "at": at}]
    fake.board.note("an entry of the event log", "Warning")
    events = fake.client().events()
    assert [each.message for each in events.items if "XID 79" in each.message] == [
        "The resource property GPU_SXM_6 Driver Event Message has detected errors of type "
        "'GPU has fallen off the bus (XID 79)'."
    ]
    assert events.items[0].at == pytest.approx(at, abs=1)
    assert [each.message for each in fake.client().events(since=at + 30).items] == ["an entry of the event log"]


def test_firmware(fake: Fake) -> None:
    assert {each.name: each.version for each in fake.client().firmware()}["BMC"] == "1.0-lab"


def test_evidence_is_four_files_also_of_a_bmc_that_refuses(fake: Fake) -> None:
    fake.machine.up = True
    files = collect(fake.client())
    assert set(files) == set(FILES)
    power = json.loads(files["bmc-power.json"])
    assert (power["power"], power["identity"]["simulated"], power["schema"]) == ("on", True, 1)
    assert len(json.loads(files["bmc-gpu.json"])["items"]) == 8
    assert all(PASSWORD not in text for text in files.values())
    fake.fault("wrong-credentials")
    refused = collect(fake.client())
    assert all("refuses the login" in json.loads(text)["error"] for text in refused.values())
    assert len(fake.asked("POST", "Sessions")) <= 5


def test_times() -> None:
    assert parse.moment("2026-11-26T00:00:00Z") == 1795651200.0
    assert parse.moment("2026-11-26T01:00:00+01:00") == 1795651200.0
    assert parse.moment("1970-01-01T00:00:12Z") is None, "a clock that was never set"
    assert parse.moment("yesterday") is None
    assert parse.moment(12) is None


def test_an_event_without_a_message_shows_its_arguments() -> None:
    event = parse.event({"MessageArgs": ["GPU_SXM_1", "XID 79"], "Severity": None, "Id": 5}, "log")
    assert (event.message, event.severity, event.id, event.at) == ("GPU_SXM_1 XID 79", "", "5", None)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_KEYS = st.sampled_from(
    ["Status", "Health", "State", "Reading", "Name", "Id", "Temperatures", "Fans", "MessageArgs", "Links",
     "OriginOfCondition", "EventTimestamp", "Created", "CacheMetricsTotal", "LifeTime", "TemperatureCelsius",
     "MetricValues", "MetricProperty", "MetricValue", "UUID", "SerialNumber", "CorrectableECCErrorCount"]
)  # fmt: skip


@given(st.dictionaries(_KEYS, _JSON | st.dictionaries(_KEYS, _JSON, max_size=4), max_size=8))
def test_whatever_a_bmc_sends_is_read(body: dict[str, Any]) -> None:
    parse.sensor(body, "x")
    parse.old_sensors(body, "x")
    parse.event(body, "x")
    gpu = parse.gpu(body, body, body, simulated=False)
    assert gpu.temperature_c is None or gpu.temperature_c == gpu.temperature_c
    assert all(isinstance(value, float) for value in parse.report(body).values())


def test_no_sample_is_left_out_of_the_tree(fake: Fake) -> None:
    """Every reference of the fake's tree leads somewhere: what the client finds by walking is what there is."""
    from metalserve.lab.bmc import tree

    fake.machine.up = True
    seen: set[str] = set()
    todo = [tree.ROOT]
    while todo:
        path = todo.pop()
        if path in seen or path.endswith(("/Sessions", "/Bios")):
            continue
        seen.add(path)
        body = tree.resource(fake.board, path)
        assert body is not None, path
        assert body["@odata.id"] == path
        todo += _links(body)
    assert len(seen) > 60
    assert Path(fake.directory).is_dir()


def _links(value: Any) -> list[str]:
    if isinstance(value, dict):
        if set(value) == {"@odata.id"}:
            return [value["@odata.id"]]
        return [path for part in value.values() for path in _links(part)]
    return [path for part in value for path in _links(part)] if isinstance(value, list) else []
