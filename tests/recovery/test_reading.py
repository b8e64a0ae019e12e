"""Reading evidence: what people paste, rename, compress and pack."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from metalserve.cli import root
from metalserve.errors import MetalserveError
from metalserve.recovery import opening
from metalserve.recovery.reading import evidence_of, read_evidence
from metalserve.recovery.verdict import Verdict, judge
from metalserve.recovery.words import in_words

DMESG = "[ 12.3] NVRM: Xid (PCI:0000:09:00): 79, pid=0, GPU has fallen off the bus.\n"
ENGINE = "(EngineCore pid=7) ERROR EngineCore encountered a fatal error.\n"
SMI = """
==============NVSMI LOG==============

Timestamp                                 : Mon Nov 23 10:00:00 2026
Driver Version                            : 580.105.08
CUDA Version                              : 13.0

Attached GPUs                             : 1
GPU 00000000:1B:00.0
    Product Name                          : NVIDIA H100 80GB HBM3
    GPU UUID                              : GPU-11111111-2222-3333-4444-555555555555
    GPU Recovery Action                   : Drain and Reset
    Remapped Rows
        Correctable Error                 : 0
        Uncorrectable Error               : 1
        Pending                           : Yes
        Remapping Failure Occurred        : No
"""
BUG_REPORT = f"""____________________________________________

Start of NVIDIA bug report log file.
____________________________________________

{SMI}
____________________________________________

journalctl -b -0:

{DMESG}
____________________________________________

