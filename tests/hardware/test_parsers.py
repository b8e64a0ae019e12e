from __future__ import annotations

import pytest

from metalserve.hardware.parsers.driver import parse_loaded_driver, parse_modules, parse_version
from metalserve.hardware.parsers.kernel_log import parse_kernel_log
from metalserve.hardware.parsers.lspci import parse_lspci, parse_pcie_links
from metalserve.hardware.parsers.nvlink import parse_nvlink_status
from metalserve.hardware.parsers.nvme import parse_nvme_list
from metalserve.hardware.parsers.smi import addresses_named_in_errors, parse_smi_csv, parse_smi_list, smi_failure
from metalserve.hardware.parsers.smi_q import parse_smi_q
from metalserve.hardware.parsers.text import ParseError, pci_address

from . import samples


def test_addresses_of_all_tools_become_one_form() -> None:
    assert pci_address("00000000:3B:00.0") == "0000:3b:00.0"
    assert pci_address("PCI:0000:3b:00") == "0000:3b:00.0"
    assert pci_address("19:00.1") == "0000:19:00.1"
    assert pci_address("10000:e1:00.0") == "10000:e1:00.0"
    assert pci_address("12:34:56") is None, "a time of day is no address"


def test_csv_reads_fields_by_name_and_keeps_cells_as_printed() -> None:
    table = parse_smi_csv(samples.SMI_CSV)
    assert [row["index"] for row in table.rows] == ["0", "2"]
    assert table.units["memory.total"] == "MiB"
    assert table.rows[1]["power.limit"] == "[N/A]"


def test_csv_keeps_the_line_about_a_lost_gpu() -> None:
    lost = "Unable to determine the device handle for GPU0000:1B:00.0: Unknown Error"
    table = parse_smi_csv(f"{lost}\n{samples.SMI_CSV}")
    assert (len(table.rows), table.notes) == (2, (lost,))
    assert addresses_named_in_errors(lost) == ("0000:1b:00.0",)


def test_csv_refuses_a_row_that_lost_cells() -> None:
    with pytest.raises(ParseError, match="CSV row has 3 cells"):
        parse_smi_csv("index, name, uuid, memory.total [MiB]\n0, NVIDIA L4, GPU-a\n")


def test_csv_refuses_text_without_a_header() -> None:
    with pytest.raises(ParseError, match="no CSV header"):
        parse_smi_csv("0, NVIDIA L4, GPU-a\n")


@pytest.mark.parametrize(
    ("text", "rc", "state"),
    [
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure", 9, "no-driver"),
        ("Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.178", 18, "mismatch"),
        ("Failed to initialize NVML: Unknown Error", 255, "error"),
        ("Unable to determine the device handle for GPU0: 0000:01:00.0: GPU is lost.", 0, "error"),
        ("No devices were found", 6, "error"),
        ("timeout: failed to run command 'nvidia-smi': No such file or directory", 127, "absent"),
        ("sh: 1: nvidia-smi: not found", 127, "absent"),
        ("", 124, "error"),
    ],
)
def test_failures_of_nvidia_smi_are_told_apart(text: str, rc: int, state: str) -> None:
    failure = smi_failure(text, rc)
    assert failure is not None
    assert failure.state == state


def test_a_good_answer_is_no_failure() -> None:
    assert smi_failure(samples.SMI_CSV, 0) is None


def test_list_reads_gpus_and_mig_devices() -> None:
    first, second = parse_smi_list(samples.SMI_LIST)
    assert (first.index, first.uuid, first.mig) == (0, "GPU-aaaa", (("3g.40gb", "MIG-bbbb"),))
    assert second.name == "NVIDIA L4"


