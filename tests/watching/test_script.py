"""The script that a node runs, run here with tools that answer, refuse a field, or never end."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metalserve.watching.frames import LIMIT_S, Frame, FrameReader, sampling_script
from metalserve.watching.node import NodeWatch
from tests.watching.samples import Card, gpu_csv

OLD_DRIVER = """#!/bin/sh
case "$*" in
*nvlink*) echo "GPU 0: NVIDIA L40S (UUID: GPU-1)"; echo "    NVML: Device does not have or support Nvlink"; exit 0 ;;
*tlimit*) echo 'Field "temperature.gpu.tlimit" is not a valid field to query.'; exit 2 ;;
*clocks_event_reasons*) echo 'Field "clocks_event_reasons.active" is not a valid field to query.'; exit 2 ;;
*gpu_recovery_action*) echo 'Field "gpu_recovery_action" is not a valid field to query.'; exit 2 ;;
esac
for word; do case $word in --query-gpu=*) fields=${word#*=} ;; esac; done
echo "$fields" | sed 's/,/, /g'
echo "$fields" | sed 's/,/, /g; s/clocks_throttle_reasons.active/0x0000000000000020/; s/\\bindex\\b/0/'
"""
HUNG = "#!/bin/sh\ntrap '' TERM\nexec sleep 300\n"
QUIET = "#!/bin/sh\nexit 0\n"


@contextmanager
def running(tmp_path: Path, **tools: str) -> Iterator[subprocess.Popen[bytes]]:
    for name, text in {"nvidia-smi": QUIET, "dmesg": QUIET, "systemctl": QUIET, "curl": QUIET, **tools}.items():
        path = tmp_path / name.replace("_", "-")
        path.write_text(text)
        path.chmod(0o755)
    script = sampling_script(address="0.0.0.0", port=8000, interval_s=0.5)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    process = subprocess.Popen(
        ["sh", "-c", 'eval "$(cat)" </dev/null'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(script.encode())
    process.stdin.close()
    try:
        yield process
    finally:
        process.stdout.close()
        process.wait(timeout=10)


def frames(process: subprocess.Popen[bytes], count: int, timeout_s: float = 20) -> list[Frame]:
    assert process.stdout is not None
    reader, found, rest, until = FrameReader(), [], b"", time.monotonic() + timeout_s
    while len(found) < count:
        assert time.monotonic() < until, f"{len(found)} frames, {reader.said}"
        if select.select([process.stdout], [], [], 0.2)[0]:
            *lines, rest = (rest + os.read(process.stdout.fileno(), 65536)).split(b"\n")
            found += [frame for line in lines if (frame := reader.feed(line.decode())) is not None]
    return found


def test_fields_that_a_driver_does_not_know_are_left_out(tmp_path: Path) -> None:
    with running(tmp_path, nvidia_smi=OLD_DRIVER) as process:
        told = frames(process, 2)
    node = NodeWatch("a", 0.5)
    for at, frame in enumerate(told):
        node.take(frame, float(at))
    (gpu,) = node.view(1.1).gpus
    assert gpu.index == 0 and gpu.held == ("sw_thermal_slowdown",)
    assert gpu.margin_c is None
    assert node.view(1.1).links == {}


def test_a_nvidia_smi_that_never_ends_does_not_hold_the_frames(tmp_path: Path) -> None:
    began = time.monotonic()
    with running(tmp_path, nvidia_smi=HUNG) as process:
        told = frames(process, 4, timeout_s=LIMIT_S)
        assert time.monotonic() - began < LIMIT_S
    assert all("gpu" in frame.busy and "gpu" not in frame.sections for frame in told)
    assert told[-1].busy["gpu"] == told[0].busy["gpu"] < told[-1].uptime


def test_it_ends_and_leaves_nothing_when_nobody_listens(tmp_path: Path) -> None:
    places = set(Path("/run").glob("metalserve-top.*"))
    (tmp_path / "smi.txt").write_text(gpu_csv([Card(0)]))
    with running(tmp_path, nvidia_smi=f"#!/bin/sh\ncat {tmp_path}/smi.txt\n") as process:
        assert frames(process, 1)[0].sections["gpu"].text.count("\n") == 1
    assert process.returncode is not None
    until = time.monotonic() + 5
    while set(Path("/run").glob("metalserve-top.*")) - places:
        assert time.monotonic() < until
        time.sleep(0.1)
