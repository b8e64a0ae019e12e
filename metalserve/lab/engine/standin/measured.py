"""The probes of the lab's image: SIMULATED. They answer in the shape of files/probes/, from profile and faults.

Nothing is measured and no load is made; the time that a soak takes is real, so that it can be followed, found again by
another controller, and ended. What the toolkit's stand-in mounts into a container tells which machine this is.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import sys
import time
from typing import Any

LAB = "/opt/metalserve-lab"
HOT_S = 10

BUSBW = {
    "a100-sxm-80": {2: 190.0, 4: 214.0, 8: 234.0},
    "h100-sxm": {2: 345.0, 4: 348.0, 8: 478.0},
    "h200-sxm": {2: 314.0, 4: 362.0, 8: 472.0},
    "b200": {2: 532.0, 4: 631.0, 8: 836.0},
    "h100-nvl": {2: 226.0},
}
"""Healthy all-reduces over NVLink, GB/s (catalogue gpus.yaml, busbw)."""

PCIE_BUSBW = 18.0
"""All-reduce over PCIe, and with peer-to-peer off, GB/s (measured tables: 1.6 to 37)."""

TFLOPS = {"h100-sxm": 690.0, "h200-sxm": 700.0, "b200": 1500.0, "a100-sxm-80": 260.0, "h100-nvl": 600.0}
LINK_GB_S = {3: 25.0, 4: 25.0, 5: 50.0}
"""Nominal GB/s of one NVLink and direction, by generation."""

DRIVE_SHARE = 0.85
LANE_GB_S = {3: 0.985, 4: 1.969, 5: 3.938}


def machine() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the profile and the faults in force."""
    profile = _read("profile.json", {})
    cured = set(_read("state/cured.json", []))
    return profile, [fault for fault in _read("faults.json", {}).get("faults", []) if fault.get("id") not in cured]


def _read(name: str, default: Any) -> Any:
    try:
        with open(os.path.join(LAB, name), encoding="utf-8") as stream:
            return json.load(stream)
    except (OSError, ValueError):
        return default


