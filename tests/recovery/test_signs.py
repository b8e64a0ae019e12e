"""Lines that the kernel, NCCL, PyTorch and NVML print, one by one: what each is taken for, and what is no sign."""

from __future__ import annotations

import pytest

from metalserve.recovery.evidence import Evidence
from metalserve.recovery.verdict import judge

KERNEL = [
    ("EDAC MC0: 1 CE memory read error", "host-memory-corrected", ""),
    ('EDAC MC1: CE row 1, channel 0, label "CPU_SrcID#1_Channel#0_DIMM#1": 1 Unknown error(s)',
     "host-memory-corrected", "CPU_SrcID#1_Channel#0_DIMM#1"),
    ("[Hardware Error]: MC4_STATUS[Over|CE|MiscV|-|AddrV|-|-|CECC]: 0xdc10410040080a13", "host-memory-corrected", ""),
    ("[Hardware Error]: MC4_STATUS[Over|UE|MiscV|PCC|AddrV|-|-|UECC]: 0xfe10410040080a13", "host-memory", ""),
    ("mce: [Hardware Error]: CPU 0: Machine Check: 0 Bank 5: 8c00004000010090", "host-memory-corrected", ""),
    ("mce: [Hardware Error]: CPU 0: Machine Check Exception: 5 Bank 7: be00000000800090", "host-memory", ""),
    ("nvidia 0000:3b:00.0: Unable to change power state from D3cold to D0, device inaccessible",
     "gpu-off-bus", "0000:3b:00.0"),
    ("nvidia: probe of 0000:3b:00.0 failed with error -1", "gpu-no-init", "0000:3b:00.0"),
    ("nvidia 0000:3b:00.0: probe with driver nvidia failed with error -1", "gpu-no-init", "0000:3b:00.0"),
    ("nvidia: disagrees about version of symbol module_layout", "driver-absent", ""),
    ("nvidia 0000:06:00.0: loading /lib/firmware/nvidia/570.172.08/gsp_ga10x.bin failed with error -4",
     "driver-incomplete", "0000:06:00.0"),
    ("Aborting journal on device nvme0n1p2-8.", "filesystem-damaged", "nvme0n1p2-8"),
    ("BTRFS info (device nvme0n1p2: state E): forced readonly", "filesystem-damaged", "nvme0n1p2"),
    ("nvme nvme3: frozen state error detected, reset controller", "drive-gone", "nvme3"),
    ("nvme3n1: Read(0x2) @ LBA 1, 8 blocks, Unrecovered Read Error (sct 0x2 / sc 0x81) DNR", "drive-bad", "nvme3"),
]  # fmt: skip

ENGINE = [
    ("NCCL error: unhandled cuda error (run with NCCL_DEBUG=INFO for details)", "engine-gpu-error"),
    (
        "torch.AcceleratorError: CUDA error: uncorrectable NVLink error detected during the execution",
        "engine-gpu-error",
    ),
    ("RuntimeError: CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`", "engine-gpu-error"),
    ("RuntimeError: Found no NVIDIA driver on your system.", "driver-absent"),
    ("Unable to determine the device handle for GPU0000:A1:00.0: Unknown Error", "gpu-off-bus"),
    ("node [2] transport/nvls.cc:244 NCCL WARN Cuda failure 1 'invalid argument'", "fabric-stale"),
]


@pytest.mark.parametrize(("line", "cause", "subject"), KERNEL)
def test_a_line_of_the_kernel(line: str, cause: str, subject: str) -> None:
    (found,) = judge(Evidence(kernel=f"[ 12.000000] {line}")).causes
    assert (found.id, ", ".join(found.subjects)) == (cause, subject)


@pytest.mark.parametrize(("line", "cause"), ENGINE)
def test_a_line_of_an_engine(line: str, cause: str) -> None:
    (found,) = judge(Evidence(engines={"0": line})).causes
    assert found.id == cause


@pytest.mark.parametrize(
    "line",
    [
        "nvidia_peermem: Unknown symbol ib_register_peer_memory_client (err -2)",
        "BTRFS info (device nvme0n1p2): bdev /dev/nvme0n1p2 errs: wr 0, rd 0, flush 0, corrupt 0, gen 0",
        "mce: [Hardware Error]: Machine check events logged",
        " uvm_ioctl+0x13e0/0x16f0 [nvidia_uvm]",
        " [Hardware Error]: section_type: memory error",
    ],
)
def test_what_is_no_sign(line: str) -> None:
    assert judge(Evidence(kernel=f"[ 12.000000] {line}")).causes == ()


