#!/usr/bin/env python3
"""Bandwidth between the GPUs of one host: all-reduce over 2, 4, 8 ... GPUs, and a direct copy for each pair.

    python3 bandwidth.py --json                  all GPUs, NCCL
    python3 bandwidth.py --json --cpu 2          two processes on the CPU, gloo: proves the program, not a machine

Needs Python 3.10 and PyTorch, nothing else. Prints one JSON object. GB/s are decimal; `busbw` is counted as by
nccl-tests: bytes / time * 2 (n - 1) / n. Every sum is checked; `wrong` counts elements that were not right.
The control arm runs the largest all-reduce once more with NCCL_P2P_DISABLE=1: when that fails too, or is no better,
it is not a link that is broken. NVLS is left as the environment has it unless --nvls says otherwise.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

MIB = 1 << 20
GPU_SIZES = (64 * MIB, 256 * MIB, 1024 * MIB, 8192 * MIB)
CPU_SIZES = (1 * MIB, 4 * MIB)
PAIR_BYTES = 256 * MIB
WARM_UP = 5
ROUNDS = 3
"""The median of three rounds counts: a single one flutters (azurehpc pull request 628)."""


def main() -> int:
    """Run the probe; 0 when everything was measured and every sum was right."""
    arguments = _arguments()
    if arguments.worker:
        return _worker(json.loads(arguments.worker))
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as nvidia-smi numbers them
    signal.signal(signal.SIGTERM, _ended)
    result = _measure(arguments)
    text = json.dumps(result, indent=None if arguments.json else 1)
    if arguments.out:
        _write(Path(arguments.out), text)
    print(text, flush=True)
    return 1 if result["error"] or result["wrong"] else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one line")
    parser.add_argument("--out", help="also write the result to this file, whole or not at all")
    parser.add_argument("--cpu", type=int, default=0, metavar="N", help="N processes on the CPU with gloo")
    parser.add_argument("--sizes", help="bytes of the all-reduces, comma-separated")
    parser.add_argument("--iterations", type=int, default=0, help="all-reduces a round; 0: 20 on GPUs, 3 on the CPU")
    parser.add_argument("--nvls", choices=("on", "off", "leave"), default="leave", help="NVLink SHARP in NCCL")
    parser.add_argument("--no-control", action="store_true", help="leave the control arm out")
    parser.add_argument("--timeout", type=int, default=300, metavar="S", help="seconds that one arm may take")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def _ended(number: int, frame: object) -> None:
    raise SystemExit(128 + number)  # through the `finally` that ends the workers


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    result: dict[str, Any] = {
        "schema": 1, "probe": "bandwidth", "simulated": False, "backend": None, "nccl": None, "nvls": None,
        "transports": [], "all_reduce": [], "pairs": [], "control": {}, "wrong": 0, "error": None,
    }  # fmt: skip
    started = time.monotonic()
    try:
        import torch
    except ImportError as error:
        result["error"] = f"PyTorch cannot be imported: {error}"
        return result
    gpus = 0 if arguments.cpu else torch.cuda.device_count()
    world = arguments.cpu or gpus
    backend = "gloo" if arguments.cpu else "nccl"
    result.update(backend=backend, gpus=gpus, torch=torch.__version__)
    if world < 2:
        result["error"] = None if world else "PyTorch sees no GPU"
        result["note"] = "one GPU: there is nothing to measure between GPUs"
        return result
    sizes = [int(s) for s in arguments.sizes.split(",")] if arguments.sizes else list(_sizes(backend))
    groups = sorted({n for n in (2, 4, 8, 16) if n <= world} | {world})
    task = {
        "backend": backend, "world": world, "groups": groups, "sizes": sizes, "pairs": True,
        "iterations": arguments.iterations or (20 if backend == "nccl" else 3),
    }  # fmt: skip
    environment = {"on": {"NCCL_NVLS_ENABLE": "1"}, "off": {"NCCL_NVLS_ENABLE": "0"}}.get(arguments.nvls, {})
    main_arm = _arm(task, environment, arguments.timeout)
    for key in ("all_reduce", "pairs", "wrong", "error", "nccl", "transports", "nvls"):
        result[key] = main_arm[key]
    if backend == "nccl" and not arguments.no_control:
        only = {**task, "groups": [world], "sizes": sizes[-2:-1] or sizes, "pairs": False, "iterations": 5}
        control = _arm(only, {**environment, "NCCL_P2P_DISABLE": "1"}, arguments.timeout)
        rows = control["all_reduce"]
        result["control"] = {
            "p2p_off_busbw_gb_s": rows[-1]["busbw_gb_s"] if rows else None,
            "size_bytes": rows[-1]["size_bytes"] if rows else None,
            "transports": control["transports"],
            "wrong": control["wrong"],
            "error": control["error"],
        }
    result["seconds"] = round(time.monotonic() - started, 1)
    return result


def _sizes(backend: str) -> tuple[int, ...]:
    return GPU_SIZES if backend == "nccl" else CPU_SIZES


def _arm(task: dict[str, Any], environment: dict[str, str], timeout_s: int) -> dict[str, Any]:
    """Run one process a GPU and gather what they say; whatever happens, none of them outlives this."""
    found: dict[str, Any] = {"all_reduce": [], "pairs": [], "wrong": 0, "error": None, "nccl": None}
    with tempfile.TemporaryDirectory(prefix="metalserve-bandwidth-") as directory:
        place = Path(directory)
        env = {
            **os.environ,
            "NCCL_DEBUG": "INFO",
            "NCCL_DEBUG_SUBSYS": "INIT,NVLS,P2P,SHM,ENV",
            "NCCL_DEBUG_FILE": str(place / "nccl.%p"),
            # One host: its loopback is there even in a container without a network.
            "NCCL_SOCKET_IFNAME": "lo",
            "GLOO_SOCKET_IFNAME": "lo",
            **environment,
        }
        workers = []
        try:
            for rank in range(task["world"]):
                own = json.dumps({**task, "rank": rank, "place": directory})
                with (place / f"log.{rank}").open("w") as log:
                    command = [sys.executable, str(Path(__file__).resolve()), "--worker", own]
                    workers.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))
            deadline = time.monotonic() + timeout_s
            while any(w.poll() is None for w in workers):
                if any(w.poll() not in (None, 0) for w in workers):
                    time.sleep(1)  # the others may have more to say
                    break
                if time.monotonic() > deadline:
                    found["error"] = f"no result within {timeout_s} s"
                    break
                time.sleep(0.05)
        finally:
            ended = [worker.poll() for worker in workers]  # before they are killed: who ended by itself, and how
            for worker in workers:
                worker.kill()
            for worker in workers:
                worker.wait()
        bad = next((rank for rank, status in enumerate(ended) if status not in (None, 0)), None)
        if bad is not None:
            found["error"] = f"rank {bad} ended with {ended[bad]}: {_last(place / f'log.{bad}')}"
        for rank in range(task["world"]):
            found["wrong"] += _read(place / f"wrong.{rank}") or 0
            found["pairs"] += _read(place / f"pairs.{rank}") or []
        found["pairs"].sort(key=lambda pair: (pair["a"], pair["b"]))
        found["wrong"] += sum(not pair["right"] for pair in found["pairs"])
        for key in ("all_reduce", "nccl"):
            found[key] = _read(place / f"{key}.0") or found[key]
        log_text = "".join(p.read_text(errors="replace") for p in place.glob("nccl.*") if p.suffix[1:].isdigit())
    found["nvls"] = _nvls(log_text, env) if task["backend"] == "nccl" else None
    found["transports"] = sorted(set(re.findall(r" via ((?:P2P|SHM|NET)(?:/\w+)?)", log_text)))
    return found


def _nvls(log: str, environment: dict[str, str]) -> bool | None:
    """Tell from NCCL's log whether it joined the GPUs through the switches' own sums; None when it does not say."""
    if environment.get("NCCL_NVLS_ENABLE") == "0":
        return False
    if "Connected NVLS tree" in log or re.search(r"NVLS comm 0x\w+ headRank", log):
        return True
    if "NVLS multicast support is not available" in log:
        return False
    return None


def _last(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if "Error" in line or "error" in line]
    return (told or lines or ["it said nothing"])[-1][:300]


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def _write(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}.new")
    new.write_text(text + "\n")
    new.replace(path)


# -- one process a GPU -------------------------------------------------------------------------------------------------


def _worker(task: dict[str, Any]) -> int:
    _die_with_parent()
    import torch
    import torch.distributed as dist

    rank, world, place = task["rank"], task["world"], Path(task["place"])
    gpu = task["backend"] == "nccl"
    device = torch.device("cuda", rank) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    dist.init_process_group(task["backend"], init_method=f"file://{place}/store", rank=rank, world_size=world)
    calm = dist.new_group(backend="gloo")  # to wait on the CPU: a barrier on the GPU keeps it busy
    state = {"all_reduce": [], "wrong": 0}
    if gpu and rank == 0:
        _write(place / "nccl.0", json.dumps(".".join(map(str, torch.cuda.nccl.version()))))
    for count in task["groups"]:
        group = dist.new_group(list(range(count)))
        if rank < count:
            for size in task["sizes"]:
                _all_reduce(task, count, size, group, device, state)
                _write(place / f"wrong.{rank}", json.dumps(state["wrong"]))
                if rank == 0:
                    _write(place / "all_reduce.0", json.dumps(state["all_reduce"]))
        dist.barrier(calm)
    if task["pairs"]:
        if not gpu:
            _write(place / f"pairs.{rank}", json.dumps(_sends(rank, world, calm)))
        elif rank == 0:
            _copies(world, place)
        dist.barrier(calm)
    dist.destroy_process_group()
    return 0


def _die_with_parent() -> None:
    """Have the kernel end this process when the probe is killed: no load may be left on a GPU."""
    import ctypes

    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    except (OSError, AttributeError):
        return


def _all_reduce(task: dict[str, Any], count: int, size: int, group: Any, device: Any, state: dict[str, Any]) -> None:
    import torch
    import torch.distributed as dist

    data = torch.full((size // 4,), float(task["rank"] + 1), dtype=torch.float32, device=device)
    dist.all_reduce(data, group=group)
    state["wrong"] += int((data != count * (count + 1) / 2).sum().item())
    data.zero_()  # sums of zeros stay zeros: nothing overflows however often they are added
    for _ in range(WARM_UP if device.type == "cuda" else 1):
        dist.all_reduce(data, group=group)
    took = [_timed(lambda: dist.all_reduce(data, group=group), task["iterations"], device) for _ in range(ROUNDS)]
    algbw = size / median(took) / 1e9
    state["all_reduce"].append(
        {
            "gpus": list(range(count)),
            "size_bytes": size,
            "busbw_gb_s": _rounded(algbw * 2 * (count - 1) / count),
            "algbw_gb_s": _rounded(algbw),
            "spread_percent": round((max(took) - min(took)) / median(took) * 100, 1),
        }
    )


def _rounded(value: float) -> float:
    return round(value, 2 if value >= 1 else 4)


def _timed(call: Any, times: int, *devices: Any) -> float:
    """Return the seconds that one call takes, of `times` in a row; wall time, so that every device is waited for."""
    import torch

    cuda = [d for d in devices if d.type == "cuda"]
    for device in cuda:
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    for _ in range(times):
        call()
    for device in cuda:
        torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / times


def _copies(world: int, place: Path) -> None:
    """Copy between each two GPUs with their copy engines, one way and both ways at once."""
    import torch

    pairs: list[dict[str, Any]] = []
    for a, b in itertools.combinations(range(world), 2):
        one, other = torch.device("cuda", a), torch.device("cuda", b)
        here = [torch.full((PAIR_BYTES,), 1, dtype=torch.uint8, device=one) for _ in range(2)]
        there = [torch.full((PAIR_BYTES,), 2, dtype=torch.uint8, device=other) for _ in range(2)]
        streams = torch.cuda.Stream(one), torch.cuda.Stream(other)

        def forth(there: Any = there, here: Any = here, stream: Any = streams[0]) -> None:
            with torch.cuda.stream(stream):
                there[0].copy_(here[0], non_blocking=True)

        def both(there: Any = there, here: Any = here, streams: Any = streams, forth: Any = forth) -> None:
            forth()
            with torch.cuda.stream(streams[1]):
                here[1].copy_(there[1], non_blocking=True)

        _timed(both, 3, one, other)
        single = median(_timed(forth, 10, one, other) for _ in range(ROUNDS))
        double = median(_timed(both, 10, one, other) for _ in range(ROUNDS))
        right = int(there[0].max().item()) == 1 == int(there[0].min().item()) and int(here[1].min().item()) == 2
        pairs.append(
            {
                "a": a,
                "b": b,
                "gb_s": _rounded(PAIR_BYTES / single / 1e9),
                "bidirectional_gb_s": _rounded(2 * PAIR_BYTES / double / 1e9),
                "peer_access": torch.cuda.can_device_access_peer(a, b),
                "right": right,
            }
        )
        _write(place / "pairs.0", json.dumps(pairs))


def _sends(rank: int, world: int, group: Any) -> list[dict[str, Any]]:
    """Send between each two processes; what the CPU can do in place of copies between GPUs."""
    import torch
    import torch.distributed as dist

    size = CPU_SIZES[-1]
    pairs = []
    for a, b in itertools.combinations(range(world), 2):
        if rank in (a, b):
            data = torch.full((size,), rank + 1, dtype=torch.uint8)
            got = torch.zeros(size, dtype=torch.uint8)
            other = b if rank == a else a
            started = time.perf_counter()
            if rank == a:
                dist.send(data, other)
                dist.recv(got, other)
            else:
                dist.recv(got, other)
                dist.send(data, other)
            there_and_back = time.perf_counter() - started
            started = time.perf_counter()
            for work in [dist.isend(data, other), dist.irecv(got, other)]:
                work.wait()
            both = time.perf_counter() - started
            right = bool((got == other + 1).all())
            if rank == a:
                rate = {"gb_s": 2 * size / there_and_back / 1e9, "bidirectional_gb_s": 2 * size / both / 1e9}
                rounded = {key: _rounded(value) for key, value in rate.items()}
                pairs.append({"a": a, "b": b, **rounded, "peer_access": False, "right": right})
        dist.barrier(group)
    return pairs


if __name__ == "__main__":
    sys.exit(main())
