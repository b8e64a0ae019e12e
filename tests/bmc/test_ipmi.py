"""IPMI by a stand-in for ipmitool, which remembers what it was called with."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalserve.bmc import ipmi_parse as parse
from metalserve.bmc import opening
from metalserve.bmc.errors import BmcError
from metalserve.bmc.ipmi import IpmiBmc
from metalserve.secrets import Secret
from metalserve.settings.bmc import BmcSettings

PASSWORD = "hunter-seventeen"

# in the form that ipmitool 1.8 prints (its sources and captures of virtualbmc and OpenBMC); values are made up
FRU = """\
 Chassis Type          : Rack Mount Chassis
 Chassis Serial        : C1160LI27N50001
 Board Mfg             : Supermicro
 Product Manufacturer  : Supermicro
 Product Name          : SYS-420GP-TNR
 Product Serial        : S411795X0A17867
"""
SENSORS = """\
CPU1 Temp        | 48.000     | degrees C  | ok    | 5.000  | 5.000  | 10.000 | 90.000 | 95.000 | 95.000
FAN1             | 8120.000   | RPM        | ok    | 420.000 | 560.000 | 700.000 | 25340.000 | 25480.000 | 25620.000
FAN2             | 140.000    | RPM        | nr    | 420.000 | 560.000 | 700.000 | 25340.000 | 25480.000 | 25620.000
GPU3 Temp        | na         |            | na    | na        | na        | na        | na        | na        | na
PS1 Status       | 0x1        | discrete   | 0x0100| na        | na        | na        | na        | na        | na
"""
SEL = """\
1,11/24/2026,08:15:30,Power Supply PS2 Status,Power Supply AC lost,Asserted
2,11/24/2026,08:16:01,Power Supply PS2 Status,Power Supply AC lost,Deasserted
3,Pre-Init ,0000000021,Event Logging Disabled SEL,Log area reset/cleared,Asserted
4,11/25/2026,01:02:03,Memory #0xff,Uncorrectable ECC (DIMM A1),Asserted
"""
BOOT = """\
Boot parameter version: 1
Boot parameter 5 is valid/unlocked
Boot parameter data: {data}
 Boot Flags :
   - {valid}
   - Options apply to {scope}
   - {bios}
   - Boot Device Selector : {device}
"""

INFO = "Firmware Revision         : 1.74\n"

STAND_IN = f"""#!{sys.executable}
import json, os, sys
place = os.path.dirname(os.path.abspath(__file__))
with open(place + "/state.json") as stream:
    state = json.load(stream)
words = sys.argv[1:]
state["calls"].append(words)
state["password"] = os.environ.get("IPMITOOL_PASSWORD")
rest = " ".join(words[words.index("-R") + 2:])
status = 0
if state.get("fails"):
    print(state["fails"], file=sys.stderr)
    status = 1
elif rest == "chassis power status":
    print("Chassis Power is " + state["power"])
elif rest.startswith("chassis power "):
    if not state.get("deaf"):
        if not (rest.endswith("soft") and state.get("stuck")):
            state["power"] = "on" if rest.endswith("on") else "off"
    print("Chassis Power Control: done")
elif rest.startswith("chassis bootdev "):
    if not state.get("deaf"):
        state["device"] = rest.split()[2]
elif rest == "chassis bootparam get 5":
    names = {{"pxe": "Force PXE", "cdrom": "Force Boot from CD/DVD", "disk": "Force Boot from default Hard-Drive",
             "none": "No override"}}
    print(state["boot"].format(data="8004000000", valid="Boot Flag Valid", scope="only next boot",
                               bios="BIOS EFI boot", device=names[state["device"]]))
else:
    print(state["answers"][rest], end="")
with open(place + "/state.json", "w") as stream:
    json.dump(state, stream)
