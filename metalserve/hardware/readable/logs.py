"""Kinds that are logs, and an engine's metrics."""

from __future__ import annotations

from typing import Any, Final

from metalserve.hardware.parsers.fabric_log import parse_fabric_log
from metalserve.hardware.parsers.kernel_log import parse_kernel_log
from metalserve.hardware.parsers.metrics import parse_metrics
from metalserve.hardware.parsers.vllm_log import parse_vllm_log
from metalserve.hardware.readable.kind import Kind, marks, plain


def _kernel_log(text: str) -> dict[str, Any]:
    log = parse_kernel_log(text)
    return {"events": [plain(event) for event in log.events], "notes": list(log.notes)}


def _fabric_log(text: str) -> dict[str, Any]:
    log = parse_fabric_log(text)
    return {"lines": log.lines, "events": plain(log.events), "notes": list(log.notes)}


def _vllm_log(text: str) -> dict[str, Any]:
    return dict(plain(parse_vllm_log(text)))


def _vllm_metrics(text: str) -> dict[str, Any]:
    metrics = parse_metrics(text)
    return {
        "engine": metrics.engine,
        "figures": metrics.figures,
        "families": dict(metrics.families),
        "names": metrics.names,
        "samples": plain(metrics.samples),
        "notes": list(metrics.notes),
    }


_VLLM = (
    r"(?:INFO|WARNING|ERROR)(?: \d\d-\d\d \d\d:\d\d:\d\d)? \[?[a-z0-9_/]{1,60}\.py:\d|GPU KV cache size:|"
    r"KV cache is needed|Free memory on device|Maximum concurrency for \d"
)
_KERNEL = (
    r"NVRM: |SXid \(|Xid \(|\bnvidia(?:-[a-z0-9]{1,16})?(?: [0-9a-f:.]{7,16})?: |"  # the driver's own lines
    r"^(?:<\d{1,3}>)?\[ {0,8}\d{1,9}\.\d{6}\]|^\d{1,3},\d{1,12},\d{1,15},[-c]|"  # any line of a kernel
    r"^kern {0,4}:[a-z]{3,7} {0,4}:|\bkernel: "
)

LOG_KINDS: Final = (
    Kind(
        "vllm-metrics",
        "curl .../metrics of vLLM or SGLang",
        _vllm_metrics,
        marks(r"^(?:# (?:TYPE|HELP) )?(?:vllm|sglang):\w"),
    ),
    Kind(
        "fabric-log",
        "fabricmanager.log, journalctl -u nvidia-fabricmanager",
        _fabric_log,
        marks(r"\] \[tid \d{1,10}\] |nv-fabricmanager(?:\[\d{1,10}\])?: "),
    ),
    Kind("vllm-log", "the start-up log of vLLM", _vllm_log, marks(_VLLM)),
    Kind("kernel-log", "dmesg, journalctl -k", _kernel_log, marks(_KERNEL)),
)