def test_what_only_decodes_the_gsp_s_log_is_no_missing_firmware() -> None:
    line = (
        "[ 12.000000] nvidia 0000:3b:00.0: Direct firmware load for nvidia/580.95.05/{}_ga10x.bin failed with error -2"
    )
    (missing,) = judge(Evidence(kernel=line.format("gsp")), guess=False).causes
    assert missing.id == "driver-incomplete"
    verdict = judge(Evidence(kernel=line.format("gsp_log")), guess=False)
    assert (verdict.causes, verdict.unread) == ((), ())


@pytest.mark.parametrize(
    ("severity", "section", "cause"),
    [
        ("corrected", "memory error", "host-memory-corrected"),
        ("recoverable", "memory error", "host-memory"),
        ("fatal", "PCIe error", "pcie-fatal"),
        ("recoverable", "PCIe error", "pcie-uncorrected"),
        ("corrected", "PCIe error", "pcie-corrected"),
    ],
)
def test_the_firmwares_records_are_read_with_their_severity(severity: str, section: str, cause: str) -> None:
    def record(prefix: str) -> str:
        return f"{prefix}event severity: {severity}\n{prefix} Error 0, type: x\n{prefix}  section_type: {section}\n"

    (found,) = judge(Evidence(kernel=record("[ 9.0] {1}[Hardware Error]: "))).causes
    assert found.id == cause
    boot = "BERT: Error records from previous boot:\n" + record("[ 1.0] [Hardware Error]: ")
    assert judge(Evidence(kernel=boot)).causes == (), "of the boot before, told anew at each boot"


def test_a_task_that_hangs_in_the_driver_is_known_by_its_trace_only() -> None:
    head = "[ 7510.1] INFO: task gdscheck:509579 blocked for more than 120 seconds.\n"
    trace = "[ 7510.2]  down_read+0x43/0xa0\n[ 7510.3]  os_acquire_rwlock_read+0x35/0x50 [nvidia]\n"
    found = judge(Evidence(kernel=head + trace)).causes
    assert [(each.id, each.explained_by) for each in found] == [("driver-hang", ""), ("task-stuck", "driver-hang")]
    stuck = judge(Evidence(kernel=head))
    assert ([each.id for each in stuck.causes], stuck.rung) == (["task-stuck"], "nothing")
    assert judge(Evidence(kernel=trace)).causes == ()
    late = judge(Evidence(kernel=head + "[ 7511.0] x\n" * 50 + trace)).causes
    assert [each.id for each in late] == ["task-stuck"], "the trace is of something else by then"


def test_a_drive_that_comes_back_does_not_speak_for_another() -> None:
    frozen = "[ 7.0] nvme nvme0: frozen state error detected, reset controller\n" * 2
    frozen += "[ 7.1] nvme nvme1: frozen state error detected, reset controller\n"
    (found,) = judge(Evidence(kernel=frozen + "[ 9.0] nvme nvme0: 63/0/0 default/read/poll queues\n")).causes
    assert (found.id, found.subjects) == ("drive-gone", ("nvme1",))


def test_a_card_that_the_driver_does_not_support_does_not_speak_for_another() -> None:
    unsupported = "[ 7.0] NVRM: installed in this system is not supported by open\n"
    failed = "[ 7.1] NVRM: GPU 0000:09:00.0: RmInitAdapter failed!\n"
    assert judge(Evidence(kernel=unsupported + failed)).rung == "converge"
    other = failed.replace("0000:09", "0000:3b")
    assert judge(Evidence(kernel=unsupported + failed + other)).rung == "reboot"


def test_ranks_that_lost_their_store_say_nothing_of_the_engine_that_was_started_since() -> None:
    lost = "[rank2]:[W810 TCPStore.cpp:125] [c10d] recvValue failed: Failed to recv, got 0 bytes.\n"
    assert [found.id for found in judge(Evidence(engines={"0": lost})).causes] == ["engine-died"]
    assert judge(Evidence(engines={"0": f"{lost}INFO:     Application startup complete.\n"})).causes == ()
