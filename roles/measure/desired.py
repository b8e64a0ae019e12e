"""What `measure` decides: whether a host may be measured, how, and what the answers say. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

from metalserve.catalogue.loader import load_gpus
from metalserve.desired.model import Watch
from metalserve.desired.node import Node
from metalserve.errors import MetalserveError
from metalserve.paths import FILES
from metalserve.releases import Release
from metalserve.settings import HostSettings
from metalserve.verify.expectation import expectation
from metalserve.verify.finding import Finding
from metalserve.verify.measurement import Measurement, Nvlink, Soak, Storage, read_value
from metalserve.verify.measurement_bandwidth import check_bandwidth
from metalserve.verify.measurement_drive import check_dcgm, check_drive, read_dcgm
from metalserve.verify.measurement_rules import inconclusive
from metalserve.verify.measurement_soak import check_soak, with_drift
from metalserve.weights.manifest import ManifestError
from roles.container_runtime.desired import access
from roles.vllm import image
from roles.weights.desired import manifest_of

PLACE = "/run/metalserve/measure"
"""In memory: what is put there to measure a host is gone with the next boot."""

PROBES = ("bandwidth.py", "soak.py", "storage.py")
SOAK_S = {"standard": 900, "deep": 3600}
DCGM = {"standard": 2, "deep": 3}
"""`dcgmi diag` levels: about 2 and 15 minutes (DCGM user guide); 4 takes up to two hours and is not asked for."""

STORAGE_S = 20

_WANTED = "a measurement (depth {depth})"
_ENGINES = "metalserve-vllm-"


def watch(settings: HostSettings, release: Release) -> Watch:
    """The engine's image and the engines that run."""
    return Watch(
        units=("metalserve-vllm-*.service", "metalserve-measure.service"),
        commands={image.SECTION: image.inspect_command(settings, release)},
    )


def obstacle(node: Node) -> Finding | None:
    """Return the finding that says why this host cannot be measured now, or None when it can."""
    wanted = _WANTED.format(depth=node.settings.verify.depth)
    hardware = node.hardware
    if not hardware.gpus or hardware.smi_state != "ok":
        why = f"nvidia-smi does not answer ({hardware.smi_state})" if hardware.pci_gpus else "the host has no GPU"
        return inconclusive("measurement", "host", wanted, why, "see the findings of driver and topology")
    found = node.observed.sections.get(image.SECTION)
    if found is None or found.rc != 0:
        reference = image.reference(node.settings, node.release)
        why = f"the image that the probes run in is not on the host: {reference}"
        return inconclusive("measurement", "host", wanted, why, "run deploys/gpu_node.py first")
    if runs(node):
        return None  # its engines are stopped as its own settings say; this run follows it
    engines = sorted(
        {
            u.name
            for u in node.observed.units.values()
            if u.name.startswith(_ENGINES) and u.active in ("active", "activating")
        }
    )
    if engines and not node.settings.verify.stop_engines:
        why = f"{len(engines)} engine(s) hold the GPUs: {', '.join(engines)}; nothing was disturbed"
        remedy = "set verify.stop_engines (--data stop_engines=true): they are stopped, and started again in any case"
        return inconclusive("measurement", "host", wanted, why, remedy)
    return None


def runs(node: Node) -> bool:
    """Tell whether a measurement was at work when the host was observed."""
    unit = node.observed.units.get("metalserve-measure.service")
    return unit is not None and unit.active in ("active", "activating", "deactivating")


def excused(node: Node, finding: Finding) -> Finding:
    """Return a finding about engines that a running measurement has stopped as what it is: no fault of theirs."""
    if finding.check != "answers" or not finding.failing or not runs(node):
        return finding
    why = f"engines are stopped while the host is measured ({finding.observed})"
    remedy = "verify again when the measurement has ended: it starts them again"
    return inconclusive(finding.check, finding.subject, finding.expected, why, remedy)


def script(node: Node, verb: str) -> str:
    """Return the shell that puts the probes on the host and begins, or finds what runs already.

    Args:
        node: the host.
        verb: `attach` only looks; `start` begins.
    """
    if verb == "attach":
        return f"systemctl is-active metalserve-measure.service || :\n[ ! -e {PLACE}/running ] || cat {PLACE}/running\n"
    put = [f"mkdir -p {PLACE}/probes && cd {PLACE} || exit 1"]
    for name in ("measure.sh", *PROBES):
        target = name if name == "measure.sh" else f"probes/{name}"
        put.append(f"cat >{target} <<'MS_EOF'\n{(FILES / 'probes' / name).read_text()}MS_EOF")
    put.append(f"cat >params <<'MS_EOF'\n{parameters(node)}MS_EOF")
    return "\n".join(put) + f"\nsh {PLACE}/measure.sh start\n"


def follow(seconds: int) -> str:
    """Return the shell that says how far it is, after `seconds` at most."""
    return f"sh {PLACE}/measure.sh follow {seconds}\n"


RESULT = f"sh {PLACE}/measure.sh result\n"


