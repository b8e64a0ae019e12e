#!/usr/bin/env python3
"""Sequential read of a drive (or of the largest files below a directory), past the page cache. Writes nothing.

    python3 storage.py --json --path /dev/nvme0n1 --seconds 20
    python3 storage.py --json --path /srv/models

Needs Python 3.10 alone. Reads with fio where it is installed, else by O_DIRECT with many threads. GB/s are decimal.
The drive's temperature comes from the kernel's sensor before and after; null where it has none.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

BLOCK = 4 << 20
THREADS = 16
ALIGN = 4096


def main() -> int:
    """Measure; 0 when something could be read."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one line")
    parser.add_argument("--out", help="also write the result to this file, whole or not at all")
    parser.add_argument("--path", required=True, help="block device, file or directory")
    parser.add_argument("--device", default="", help="name of the drive behind the path (nvme0n1), for its sensor")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--no-fio", action="store_true")
    arguments = parser.parse_args()
    result = measure(arguments.path, arguments.device, arguments.seconds, use_fio=not arguments.no_fio)
    text = json.dumps(result, indent=None if arguments.json else 1)
    if arguments.out:
        new = Path(f"{arguments.out}.new")
        new.write_text(text + "\n")
        new.replace(arguments.out)
    print(text, flush=True)
    return 1 if result["error"] else 0


def measure(path: str, device: str, seconds: float, *, use_fio: bool = True) -> dict[str, Any]:
    """Read for `seconds` and say how fast it went."""
    name = device or (os.path.basename(os.path.realpath(path)) if path.startswith("/dev/") else "")
    result: dict[str, Any] = {
        "schema": 1, "probe": "storage", "simulated": False, "path": path, "device": name, "read_gb_s": None,
        "direct": None, "method": None, "seconds": None, "bytes": 0, "error": None,
        "temperature_start_c": temperature(name), "temperature_end_c": None,
    }  # fmt: skip
    try:
        targets = find_targets(path)
        fio = shutil.which("fio") if use_fio else None
        told = _fio(fio, targets, seconds) if fio else _direct(targets, seconds)
        result.update(told)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        result["error"] = f"{type(error).__name__}: {error}"
    result["temperature_end_c"] = temperature(name)
    return result


def find_targets(path: str) -> list[tuple[str, int]]:
    """Return (path, bytes) of what is to be read: a device, a file, or the largest files of a directory."""
    mode = os.stat(path).st_mode
    if stat.S_ISBLK(mode):
        with open(path, "rb") as stream:
            return [(path, stream.seek(0, os.SEEK_END))]
    if stat.S_ISREG(mode):
        return [(path, os.path.getsize(path))]
    found = []
    for directory, _, names in os.walk(path):
        for name in names:
            file = os.path.join(directory, name)
            if os.path.isfile(file) and not os.path.islink(file) and os.path.getsize(file) >= BLOCK:
                found.append((file, os.path.getsize(file)))
    if not found:
        raise ValueError(f"{path} has no file of {BLOCK} bytes or more to read")
    return sorted(found, key=lambda item: -item[1])[:THREADS]


def temperature(device: str) -> float | None:
    """Return the drive's temperature by the kernel's sensor (nvme hwmon), degrees C."""
    controller = device.split("n1")[0] if device.startswith("nvme") else device
    for sensor in sorted(Path("/sys/class/nvme", controller or "-").glob("**/temp1_input"))[:1]:
        try:
            return int(sensor.read_text()) / 1000
        except (OSError, ValueError):
            return None
    return None


def _fio(fio: str, targets: list[tuple[str, int]], seconds: float) -> dict[str, Any]:
    command = [
        fio, "--name=read", f"--filename={':'.join(name.replace(':', chr(92) + ':') for name, _ in targets)}",
        "--readonly", "--rw=read", "--direct=1", "--bs=1M", "--iodepth=32", "--ioengine=libaio", "--numjobs=4",
        "--offset_increment=10%", f"--runtime={seconds:g}", "--time_based", "--group_reporting", "--output-format=json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120, check=False)
    if done.returncode:
        raise ValueError(f"fio: {done.stderr.strip()[-300:] or done.returncode}")
    return read_fio(done.stdout)


def read_fio(text: str) -> dict[str, Any]:
    """Read what `fio --output-format=json` printed (fio writes notes before the object at times)."""
    job = json.loads(text[text.index("{") :])["jobs"][0]["read"]
    # `bw_bytes` is bytes a second, since fio 3; `bw` KiB a second.
    rate = job["bw_bytes"] if "bw_bytes" in job else job["bw"] * 1024
    return {
        "read_gb_s": round(rate / 1e9, 3), "direct": True, "method": "fio", "bytes": job["io_bytes"],
        "seconds": round(job["runtime"] / 1000, 1),
    }  # fmt: skip


def _direct(targets: list[tuple[str, int]], seconds: float) -> dict[str, Any]:
    """Read with many threads, each its own part of what there is, again from its start when it comes to its end."""
    flags, direct = os.O_RDONLY | getattr(os, "O_DIRECT", 0), hasattr(os, "O_DIRECT")
    try:
        os.close(os.open(targets[0][0], flags))
    except OSError:  # a file system without direct I/O
        flags, direct = os.O_RDONLY, False
    count = [0] * THREADS
    problems: list[OSError] = []
    deadline = time.monotonic() + seconds

    def read(number: int) -> None:
        name, size = targets[number % len(targets)]
        sharing = len(range(number % len(targets), THREADS, len(targets)))
        begin = size // sharing * (number // len(targets)) // ALIGN * ALIGN
        part = max(size // sharing // ALIGN * ALIGN, ALIGN)
        buffer = mmap.mmap(-1, BLOCK)  # its memory begins at a page, as direct I/O needs
        descriptor = os.open(name, flags)
        try:
            offset = begin
            while time.monotonic() < deadline:
                got = os.preadv(descriptor, [memoryview(buffer)[: min(BLOCK, begin + part - offset)]], offset)
                count[number] += got
                offset += got
                if not got or offset >= begin + part or got % ALIGN:
                    offset = begin
        except OSError as error:
            problems.append(error)
        finally:
            os.close(descriptor)

    if not direct and hasattr(os, "posix_fadvise"):
        for name, _ in targets:
            descriptor = os.open(name, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
    threads = [threading.Thread(target=read, args=(number,)) for number in range(THREADS)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - started
    if problems:
        raise problems[0]
    if not sum(count):
        raise ValueError("nothing could be read")
    return {
        "read_gb_s": round(sum(count) / took / 1e9, 3), "direct": direct, "method": "threads", "bytes": sum(count),
        "seconds": round(took, 1),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
