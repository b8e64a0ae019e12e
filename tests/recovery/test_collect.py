"""The collecting script, run here with tools that answer, hang and leak; and the bundle it makes, read again."""

from __future__ import annotations

import os
import subprocess
import tarfile
import time
from io import BytesIO
from pathlib import Path

from metalserve.recovery.bundle import collecting_script
from metalserve.recovery.reading import read_evidence
from metalserve.recovery.verdict import judge

DMESG = "#!/bin/sh\necho '[ 1.0] NVRM: Xid (PCI:0000:09:00): 119, pid=1, name=x, Timeout waiting for RPC from GSP1!'\n"
# `exec` leaves one process, as a tool stuck in the driver is one; it does not heed TERM
HANGS = "#!/bin/sh\ntrap '' TERM\nexec sleep 60\n"
LEAKS = (
    "#!/bin/sh\necho 'vllm serve --api-key sk-abcdefghijklmnop1234 HF_TOKEN=hf_abcdefghijklmnopqrst'\n"
    'echo \'{"a": "{\\\\"api_key\\\\": \\\\"quoted-key-77\\\\"}"} https://bmc:s3cretpw@10.0.0.7/\'\n'
    "echo 'Authorization: Bearer abcdefgh.ijkl-mnop' >&2\necho 'EngineCore encountered a fatal error'\n"
)
NO_DRIVER = """#!/bin/sh
echo "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
exit 9
"""
SECRETS = ("sk-abcdefghijklmnop1234", "hf_abcdefghijklmnopqrst", "abcdefgh.ijkl-mnop", "quoted-key-77", "s3cretpw")


def collect(place: Path, **tools: str) -> Path:
    commands = place / "bin"
    commands.mkdir()
    for name in ("nvidia-smi", "dmesg", "journalctl", "docker", "systemctl", "nvme", "lspci", *tools):
        file = commands / name.replace("_", "-")
        file.write_text(tools.get(name.replace("-", "_"), "#!/bin/sh\nexit 1\n"))
        file.chmod(0o755)
    script = collecting_script().replace("MS_LIMIT=20", "MS_LIMIT=3").replace("MS_DEADLINE=30", "MS_DEADLINE=5")
    done = subprocess.run(
        ["sh", "-c", 'eval "$(cat)" </dev/null'],
        input=script.encode(),
        capture_output=True,
        check=True,
        env={**os.environ, "PATH": f"{commands}:{os.environ['PATH']}"},
        timeout=60,
    )
    assert done.stderr == b""
    tar = place / "host.tar"
    tar.write_bytes(done.stdout)
    return tar


def test_a_hung_nvidia_smi_neither_holds_up_the_bundle_nor_goes_unnoticed(tmp_path: Path) -> None:
    began = time.monotonic()
    tar = collect(tmp_path, nvidia_smi=HANGS, dmesg=DMESG)
    assert time.monotonic() - began < 30, "it waits for the deadline at most, not for what hangs"
    verdict = judge(read_evidence([str(tar)]))
    assert {cause.id for cause in verdict.causes} == {"gsp", "driver-hang"}
    assert verdict.rung == "reboot"
    assert "smi-q.txt: the command did not end" in verdict.lacking
    assert any("boot before" in each for each in verdict.lacking)


def test_secrets_do_not_leave_the_host(tmp_path: Path) -> None:
    tar = collect(tmp_path, dmesg=LEAKS, systemctl=LEAKS)
    with tarfile.open(tar) as archive:
        names = archive.getnames()
        content = b"".join(file.read() for name in names if (file := archive.extractfile(name)) is not None)
    for secret in SECRETS:
        assert secret.encode() not in content
    assert b"***" in content
    assert "evidence/manifest.tsv" in names
    assert b"EngineCore encountered" in content, "only the secret is struck out"


def test_a_host_without_a_driver(tmp_path: Path) -> None:
    tar = collect(
        tmp_path,
        nvidia_smi=NO_DRIVER,
        dmesg="#!/bin/sh\necho '[ 0.0] Linux version 6.8.0'\n",
    )
    assert [cause.id for cause in judge(read_evidence([str(tar)])).causes] == ["driver-absent"]


def test_the_manifest_names_every_command_and_how_it_ended(tmp_path: Path) -> None:
    with tarfile.open(fileobj=BytesIO(collect(tmp_path, dmesg=DMESG).read_bytes())) as archive:
        manifest = archive.extractfile("evidence/manifest.tsv")
        assert manifest is not None
        rows = [line.split("\t") for line in manifest.read().decode().splitlines()]
        files = {Path(name).name for name in archive.getnames()} - {"evidence", "manifest.tsv"}
    assert {row[0] for row in rows} == files
    assert all(len(row) == 4 and (row[1].isdigit() or row[1] == "hung") and float(row[2]) >= 0 for row in rows)
