"""Reports as a verify run leaves them: hardware and findings by the simulated tools, measurements by a formula."""

from __future__ import annotations

import copy
import functools
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metalserve.catalogue.loader import load_gpus
from metalserve.hardware.export import hardware_dict
from metalserve.lab.profiles import load_profile
from metalserve.settings import ExpectSettings
from metalserve.verify.finding import Finding
from metalserve.verify.topology import check_node
from tests.verify.simulated import SimulatedHost

TFLOPS = 640.0
"""Of a healthy GPU in these samples; no measurement of any real one."""
RATES = {"h100-nvl-2": (231.0, 268.0), "l40s-4": (22.0, 21.0)}
"""All-reduce and pair bandwidth by profile, GB/s, made up; the rest is as 8 H100 SXM."""


@functools.cache
def _checked(profile: str, fault: str, gpu: int) -> tuple[dict[str, Any], list[dict[str, str]]]:
    with tempfile.TemporaryDirectory() as directory:
        host = SimulatedHost(Path(directory), profile)
        if fault:
            fields = {} if fault in ("nvme-downgraded", "driver-mismatch") else {"gpu": gpu}
            host.inject(fault, **fields)
        hardware = host.hardware()
    count = len(load_profile(profile).get("gpus", ()))
    findings = check_node(hardware, ExpectSettings(count=count), load_gpus())
    return hardware_dict(hardware), [{"role": "topology", **f.as_dict()} for f in findings]


def host(
    name: str,
    profile: str = "h100-sxm-8",
    *,
    fault: str = "",
    gpu: int = 3,
    soak_s: int = 0,
    tree: bool = True,
    seed: int = 1,
) -> dict[str, Any]:
    """Return one host of a report.

    Args:
        name: of the host.
        profile: of the lab.
        fault: a fault of the lab, on GPU `gpu`.
        soak_s: seconds of a soak, one sample a second; 0: nothing was measured.
        tree: whether the hardware has `pcie_tree`.
        seed: of the noise.
    """
    hardware, findings = copy.deepcopy(_checked(profile, fault, gpu))
    for gpu_row in hardware["gpus"]:
        gpu_row["uuid"] = f"GPU-00000000-0000-4000-8000-{seed:04d}{gpu_row['index']:08d}"
    if tree:
        hardware["pcie_tree"] = pcie_tree(profile, hardware)
    else:  # as a report of before the tree was read
        del hardware["pcie_tree"]
    bad = sum(f["status"] in ("fail", "unknown") for f in findings)
    failure = None
    if bad:
        first = next(f for f in findings if f["status"] in ("fail", "unknown"))
        what = f"{first['subject']}: {first['check']}: expected {first['expected']}, found {first['observed']}"
        failure = {
            "role": "topology",
            "stage": "prove",
            "what": what,
            "evidence": "\n".join(f["observed"] for f in findings if f["status"] in ("fail", "unknown")),
            "remedy": first["remedy"],
        }
    return {
        "name": name,
        "changes": [],
        "planned": [],
        "unknown": [],
        "warnings": [],
        "proofs": {"checks": f"{len(findings) - bad} ok"},
        "findings": findings,
        "failure": failure,
        "connected": True,
        "sessions": 2,
        "simulated": True,
        "release": "2026.11-production",
        "hardware": hardware,
        "measurements": measurements(profile, soak_s, fault, gpu, seed) if soak_s else {},
        "status": "failed" if failure else "unchanged",
    }