sys.exit(status)
"""


class StandIn:
    def __init__(self, directory: Path) -> None:
        self.program = directory / "ipmitool"
        self.program.write_text(STAND_IN)
        self.program.chmod(0o755)
        self.file = directory / "state.json"
        answers = {"fru print 0": FRU, "sensor list": SENSORS, "-c sel elist": SEL, "mc info": INFO}
        self.set(calls=[], power="off", device="none", boot=BOOT, answers=answers)

    def set(self, **parts: Any) -> None:
        before = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.file.write_text(json.dumps({**before, **parts}))

    @property
    def state(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.file.read_text())
        return value

    def client(self, **changes: Any) -> IpmiBmc:
        values = {"address": "192.0.2.7:6230", "kind": "ipmi", "user": "admin", "password": {"env": "X"},
                  "serial": "S411795X0A17867", **changes}  # fmt: skip
        settings = BmcSettings.model_validate({k: v for k, v in values.items() if v is not None})
        client = IpmiBmc(settings, Secret(PASSWORD), "gpu-09", program=str(self.program))
        client.sleep = lambda seconds: None
        return client


@pytest.fixture
def tool(tmp_path: Path) -> StandIn:
    return StandIn(tmp_path)


def test_the_password_goes_by_the_environment_and_never_by_argv(tool: StandIn) -> None:
    assert tool.client().power() == "off"
    call = tool.state["calls"][0]
    assert tool.state["password"] == PASSWORD
    assert PASSWORD not in " ".join(call)
    assert call[:9] == ["-I", "lanplus", "-H", "192.0.2.7", "-p", "6230", "-U", "admin", "-E"]
    assert "IPMITOOL_PASSWORD" not in os.environ


def test_power_by_what_it_shows(tool: StandIn) -> None:
    client = tool.client()
    assert client.set_power("on", 20).power == "on"
    assert client.set_power("on", 20).words == "was on"
    assert client.set_power("cycle", 20).power == "on"
    assert client.set_power("off", 20).power == "off"
    asked = [call[call.index("power") + 1] for call in tool.state["calls"] if "power" in call]
    assert [each for each in asked if each != "status"] == ["on", "off", "on", "soft"]


def test_accepted_and_not_done_is_an_error(tool: StandIn) -> None:
    tool.set(deaf=True)
    with pytest.raises(BmcError, match="power on accepted, but it is not on"):
        tool.client().set_power("on", 0.5)
    with pytest.raises(BmcError, match="accepted pxe for the next boot, but shows None"):
        tool.client().boot_once("pxe")


def test_off_uses_force_when_soft_does_nothing(tool: StandIn) -> None:
    tool.set(power="on", stuck=True)
    seen = tool.client().set_power("off", 1.0)
    assert seen.power == "off"
    assert "power soft accepted, but it is not off" in seen.words


def test_boot_once(tool: StandIn) -> None:
    seen = tool.client().boot_once("pxe")
    assert (seen.target, seen.enabled, seen.mode) == ("Pxe", "Once", "UEFI")
    assert tool.state["calls"][-2][-4:] == ["chassis", "bootdev", "pxe", "options=efiboot"]
    assert tool.client().boot_back().target == "None"
    tool.set(boot=BOOT.replace("{scope}", "all future boots"))
    assert not tool.client().boot_once("cd").once
    with pytest.raises(BmcError, match="IPMI has no boot from uefi-http"):
        tool.client().boot_once("uefi-http")
    with pytest.raises(BmcError, match="no virtual media"):
        tool.client().insert("http://192.0.2.1/x.iso")


def test_another_machine_is_refused_before_anything_is_done(tool: StandIn) -> None:
    with pytest.raises(BmcError, match="belongs to another machine: serial S411795X0A17867, not OTHER"):
        tool.client(serial="OTHER").set_power("cycle", 5)
    with pytest.raises(BmcError, match="not named"):
        tool.client(serial=None).boot_once("pxe")
    assert not any("bootdev" in call or "off" in call for call in tool.state["calls"])


def test_sensors_and_events(tool: StandIn) -> None:
    found = {each.name: each for each in tool.client().sensors().items}
    assert set(found) == {"CPU1 Temp", "FAN1", "FAN2", "GPU3 Temp"}
    assert (found["CPU1 Temp"].value, found["CPU1 Temp"].kind, found["CPU1 Temp"].health) == (48.0, "Temperature", "OK")
    assert found["FAN2"].health == "Critical"
    assert found["GPU3 Temp"].value is None
    assert found["GPU3 Temp"].health == "", "no reading is unknown, not well"
    events = tool.client().events().items
    assert [each.severity for each in events] == ["Critical", "OK", "OK", "Critical"]
    assert events[2].at is None
    assert events[3].message == "Memory #0xff: Uncorrectable ECC (DIMM A1)"
    assert len(tool.client().events(since=1795600000.0).items) == 1 + sum(
        each.at is not None and each.at >= 1795600000.0 for each in events
    )
    assert tool.client().gpu_telemetry().missed
    assert tool.client().firmware()[0].version == "1.74"


def test_errors_in_words_and_without_the_password(tool: StandIn, tmp_path: Path) -> None:
    tool.set(fails=f"Error: Unable to establish IPMI v2 / RMCP+ session with {PASSWORD}")
    with pytest.raises(BmcError, match=r"`chassis power status` fails: Error: Unable .* \*\*\*\*"):
        tool.client().power()
    client = tool.client()
    client.program = str(tmp_path / "none")
    with pytest.raises(BmcError, match="apt-get install ipmitool"):
        client.power()


def test_a_tool_that_hangs_is_ended(tool: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    tool.program.write_text("#!/bin/sh\nexec sleep 30\n")
    monkeypatch.setattr("metalserve.bmc.ipmi.CALL_S", 0.3)
    with pytest.raises(BmcError, match="no answer within"):
        tool.client()._ask("chassis", "power", "status", timeout_s=0.3)


def test_settings_choose_the_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BMC_SECRET", PASSWORD)
    values = {"address": "192.0.2.7", "user": "admin", "password": {"env": "BMC_SECRET"}}
    ipmi = opening.open_bmc(BmcSettings.model_validate({**values, "kind": "ipmi"}), "gpu-09")
    assert isinstance(ipmi, IpmiBmc)
    redfish = opening.open_bmc(BmcSettings.model_validate(values), "gpu-09")
    assert type(redfish).__name__ == "RedfishBmc"
    redfish.close()


@given(st.text(max_size=200))
def test_any_output_is_read(text: str) -> None:
    parse.fru(text)
    assert parse.power(text) == "unknown" or "Chassis Power is" in text
    parse.boot(text)
    parse.sensors(text)
    parse.events(text.replace("\0", ""))
