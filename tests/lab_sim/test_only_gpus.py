"""A machine with a kernel of its own: GPUs are simulated beside its real devices, and nothing else is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from metalserve.hardware.parsers.lspci import parse_lspci
from metalserve.lab.sim import disks, sysfs
from metalserve.lab.sim.state import Lab
from metalserve.lab.sim_setup import SOURCE, prepare_host
from tests.lab_sim.machine import Machine


@pytest.fixture
def beside(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path, "h100-nvl-2")
    prepare_host("h100-nvl-2", machine.directory / "sim", host="gpu-0001", only_gpus=2)
    return machine


def test_the_profile_has_gpus_near_the_processors_that_there_are(beside: Machine) -> None:
    profile = beside.lab.profile
    assert profile["only_gpus"] and profile["simulated"] and profile["nvme"] == [] and profile["nics"] == []
    assert [(slot["numa"], slot["cpus"]) for slot in profile["gpus"]] == [(0, "0-1"), (0, "0-1")]
    beside.ready()
    assert "0-1" in beside.run("nvidia-smi topo -m")[1]


def test_lspci_adds_the_gpus_and_their_bridges_alone(beside: Machine) -> None:
    status, text = beside.run("lspci -Dnn")
    found = parse_lspci(text).devices
    assert status == 0
    assert sorted(device.class_code for device in found) == ["0302", "0302", "0604", "0604"]


def test_the_machine_s_own_devices_stay_in_sysfs(beside: Machine) -> None:
    lab = beside.lab
    own = {"0000:00:02.0": "../../../devices/pci0000:00/0000:00:02.0"}
    lab.write("state/boot/pci-real.json", own)
    sysfs.refresh(lab)
    devices = Path(lab.boot("sys", "bus", "pci", "devices"))
    assert os.readlink(devices / "0000:00:02.0") == own["0000:00:02.0"]
    assert (devices / "0000:17:00.0/vendor").read_text() == "0x10de\n"


def test_links_to_drives_are_left_to_udev(beside: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_id = tmp_path / "by-id"
    by_id.mkdir()
    (by_id / "nvme-real").symlink_to("../../nvme0n1")
    for name in ("BY_ID", "BY_UUID", "BY_LABEL"):
        monkeypatch.setattr(disks, name, str(by_id))
    disks.sync(beside.lab)
    assert [path.name for path in by_id.iterdir()] == ["nvme-real"]
    profile = {**beside.lab.profile, "only_gpus": False}
    (beside.directory / "sim/profile.json").write_text(json.dumps(profile))
    disks.sync(Lab(str(beside.directory / "sim"), str(beside.system)))
    assert list(by_id.iterdir()) == []  # where there is no udev the simulation owns them


@pytest.mark.parametrize("only", ["", "only-gpus"])
def test_the_installer_leaves_what_the_initial_ram_disk_copies(tmp_path: Path, only: str) -> None:
    if shutil.which("dpkg-divert") is None:
        pytest.skip("no dpkg here")
    info = tmp_path / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    for tool in ("udevadm", "modprobe", "lspci", "modinfo"):
        path = tmp_path / "usr/bin" / tool
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("real\n")
    for package, tools in (("udev", ("udevadm",)), ("kmod", ("modprobe", "modinfo")), ("pciutils", ("lspci",))):
        (info / f"{package}.list").write_text("".join(f"/usr/bin/{tool}\n" for tool in tools))
    subprocess.run(["sh", str(SOURCE / "install.sh"), str(tmp_path), *([only] if only else [])], check=True)
    real = [tool for tool in ("udevadm", "modprobe") if (tmp_path / "usr/bin" / tool).read_text() == "real\n"]
    assert real == (["udevadm", "modprobe"] if only else [])
    for tool in ("lspci", "modinfo"):
        assert f"/opt/metalserve-lab/bin/{tool}" in (tmp_path / "usr/bin" / tool).read_text()
    unit = (tmp_path / "etc/systemd/system/metalserve-lab-sim.service").read_text()
    commands = tmp_path / "etc/modprobe.d/nvidia.conf"
    if only:
        assert "install nvidia_uvm /opt/metalserve-lab/bin/modprobe nvidia_uvm\n" in commands.read_text()
        assert "After=systemd-remount-fs.service systemd-udev-trigger.service" in unit
        assert "\nWants=local-fs-pre.target" not in unit
        assert "Before=systemd-modules-load.service" in unit
    else:
        assert not commands.exists() and "\nWants=local-fs-pre.target\n" in unit