def parameters(node: Node) -> str:
    """Return the assignments that the host's script reads."""
    settings = node.settings
    verify = settings.verify
    if access(node) == "cdi":
        gpus = "--device nvidia.com/gpu=all"
    else:
        uuids = ",".join(gpu.uuid or "" for gpu in node.hardware.gpus)
        gpus = f"--runtime nvidia --env NVIDIA_VISIBLE_DEVICES={uuids or 'all'}"
    slowdown = slowdown_c(node)
    values = {
        "MS_IMAGE": image.reference(settings, node.release),
        "MS_GPU_OPTIONS": gpus,
        "MS_DEPTH": verify.depth,
        "MS_SECONDS": str(verify.soak_seconds or SOAK_S.get(verify.depth, 0)),
        "MS_DCGM": str(DCGM.get(verify.depth, 0)),
        "MS_MOUNT": settings.storage.mount,
        "MS_STORAGE_SECONDS": str(STORAGE_S),
        "MS_STOP_ENGINES": "1" if verify.stop_engines else "0",
        "MS_LIMIT_C": f"{slowdown:g}" if slowdown is not None else "",
        "MS_NVLS": verify.nvls,
    }
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


def slowdown_c(node: Node) -> float | None:
    """Return the temperature at which this host's GPUs slow down, degrees C, or None when the catalogue lacks it."""
    spec = expectation(node.hardware, node.settings.expect, load_gpus()).spec
    return spec.temperature_c.slowdown if spec and spec.temperature_c else None


def sections(lines: Sequence[str]) -> dict[str, str]:
    """Split what the script's `result` printed.

    Raises:
        MetalserveError: it is cut off.
    """
    found: dict[str, list[str]] = {}
    name = ""
    for line in lines:
        if line.startswith("@@ms:"):
            name = line.removeprefix("@@ms:").strip()
            found[name] = []
        elif name:
            found[name].append(line)
    if "end" not in found:
        raise MetalserveError(
            "the measurement's answer broke off", remedy="run again: what was measured is still there"
        )
    return {key: "\n".join(text).strip() for key, text in found.items()}


def assembled(node: Node, answer: dict[str, str], started: str) -> Measurement:
    """Make one value of what the probes answered.

    Raises:
        MeasurementError: an answer has another shape than this metalserve's probes give.
    """
    parts = {name: _object(answer.get(name, "")) for name in ("bandwidth", "soak", "storage", "dcgm")}
    told = [part for part in parts.values() if part is not None]
    storage = read_value(Storage, parts["storage"]) if parts["storage"] else None
    if storage is not None:
        storage = storage.model_copy(
            update={"path": node.settings.storage.mount, "model_load_s": _load_s(node, storage)}
        )
    return Measurement(
        schema=1,
        simulated=node.settings.simulated or any(part.get("simulated") is True for part in told),
        depth=node.settings.verify.depth,
        started=started,
        skipped=answer.get("failed") or None,
        nvlink=read_value(Nvlink, parts["bandwidth"]) if parts["bandwidth"] else None,
        soak=with_drift(read_value(Soak, parts["soak"])) if parts["soak"] else None,
        storage=storage,
        dcgm=read_dcgm(parts["dcgm"]) if parts["dcgm"] else None,
    )


def _object(text: str) -> dict[str, Any] | None:
    if not text:
        return None
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        return {"error": f"the probe's answer is no JSON object: {text[:80]!r}"}
    return found


def _load_s(node: Node, storage: Storage) -> float | None:
    if node.settings.model is None or not storage.read_gb_s:
        return None
    try:
        return round(manifest_of(node.settings.model).total / 1e9 / storage.read_gb_s, 1)
    except (ManifestError, MetalserveError):
        return None  # the weights role says what is wrong with the manifest


def judged(node: Node, measurement: Measurement) -> list[Finding]:
    """Judge what was measured on one host by itself."""
    expected = expectation(node.hardware, node.settings.expect, load_gpus())
    wanted = _WANTED.format(depth=measurement.depth)
    findings: list[Finding] = []
    if measurement.skipped:
        what, _, remedy = measurement.skipped.partition(" -> ")
        findings.append(inconclusive("measurement", "host", wanted, what, remedy or "measure again"))
    if measurement.storage is not None:
        findings += check_drive(measurement.storage, node.hardware)
    if measurement.nvlink is not None:
        findings += check_bandwidth(measurement.nvlink, expected, node.hardware, load_gpus())
    if measurement.soak is not None:
        findings += check_soak(measurement.soak, slowdown_c=slowdown_c(node))
    if measurement.dcgm is not None:
        findings += check_dcgm(measurement.dcgm)
    missing = [
        n
        for n, p in (("storage", measurement.storage), ("bandwidth", measurement.nvlink), ("soak", measurement.soak))
        if p is None
    ]
    if missing and not measurement.skipped:
        why = f"no answer from: {', '.join(missing)}"
        findings.append(inconclusive("measurement", "host", wanted, why, "measure again; read out/*.log on the host"))
    return findings


def kind_of(node: Node) -> str:
    """Return what makes hosts comparable: number and model of their GPUs, `8 x h100-sxm`."""
    spec = expectation(node.hardware, node.settings.expect, load_gpus()).spec
    return f"{len(node.hardware.gpus)} x {spec.id if spec else 'unknown GPU'}"


def gpu_uuids(node: Node) -> tuple[str, ...]:
    """Return the UUIDs of the host's GPUs."""
    return tuple(gpu.uuid for gpu in node.hardware.gpus if gpu.uuid)


__all__ = ["judged", "obstacle", "parameters", "script", "watch"]
