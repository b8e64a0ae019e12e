"""What a BMC says of a host that says nothing itself, and of one that does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from metalserve.catalogue.causes import load_causes
from metalserve.paths import ROOT
from metalserve.recovery.reading import evidence_of, read_evidence
from metalserve.recovery.verdict import Verdict, judge
from metalserve.recovery.words import in_words

NOW = 1_790_000_000.0
DMESG = ("dmesg.txt", "[    1.000000] Linux version 6.8.0-85-generic\n")


def event(message: str, severity: str = "Critical", code: str = "", ago: float = 60.0) -> dict[str, Any]:
    return {"at": NOW - ago, "severity": severity, "message": message, "code": code, "log": "SEL", "id": "1"}


def files(power: str = "on", events: list[dict[str, Any]] | None = None, **more: Any) -> list[tuple[str, str]]:
    bodies = {
        "bmc-power.json": {"power": power, "identity": {"serial": "S1", "simulated": False}},
        "bmc-events.json": {"items": events or [], "missed": []},
        "bmc-sensors.json": {"items": more.get("sensors", []), "missed": []},
        "bmc-gpu.json": {"items": more.get("gpus", []), "missed": []},
    }
    return [(f"evidence/{name}", json.dumps({"schema": 1, **body})) for name, body in bodies.items()]


def told(*given_files: tuple[str, str], since: float = 0.0) -> Verdict:
    return judge(evidence_of([("bundle", list(given_files))], since=since))


def causes(verdict: Verdict) -> list[str]:
    return [cause.id for cause in verdict.causes if not cause.past]


MESSAGES = [
    ("The power input for power supply 1 is lost.", "PSU0003", "psu-lost", "1"),
    ("Power Supply PS2 Status | Power Supply AC lost | Asserted", "", "psu-lost", ""),
    ("Power supply PSU2 power lost.", "OpenBMC.0.1.PowerSupplyPowerLost", "psu-lost", ""),
    ("Power supply 'PSU 3' has failed.", "Power.1.0.PowerSupplyFailed", "psu-lost", ""),
    ("Fan 3A RPM is less than the lower critical threshold.", "FAN0001", "fan-failed", "3A"),
    ("Fan 'FAN_5' has failed.", "Environmental.1.0.FanFailed", "fan-failed", ""),
    ("Fan FAN5 | Lower Critical going low | Asserted", "", "fan-failed", ""),
    ("CPU 1 has a thermal trip (over-temperature) event.", "CPU0001", "thermal-trip", ""),
    ("Temperature 'Inlet' reading of 52 degrees (C) is above the 48 upper critical threshold.",
     "Environmental.1.0.TemperatureAboveUpperCriticalThreshold", "overheated", ""),
    ("Temperature Inlet_Temp | Upper Critical going high | Asserted", "", "overheated", ""),
    ("Multi-bit memory errors detected on a memory device at location(s) DIMM_A1.", "MEM0001", "host-memory",
     "DIMM_A1"),
    ("Memory | Uncorrectable ECC @ DIMMI1(CPU2) | Asserted", "", "host-memory", "DIMMI1(CPU2)"),
    ("Uncorrectable ECC / other uncorrectable memory error @P2-DIMMH2(CPU2) - Assertion", "", "host-memory",
     "P2-DIMMH2(CPU2)"),
    ("Uncorrectable ECC (UnCorrectable ECC |  DIMMD7) | Asserted", "", "host-memory", "DIMMD7"),
    ("Memory #0x88 | Correctable ECC (P1-DIMMA2) | Asserted", "", "host-memory-corrected", "P1-DIMMA2"),
    ("CPU 2 has an internal error (IERR).", "CPU0000", "cpu-fault", ""),
    ("Uncorrectable Machine Check Exception (Board 0, Processor 1, APIC ID 0x00000003)", "", "cpu-fault", ""),
    ("Voltage 'P12V' reading of 10.1 volts is below the 10.8 lower critical threshold.",
     "Power.1.0.VoltageBelowLowerCriticalThreshold", "board-power", ""),
    ("The resource property HGX_FPGA_0 has detected errors of type 'I2C'.",
     "ResourceEvent.1.0.ResourceErrorsDetected", "baseboard-fault", "HGX_FPGA_0"),
    ("Memory #0x88 | Correctable ECC logging limit reached | Asserted", "", "host-memory-corrected", ""),
    ("Critical Interrupt #0x05 | PCI SERR | Asserted", "", "pcie-fatal", ""),
    ("A bus fatal error was detected on a component at bus 59 device 0 function 0.", "PCI1318", "pcie-fatal", ""),
    ("Critical Interrupt #0x05 | PCI PERR | Asserted", "", "pcie-uncorrected", ""),
    ("Critical Interrupt #0x05 | Bus Correctable error | Asserted", "", "pcie-corrected", ""),
    ("CPU 1 machine check error detected.", "CPU0704", "cpu-fault", ""),
    ("Power Supply #0x51 | Predictive failure | Asserted", "", "psu-lost", ""),
    ("Power supply redundancy is lost.", "RDU0012", "psu-lost", ""),
    ("Fan 5 | Fault detected | Asserted", "", "fan-failed", ""),
    ("Temperature #0x30 | Upper Non-recoverable going high | Asserted", "", "overheated", ""),
    ("Critical Temperature Threshold Exceeded (Zone 1)", "", "overheated", ""),
    ("Voltage #0x60 | Lower Critical going low | Asserted", "", "board-power", ""),
    ("Drive Slot #0x70 | Drive Fault | Asserted", "", "drive-bad", ""),
    ("Drive 3 in disk drive bay 1: predictive failure.", "", "drive-warning", ""),
    ("Memory mirror redundancy is lost. Check memory device at location(s) DIMM_A1.", "MEM1205", "host-memory",
     "DIMM_A1"),
    ("Memory spare redundancy is lost. Check memory device at location(s) DIMM_A1.", "MEM1208", "host-memory-corrected",
     "DIMM_A1"),
    ("Memory #0x20 | Redundancy Lost | Asserted", "", "host-memory-corrected", ""),
    ("Uncorrected memory error at location DIMM_B2.", "", "host-memory", "DIMM_B2"),
    ("Memory: uncorrected memory error", "", "host-memory", ""),
    ("GPU 3: uncorrectable ECC error", "", "gpu-memory-error", "GPU 3"),
    ("The fan redundancy is lost.", "RDU0002", "fan-failed", ""),
    ("Fan redundancy lost.", "OpenBMC.0.1.FanRedundancyLost", "fan-failed", ""),
    ("Redundancy lost for Cooling Zone 2 has asserted", "FQXSPPW4030", "fan-failed", ""),
    ("Power Unit PS Redundancy | Redundancy Lost | Asserted", "", "psu-lost", ""),
    ("System redundancy is lost.", "", "psu-lost", ""),
    ("PSU Power OK failed to assert within 1000 ms; power supply on failed", "", "board-power", ""),
    ("NIC transceiver module temperature alarm, mlx5_3 module overheated", "", "nic-cable", ""),
]  # fmt: skip


@pytest.mark.parametrize(("message", "code", "cause", "subject"), MESSAGES, ids=[m[0][:50] for m in MESSAGES])
def test_entries_of_the_event_log(message: str, code: str, cause: str, subject: str) -> None:
    verdict = told(DMESG, *files(events=[event(message, code=code)]))
    (found,) = verdict.causes
    assert (found.id, found.subjects) == (cause, (subject,) if subject else ())
    assert found.origins == ("BMC's event log",)
    assert verdict.rung == load_causes().cause(cause).rung


def test_the_table_shows_every_sign_of_the_event_log() -> None:
    table = yaml.safe_load((ROOT / "metalserve" / "catalogue" / "known_lines" / "signs-kernel.yaml").read_text())["bmc"]
    lines = "\n".join(
        [*(f"{code} {message}" for message, code, *_ in MESSAGES), *(ln for each in table.values() for ln in each)]
    )
    alone = [s for s in load_causes().signs if s.log == "bmc" and s.head is None]  # others: test_event_lists.py
    unused = [s.pattern for s in alone if not s.compiled.search(lines)]
    assert unused == []


@pytest.mark.parametrize(
    "over",
    [
        event("The power input for power supply 1 has been restored.", "OK", "PSU0017", ago=30),
        event("The power input for power supply 1 has been restored.", "Warning", ago=30),
    ],
)
def test_what_is_over_again_is_no_suspect(over: dict[str, Any]) -> None:
    lost = [event(f"The power input for power supply {n} is lost.", code="PSU0003") for n in (1, 2)]
    verdict = told(DMESG, *files(events=[*lost, over]))
    assert [cause.subjects for cause in verdict.causes] == [("2",)]


@pytest.mark.parametrize(
    ("bad", "good"),
    [
        ("Fan FAN2 | Lower Critical going low | Asserted", "Fan FAN2 | Lower Critical going high | Asserted"),
        (
            "Temperature Inlet | Upper Critical going high | Asserted",
            "Temperature Inlet | Upper Critical going low | Asserted",
        ),
        ("Power Unit | Redundancy Lost | Asserted", "Power supply redundancy was regained."),
        ("Power supply redundancy is lost.", "PS Redundancy: Power supply redundancy | Fully Redundant | Asserted"),
        ("System fan failure (fan 2)", "System fan failure (fan 2): repaired"),
    ],
)
def test_good_news_ends_what_was_bad(bad: str, good: str) -> None:
    assert causes(told(DMESG, *files(events=[event(bad, ago=60)]))) != []
    assert causes(told(DMESG, *files(events=[event(bad, ago=60), event(good, ago=30)]))) == []


@pytest.mark.parametrize(
    "message",
    [
        "Voltage P12V | Lower Critical going high | Asserted",
        "Power supply redundancy has been regained.",
        "The internal SD module redundancy is lost.",
        "Redundancy of Virtual Disk 0 on RAID Controller 1 has been degraded: redundancy degraded.",
    ],
)
def test_good_news_and_the_redundancy_of_others_are_no_lost_supply(message: str) -> None:
    verdict = judge(evidence_of([("bundle", [DMESG, *files(events=[event(message)])])]), guess=False)
    assert verdict.causes == ()


def test_old_entries_are_history() -> None:
    old = event("Memory | Uncorrectable ECC @ DIMMA1(CPU1) | Asserted", ago=30 * 86400)
    assert causes(told(DMESG, *files(events=[old, event("Log cleared.", "OK")]))) == []
    stopped = ("clock.txt", f"{NOW}\nboot\n1\n")
    assert causes(told(DMESG, stopped, *files(events=[old]))) == [], "the host's clock tells how old it is"


def test_what_a_recovery_has_dealt_with_does_not_count_and_what_has_no_time_does() -> None:
    early, late = event("CPU 1 has an internal error (IERR).", ago=600), event("IERR", ago=10)
    assert causes(told(DMESG, *files(events=[early]), since=NOW - 300)) == []
    assert causes(told(DMESG, *files(events=[late]), since=NOW - 300)) == ["cpu-fault"]
    assert causes(told(DMESG, *files(events=[{**early, "at": None}]), since=NOW - 300)) == ["cpu-fault"]


@pytest.mark.parametrize(
    ("power", "cause", "rung"),
    [
        ("on", "host-silent", "power-cycle"),
        ("off", "switched-off", "power-cycle"),
        ("unknown", "all-silent", "quarantine"),
    ],
)
def test_a_silent_host_is_judged_by_its_bmc_alone(power: str, cause: str, rung: str) -> None:
    verdict = told(*files(power))
    assert (causes(verdict), verdict.rung) == ([cause], rung)
    assert "the kernel log" in verdict.lacking


def test_a_silent_host_that_switched_itself_off_for_heat_is_not_switched_on() -> None:
    verdict = told(*files("off", [event("CPU 1 has a thermal trip (over-temperature) event.", code="CPU0001")]))
    assert (verdict.causes[0].id, verdict.rung, verdict.needs_person) == ("thermal-trip", "quarantine", True)


def test_a_bmc_that_cannot_be_read_is_said() -> None:
    broken = [(name, json.dumps({"schema": 1, "error": "10.0.0.7: does not answer"})) for name, _ in files()]
    verdict = told(*broken)
    assert (causes(verdict), verdict.rung) == (["all-silent"], "quarantine")
    assert "bmc-events.json: 10.0.0.7: does not answer" in verdict.lacking
    beside = told(DMESG, *broken)
    assert (causes(beside), beside.rung) == ([], "nothing"), "a host that answers needs no BMC"


def test_a_bmc_that_says_off_of_a_host_that_answers_is_not_believed() -> None:
    verdict = told(DMESG, *files("off"))
    assert verdict.rung == "nothing"
    assert any("another machine" in each for each in verdict.lacking)


def test_xids_in_the_baseboards_log_count_where_the_host_says_nothing() -> None:
    words = (
        "The resource property GPU_SXM_3 Driver Event Message has detected errors of type '[12:00][7][0] XID 79 {}'."
    )
    entries = [event(words.format("GPU has fallen off the bus"), code="ResourceEvent.1.0.ResourceErrorsDetected")]
    silent = told(*files("on", entries))
    assert {cause.id: cause.subjects for cause in silent.causes} == {"gpu-off-bus": ("GPU_SXM_3",), "host-silent": ()}
    assert causes(told(DMESG, *files("on", entries))) == [], "its own kernel log knows better"


def test_sensors_and_gpus_that_the_bmc_calls_critical() -> None:
    sensors = [
        {"name": "Inlet", "kind": "Temperature", "value": 55.0, "unit": "Cel", "health": "Critical"},
        {"name": "FAN4", "kind": "Rotational", "value": 0.0, "unit": "RPM", "health": "Critical"},
        {"name": "PSU2 Input", "kind": "Power", "value": None, "unit": "W", "health": "Critical"},
        {"name": "P1V8", "kind": "Voltage", "value": 1.2, "unit": "V", "health": "Critical"},
        {"name": "Outlet", "kind": "Temperature", "value": 50.0, "unit": "Cel", "health": "OK"},
    ]
    gpus = [{"name": "GPU_SXM_2", "serial": "165", "health": "Critical"}, {"name": "GPU_SXM_1", "health": "Warning"}]
    verdict = told(DMESG, *files(sensors=sensors, gpus=gpus))
    assert {cause.id: cause.subjects for cause in verdict.causes} == {
        "overheated": ("Inlet",), "fan-failed": ("FAN4",), "psu-lost": ("PSU2 Input",), "board-power": ("P1V8",),
        "baseboard-fault": ("GPU_SXM_2",),
    }  # fmt: skip
    assert "serial 165" in "\n".join(in_words(verdict))


def test_raw_redfish_collections_are_read_too(tmp_path: Path) -> None:
    entry = {
        "Id": "7", "Created": "2026-09-21T14:13:20+00:00", "Severity": "Critical", "MessageId": "iDRAC.2.8.MEM0001",
        "Message": "Multi-bit memory errors detected on a memory device at location(s) DIMM_B4.",
    }  # fmt: skip
    (tmp_path / "bmc-events.json").write_text(json.dumps({"Members": [entry]}))
    (tmp_path / "bmc-power.json").write_text(json.dumps({"PowerState": "On"}))
    verdict = judge(read_evidence([str(tmp_path)]))
    assert {cause.id: cause.subjects for cause in verdict.causes} == {"host-memory": ("DIMM_B4",), "host-silent": ()}


KEYS = ["items", "Members", "at", "Created", "severity", "message", "power", "identity", "health", "missed", "error"]
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@given(st.text(max_size=200), st.text(max_size=200), JSON)
def test_nothing_that_a_bmc_says_makes_it_fail(power: str, sensors: str, events: Any) -> None:
    texts = [("bmc-power.json", power), ("bmc-sensors.json", sensors), ("bmc-events.json", json.dumps(events))]
    assert isinstance(in_words(told(*texts)), list)
    assert isinstance(in_words(told(DMESG, ("bmc-gpu.json", json.dumps(events)))), list)
