#!/usr/bin/env python3
"""Sustained load on all GPUs of a host at once, watched every second: does it stay fast, and how hot does it get?

    python3 soak.py --json --seconds 900 --progress /run/soak.json
    python3 soak.py --json --seconds 5 --cpu 2      two processes on the CPU: proves the program, not a machine

Needs Python 3.10 and PyTorch, nothing else; nvidia-smi for what is watched. One process a GPU multiplies bf16 matrices
and holds every product against the first one: a result that differs is an error of the GPU. The load ends at once on
any failure (a worker's error, a GPU that nvidia-smi no longer reads, a new Xid, heat above --limit-c, the file named
by --stop-file, SIGTERM), and no way out of this program leaves a process on a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

SIZE = 8192
CPU_SIZE = 256
CHUNK_S = 0.5
START_S = 180
"""Seconds that the first product may take to come: loading PyTorch on 8 GPUs at once takes tens (guessed)."""
SILENT_S = 30
HOT_S = 10
"""Seconds above --limit-c before the load ends: one odd reading must not end a soak of an hour (guessed)."""
POINTS = 300
"""Points kept a GPU; a longer soak joins seconds (mean rate, power and clock, highest heat, all reasons seen)."""

FIELDS = (
    "index",
    "temperature.gpu",
    "temperature.gpu.tlimit",
    "power.draw",
    "clocks.sm",
    "clocks_event_reasons.active",
)
OLD_FIELDS = (*FIELDS[:-1], "clocks_throttle_reasons.active")
OLDEST_FIELDS = ("index", "temperature.gpu", "power.draw", "clocks.sm", "clocks_throttle_reasons.active")

REASONS = {
    0x1: "gpu_idle", 0x2: "applications_clocks_setting", 0x4: "sw_power_cap", 0x8: "hw_slowdown", 0x10: "sync_boost",
    0x20: "sw_thermal_slowdown", 0x40: "hw_thermal_slowdown", 0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}  # fmt: skip
"""Bits of NVML (nvml.h, nvmlClocksEventReason*)."""

SERIES = ("t_s", "tflops", "temperature_c", "tlimit_margin_c", "power_w", "sm_mhz", "reasons")


class Ended(Exception):
    """The load is to end, and why."""


def main() -> int:
    """Run the soak; 0 when it went its whole time without a failure."""
    arguments = _arguments()
    if arguments.worker is not None:
        return _worker(arguments.worker, cpu=arguments.cpu > 0, size=arguments.size)
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as nvidia-smi numbers them
    signal.signal(signal.SIGTERM, _signalled)
    signal.signal(signal.SIGINT, _signalled)
    result = Soak(arguments).run()
    text = json.dumps(result, indent=None if arguments.json else 1)
    if arguments.out:
        write(Path(arguments.out), text)
    print(text, flush=True)
    return 0 if result["stopped"] is None else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one line")
    parser.add_argument("--out", help="also write the result to this file, whole or not at all")
    parser.add_argument("--seconds", type=float, default=900.0, help="how long the load lasts")
    parser.add_argument("--progress", help="file that says every second how far it is")
    parser.add_argument("--stop-file", help="end when this file appears; its first line is the reason")
    parser.add_argument("--limit-c", type=float, help="end when a GPU stays this hot, degrees C")
    parser.add_argument("--cpu", type=int, default=0, metavar="N", help="N processes on the CPU")
    parser.add_argument("--smi", default="nvidia-smi", help="the nvidia-smi to ask; '' asks none")
    parser.add_argument("--size", type=int, default=0, help="rows of the matrices")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _signalled(number: int, frame: object) -> None:
    raise Ended(signal.Signals(number).name)


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all: others read it at any time."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text + "\n")
    new.replace(path)


class Soak:
    """One soak: the workers, what is watched, and what came of it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.workers: list[subprocess.Popen[str]] = []
        self.rates: list[tuple[float, float]] = []
        self.errors: list[str] = []
        self.series: list[dict[str, list[Any]]] = []
        self.hot: dict[int, int] = {}
        self.telemetry = Telemetry("" if arguments.cpu else arguments.smi)

    def run(self) -> dict[str, Any]:
        """Load, watch, and end the load in any case."""
        stopped: str | None = None
        elapsed, backend, count = 0.0, "cpu" if self.arguments.cpu else "cuda", self.arguments.cpu
        try:
            count = count or _gpus()
            if not count:
                raise Ended("error: PyTorch sees no GPU")
            self.series = [{name: [] for name in SERIES} for _ in range(count)]
            xids = _xids()
            self._start(count)
            self.telemetry.start()
            began = time.monotonic()
            while elapsed < self.arguments.seconds:
                time.sleep(max(0.0, began + len(self.series[0]["t_s"]) + 1 - time.monotonic()))
                elapsed = time.monotonic() - began
                self._tick(elapsed)
                self._look_for_failure(xids)
        except Ended as reason:
            stopped = str(reason)
        except Exception as error:  # also then nothing may be left running
            stopped = f"error: {type(error).__name__}: {error}"
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            self._end()
        if self.arguments.progress:
            self._progress(elapsed, "ended", stopped)
        return {
            "schema": 1, "probe": "soak", "simulated": False, "backend": backend, "seconds": round(elapsed, 1),
            "asked_seconds": self.arguments.seconds, "interval_s": self._step(), "stopped": stopped,
            "telemetry": self.telemetry.said or ("none" if not self.telemetry.fields else "nvidia-smi"),
            "gpus": [{"index": i, **_joined(s, self._step())} for i, s in enumerate(self.series)],
        }  # fmt: skip

    def _start(self, count: int) -> None:
        self.rates = [(0.0, 0.0)] * count
        for index in range(count):
            command = [sys.executable, str(Path(__file__).resolve()), "--worker", str(index)]
            command += ["--cpu", str(self.arguments.cpu), "--size", str(self.arguments.size)]
            worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            self.workers.append(worker)
            self.errors.append("")
            threading.Thread(target=self._listen, args=(index, worker), daemon=True).start()
        deadline = time.monotonic() + START_S
        while not all(rate for _, rate in self.rates):
            self._look_for_dead()
            self._look_for_stop()
            if time.monotonic() > deadline:
                late = [i for i, (_, rate) in enumerate(self.rates) if not rate]
                raise Ended(f"error: GPU {late[0]}: no product within {START_S} s")
            time.sleep(0.1)

    def _listen(self, index: int, worker: subprocess.Popen[str]) -> None:
        assert worker.stdout is not None
        for line in worker.stdout:
            if line.startswith("rate "):
                self.rates[index] = (time.monotonic(), float(line.split()[1]))
            elif line.strip():
                self.errors[index] = line.strip()[:300]

    def _tick(self, elapsed: float) -> None:
        now = self.telemetry.latest
        for index, series in enumerate(self.series):
            told = now.get(index, {})
            sample = {"t_s": round(elapsed, 1), "tflops": self.rates[index][1], **told}
            for name in SERIES:
                series[name].append(sample.get(name))
        if self.arguments.progress:
            self._progress(elapsed, "soak", None)

    def _progress(self, elapsed: float, phase: str, stopped: str | None) -> None:
        gpus = [{"index": i, **{n: s[n][-1] for n in SERIES if s[n]}} for i, s in enumerate(self.series)]
        told = {"phase": phase, "t_s": round(elapsed, 1), "seconds": self.arguments.seconds, "stopped": stopped}
        write(Path(self.arguments.progress), json.dumps({"schema": 1, **told, "gpus": gpus}))

    def _look_for_failure(self, xids: int | None) -> None:
        self._look_for_dead()
        self._look_for_stop()
        if self.telemetry.failed:
            raise Ended(f"nvidia-smi: {self.telemetry.failed}")
        limit = self.arguments.limit_c
        for index, series in enumerate(self.series):
            heat = series["temperature_c"][-1]
            self.hot[index] = self.hot.get(index, 0) + 1 if limit is not None and (heat or 0) >= limit else 0
            if self.hot[index] >= HOT_S:
                raise Ended(f"heat: GPU {index} at {heat:g} C, limit {limit:g} C, for {HOT_S} s")
            if time.monotonic() - self.rates[index][0] > SILENT_S:
                raise Ended(f"error: GPU {index}: no product for {SILENT_S} s")
        if xids is not None and len(self.series[0]["t_s"]) % 5 == 0 and (_xids() or 0) > xids:
            raise Ended("Xid: the kernel log has a new one")

    def _look_for_dead(self) -> None:
        for index, worker in enumerate(self.workers):
            if worker.poll() is not None:
                time.sleep(0.2)  # its last line is being read
                raise Ended(f"error: GPU {index}: {self.errors[index] or f'ended with {worker.returncode}'}")

    def _look_for_stop(self) -> None:
        path = Path(self.arguments.stop_file) if self.arguments.stop_file else None
        if path is not None and path.exists():
            raise Ended((path.read_text().splitlines() or ["stop file"])[0][:300])

    def _end(self) -> None:
        self.telemetry.end()
        for worker in self.workers:
            worker.kill()
        for worker in self.workers:
            worker.wait()

    def _step(self) -> int:
        length = len(self.series[0]["t_s"]) if self.series else 0
        return max(1, -(-length // POINTS))


def _joined(series: dict[str, list[Any]], step: int) -> dict[str, list[Any]]:
    """Join every `step` seconds into one point."""
    pick = {"t_s": max, "temperature_c": max, "tlimit_margin_c": min, "reasons": _union}
    joined: dict[str, list[Any]] = {}
    for name, values in series.items():
        parts = [values[n : n + step] for n in range(0, len(values), step)]
        joined[name] = [_pick(part, pick.get(name, _mean)) for part in parts]
    return joined


def _pick(part: list[Any], how: Any) -> Any:
    there = [value for value in part if value is not None]
    return how(there) if there else None


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 2)


def _union(values: list[list[str]]) -> list[str]:
    return sorted({name for names in values for name in names})


def _gpus() -> int:
    try:
        import torch
    except ImportError as error:
        raise Ended(f"error: PyTorch cannot be imported: {error}") from None
    return int(torch.cuda.device_count())


def _xids() -> int | None:
    """Count the Xids of the kernel log; None where it cannot be read (in a container)."""
    try:
        done = subprocess.run(["dmesg"], capture_output=True, text=True, errors="replace", timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.count("NVRM: Xid") if done.returncode == 0 else None


class Telemetry:
    """nvidia-smi in its loop mode; `latest` is what it said last of each GPU."""

    def __init__(self, smi: str) -> None:
        self.smi = smi
        self.fields: tuple[str, ...] = ()
        self.latest: dict[int, dict[str, Any]] = {}
        self.failed = ""
        self.said = ""
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Find the fields that this driver knows, then have them once a second."""
        if not self.smi:
            self.said = "none: not asked for"
            return
        for fields in (FIELDS, OLD_FIELDS, OLDEST_FIELDS):
            try:
                done = subprocess.run(self._query(fields), capture_output=True, text=True, timeout=60, check=False)
            except (OSError, subprocess.TimeoutExpired) as error:
                self.said = f"none: {self.smi}: {error}"
                return
            if done.returncode == 0:
                self.fields = fields
                break
            self.said = f"none: {self.smi}: {(done.stdout + done.stderr).strip()[:200]}"
        if self.fields:
            self.said = ""
            command = [*self._query(self.fields), "-lms", "1000"]
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
            )
            threading.Thread(target=self._listen, args=(self.process,), daemon=True).start()

    def _query(self, fields: tuple[str, ...]) -> list[str]:
        return [self.smi, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            sample = read_line(line, self.fields)
            if sample is not None:
                self.latest[sample.pop("index")] = sample
            elif any(word in line for word in ("ERR!", "Unable to determine", "is lost", "Unknown Error", "Failed to")):
                self.failed = line.strip()[:200]
        self.failed = self.failed or "it ended"

    def end(self) -> None:
        """End nvidia-smi."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def read_line(line: str, fields: tuple[str, ...]) -> dict[str, Any] | None:
    """Read one line of the CSV; what is [N/A] is None, and a line that is none of ours gives None."""
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) != len(fields) or not cells[0].isdigit() or "ERR!" in line or "Unknown Error" in line:
        return None
    told = dict(zip(fields, cells, strict=True))
    mask = next((told[name] for name in told if name.endswith("reasons.active")), "")
    return {
        "index": int(cells[0]),
        "temperature_c": _number(told.get("temperature.gpu")),
        "tlimit_margin_c": _number(told.get("temperature.gpu.tlimit")),
        "power_w": _number(told.get("power.draw")),
        "sm_mhz": _number(told.get("clocks.sm")),
        "reasons": _reasons(mask),
    }


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _reasons(mask: str) -> list[str] | None:
    try:
        bits = int(mask, 16)
    except ValueError:
        return None
    named = [name for bit, name in REASONS.items() if bits & bit]
    rest = bits & ~sum(REASONS)
    return named + ([f"0x{rest:x}"] if rest else [])


# -- one process a GPU -------------------------------------------------------------------------------------------------


def _worker(index: int, *, cpu: bool, size: int) -> int:
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # no load outlives the program that watches it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    torch.manual_seed(index)
    if cpu:
        torch.set_num_threads(1)
    device = torch.device("cpu") if cpu else torch.device("cuda", index)
    kind, rows = (torch.float32, size or CPU_SIZE) if cpu else (torch.bfloat16, size or SIZE)
    a = torch.randn(rows, rows, device=device, dtype=kind)
    b = torch.randn(rows, rows, device=device, dtype=kind)
    first = a @ b
    product = torch.empty_like(first)
    times = 1
    while True:
        started = time.perf_counter()
        for _ in range(times):
            torch.mm(a, b, out=product)
        if not cpu:
            torch.cuda.synchronize(device)
        took = time.perf_counter() - started
        if not torch.equal(product, first):
            print("a product differs from the first one of the same matrices", flush=True)
            return 3
        print(f"rate {2 * rows**3 * times / took / 1e12:.4f}", flush=True)
        times = max(1, round(times * CHUNK_S / max(took, 1e-6)))


if __name__ == "__main__":
    sys.exit(main())
