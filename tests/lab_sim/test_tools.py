"""The other simulated tools: lspci, nvme, dmesg, nvidia-ctk, disk links."""

from __future__ import annotations

import json
import os
import re
import struct
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from metalserve.lab import faults
from metalserve.lab.sim import disks, effects
from tests.lab_sim.machine import Machine

Make = Callable[[str], Machine]


def test_lspci_filters(machine: Make) -> None:
    host = machine("h100-sxm-8")
    assert len(host.run("lspci -Dn -d 10de::0680")[1].splitlines()) == 4
    assert len(host.run("lspci -Dnn -d 10de:2330")[1].splitlines()) == 8
    assert host.run("lspci -n -s 1b:00.0")[1] == "1b:00.0 0302: 10de:2330 (rev a1)\n"
    status, text = host.run("lspci -t")
    assert status == 1 and "not simulated" in text


def test_lspci_marks_nvlink5_bridges(machine: Make) -> None:
    host = machine("b200-sxm-8")
    assert host.run("lspci -Dvv -d 15b3:1021")[1].count("SMDL=SW_MNG") == 4
    assert "0680" not in host.run("lspci -Dnn")[1]


def test_lspci_shows_a_downgraded_drive(machine: Make) -> None:
    host = machine("l40s-4")
    assert "Speed 16GT/s (ok), Width x4 (ok)" in host.run("lspci -vv -d ::0108")[1]
    faults.inject(host.directory, "nvme-downgraded")
    assert "Speed 2.5GT/s (downgraded), Width x1 (downgraded)" in host.run("lspci -vv -d ::0108")[1]


@pytest.mark.parametrize(("release", "nested"), [("12", False), ("13", True)])
def test_nvme_list_is_that_of_the_release(release: str, nested: bool, machine: Make) -> None:
    host = machine("h100-sxm-8")
    (host.system / "etc").mkdir()
    (host.system / "etc/os-release").write_text(f'ID=debian\nVERSION_ID="{release}"\n')
    (device,) = json.loads(host.run("nvme list -o json")[1])["Devices"]
    assert ("Subsystems" in device) is nested
    (drive,) = host.hardware().nvme
    assert (drive.device, drive.size_bytes) == ("/dev/nvme0n1", 3840 * 10**9)
    assert drive.serial == host.lab.profile["nvme"][0].get("serial")


def test_dmesg_times(machine: Make) -> None:
    host = machine("l4-1")
    host.ready()
    lines = {form: host.run(f"dmesg {form}".strip())[1].splitlines()[-1] for form in ("", "-T", "--time-format=iso")}
    assert re.match(r"\[ +\d+\.\d{6}\] NVRM: loading NVIDIA UNIX Open ", lines[""])
    assert re.match(r"\[\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}\] NVRM: ", lines["-T"])
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{6}[+-]\d\d:\d\d NVRM: ", lines["--time-format=iso"])


def test_ctk_edits_daemon_json(machine: Make) -> None:
    host = machine("l4-1")
    path = host.system / "etc/docker/daemon.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"log-opts": {"max-size": "50m"}}')
    assert host.run("nvidia-ctk runtime configure --runtime=docker --cdi.enabled --set-as-default")[0] == 0
    assert json.loads(path.read_text()) == {
        "log-opts": {"max-size": "50m"},
        "runtimes": {"nvidia": {"args": [], "path": "nvidia-container-runtime"}},
        "default-runtime": "nvidia",
        "features": {"cdi": True},
    }
    path.write_text("{")
    assert host.run("nvidia-ctk runtime configure --runtime=docker")[0] == 1
    assert path.read_text() == "{"


def test_cdi_needs_the_driver_and_names_every_gpu(machine: Make) -> None:
    host = machine("h100-nvl-2")
    assert host.run("nvidia-ctk cdi generate --output=/var/run/cdi/nvidia.yaml")[0] == 1
    host.ready()
    assert host.run("nvidia-ctk cdi generate --output=/var/run/cdi/nvidia.yaml")[0] == 0
    specification = yaml.safe_load((host.system / "var/run/cdi/nvidia.yaml").read_text())
    assert specification["kind"] == "nvidia.com/gpu"
    uuids = [slot.get("uuid") for slot in host.lab.profile["gpus"]]
    assert {each["name"] for each in specification["devices"]} == {"0", "1", "all", *uuids}
    listed = host.run("nvidia-ctk cdi list")[1].splitlines()
    assert set(listed) == {f"nvidia.com/gpu={name}" for name in ("0", "1", "all", *uuids)}


def test_file_systems_are_recognised(tmp_path: Path) -> None:
    number = uuid.uuid4()
    xfs, ext4, empty = (tmp_path / name for name in ("xfs", "ext4", "empty"))
    xfs.write_bytes(b"XFSB" + bytes(28) + number.bytes + bytes(60) + b"models\0\0\0\0\0\0" + bytes(4096))
    head = bytearray(4096)
    struct.pack_into("<H", head, 0x438, 0xEF53)
    head[0x468:0x478] = number.bytes
    head[0x478:0x47E] = b"models"
    ext4.write_bytes(head)
    empty.write_bytes(bytes(4096))
    assert disks.identity(str(xfs)) == disks.identity(str(ext4)) == (str(number), "models")
    assert disks.identity(str(empty)) == disks.identity(str(tmp_path / "missing")) == ("", "")


def test_modules_listing_follows_the_loaded_ones(machine: Make) -> None:
    host = machine("l4-1")
    place = host.directory / "sim/state/boot/proc/modules"
    place.parent.mkdir(parents=True)
    place.write_text("")
    host.lab.write("state/boot/modules-real.json", ["xfs 2000000 1 - Live 0x0"])
    host.ready()
    assert [line.split()[0] for line in place.read_text().splitlines()] == ["nvidia_uvm", "nvidia", "xfs"]
    host.run("rmmod nvidia_uvm nvidia")
    assert place.read_text() == "xfs 2000000 1 - Live 0x0\n"


def test_proc_driver_goes_with_the_module(machine: Make) -> None:
    host = machine("h100-sxm-8")
    host.ready()
    driver = host.directory / "sim/state/boot/proc/driver"
    assert "Open Kernel Module for" in (driver / "nvidia/version").read_text()
    assert len(list((driver / "nvidia-nvswitch/devices").iterdir())) == 4
    with (driver / "nvidia/version").open() as stream:
        before = os.stat(driver / "nvidia/version").st_ino
        effects.sync(host.lab)
        assert os.stat(driver / "nvidia/version").st_ino != before, "replaced: it is never there half written"
        assert "Open Kernel Module for" in stream.read()
    assert [each.name for each in (driver / "nvidia").iterdir() if each.is_file()] == ["version"]
    host.stop()
    assert host.run("rmmod nvidia_uvm nvidia")[0] == 0
    assert list(driver.iterdir()) == []


def test_effects_leave_a_healthy_host_alone(machine: Make) -> None:
    host = machine("h100-sxm-8")
    host.ready()
    before = host.run("dmesg")[1]
    effects.sync(host.lab)
    assert host.run("dmesg")[1] == before
    assert not (host.directory / "sim/state/applied.json").exists()
