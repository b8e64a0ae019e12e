"""Faults: each shows in metalserve's own findings, on the host it was injected into, and goes again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from metalserve.catalogue.loader import load_gpus
from metalserve.errors import MetalserveError
from metalserve.lab import faults
from metalserve.lab.sim import boot, effects
from metalserve.settings import ExpectSettings
from metalserve.verify.topology import check_node
from tests.lab_sim.machine import VERSION, Machine

Make = Callable[[str], Machine]


def bad(host: Machine) -> list[str]:
    """Findings that are not good, as text."""
    gpu = host.lab.profile["gpu"]
    assert gpu is not None
    expect = ExpectSettings(gpu=gpu["catalogue_id"], count=len(host.lab.profile["gpus"]))
    findings = check_node(host.hardware(), expect, load_gpus())
    return [repr(each) for each in findings if each.status in ("fail", "warn")]


SEEN_BY_THE_CHECK = [
    ("gpu-off-bus", 3),
    ("nvlink-degraded", 1),
    ("remap-pending", 2),
    ("remap-failed", 2),
    ("thermal-throttle", 5),
    ("pcie-downgraded", 0),
    ("wrong-gpu-count", 7),
    ("driver-mismatch", None),
    ("nvme-downgraded", None),
    ("pcie-bridge-downgraded", 4),
    ("power-brake", 1),
    ("power-limited", 6),
    ("ecc-off", 2),
    ("acs-on", None),
    ("iommu-translating", None),
    ("nic-down", None),
]


@pytest.mark.parametrize(("kind", "gpu"), SEEN_BY_THE_CHECK)
def test_fault_is_found_and_healed(kind: str, gpu: int | None, machine: Make) -> None:
    host = machine("h100-sxm-8")
    host.ready()
    effects.sync(host.lab)
    before = bad(host)
    faults.inject(host.directory, kind, gpu)
    effects.sync(host.lab)
    found = [line for line in bad(host) if line not in before]
    assert found, "the fault does not show in any finding"
    assert [each["kind"] for each in faults.heal(host.directory)] == [kind]
    effects.sync(host.lab)
    (host.directory / "sim/state/boot/dmesg.jsonl").unlink()  # Xid lines stay in the log until a reboot, as on metal
    assert bad(host) == before


def test_every_kind_can_be_injected_somewhere(machine: Make) -> None:
    host = machine("h100-sxm-8")
    for kind, described in faults.KINDS.items():
        fault = faults.inject(host.directory, kind)
        assert fault.get("gpu") == (0 if described.gpu else None)
    assert {fault["kind"] for fault in host.lab.faults()} == set(faults.KINDS)


def test_degraded_links_show_on_one_gpu(machine: Make) -> None:
    host = machine("h100-sxm-8")
    host.ready()
    faults.inject(host.directory, "nvlink-degraded", 1)
    hardware = host.hardware()
    assert {pair for pair, word in hardware.links.items() if word == "NV16"} == {
        (min(1, other), max(1, other)) for other in range(8) if other != 1
    }
    assert [status.active for status in hardware.nvlinks] == [18, 16, 18, 18, 18, 18, 18, 18]


def test_degraded_direct_board_loses_one_pair(machine: Make) -> None:
    host = machine("a100-sxm-4")
    host.ready()
    faults.inject(host.directory, "nvlink-degraded", 0)
    links = host.hardware().links
    assert links[0, 3] == "NV2"
    assert {word for pair, word in links.items() if pair != (0, 3)} == {"NV4"}


def test_lost_gpu(machine: Make) -> None:
    host = machine("h100-sxm-8")
    host.ready()
    faults.inject(host.directory, "gpu-off-bus", 3)
    effects.sync(host.lab)
    status, text = host.run("nvidia-smi -L")
    assert status == 0
    assert text.startswith("Unable to determine the device handle for GPU3: 0000:4e:00.0: Unknown Error\n")
    assert text.count("UUID") == 7
    assert "GPU 4: " in text and "GPU 3: " not in text
    assert (
        "0000:4e:00.0 3D controller [0302]: NVIDIA Corporation GH100 [H100 SXM5 80GB] [10de:2330] (rev ff)"
        in (host.run("lspci -Dnn")[1])
    )
    events = host.hardware().xids
    assert [event.pci for event in events if event.xid == 79] == ["0000:4e:00.0"]


def test_a_fault_is_logged_once(machine: Make) -> None:
    host = machine("h100-sxm-8")
    host.ready()
    faults.inject(host.directory, "gpu-off-bus", 3)
    for _ in range(3):
        effects.sync(host.lab)
    assert host.run("dmesg")[1].count(": 79, ") == 1


def test_reboot_cures_what_a_reboot_cures(machine: Make) -> None:
    host = machine("h100-sxm-8")
    host.ready()
    for kind in ("gpu-off-bus", "remap-pending", "driver-mismatch", "thermal-throttle"):
        faults.inject(host.directory, kind)
    sticky = faults.inject(host.directory, "gpu-off-bus", 5, sticky=True)
    assert host.run("nvidia-smi")[0] == 18
    host.stop()
    (host.system / "usr/lib/modprobe.d").mkdir(parents=True)
    (host.system / "usr/lib/modprobe.d/nvidia.conf").write_text("blacklist nouveau\n")
    assert boot.main(host.lab, [], lambda _: None, lambda _: None) == 0
    assert {fault["kind"] for fault in host.lab.faults()} == {"thermal-throttle", "gpu-off-bus"}
    assert [fault["id"] for fault in host.lab.faults() if fault["kind"] == "gpu-off-bus"] == [sticky["id"]]
    assert host.lab.module_version() == VERSION
    _, text = host.run("nvidia-smi --query-gpu=remapped_rows.pending,remapped_rows.uncorrectable --format=csv,noheader")
    assert text.splitlines()[1] == "No, 1", "the remap is applied and counted"
    again = faults.inject(host.directory, "remap-pending")
    assert again["id"] in {fault["id"] for fault in host.lab.faults()}


def test_boot_without_a_blacklist_brings_nouveau(machine: Make) -> None:
    host = machine("h100-sxm-8")
    host.install_user_space()
    host.build_modules()
    boot.main(host.lab, [], lambda _: None, lambda _: None)
    assert set(host.lab.modules()) == {"nouveau"}
    (host.system / "etc/modprobe.d").mkdir(parents=True)
    (host.system / "etc/modprobe.d/blacklist-nouveau.conf").write_text("blacklist nouveau\n")
    boot.main(host.lab, [], lambda _: None, lambda _: None)
    assert set(host.lab.modules()) == {"nvidia"}


def test_fabric_manager_does_not_start_while_the_fault_lasts(machine: Make) -> None:
    host = machine("h100-sxm-8")
    host.install_user_space()
    host.build_modules()
    host.run("modprobe nvidia")
    faults.inject(host.directory, "fabric-manager-dead")
    assert host.start_fabric_manager()[0] == 1
    faults.heal(host.directory, "fabric-manager-dead")
    assert host.start_fabric_manager()[0] == 0


@pytest.mark.parametrize(
    ("profile", "kind", "gpu", "words"),
    [
        ("h100-sxm-8", "gpu-of-bus", None, "did you mean 'gpu-off-bus'"),
        ("h100-sxm-8", "gremlin", None, "one of: gpu-off-bus"),
        ("h100-sxm-8", "gpu-off-bus", 8, "no GPU 8: this host has 8"),
        ("h100-sxm-8", "gpu-off-bus", -1, "no GPU -1"),
        ("h100-sxm-8", "disk-full", 0, "not about one GPU"),
        ("l40s-4", "nvlink-degraded", 0, "has no NVLink"),
        ("l40s-4", "fabric-manager-dead", None, "needs no fabric manager"),
        ("none", "thermal-throttle", None, "has no GPUs"),
        ("rtx4090-2", "remap-pending", 0, "without row remapping"),
        ("rtx4090-2", "ecc-off", 0, "without ECC"),
        ("l40s-4", "pcie-bridge-downgraded", 0, "no PCIe switch"),
        ("l4-1", "nic-down", None, "no network card"),
    ],
)
def test_what_cannot_be_injected(profile: str, kind: str, gpu: int | None, words: str, machine: Make) -> None:
    host = machine(profile)
    before = (host.directory / "sim/faults.json").read_bytes()
    with pytest.raises(MetalserveError, match=words):
        faults.inject(host.directory, kind, gpu)
    assert (host.directory / "sim/faults.json").read_bytes() == before


def test_injecting_twice_is_injecting_once(machine: Make) -> None:
    host = machine("h100-sxm-8")
    one, two = (faults.inject(host.directory, "thermal-throttle", 1) for _ in range(2))
    assert one == two
    assert len(faults.active(host.directory)) == 1


def test_a_half_written_fault_file_stops_no_tool(machine: Make) -> None:
    host = machine("l4-1")
    host.ready()
    (host.directory / "sim/faults.json").write_text('{"faults": [')
    assert host.run("nvidia-smi -L")[0] == 0


def test_host_that_was_never_made(tmp_path: Path) -> None:
    with pytest.raises(MetalserveError, match="has not been made"):
        faults.inject(tmp_path / "nowhere", "thermal-throttle")


def test_state_is_plain_json(machine: Make) -> None:
    host = machine("h100-sxm-8")
    host.ready()
    assert json.loads((host.directory / "sim/state/boot/modules.json").read_text())["nvidia"]["version"] == VERSION


def test_a_driver_that_fails_to_load_spares_the_one_that_works(machine: Make) -> None:
    host = machine("h100-nvl-2")
    host.ready()
    faults.inject(host.directory, "driver-fails-to-load")
    effects.sync(host.lab)
    assert host.run("modprobe -r nvidia-uvm nvidia")[0] == 0
    host.build_modules("595.91.07")
    status, said = host.run("modprobe nvidia")
    assert status != 0 and "could not insert" in said
    assert "RmInitAdapter failed" in host.run("dmesg")[1]
    host.build_modules(VERSION)
    assert host.run("modprobe nvidia")[0] == 0
    faults.heal(host.directory)
    effects.sync(host.lab)
    assert host.run("modprobe -r nvidia")[0] == 0
    host.build_modules("595.91.07")
    assert host.run("modprobe nvidia")[0] == 0


def test_a_driver_that_is_held_cannot_be_unloaded(machine: Make) -> None:
    host = machine("h100-nvl-2")
    host.ready()
    faults.inject(host.directory, "driver-held")
    status, said = host.run("modprobe -r nvidia-uvm nvidia")
    assert status != 0 and "nvidia is in use" in said
    assert any(line.split()[:3:2] == ["nvidia", "1"] for line in host.run("lsmod")[1].splitlines())


def test_stuck_containers_are_frozen_once_and_a_sticky_fault_freezes_those_that_start_later(
    machine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    containers = {"aa": "running", "bb": "running"}

    def docker(*command: str) -> str:
        if command[1] in ("pause", "unpause"):
            if command[2] in containers:
                containers[command[2]] = "paused" if command[1] == "pause" else "running"
            return ""
        wanted = next(word.removeprefix("status=") for word in command if word.startswith("status="))
        return "\n".join(
            f"{name} vllm" if wanted == "running" else name for name in containers if containers[name] == wanted
        )

    monkeypatch.setattr(effects, "_quiet", docker)
    host = machine("l40s-4")
    host.ready()

    def restarted(sticky: bool) -> dict[str, str]:
        faults.inject(host.directory, "container-stuck", sticky=sticky)
        effects.sync(host.lab)
        assert set(containers.values()) == {"paused"}
        containers.clear()
        containers.update(cc="running")
        effects.sync(host.lab)
        effects.sync(host.lab)
        return dict(containers)

    assert restarted(sticky=False) == {"cc": "running"}
    assert host.lab.fault("container-stuck") is None, "those that were struck are gone, and the fault with them"
    assert restarted(sticky=True) == {"cc": "paused"}
