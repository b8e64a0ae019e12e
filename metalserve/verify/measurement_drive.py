"""Judges the read rate of the drive that holds the models, and what `dcgmi diag` said. Pure."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from typing import Any

from metalserve.hardware.node import NodeHardware
from metalserve.verify.finding import Finding
from metalserve.verify.measurement import Dcgm, Storage
from metalserve.verify.measurement_rules import DRIVE_FAIL_SHARE, DRIVE_HOT_C, DRIVE_SHARE, inconclusive

LANE_GB_S = {1: 0.25, 2: 0.5, 3: 0.985, 4: 1.969, 5: 3.938, 6: 7.563}
"""GB/s of one PCIe lane and direction after line coding (PCI Express base specification)."""

DCGM_GUIDE = "docs.nvidia.com/datacenter/dcgm: diagnostics"


def check_drive(storage: Storage, hardware: NodeHardware) -> list[Finding]:
    """Judge a drive's sequential read by the rate of its PCIe link."""
    subject = storage.device or storage.path
    if storage.error or storage.read_gb_s is None:
        why = f"nothing was read: {storage.error or 'no rate'}"
        return [inconclusive("drive-read", subject, "a read rate", why, "look at the drive and its file system")]
    told = f"{storage.read_gb_s:g} GB/s"
    if storage.model_load_s is not None:
        told += f"; the model takes {storage.model_load_s:.0f} s from it"
    if not storage.direct:
        told += " (through the page cache)"
    findings = [_rate(storage, hardware, subject, told)]
    heat = storage.temperature_end_c
    if heat is not None:
        hot = heat >= DRIVE_HOT_C.value
        findings.append(
            Finding(
                "drive-heat",
                "warn" if hot else "ok",
                subject,
                f"below {DRIVE_HOT_C.value:g} C while it is read",
                f"{heat:g} C",
                "it slows itself down, and ages" if hot else "",
                "air over the drive bays, heat sinks" if hot else "",
                DRIVE_HOT_C.in_words,
            )
        )
    return findings


def _rate(storage: Storage, hardware: NodeHardware, subject: str, told: str) -> Finding:
    link = _link_gb_s(storage.device, hardware)
    rate = storage.read_gb_s or 0.0
    if link is None:
        wanted = "recorded: its PCIe link is not known"
        return Finding("drive-read", "ok", subject, wanted, told, source="measured here")
    wanted = f"at least {link * DRIVE_SHARE.value:.2g} GB/s, half of its link's {link:.3g}"
    if rate >= link * DRIVE_SHARE.value:
        return Finding("drive-read", "ok", subject, wanted, told, source=DRIVE_SHARE.in_words)
    dead = rate < link * DRIVE_FAIL_SHARE.value
    return Finding(
        "drive-read",
        "fail" if dead else "warn",
        subject,
        wanted,
        told,
        "engines start late, and a host that comes back is missed longer",
        "`nvme smart-log`, `dmesg | grep nvme`, the drive's temperature; whether something else reads from it",
        (DRIVE_FAIL_SHARE if dead else DRIVE_SHARE).in_words,
    )


def _link_gb_s(device: str, hardware: NodeHardware) -> float | None:
    controller = device.split("n1")[0]
    drive = next((d for d in hardware.nvme if d.device.removeprefix("/dev/").split("n1")[0] == controller), None)
    link = next((k for k in hardware.nvme_links if drive is not None and k.address == drive.pci), None)
    if link is None or link.gen_current is None or link.width_current is None:
        return None
    lane = LANE_GB_S.get(link.gen_current)
    return lane * link.width_current if lane else None


def read_dcgm(data: Mapping[str, Any]) -> Dcgm:
    """Read what the host's script noted: level, exit status, the output in base64."""
    text = ""
    if isinstance(data.get("text"), str):
        try:
            text = base64.b64decode(data["text"], validate=True).decode(errors="replace")
        except binascii.Error:
            text = ""
    start = text.find("{")
    try:
        output = json.loads(text[start:]) if start >= 0 else text[-2000:]
    except ValueError:
        output = text[-2000:]
    level, rc = data.get("level"), data.get("rc")
    return Dcgm(level=level if isinstance(level, int) else 0, rc=rc if isinstance(rc, int) else -1, output=output)


def check_dcgm(dcgm: Dcgm) -> list[Finding]:
    """Merge the results of `dcgmi diag`: one finding a failed test and GPU, one for all that passed."""
    wanted = f"`dcgmi diag -r {dcgm.level}` passes"
    if not isinstance(dcgm.output, dict):
        why = f"its output cannot be read (status {dcgm.rc}): {str(dcgm.output).strip()[-200:] or 'empty'}"
        return [inconclusive("dcgm", "host", wanted, why, "run it by hand; see that DCGM's service runs", DCGM_GUIDE)]
    results = list(_results(dcgm.output))
    failed = [(name, result) for name, result in results if str(result.get("status", "")).lower() == "fail"]
    findings = [
        Finding(
            "dcgm",
            "fail",
            _entity(result),
            wanted,
            f"{name}: {_words(result)}",
            "NVIDIA's own diagnosis fails",
            "do what DCGM says; then ask the maker, with its log",
            DCGM_GUIDE,
        )
        for name, result in failed
    ]
    if not results or (dcgm.rc and not failed):
        why = f"status {dcgm.rc}, {len(results)} results, none failed"
        return [inconclusive("dcgm", "host", wanted, why, "run it by hand and read what it says", DCGM_GUIDE)]
    passed = sum(str(r.get("status", "")).lower() == "pass" for _, r in results)
    return findings or [
        Finding("dcgm", "ok", "host", wanted, f"{passed} of {len(results)} results pass", source=DCGM_GUIDE)
    ]


def _results(output: object, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Find the results of each test, in the JSON of DCGM 3 and of DCGM 4 alike."""
    if isinstance(output, dict):
        own = str(output.get("name", name))
        if isinstance(output.get("status"), str) and "name" not in output:
            yield own, output
        for key, value in output.items():
            if key != "test_summary":  # DCGM 4 says the worst of a test's results once more
                yield from _results(value, own)
    elif isinstance(output, list):
        for value in output:
            yield from _results(value, name)


def _entity(result: Mapping[str, Any]) -> str:
    gpu = result.get("gpu_ids", result.get("gpu_id", result.get("entity_id")))
    return "host" if gpu in (None, "") else f"GPU {gpu}"


def _words(result: Mapping[str, Any]) -> str:
    said = result.get("warnings") or result.get("info") or "it failed"
    parts = said if isinstance(said, list) else [said]
    return " | ".join(str(p.get("warning", p)) if isinstance(p, dict) else str(p) for p in parts)[:400]
