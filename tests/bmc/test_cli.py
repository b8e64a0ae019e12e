"""`metalserve bmc` against the fake BMC: the inventory is given, the rest is real."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from metalserve.cli import bmc as cli
from metalserve.errors import MetalserveError
from metalserve.lab.bmc.machine import serial_of
from tests.bmc.conftest import PASSWORD, Fake


@pytest.fixture
def run(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("BMC_PASSWORD", PASSWORD)
    fake.machine.up = True
    data: list[tuple[str, dict[str, Any]]] = [
        ("gpu-01", {"release": "2026.11-lts", "bmc": fake.settings().model_dump(exclude_none=True)}),
        ("gpu-02", {"release": "2026.11-lts", "ssh_hostname": "192.0.2.2"}),
    ]
    data[0][1]["bmc"]["password"] = {"env": "BMC_PASSWORD"}
    monkeypatch.setattr("metalserve.pyinfra_seam.inventory.load_apart", lambda path: data)

    def invoke(*words: str) -> Result:
        return CliRunner().invoke(cli.command, list(words), standalone_mode=False)

    return invoke


def test_status(run: Any) -> None:
    done = run("status", "inventory.py")
    assert done.return_value == 0, done.output
    assert serial_of("gpu-01") in done.output
    assert "gpu-02" not in done.output
    rows = json.loads(run("status", "inventory.py", "--json").output)["hosts"]
    assert (rows[0]["power"], rows[0]["simulated"]) == ("on", True)


def test_status_of_a_bmc_that_refuses(run: Any, fake: Fake) -> None:
    fake.fault("wrong-credentials")
    done = run("status", "inventory.py")
    assert done.return_value == 1
    assert "gpu-01: gpu-01's BMC" in done.output
    assert PASSWORD not in done.output


def test_changes_want_yes(run: Any, fake: Fake) -> None:
    for words in (
        ("power", "inventory.py", "gpu-01", "cycle"),
        ("boot", "inventory.py", "gpu-01", "pxe"),
        ("media", "inventory.py", "gpu-01", "--insert", "http://192.0.2.1/x.iso"),
        ("media", "inventory.py", "gpu-01", "--eject"),
    ):
        done = run(*words)
        assert done.return_value == 3, done.output
        assert "nothing was done -> add --yes" in done.output
    assert fake.machine.done == []
    assert fake.board.state()["boot"]["Target"] == "None"
    assert json.loads(run("power", "inventory.py", "gpu-01", "off", "--json").output)["done"] is False


def test_changes(run: Any, fake: Fake) -> None:
    assert "Pxe (Once)" in run("boot", "inventory.py", "gpu-01", "pxe", "--yes").output
    assert "as ordered" in run("boot", "inventory.py", "gpu-01", "back", "--yes").output
    assert "as ordered" in run("boot", "inventory.py", "gpu-01").output
    inserted = run("media", "inventory.py", "gpu-01", "--insert", "http://192.0.2.1/x.iso", "--yes")
    assert "CD (CD, DVD): http://192.0.2.1/x.iso" in inserted.output
    assert "CD (CD, DVD): empty" in run("media", "inventory.py", "gpu-01", "--eject", "--yes").output
    assert "gpu-01: off after" in run("power", "inventory.py", "gpu-01", "force-off", "--yes").output
    assert not fake.machine.up


def test_events_and_sensors(run: Any, fake: Fake) -> None:
    fake.board.note("Fan 3 failed", "Critical")
    done = run("events", "inventory.py", "gpu-01")
    assert done.return_value == 0, done.output
    assert "Fan 3 failed" in done.output
    assert "no events" in run("events", "inventory.py", "gpu-01", "--since", "0m").output
    with pytest.raises(Exception, match="a number and m, h or d"):
        raise run("events", "inventory.py", "gpu-01", "--since", "yesterday").exception
    done = run("sensors", "inventory.py", "gpu-01")
    assert done.return_value == 0, done.output
    assert "inlet_temp" in done.output
    assert "(simulated)" in done.output
    fake.machine.up = False
    done = run("sensors", "inventory.py", "gpu-01")
    assert done.return_value == 1, "what could not be read is told"
    assert "not read: /redfish/v1/Chassis/HGX_GPU_SXM_1" in done.output
    assert "unknown" in done.output


def test_hosts_without_a_bmc(run: Any) -> None:
    for host, words in (("gpu-02", "host gpu-02 has no `bmc`"), ("gpu-03", "has no host 'gpu-03'")):
        done = run("power", "inventory.py", host, "on")
        assert isinstance(done.exception, MetalserveError)
        assert words in str(done.exception)