def _struck(kind: str, faults: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {fault.get("gpu", 0): fault for fault in faults if fault["kind"] == kind}


def bandwidth(arguments: argparse.Namespace) -> dict[str, Any]:
    """Answer as bandwidth.py: lost links slow the pairs of their GPU, and with them the whole."""
    profile, faults = machine()
    count = len(profile.get("gpus", []))
    result: dict[str, Any] = {
        "schema": 1, "probe": "bandwidth", "simulated": True, "backend": "nccl", "nccl": "2.29.3", "nvls": None,
        "transports": ["P2P/CUMEM"], "all_reduce": [], "pairs": [], "control": {}, "wrong": 0, "gpus": count,
        "error": None if count else "PyTorch sees no GPU",
    }  # fmt: skip
    if count < 2:
        return result
    gpu, fabric = profile["gpu"], profile["fabric"]
    linked = gpu["nvlink"] is not None and fabric["kind"] != "pcie"
    healthy = BUSBW.get(gpu["catalogue_id"], {}) if linked else {}
    degraded = _struck("nvlink-degraded", faults)
    wired = gpu["nvlink"]["slots"] - len(gpu["nvlink"]["inactive"]) if linked else 0
    left = {n: (wired - len(f.get("links") or [0, 0])) / wired for n, f in degraded.items() if wired}
    result["nvls"] = linked and fabric["kind"] == "nvswitch" and gpu["nvlink"]["generation"] >= 4
    for n in sorted({n for n in (2, 4, 8) if n <= count} | {count}):
        share = min([left.get(g, 1.0) for g in range(n)])
        for size, of_it in ((256 << 20, 0.9), (1 << 30, 0.96), (8 << 30, 1.0)):
            rate = healthy.get(n, PCIE_BUSBW / n * 2) * share * of_it
            row = {"gpus": list(range(n)), "size_bytes": size, "busbw_gb_s": round(rate, 2)}
            result["all_reduce"].append({**row, "algbw_gb_s": round(rate * n / 2 / (n - 1), 2), "spread_percent": 0.8})
    each = fabric["links_per_pair"] or wired
    for a, b in itertools.combinations(range(count), 2):
        rate = 20.0
        if linked and (fabric["kind"] != "bridge" or [a, b] in fabric["pairs"]):
            rate = each * LINK_GB_S[gpu["nvlink"]["generation"]] * 0.87 * min(left.get(a, 1.0), left.get(b, 1.0))
        pair = {"a": a, "b": b, "gb_s": round(rate, 2), "bidirectional_gb_s": round(rate * 1.96, 2)}
        result["pairs"].append({**pair, "peer_access": gpu["p2p"], "right": True})
    result["control"] = {"p2p_off_busbw_gb_s": PCIE_BUSBW / count * 2 * 0.7, "size_bytes": 1 << 30, "error": None}
    return result


def soak(arguments: argparse.Namespace) -> dict[str, Any]:
    """Answer as soak.py, in real time: a hot GPU falls to six tenths of its rate and shows the driver's reasons."""
    profile, _ = machine()
    count = len(profile.get("gpus", []))
    result: dict[str, Any] = {
        "schema": 1, "probe": "soak", "simulated": True, "backend": "cuda", "asked_seconds": arguments.seconds,
        "interval_s": 1, "telemetry": "nvidia-smi", "stopped": None if count else "error: PyTorch sees no GPU",
        "gpus": [{"index": n, **{name: [] for name in SERIES}} for n in range(count)], "seconds": 0.0,
    }  # fmt: skip
    began, hot_for = time.monotonic(), 0
    while result["stopped"] is None and result["seconds"] < arguments.seconds:
        time.sleep(max(0.0, began + len(result["gpus"][0]["t_s"]) + 1 - time.monotonic()))
        elapsed = result["seconds"] = round(time.monotonic() - began, 1)
        _, faults = machine()
        hot = _struck("thermal-throttle", faults)
        for gpu in result["gpus"]:
            for name, value in _sample(profile["gpu"], gpu, elapsed / arguments.seconds, gpu["index"] in hot).items():
                gpu[name].append(value)
            gpu["t_s"].append(elapsed)
        worst = max(result["gpus"], key=lambda gpu: gpu["temperature_c"][-1])
        heat = worst["temperature_c"][-1]
        hot_for = hot_for + 1 if arguments.limit_c is not None and heat >= arguments.limit_c else 0
        if hot_for >= HOT_S:
            result["stopped"] = (
                f"heat: GPU {worst['index']} at {heat:g} C, limit {arguments.limit_c:g} C, for {HOT_S} s"
            )
        if arguments.stop_file and os.path.exists(arguments.stop_file):
            with open(arguments.stop_file, encoding="utf-8") as stream:
                result["stopped"] = (stream.readline().strip() or "stop file")[:300]
        if _signalled:
            result["stopped"] = "SIGTERM"
        if arguments.progress:
            last = [{"index": g["index"], **{name: g[name][-1] for name in SERIES}} for g in result["gpus"]]
            told = {"schema": 1, "simulated": True, "phase": "soak", "t_s": elapsed, "seconds": arguments.seconds}
            _write(arguments.progress, json.dumps({**told, "stopped": result["stopped"], "gpus": last}))
    return result


SERIES = ("t_s", "tflops", "temperature_c", "tlimit_margin_c", "power_w", "sm_mhz", "reasons")


def _sample(model: dict[str, Any], gpu: dict[str, Any], share: float, hot: bool) -> dict[str, Any]:
    heat, power, clocks = model["temperature"], model["power"]["default"], model["clocks"]["sm_max"]
    rate = TFLOPS.get(model["catalogue_id"], 120.0)
    ripple = 1 + 0.002 * ((gpu["index"] * 7 + len(gpu["t_s"]) * 3) % 5 - 2)
    degrees = heat["slowdown"] + 1 if hot else heat["max_operating"] - 25 + gpu["index"] % 3
    slow = 1 - 0.4 * share if hot else 1.0
    return {
        "tflops": round(rate * ripple * slow, 2),
        "temperature_c": degrees,
        "tlimit_margin_c": heat["max_operating"] - degrees if heat["style"] == "tlimit" else None,
        "power_w": round(power * (0.998 if not hot else 0.998 * slow), 2),
        "sm_mhz": round(clocks * 0.8 * slow),
        "reasons": ["hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown"] if hot else ["sw_power_cap"],
    }


def storage(arguments: argparse.Namespace) -> dict[str, Any]:
    """Answer as storage.py: most of what the drive's link gives; a slow drive gives what the fault leaves it."""
    profile, faults = machine()
    drives = profile.get("nvme", [])
    rate = LANE_GB_S.get(drives[0]["pcie_gen"], 1.0) * drives[0]["pcie_width"] * DRIVE_SHARE if drives else 0.5
    if _struck("nvme-downgraded", faults):
        rate = 0.25 * DRIVE_SHARE
    if _struck("slow-disk", faults):
        rate = 0.002
    return {
        "schema": 1, "probe": "storage", "simulated": True, "path": arguments.path, "device": arguments.device,
        "read_gb_s": round(rate, 3), "direct": True, "method": "simulated", "seconds": arguments.seconds,
        "bytes": int(rate * arguments.seconds * 1e9), "error": None, "temperature_start_c": 38.0,
        "temperature_end_c": 46.0,
    }  # fmt: skip


_signalled: list[int] = []


def main(probe: str) -> int:
    """Run one of the probes; takes the real ones' arguments."""
    parser = argparse.ArgumentParser(description="SIMULATED probe of the metalserve lab")
    parser.add_argument("--json", action="store_true")
    for name in ("--out", "--progress", "--stop-file", "--path", "--device", "--nvls"):
        parser.add_argument(name, default="")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--limit-c", type=float)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: _signalled.append(number))
    result = {"bandwidth": bandwidth, "soak": soak, "storage": storage}[probe](arguments)
    text = json.dumps(result)
    if arguments.out:
        _write(arguments.out, text)
    print(text, flush=True)
    return 1 if result.get("error") or result.get("stopped") else 0


def _write(path: str, text: str) -> None:
    new = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.new")
    with open(new, "w", encoding="utf-8") as stream:
        stream.write(text + "\n")
    os.replace(new, path)


if __name__ == "__main__":
    sys.exit(main(sys.argv.pop(1)))