def test_q_reads_what_the_checks_need() -> None:
    report = parse_smi_q(samples.SMI_Q)
    (gpu,) = report.gpus
    assert (report.driver, report.cuda, report.attached) == ("580.178.04", "13.0", 1)
    assert (gpu.pci, gpu.device_id, gpu.memory_mib) == ("0000:3b:00.0", "2330", 81559)
    assert (gpu.pcie_gen_current, gpu.pcie_gen_max, gpu.pcie_width_current) == (1, 5, 16)
    assert gpu.event_reasons == ("sw_power_cap", "hw_power_brake_slowdown")
    assert (gpu.remapped_pending, gpu.remapped_failure) == (True, False)
    assert (gpu.remapped_correctable, gpu.remapped_uncorrectable) == (4, 1)
    assert (gpu.fabric_state, gpu.fabric_status, gpu.fabric_health) == ("In Progress", "N/A", "N/A")
    assert (gpu.recovery_action, gpu.sram_threshold_exceeded) == ("None", True)
    assert gpu.ecc_uncorrectable_volatile == 3
    assert (gpu.power_limit_w, gpu.temperature_c, gpu.persistence, gpu.mig_enabled) == (700.0, 61.0, True, False)


def test_q_reads_the_layout_of_610() -> None:
    text = samples.SMI_Q.replace(
        "        Current Power Limit               : 700.00 W\n",
        "        GPU Ceiling Power Limit\n            Current Power Limit           : 600.00 W\n",
    ).replace(
        "Driver Version                            : 580.178.04",
        "Driver Version : 610.57.04 [Deprecated; will be removed in CUDA 14.0. Use KMD Version instead]\n"
        "KMD Version                               : 610.57.04",
    )
    report = parse_smi_q(text)
    assert report.driver == "610.57.04"
    assert report.gpus[0].power_limit_w == 600.0


def test_q_does_not_take_an_unknown_reason_state_for_healthy() -> None:
    text = samples.SMI_Q.replace("HW Slowdown                       : Not Active", "HW Slowdown : [Unknown Error]")
    assert parse_smi_q(text).gpus[0].event_reasons is None


def test_nvlink_counts_active_and_inactive_links() -> None:
    first, second = parse_nvlink_status(samples.NVLINK_PAIR)
    assert (first.active, first.inactive, second.index) == (12, 6, 1)
    assert first.link_gb_per_s[0] == 26.562
    assert first.link_gb_per_s[4] is None


@pytest.mark.parametrize(
    ("line", "supported"),
    [
        ("Device does not have or support Nvlink", False),
        ("NVML: Unable to retrieve NVLink information as all links are inActive", True),
        ("Nvlink queries are not supported for Devices in MIG mode", True),
    ],
)
def test_nvlink_without_links_says_why(line: str, supported: bool) -> None:
    (gpu,) = parse_nvlink_status(f"GPU 0: NVIDIA X (UUID: GPU-a)\n{line}\n")
    assert (gpu.supported, gpu.active, gpu.note) == (supported, 0, line)


@pytest.mark.parametrize("damage", ["\t Link 0: 26.562 GB/s Link 1: 26.562 GB/s\n", "\t Link 0: 26.562 GB/s\n" * 2])
def test_nvlink_refuses_damage(damage: str) -> None:
    with pytest.raises(ParseError):
        parse_nvlink_status("GPU 0: NVIDIA X (UUID: GPU-a)\n" + damage)


def test_lspci_reads_ids_class_and_revision() -> None:
    devices = parse_lspci(samples.LSPCI).devices
    switch, gpu, drive = devices[1], devices[2], devices[3]
    assert (switch.class_code, switch.vendor_id, switch.device_id) == ("0680", "10de", "22a3")
    assert (gpu.address, gpu.device_id, gpu.revision) == ("0000:3b:00.0", "2330", "a1")
    assert gpu.description == "NVIDIA Corporation GH100 [H100 SXM5 80GB]"
    assert (drive.address, drive.class_code, drive.device_id) == ("10000:e1:00.0", "0108", "51c3")


def test_lspci_reads_its_sysfs_stand_in() -> None:
    (device,) = parse_lspci("0000:19:00.0 Class [0302]: Device [10de:26b9] (rev a1)\n").devices
    assert (device.class_code, device.device_id, device.revision) == ("0302", "26b9", "a1")


def test_lspci_without_numbers_is_refused() -> None:
    with pytest.raises(ParseError, match="numeric ids"):
        parse_lspci("19:00.0 3D controller: NVIDIA Corporation Device 2330 (rev a1)\n")


