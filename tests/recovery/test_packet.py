"""The RMA packet: what the vendor reads, what stays secret, and that it is whole and the same each time."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from metalserve.errors import MetalserveError
from metalserve.hardware.node import NodeHardware
from metalserve.hardware.values import Gpu, NvmeDrive
from metalserve.recovery.packet import write_packet
from metalserve.recovery.scrub import scrubbed
from metalserve.recovery.values import Attempt, Step, StepRecord, Subject

GPU = Subject("gpu", "0000:1b:00.0", "1650923000017")
XID = "[ 812.4] NVRM: Xid (PCI:0000:1b:00): 64, pid=1, name=python, Row Remapper: Unable to remap row"
SECRETS = ("hunter2hunter2", "hf_abcdefghijklmnopqrst", "s3cretpw")
SMI = """
==============NVSMI LOG==============

Timestamp                                 : Mon Nov 23 10:00:00 2026
Driver Version                            : 580.105.08
CUDA Version                              : 13.0

Attached GPUs                             : 1
GPU 00000000:1B:00.0
    Product Name                          : NVIDIA H100 80GB HBM3
    Serial Number                         : 1650923000017
    GPU UUID                              : GPU-11111111-2222-3333-4444-555555555555
    VBIOS Version                         : 96.00.89.00.01
    Board Part Number                     : 692-2G520-0200-000
    GPU Part Number                       : 2330-885-A1
    Platform Info
        Module Id                         : 4
    GPU Recovery Action                   : Drain and Reset
    Remapped Rows
        Correctable Error                 : 0
        Uncorrectable Error               : 8
        Pending                           : Yes
        Remapping Failure Occurred        : Yes
    Processes                             : None