def report(hosts: Sequence[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    """Return a report of these hosts."""
    return {
        "schema": 1,
        "metalserve": "0.1.0",
        "started": "2026-11-25T14:37:07Z",
        "seconds": 914.2,
        "executed": False,
        "complete": True,
        "hosts": {h["name"]: h for h in hosts},
        **more,
    }


def finding(check: str, status: str, subject: str = "host", **words: str) -> dict[str, str]:
    """Return a finding as a report holds it."""
    given = {"expected": "what was bought", "observed": "something else", **words}
    evidence = {"evidence": given.pop("evidence")} if "evidence" in given else {}
    return {"role": "topology", **Finding(check, status, subject, **given).as_dict(), **evidence}  # type: ignore[arg-type]


def measurements(profile: str, soak_s: int, fault: str = "", bad_gpu: int = 3, seed: int = 1) -> dict[str, Any]:
    """Return measurements of schema 1, with the marks that a fault leaves on them."""
    noise = random.Random(seed)
    told = load_profile(profile)
    gpus = len(told["gpus"]) - (fault == "gpu-off-bus")
    links_lost = fault == "nvlink-degraded"
    all_reduce, pair = RATES.get(profile, (475.0, 392.0))
    rate = all_reduce * (0.78 if links_lost else 1) + noise.uniform(-3, 3)
    sizes = [1 << n for n in range(20, 35, 2)]
    rows = [
        {
            "gpus": list(range(gpus)),
            "size_bytes": size,
            "busbw_gb_s": round(rate * size / (size + 5e7), 1),
            "algbw_gb_s": round(rate * size / (size + 5e7) / 1.75, 1),
        }
        for size in sizes
    ]
    pairs = []
    for a in range(gpus):
        for b in range(a + 1, gpus):
            speed = pair * (0.79 if links_lost and bad_gpu in (a, b) else 1) + noise.uniform(-4, 4)
            pairs.append({"a": a, "b": b, "gb_s": round(speed, 1), "bidirectional_gb_s": round(speed * 1.94, 1)})
    return {
        "schema": 1,
        "simulated": True,
        "depth": "standard",
        "started": "2026-11-25T14:37:20Z",
        "nvlink": {
            "backend": "nccl",
            "nvls": True,
            "all_reduce": rows if gpus > 1 else [],
            "pairs": pairs,
            "control": {"p2p_off_busbw_gb_s": 31.4},
        },
        "soak": soak(
            gpus, soak_s, bad_gpu if fault == "thermal-throttle" else None, noise, told["gpu"]["power"]["default"]
        ),
        "storage": {
            "path": "/srv/models",
            "device": "/dev/nvme0n1",
            "read_gb_s": round((0.24 if fault == "nvme-downgraded" else 6.6) + noise.uniform(0, 0.1), 2),
            "direct": True,
            "seconds": 20,
            "temperature_start_c": 38,
            "temperature_end_c": 47,
            "model_load_s": 612.0 if fault == "nvme-downgraded" else 21.4,
        },
    }


def soak(gpus: int, seconds: int, hot: int | None, noise: random.Random, limit_w: float = 700) -> dict[str, Any]:
    """Return a soak of `gpus` GPUs with a sample a second; GPU `hot` slows down from a third of it on."""
    found = []
    for index in range(gpus):
        offset = noise.uniform(-4, 4)
        row: dict[str, Any] = {
            key: [] for key in ("t_s", "tflops", "temperature_c", "tlimit_margin_c", "power_w", "sm_mhz", "reasons")
        }
        for t in range(seconds):
            warm = 1 - 2.718 ** (-t / 90)
            slowed = index == hot and t > seconds / 3
            heat = 34 + (34 + offset) * warm + noise.uniform(-0.6, 0.6) + (18 * min(1, t / 240) if index == hot else 0)
            clock = 1755 - 0.9 * (heat - 50) + noise.uniform(-8, 8) - (420 if slowed and t % 40 < 26 else 0)
            row["t_s"].append(t + 1)
            row["temperature_c"].append(round(heat))
            row["tlimit_margin_c"].append(round(89 - heat))
            row["sm_mhz"].append(round(clock / 15) * 15)
            row["tflops"].append(round(TFLOPS * clock / 1755, 1))
            row["power_w"].append(round(limit_w * min(0.998, 0.4 + t / 12) * min(1, clock / 1755) ** 1.5, 1))
            row["reasons"].append(["sw_thermal_slowdown", "hw_thermal_slowdown"] if slowed else ["sw_power_cap"])
        tenth = max(1, seconds // 10)
        first, last = sum(row["tflops"][:tenth]) / tenth, sum(row["tflops"][-tenth:]) / tenth
        found.append({"index": index, **row, "drift_percent": round(100 * (last / first - 1), 2)})
    return {"seconds": seconds, "interval_s": 1, "stopped": None, "gpus": found}


def pcie_tree(profile: str, hardware: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a tree of root ports, switches and devices as the profile lays them out."""
    told = load_profile(profile)
    rows: list[dict[str, Any]] = []
    roots: dict[str, str] = {}
    switches: dict[str, str] = {}

    def row(address: str, parent: str | None, kind: str, description: str, numa: int | None, **link: Any) -> None:
        empty = dict.fromkeys(("gen_current", "gen_max", "width_current", "width_max"))
        base = {"address": address, "parent": parent, "kind": kind, "description": description, "numa": numa}
        rows.append({**base, **empty, **link})

    def above(device: Mapping[str, Any]) -> str | None:
        root, switch = device.get("root"), device.get("switch")
        if root is None:
            return None
        bus = f"{2 + 8 * len(roots):02x}"
        if root not in roots:
            roots[root] = f"0000:{bus}:01.0"
            row(roots[root], None, "root", "Intel Corporation Device 352a", device.get("numa"), **_link(5, 16))
        if switch is None:
            return roots[root]
        if switch not in switches:
            number = 0xD0 + 3 * (len(roots) - 1)
            port, switches[switch] = f"0000:{number:02x}:00.0", f"0000:{number + 1:02x}:00.0"
            row(port, roots[root], "bridge", "Broadcom / LSI PEX890xx PCIe Gen 5 Switch", None, **_link(5, 16))
            row(switches[switch], port, "bridge", "Broadcom / LSI PEX890xx PCIe Gen 5 Switch", None, **_link(5, 16))
        return switches[switch]

    by_address = {g["pci"]: g for g in hardware["gpus"]}
    for gpu in told.get("gpus", ()):
        seen = by_address.get(gpu["bus"])
        keys = ("pcie_gen_current", "pcie_gen_max", "pcie_width_current", "pcie_width_max")
        link = {k.removeprefix("pcie_"): seen[k] for k in keys} if seen else {}
        link = {f"{k.split('_')[0]}_{k.split('_')[1]}": v for k, v in link.items()}
        row(gpu["bus"], above(gpu), "gpu", f"NVIDIA Corporation {told['gpu']['pci_name']}", gpu.get("numa"), **link)
    for nic in told.get("nics", ()):
        row(nic["bus"], above(nic), "nic", nic["pci_name"], nic.get("numa"), **_link(5, 16))
    for switch in told.get("nvswitches", ()):
        row(switch["bus"], None, "switch", switch["pci_name"], 0, **_link(4, 2))
    links = {link["address"]: link for link in hardware["nvme_links"]}
    for drive in told.get("nvme", ()):
        found = {k: v for k, v in links.get(drive["bus"], {}).items() if k != "address"}
        row(drive["bus"], None, "nvme", drive["pci_name"], 0, **found)
    return rows


def _link(gen: int, width: int) -> dict[str, int]:
    return {"gen_current": gen, "gen_max": gen, "width_current": width, "width_max": width}


FAULTS = ("nvlink-degraded", "thermal-throttle", "pcie-downgraded", "nvme-downgraded", "gpu-off-bus")


def fleet(nodes: int, soak_s: int) -> dict[str, Any]:
    """Return a report of 8-GPU nodes, one in twenty with a fault; alike ones share their samples."""
    kinds = [("", 1), ("", 2), ("", 3)] + [(fault, 4) for fault in FAULTS]
    made = [host("model", soak_s=soak_s, fault=fault, seed=seed) for fault, seed in kinds]
    hosts = []
    for i in range(nodes):
        kind = made[3 + i // 20 % len(FAULTS)] if i % 20 == 7 else made[i % 3]
        hosts.append({**kind, "name": f"gpu-{i:03d}.dc1.example"})
    return report(hosts)