def test_pcie_links_of_lspci_and_sysfs() -> None:
    slow, narrow = parse_pcie_links(samples.LSPCI_LINKS)
    assert (slow.gen_current, slow.gen_max, slow.width_current, slow.width_max) == (3, 4, 4, 4)
    assert (narrow.gen_current, narrow.gen_max, narrow.width_current, narrow.width_max) == (5, 5, 2, 4)
    (same,) = parse_pcie_links("link\t0000:57:00.0\t8.0 GT/s PCIe\t4\t16.0 GT/s PCIe\t4\n")
    assert same == slow


@pytest.mark.parametrize("text", [samples.NVME_V1, samples.NVME_V2])
def test_nvme_json_of_both_generations(text: str) -> None:
    (drive,) = parse_nvme_list(text)
    assert (drive.device, drive.model, drive.serial, drive.firmware) == ("/dev/nvme0n1", "Drive 1", "S1", "F1")
    assert (drive.size_bytes, drive.used_bytes) == (960197124096, 1000)


def test_nvme_json_of_the_new_generation_has_the_address() -> None:
    assert parse_nvme_list(samples.NVME_V2)[0].pci == "0000:57:00.0"


def test_nvme_table_rounds_as_printed_and_refuses_wrapped_rows() -> None:
    (drive,) = parse_nvme_list(samples.NVME_TABLE)
    assert (drive.device, drive.serial, drive.size_bytes) == ("/dev/nvme0n1", "S1", 960_200_000_000)
    with pytest.raises(ParseError):
        parse_nvme_list(samples.NVME_TABLE.replace("1          22.08", "\n1          22.08"))


@pytest.mark.parametrize("text", ["", "{", '{"Devices": 3}', '{"Devices": [{"DevicePath": "/dev/x; rm"}]}', "[" * 9999])
def test_nvme_refuses_what_is_no_list(text: str) -> None:
    with pytest.raises(ParseError):
        parse_nvme_list(text)


def test_kernel_log_events() -> None:
    events = parse_kernel_log(samples.KERNEL_LOG).events
    assert [(e.kind, e.xid, e.pci) for e in events] == [
        ("xid", 79, "0000:3b:00.0"),
        ("off-bus", None, "0000:3b:00.0"),
        ("off-bus", None, "0000:5e:00.0"),
        ("nvlink5", 149, "0009:01:00.0"),
        ("recovery-action", 154, "0009:01:00.0"),
        ("sxid", 28006, "0000:c1:00.0"),
    ]
    assert (events[3].severity, events[3].unit, events[3].link) == ("Fatal", "NETIR_LINK_EVT", 1)
    assert events[4].action == "Drain and Reset"
    assert (events[5].severity, events[5].link) == ("Non-fatal", 46)


@pytest.mark.parametrize("prefix", ["", "[  1.5] ", "[ 1.5][T1946] ", "Aug 10 15:36:05 host kernel: ", "6,39,1,-;"])
def test_kernel_log_prefixes_do_not_matter(prefix: str) -> None:
    line = f"{prefix}NVRM: Xid (PCI:0000:01:00): 94, pid=7194, name=python, Contained: CE User Channel"
    (event,) = parse_kernel_log(line).events
    assert (event.xid, event.pci, event.process) == (94, "0000:01:00.0", "python")


def test_kernel_log_keeps_what_it_cannot_read() -> None:
    log = parse_kernel_log("NVRM: Xid (PCI:0000:01:00): what, ever\n")
    assert (log.events, log.notes) == ((), ("NVRM: Xid (PCI:0000:01:00): what, ever",))


def test_driver_versions() -> None:
    opened = parse_loaded_driver(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.178.04  Release Build  (b)\nGCC version: 13\n"
    )
    assert (opened.version, opened.open) == ("580.178.04", True)
    closed = parse_loaded_driver("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.129.06  Thu May 12 22:52:02\n")
    assert (closed.version, closed.open) == ("470.129.06", False)
    assert parse_version("Fabric Manager version is : 580.178.04\n") == "580.178.04"
    with pytest.raises(ParseError):
        parse_version("modinfo: ERROR: Module nvidia not found.")
    assert parse_modules("nvidia_uvm 1 0 - Live 0x0\nnvidia 2 1 nvidia_uvm, Live 0x0\n") == ("nvidia_uvm", "nvidia")