"""
DMI = "sys_vendor=Supermicro\nproduct_name=SYS-821GE-TNHR\nproduct_serial=S123456X\nbios_version=2.1\n"


def steps() -> tuple[StepRecord, ...]:
    reset = Step("reset-gpu", (GPU,), "a bad row could not be replaced", 300.0)
    return (StepRecord(7, 42, reset, 1_790_000_100.0, 1_790_000_160.0, "done", "bad", "the failure flag stays"),)


def attempt(**values: object) -> Attempt:
    base = Attempt(
        42, "node7", "h100", "ops@controller pid 9 start 1", ("remap-failed",), (GPU,), "quarantine", "b.tar.gz",
        1_790_000_000.0, 1_790_000_300.0, "quarantined", "a bad memory row could not be replaced", steps(),
    )  # fmt: skip
    return replace(base, **values)  # type: ignore[arg-type]


def bundle(place: Path, name: str, **texts: str) -> Path:
    path = place / name
    files = {"kernel.log": XID, "smi-q.txt": SMI, "identity.txt": DMI, **texts}
    manifest = "".join(f"{each}\t0\t0.1\tcommand\n" for each in files)
    with tarfile.open(path, "w:gz") as archive:
        for each, text in {**files, "manifest.tsv": manifest}.items():
            entry = tarfile.TarInfo(f"evidence/{each}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


def unpacked(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        found = {m.name.partition("/")[2]: archive.extractfile(m) for m in archive}
        return {name: file.read() for name, file in found.items() if file is not None}


def test_the_page_has_what_a_vendor_asks_for(tmp_path: Path) -> None:
    earlier = attempt(id=3, host="node2", begun=1_780_000_000.0, ended=1_780_000_200.0, result="recovered")
    other = attempt(id=4, host="node9", subjects=(Subject("gpu", GPU.name, "999"),), begun=1_780_500_000.0)
    evidence = [bundle(tmp_path, "first.tar.gz")]
    page = unpacked(write_packet(tmp_path / "out", attempt(), evidence, None, [attempt(), earlier, other]))[
        "README.txt"
    ].decode()
    for words in (
        "1650923000017", "692-2G520-0200-000", "2330-885-A1", "96.00.89.00.01", "0000:1b:00.0", "580.105.08",
        "Supermicro", "S123456X", XID, "Remapping Failure Occurred : Yes",
        "reset-gpu on 0000:1b:00.0 (1650923000017): done after 60 s; fault still there", "2026-09-21",
        "nvidia-bug-report.sh --safe-mode --extra-system-data", "field diagnostic",
    ):  # fmt: skip
        assert words in page
    history = page[page.index("5. History") : page.index("6. Still")]
    assert "node2: remap-failed" in history, "the same board, in another host"
    assert "node9" not in history, "another board in the same slot of another host"
    assert "SIMULATED" not in page


def test_it_is_whole_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    evidence = [bundle(tmp_path, "first.tar.gz")]
    one = write_packet(tmp_path / "a", attempt(), evidence, None, [])
    two = write_packet(tmp_path / "b", attempt(), evidence, None, [])
    assert one.name == two.name == "rma-node7-42-20260921T141820Z.tar.gz"
    assert one.read_bytes() == two.read_bytes()
    assert [each.name for each in (tmp_path / "a").iterdir()] == [one.name], "no temporary file is left"
    files = unpacked(one)
    listed = dict(reversed(line.split("  ", 1)) for line in files.pop("manifest.sha256").decode().splitlines())
    assert listed == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert json.loads(files["attempt.json"])["steps"][0]["proof"] == "bad"


def test_secrets_are_struck_out_everywhere(tmp_path: Path) -> None:
    log = f"vllm serve --api-key {SECRETS[0]} HF_TOKEN={SECRETS[1]} https://bmc:{SECRETS[2]}@10.0.0.7/redfish"
    report = tmp_path / "nvidia-bug-report.log.gz"
    report.write_bytes(gzip.compress(f"{XID}\n{log}\n".encode() + b"\xff\xfe"))
    evidence = [bundle(tmp_path, "first.tar.gz", **{"engine-0.log": log}), report]
    told = attempt(words=f'refused: password="{SECRETS[2]}", see {log}')
    files = unpacked(write_packet(tmp_path, told, evidence, None, []))
    everything = b"".join(gzip.decompress(c) if n.endswith(".gz") else c for n, c in files.items())
    for secret in SECRETS:
        assert secret.encode() not in everything
    assert json.loads(files["attempt.json"])["host"] == "node7", "still JSON"
    (name,) = [each for each in files if "nvidia-bug-report" in each]
    assert gzip.decompress(files[name]).startswith(XID.encode())
    assert "[ ] nvidia-bug-report" not in files["README.txt"].decode(), "it is there"


def test_a_gpu_that_fell_silent_is_known_from_an_earlier_look(tmp_path: Path) -> None:
    silent = bundle(
        tmp_path, "second.tar.gz", **{"smi-q.txt": "No devices were found\n", "kernel.log": "[1.0] NVRM: x"}
    )
    page = unpacked(write_packet(tmp_path, attempt(), [bundle(tmp_path, "first.tar.gz"), silent], None, []))
    assert "692-2G520-0200-000" in page["README.txt"].decode()


def test_what_could_not_be_had_is_said_and_does_not_stop_it(tmp_path: Path) -> None:
    nameless = attempt(subjects=(replace(GPU, serial=""),), steps=(), words="")
    evidence = [tmp_path / "nowhere.tar.gz"]
    page = unpacked(write_packet(tmp_path, nameless, evidence, None, [], simulated=True))["README.txt"].decode()
    assert "01-nowhere:\n     could not be read" in page
    assert "take it from the board or from the BMC's inventory" in page
    assert "No step of recovery" in page
    assert "THE GPUS OF THIS HOST ARE SIMULATED" in page


def test_hardware_fills_in_and_drives_are_parts_too(tmp_path: Path) -> None:
    hardware = NodeHardware(
        gpus=(Gpu(0, name="NVIDIA H100 80GB HBM3", uuid="GPU-7", pci=GPU.name),),
        nvme=(NvmeDrive("/dev/nvme1n1", "SAMSUNG MZQL2", "S64GNX0", "GDC5902Q", pci="0000:81:00.0"),),
        driver_version="580.95.05",
    )
    blamed = attempt(subjects=(Subject("drive", "nvme1"), GPU, Subject("host", "node7")))
    page = unpacked(write_packet(tmp_path, blamed, [], hardware, []))["README.txt"].decode()
    for words in ("S64GNX0", "GDC5902Q", "GPU-7", "580.95.05"):
        assert words in page


def test_names_in_a_bundle_cannot_lead_out_of_the_packet(tmp_path: Path) -> None:
    path = tmp_path / "bad.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("../../etc/passwd", "/etc/shadow", "a/../../b", "evidence/kernel.log"):
            entry = tarfile.TarInfo(name)
            entry.size = len(XID)
            archive.addfile(entry, io.BytesIO(XID.encode()))
    names = unpacked(write_packet(tmp_path / "out", attempt(host="../n 7"), [path], None, [])).keys()
    assert all(".." not in name and not name.startswith("/") for name in names)
    assert len([name for name in names if name.startswith("evidence/01-bad/")]) == 4


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/self").exists(), reason="needs /proc")
def test_a_directory_that_cannot_be_written_is_one_line() -> None:
    with pytest.raises(MetalserveError, match="cannot be written"):
        write_packet(Path("/proc/nowhere"), attempt(), [], None, [])


def test_what_is_no_secret_stays() -> None:
    for text in (b"max_tokens: 8192, tokenizer=auto", b"http://node1:8000/v1", b"GPU-1234 serial 1650923000017"):
        assert scrubbed(text) == text
    key = b"-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----"
    assert scrubbed(b"x\n" + key) == b"x\n*** private key ***"
