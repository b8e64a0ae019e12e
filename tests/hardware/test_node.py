from __future__ import annotations

import subprocess

from metalserve.hardware.commands import COMMANDS
from metalserve.hardware.node import node_hardware
from metalserve.hardware.section import Section

from . import samples


def test_nothing_observed_is_all_unknown() -> None:
    hardware = node_hardware({})
    assert hardware.gpus == ()
    assert hardware.smi_state == "error"
    assert {"lspci", "smi-csv", "modules", "kernel-log"} <= set(hardware.unread)


def test_gpus_and_fabric_are_known_before_any_driver() -> None:
    missing = Section("timeout: failed to run command 'nvidia-smi': No such file or directory", 127)
    hardware = node_hardware(
        {
            "lspci": Section(samples.LSPCI),
            "modules": Section("nouveau\n"),
            "kernel-log": Section(""),
            **dict.fromkeys(("smi-csv", "smi-q", "topo", "nvlink-status"), missing),
        }
    )
    assert [g.device_id for g in hardware.pci_gpus] == ["2330"]
    assert (hardware.nvswitch_count, hardware.needs_fabric_manager, hardware.needs_nvlsm) == (1, True, False)
    assert hardware.nouveau_loaded
    assert hardware.smi_state == "absent"


def test_nvlink5_boards_need_fabric_manager_by_their_pci_id() -> None:
    b200 = "0000:1b:00.0 3D controller [0302]: NVIDIA Corporation [B200] [10de:2901] (rev a1)\n"
    hardware = node_hardware({"lspci": Section(b200)})
    assert (hardware.needs_fabric_manager, hardware.needs_nvlsm, hardware.needs_imex) == (True, True, False)
    rack = node_hardware({"lspci": Section(b200.replace("2901", "2941"))})
    assert (rack.needs_fabric_manager, rack.needs_imex) == (False, True)


def test_an_unknown_board_with_switch_management_needs_fabric_manager() -> None:
    card = "0000:1b:00.0 3D controller [0302]: NVIDIA Corporation [10de:ffff] (rev a1)\n"
    bridges = "0000:05:00.0 Infiniband controller: ConnectX-7\n\t\t[V3] Vendor specific: SMDL=SW_MNG\n"
    nic = "0000:06:00.0 Infiniband controller: ConnectX-7\n"
    hardware = node_hardware({"lspci": Section(card), "nvlink5-bridges": Section(bridges + nic)})
    assert (hardware.nvlink5_bridge_count, hardware.needs_fabric_manager) == (1, True)
    assert not node_hardware({"lspci": Section(card), "nvlink5-bridges": Section(nic)}).needs_fabric_manager


def test_grace_root_ports_are_no_nvswitch() -> None:
    text = "0000:00:00.0 PCI bridge [0604]: NVIDIA Corporation Device [10de:22b1]\n"
    assert node_hardware({"lspci": Section(text)}).nvswitch_count == 0


def test_csv_and_q_are_joined_by_address() -> None:
    csv = samples.SMI_CSV.replace("00000000:AF:00.0", "00000000:3A:00.0")
    hardware = node_hardware({"smi-csv": Section(csv), "smi-q": Section(samples.SMI_Q)})
    first, second = hardware.gpus
    assert (first.index, first.name, first.fabric_state) == (0, "NVIDIA L40S", "In Progress")
    assert (second.index, second.fabric_state) == (2, None)
    assert hardware.smi_state == "ok"


def test_a_gpu_that_only_the_pci_bus_shows_is_a_problem() -> None:
    two = samples.LSPCI + "0000:5e:00.0 3D controller [0302]: NVIDIA Corporation [10de:2330] (rev a1)\n"
    hardware = node_hardware({"lspci": Section(two), "smi-csv": Section("x\n", 2), "smi-q": Section(samples.SMI_Q)})
    assert any("0000:5e:00.0 is on the PCI bus, but nvidia-smi does not show it" in p for p in hardware.problems)


def test_a_topology_of_other_gpus_is_a_problem() -> None:
    hardware = node_hardware({"smi-csv": Section(samples.SMI_CSV), "topo": Section(samples.TOPO_2_BRIDGED)})
    assert any("its GPUs [0, 1] are not those" in p for p in hardware.problems)


def test_versions_and_modules() -> None:
    hardware = node_hardware(
        {
            "driver-module": Section("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.178.04  Release\n"),
            "driver-disk": Section("595.91.07\n"),
            "fm-version": Section("Fabric Manager version is : 580.178.04\n"),
            "modules": Section("nvidia_uvm\nnvidia\n"),
            "smi-csv": Section(
                "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 595.91", 18
            ),
        }
    )
    assert (hardware.module_version, hardware.module_open) == ("580.178.04", True)
    assert hardware.module_on_disk == "595.91.07"
    assert hardware.fabric_manager_version == "580.178.04"
    assert (hardware.smi_state, hardware.driver_version) == ("mismatch", "595.91")


def test_drives_get_their_links() -> None:
    hardware = node_hardware(
        {
            "lspci": Section(samples.LSPCI),
            "nvme-list": Section(samples.NVME_V1),
            "nvme-controllers": Section("nvme0\t0000:57:00.0\n"),
            "nvme-links": Section(samples.LSPCI_LINKS),
        }
    )
    (drive,) = hardware.nvme
    assert drive.link is not None
    assert (drive.pci, drive.link.gen_current, drive.link.gen_max) == ("0000:57:00.0", 3, 4)
    assert len(hardware.nvme_links) == 2


def test_the_only_drive_is_the_only_controller() -> None:
    links = samples.LSPCI_LINKS.replace("0000:57:00.0", "10000:e1:00.0")
    observed = {
        "lspci": Section(samples.LSPCI),
        "nvme-list": Section(samples.NVME_V1),
        "nvme-links": Section(links),
    }
    assert node_hardware(observed).nvme[0].pci == "10000:e1:00.0"
    two = samples.LSPCI + samples.LSPCI.splitlines()[3].replace("e1:", "e2:") + "\n"
    assert node_hardware({**observed, "lspci": Section(two)}).nvme[0].pci is None


def test_a_missing_nvme_tool_is_a_problem_only_where_drives_are() -> None:
    missing = Section("sh: 1: nvme: not found", 127)
    with_drive = node_hardware({"lspci": Section(samples.LSPCI), "nvme-list": missing})
    assert any("1 NVMe controller(s) on the PCI bus" in p for p in with_drive.problems)
    without = node_hardware({"lspci": Section(samples.LSPCI.splitlines()[0] + "\n"), "nvme-list": missing})
    assert not any("NVMe controller" in p for p in without.problems)


def test_a_forbidden_kernel_log_is_not_an_empty_one() -> None:
    denied = Section("dmesg: read kernel buffer failed: Operation not permitted\n")
    assert "kernel-log" in node_hardware({"kernel-log": denied}).unread


def test_commands_are_posix_shell_and_end_by_themselves() -> None:
    for name, command in COMMANDS.items():
        done = subprocess.run(["sh", "-n", "-c", command], capture_output=True, text=True, timeout=10)
        assert done.returncode == 0, (name, done.stderr)
        if "nvidia-smi" in command:
            assert "timeout" in command


def test_a_host_without_any_of_the_tools_still_answers() -> None:
    for name in ("lspci", "nvme-links", "nvlink5-bridges", "nvme-controllers", "modules"):
        done = subprocess.run(
            ["sh", "-c", f"PATH=/nonexistent:/usr/bin:/bin; {COMMANDS[name]}"],
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 0, (name, done.stderr)