{SMI.replace("Drain and Reset", "None")}
"""


def test_each_kind_is_known_by_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(DMESG)
    (tmp_path / "engine-3.txt").write_text(ENGINE)
    (tmp_path / "c").write_text(SMI)
    (tmp_path / "d").write_text("nv-fabricmanager[1]: something\n")
    evidence = read_evidence([str(tmp_path)])
    assert "NVRM" in (evidence.kernel or "") and "nv-fabricmanager" in (evidence.fabric or "")
    assert list(evidence.engines) == ["engine 3"]
    assert evidence.hardware is not None and evidence.hardware.gpus[0].recovery_action == "Drain and Reset"
    assert evidence.lacking == ()


@pytest.mark.parametrize("compressed", [False, True])
def test_a_bug_report(tmp_path: Path, compressed: bool) -> None:
    file = tmp_path / "nvidia-bug-report.log"
    file.write_bytes(gzip.compress(BUG_REPORT.encode()) if compressed else BUG_REPORT.encode())
    verdict = judge(read_evidence([str(file)]))
    assert {cause.id for cause in verdict.causes} == {"gpu-off-bus", "reset-asked", "remap-pending"}
    assert verdict.rung == "reboot"


def test_a_tar_is_read_and_never_unpacked(tmp_path: Path) -> None:
    file = tmp_path / "bundle.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        for name, text in (("../../escape", DMESG), ("/etc/engine-1", ENGINE)):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    before = sorted(tmp_path.parent.rglob("*"))
    evidence = read_evidence([str(file)])
    assert "NVRM" in (evidence.kernel or "") and "engine 1" in evidence.engines
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_a_link_in_a_directory_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(ENGINE)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "log").write_text(DMESG)
    (tmp_path / "in" / "link").symlink_to(tmp_path / "secret")
    assert read_evidence([str(tmp_path / "in")]).engines == {}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"holiday pictures", "holds no kernel log"),
        (b"", "holds no kernel log"),
        (gzip.compress(DMESG.encode())[:-9], "decompressed"),
        (gzip.compress(b"x" * 5000), "larger"),
    ],
)
def test_what_is_of_no_use_is_one_line(
    tmp_path: Path, content: bytes, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "SIZE_LIMIT", 4096)
    file = tmp_path / "x"
    file.write_bytes(content)
    with pytest.raises(MetalserveError, match=words):
        read_evidence([str(file)])


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(MetalserveError, match="cannot be read"):
        read_evidence(["/nowhere/at/all"])


def test_the_command_prints_json_and_reads_standard_input() -> None:
    result = CliRunner().invoke(root, ["diagnose", "-", "--json"], input=DMESG + ENGINE)
    assert result.exit_code == 0, result.output
    data = json.loads(result.output)
    assert (data["schema"], data["rung"]) == (1, "reboot")
    assert [(c["id"], c["explained_by"]) for c in data["causes"]] == [
        ("gpu-off-bus", ""),
        ("engine-died", "gpu-off-bus"),
    ]
    assert any("nvidia-smi" in each for each in data["lacking"])


WORN = json.dumps({"critical_warning": 8, "avail_spare": 3, "spare_thresh": 10, "percent_used": 101, "media_errors": 7})
FILES = [
    ("kernel.log", DMESG),
    ("kernel-previous.log", DMESG.replace("09:00", "0a:00")),
    ("fabricmanager.log", "[Nov 26 2026 10:00:00] [ERROR] [tid 1] detected NVSwitch fatal error 20034 on fid 0\n"),
    ("engine-0.log", ENGINE),
    ("engine-1.log", "torch.OutOfMemoryError: CUDA out of memory.\n"),
    ("engine-2.log", "RuntimeError: CUDA error: uncorrectable ECC error encountered\n"),
    ("smi-q.txt", SMI),
    ("nvme-nvme0.json", WORN),
    ("bmc-power.json", '{"power": "on"}'),
    (
        "bmc-events.json",
        '{"items": [{"at": null, "severity": "Critical", "message": "CPU 2 has an internal error (IERR)."}]}',
    ),
]


def gist(verdict: Verdict) -> object:
    causes = {(c.id, frozenset(c.subjects), c.rung, c.explained_by, c.past, c.authority) for c in verdict.causes}
    return causes, verdict.rung, verdict.needs_person, frozenset(verdict.lacking)


@given(st.permutations(FILES), st.booleans())
def test_the_order_of_files_does_not_matter(files: list[tuple[str, str]], whole: bool) -> None:
    manifest = [("manifest.tsv", "".join(f"{name}\t0\t0.1\tcommand\n" for name, _ in FILES))] if whole else []
    expected = gist(judge(evidence_of([("b", [*manifest, *FILES])])))
    assert gist(judge(evidence_of([("b", [*files, *manifest])]))) == expected


def test_a_drive_that_is_read_only_is_known_from_its_smart_log() -> None:
    verdict = judge(evidence_of([("b", [("nvme-nvme0.json", WORN), ("dmesg", DMESG)])]))
    (drive,) = [cause for cause in verdict.causes if cause.id == "drive-bad"]
    assert (drive.subjects, verdict.rung) == (("/dev/nvme0",), "quarantine")
    well = WORN.replace('"critical_warning": 8', '"critical_warning": 0')
    for text in (well, "garbage", "{}", ""):
        assert "drive-bad" not in {
            c.id for c in judge(evidence_of([("b", [("nvme-nvme0.json", text), ("dmesg", DMESG)])])).causes
        }


NAMES = st.sampled_from(
    [name for name, _ in FILES] + ["manifest.tsv", "clock.txt", "engine-states.txt", "token-0.txt", "x"]
)


@given(st.lists(st.tuples(NAMES, st.text(max_size=200)), max_size=6), st.floats(0, 4e9))
def test_garbage_never_makes_it_fail(files: list[tuple[str, str]], since: float) -> None:
    verdict = judge(evidence_of([("b", [*files, ("dmesg.txt", DMESG)])], since=since))
    assert isinstance(in_words(verdict), list)


LOST = "Failed to initialize NVML: Unknown Error\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("engine.log", f"root@098b49afe624:/# nvidia-smi\n{LOST}"),
        ("smi.txt", f"root@098b49afe624:/# nvidia-smi\n{LOST}"),
        ("smi.txt", f"$ docker exec -it engine nvidia-smi\n{LOST}"),
        ("vllm.txt", LOST),
        ("paste", LOST),
        ("container.txt", "No devices were found\n"),
    ],
)
def test_what_a_container_says_of_its_gpus_reboots_no_host(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    verdict = judge(read_evidence([str(tmp_path)]))
    assert verdict.causes[0].id in ("container-lost-gpus", "gpu-not-shown")
    assert verdict.rung in ("restart-engine", "converge")


def test_what_a_host_says_of_its_gpus_is_taken_as_such(tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi.txt").write_text(f"root@gpu1:~# nvidia-smi\n{LOST}")
    verdict = judge(read_evidence([str(tmp_path)]))
    assert (verdict.causes[0].id, verdict.rung) == ("gpu-no-init", "reboot")


def test_a_container_lost_its_gpus_with_a_host_whose_driver_is_broken(tmp_path: Path) -> None:
    (tmp_path / "dmesg").write_text("[ 12.3] NVRM: GPU 0000:3b:00.0: RmInitAdapter failed! (0x26:0xffff:1290)\n")
    (tmp_path / "engine-0.log").write_text(LOST)
    causes = judge(read_evidence([str(tmp_path)])).causes
    assert [(each.id, each.explained_by) for each in causes] == [
        ("gpu-no-init", ""),
        ("container-lost-gpus", "gpu-no-init"),
    ]


def test_that_a_program_finds_no_driver_follows_from_the_container_that_lost_its_gpus(tmp_path: Path) -> None:
    (tmp_path / "engine-0.log").write_text(f"{LOST}RuntimeError: No CUDA GPUs are available\n")
    verdict = judge(read_evidence([str(tmp_path)]))
    assert [(each.id, each.explained_by) for each in verdict.causes] == [
        ("container-lost-gpus", ""),
        ("driver-absent", "container-lost-gpus"),
    ]
    assert verdict.rung == "restart-engine"


@pytest.mark.parametrize(("bus", "rung"), [("1B", "restart-engine"), ("2B", "reboot")])
def test_a_gpu_that_the_host_shows_is_lost_to_the_container_only(tmp_path: Path, bus: str, rung: str) -> None:
    (tmp_path / "smi-q.txt").write_text(SMI.replace("Drain and Reset", "None").replace("Yes", "No"))
    lost = f"Unable to determine the device handle for GPU0000:{bus}:00.0: Unknown Error\n"
    (tmp_path / "engine-0.log").write_text(lost)
    assert judge(read_evidence([str(tmp_path)])).rung == rung


def test_a_service_of_a_host_that_speaks_another_language_is_no_engine(tmp_path: Path) -> None:
    line = "ago 27 14:15:42 node systemd[1]: nvidia-powerd.service: Failed with result 'exit-code'.\n"
    (tmp_path / "journal").write_text(DMESG + line)
    assert read_evidence([str(tmp_path)]).engines == {}
