"""Reads evidence from files: a kernel log, an engine's log, `nvidia-smi -q`, a bug report, a directory or tar of them.

What a file is, is seen from what it holds, since people paste and rename. Nothing is run and nothing is written.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from metalserve.catalogue.causes import Log, load_causes
from metalserve.catalogue.loader import load_gpus
from metalserve.errors import MetalserveError
from metalserve.hardware.gpu_details import gpu_details
from metalserve.hardware.node import NodeHardware
from metalserve.hardware.parsers.drive_health import parse_drive_health
from metalserve.hardware.parsers.smi import smi_failure
from metalserve.hardware.parsers.smi_q import parse_smi_q
from metalserve.hardware.parsers.text import ParseError, decode
from metalserve.hardware.values import Gpu
from metalserve.recovery.bmc_evidence import FILES as BMC_FILES
from metalserve.recovery.bmc_evidence import read_bmc, read_event_log
from metalserve.recovery.bmc_values import BmcEvidence
from metalserve.recovery.bundle import Bundle, bundle_of
from metalserve.recovery.evidence import Evidence
from metalserve.recovery.guessing import guessable
from metalserve.recovery.newest_first import in_order_of_time
from metalserve.recovery.opening import files_of, unwrapped
from metalserve.recovery.since import after, now_of, zero_of, zone_of
from metalserve.recovery.suspects import of_kernel
from metalserve.verify.drives import check_drives
from metalserve.verify.finding import Finding
from metalserve.verify.health import check_gpus

_SMI_FAILURE_LIMIT: Final = 20_000
"""Characters of a text that may be nothing but a complaint of nvidia-smi; it prints its table after some of them."""

Part = Literal["kernel", "earlier", "fabric", "engine", "smi-q"]

_EVENT_LOG_LIMIT: Final = 4_000_000
"""Characters of a text that nothing else is known of, and that may be the event log of a BMC; they are far smaller."""
_SEL = re.compile(r"^\s{0,8}[0-9a-f]{1,4} \| +\d\d/\d\d/\d{2,4} +\| \d\d:\d\d:\d\d[^|\n]{0,12}\| ", re.MULTILINE)
_SMI = re.compile(r"^=+NVSMI LOG=+[ \t]*$", re.MULTILINE)
_END_OF_SMI = re.compile(r"^(?:_{20,}|\*\*\* .{1,200})[ \t]*$", re.MULTILINE)
_FABRIC = re.compile(
    r"nv-fabricmanager|\bnvlsm: |\[tid \d+\]|Fabric Manager version is|[Ff]abric [Mm]anager config file item"
    r"|Starting NVIDIA fabric manager|NVIDIA Fabric Manager Start Script"
)
_ENGINE = re.compile(
    r"\bvllm\b|EngineCore|ProcessGroupNCCL|APIServer pid=|torch\.(?:cuda\.)?OutOfMemoryError|uvicorn|NCCL (?:WARN|INFO)"
    r"|CUDA error|cudaError|nvidia-container-|OCI runtime|Traceback \(most recent|ray\.exceptions|site-packages/"
    r"|dist-packages/|^[\w.]{0,80}(?:Error|Exception): |\btorch\b|\bnvcc\b|huggingface|\bCUDA\b"
    r"|Error response from daemon",
    re.IGNORECASE | re.MULTILINE,
)
_NAMED = re.compile(r"engine|vllm|container|docker|podman|\bray|nccl|server|\blog\b", re.IGNORECASE)
_SYSLOG = re.compile(
    r"^(?:\w{3,5}\.? [ \d]\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\dT[\d:.,+-]{8,22}Z?) "
    r"\S{1,80} [\w./@-]{1,60}(?:\[\d{1,10}\])?: "
)
_CONTAINER = re.compile(
    r"docker|container|podman|runc|crio|kubelet|conmon|vllm|sglang|python|\bray\b|metalserve|engine|nccl|nvidia-c",
    re.IGNORECASE,
)
"""Words of what runs engines: a line of the host's journal without one is another service's, and no engine's."""
_OF_CONTAINER = re.compile(r"engine|vllm|sglang|container|docker|podman|kubectl|\bpod\b", re.IGNORECASE)
"""Names of files that hold what was said inside a container."""
_IN_CONTAINER = re.compile(
    r"^\W{0,4}\w{1,32}@[0-9a-f]{12}:|\b(?:docker|podman|nerdctl|crictl|ctr|kubectl)(?: -\S{1,40}){0,8} (?:run|exec)\b",
    re.MULTILINE,
)
"""A prompt with a container's id for its host, and calls that run something inside one."""
_NO_ACCESS = re.compile(r"Failed to initialize NVML: (?:Unknown Error|Insufficient Permissions)", re.IGNORECASE)
_KERNEL = re.compile(
    r"NVRM: |\bS?Xid \("
    r"|^\[ {0,8}\d{1,9}\.\d{6}\]|^\[[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}\]|\bkernel: "
    r"|^\d{1,3},\d+,\d+,[-c+];|^kern {2}:|nvme\d+: |PCIe Bus Error|(?:XFS|EXT4-fs) |Out of memory: Kill|Kernel panic"
    r"|\[Hardware Error\]|EDAC MC|mlx5_core |md/raid",
    re.MULTILINE,
)


@dataclass
class _Parts:
    """What was found, as it is read."""

    texts: dict[Part, list[str]] = field(default_factory=dict)
    engines: dict[str, str] = field(default_factory=dict)
    gpus: list[Gpu] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    smi: str = ""
    smi_status: int = 0
    lacking: list[str] = field(default_factory=list)
    bmc: BmcEvidence | None = None

    def add(self, part: Part, text: str) -> None:
        self.texts.setdefault(part, []).append(text)

    def text(self, part: Part) -> str | None:
        found = self.texts.get(part)
        return "\n".join(found) if found else None


def read_evidence(names: Iterable[str], *, since: float = 0.0) -> Evidence:
    """Read evidence from files, directories, tar archives, or standard input (`-`).

    Args:
        names: what to read.
        since: seconds since the epoch by the host's clock: what logs say of the time before is left out.

    Raises:
        MetalserveError: a file cannot be read, is too large, or none of them holds anything known.
    """
    names = list(names)
    return evidence_of([(name, [(where, decode(raw)) for where, raw in files_of(name)]) for name in names], since=since)


def evidence_of(given: Sequence[tuple[str, Sequence[tuple[str, str]]]], *, since: float = 0.0) -> Evidence:
    """Make evidence of texts that are at hand.

    Args:
        given: (name, files) of each source; a file is (path, text).
        since: seconds since the epoch by the host's clock: what logs say of the time before is left out.

    Raises:
        MetalserveError: none of them holds anything known.
    """
    parts = _Parts()
    known = 0
    texts = {_name(path): text for _, files in given for path, text in files}
    own = [(name, [each for each in files if _name(each[0]) not in BMC_FILES]) for name, files in given]
    clock = texts.get("clock.txt", "")
    bmc = read_bmc(texts, alone=not any(files for _, files in own), now=now_of(clock))
    known += bmc is not None
    for name, files in own:
        bundle = bundle_of(files)
        if bundle is not None:
            known += _take_bundle(name, bundle, parts)
            continue
        for where, text in files:
            known += _take(where, text, parts)
    bmc = bmc or parts.bmc
    if not known:
        raise MetalserveError(
            "holds no kernel log, engine log, log of fabric manager, `nvidia-smi -q` or what a BMC said",
            where=", ".join(name for name, _ in given),
            remedy="give `dmesg`, `journalctl -k`, `docker logs ENGINE`, or a nvidia-bug-report.log.gz",
        )
    for part, words in (("kernel", "the kernel log"), ("smi-q", "`nvidia-smi -q`")):
        if part == "kernel" and not parts.texts.get("kernel"):
            parts.lacking.append(words)
        if part == "smi-q" and not parts.gpus and not parts.smi:
            parts.lacking.append(f"{words}: what the driver itself asks for is not known")
    hardware = NodeHardware(gpus=tuple(parts.gpus), smi_state="ok") if parts.gpus else None
    findings = (*(check_gpus(hardware, load_gpus()) if hardware else ()), *_drives(texts))
    evidence = Evidence(
        kernel=parts.text("kernel"),
        earlier=parts.text("earlier"),
        fabric=parts.text("fabric"),
        engines=parts.engines,
        smi=parts.smi,
        smi_status=parts.smi_status,
        silent_engines=tuple(parts.silent),
        hardware=hardware,
        findings=findings,
        bmc=bmc,
        lacking=(*parts.lacking, *(bmc.missed if bmc is not None else ())),
    )
    return after(evidence, since, zero_of(clock), zone_of(clock))


def _drives(texts: Mapping[str, str]) -> Iterator[Finding]:
    """What the SMART logs of a bundle say (`nvme-nvme0.json`), by the check that `metalserve verify` makes of them."""
    logs = ((re.fullmatch(r"nvme-(nvme\d{1,3})\.json", name), text) for name, text in sorted(texts.items()))
    joined = "".join(f"drive\t/dev/{found[1]}\n{text}\n" for found, text in logs if found is not None)
    with contextlib.suppress(ParseError):
        drives = NodeHardware(drive_health=parse_drive_health(joined))
        yield from (finding for finding in check_drives(drives) if finding.check == "nvme-health")


def _name(path: str) -> str:
    return PurePosixPath(path.rpartition(":")[2]).name


def _take_bundle(name: str, bundle: Bundle, parts: _Parts) -> int:
    """Take a bundle of `metalserve diagnose`: what each file is, its name says."""
    for part, text in (("kernel", bundle.kernel), ("earlier", bundle.earlier), ("fabric", bundle.fabric)):
        if text:
            parts.add(part, text)  # type: ignore[arg-type]  # the names are those of Part
    parts.engines.update(bundle.engines)
    parts.silent.extend(bundle.silent)
    if bundle.smi_status:
        parts.smi, parts.smi_status = bundle.smi, bundle.smi_status
    elif bundle.smi:
        _take(f"{name}:smi-q.txt", bundle.smi, parts)
    parts.lacking.extend(bundle.lacking)
    return 1


def _take(where: str, text: str, parts: _Parts) -> int:
    """Take what a file holds; returns how many kinds of evidence were in it."""
    text = in_order_of_time(unwrapped(text))
    taken = 0
    rest = ""
    last = 0
    for found in _SMI.finditer(text):
        end = _END_OF_SMI.search(text, found.end())
        stop = end.start() if end else len(text)
        rest += text[last : found.start()]
        last = stop
        taken += 1
        try:
            report = parse_smi_q(text[found.start() : stop])
        except ParseError as error:
            parts.lacking.append(f"{where}: `nvidia-smi -q` was not understood: {error}")
            continue
        if not parts.gpus:  # a bug report holds several, all of the same moment: the first is whole
            pairs = zip(report.gpus, report.trees, strict=True)
            parts.gpus.extend(replace(gpu, details=gpu_details(tree)) for gpu, tree in pairs)
    rest += text[last:]
    name = Path(where).name
    short = len(text) < _SMI_FAILURE_LIMIT
    if not taken and short and smi_failure(text) and not _KERNEL.search(text) and not _by_a_container(name, text):
        parts.smi += text
        return 1
    of_the_kernel = _KERNEL.search(rest) is not None
    others = "\n".join(line for line in rest.splitlines() if not of_kernel(line)) if of_the_kernel else rest
    by_fabric_manager = _FABRIC.search(others) is not None
    if by_fabric_manager and not of_the_kernel and not _has_sign(others, "engine"):
        parts.add("fabric", rest)
        return taken + 1
    if of_the_kernel or _has_sign(rest, "kernel"):
        # one paste may hold both: signs are looked for by kind, and a kind does not match another's lines
        parts.add("earlier" if re.search(r"previous|earlier|boot-1", name) else "kernel", rest)
        taken += 1
        if by_fabric_manager:
            parts.add("fabric", others)
    others = "\n".join(line for line in others.splitlines() if not _SYSLOG.match(line) or _CONTAINER.search(line))
    named = not taken and _NAMED.search(name) is not None and others.strip() != ""
    speaks = _ENGINE.search(others) is not None or _has_sign(others, "engine")
    if speaks or named:
        parts.engines[_engine_name(name, len(parts.engines))] = others
        taken += 1
        if by_fabric_manager and not of_the_kernel:
            parts.add("fabric", rest)
    nothing_known = not taken or (named and not speaks)
    if _SEL.search(rest) or (nothing_known and len(rest) < _EVENT_LOG_LIMIT):
        parts.bmc = parts.bmc or read_event_log(rest)
        taken += parts.bmc is not None
    if not parts.texts.get("kernel") and not by_fabric_manager and (not taken or (nothing_known and not parts.bmc)):
        taken += _take_by_words(rest, parts)
    return taken


def _take_by_words(text: str, parts: _Parts) -> int:
    """Take a text of which nothing is known, where its words tell of trouble: what a host's services say."""
    if len(text) >= _EVENT_LOG_LIMIT or not guessable(text, load_causes()):
        return 0
    parts.add("kernel", text)
    return 1


def _by_a_container(name: str, text: str) -> bool:
    """Tell whether nvidia-smi complains inside a container, as far as name and text tell: no word of the host's driver.

    NVML has an error without a reason for a program that may not open the devices. A host says it too, but seldom; who
    asked a host says so by the file's name, or gives its kernel log.
    """
    if _OF_CONTAINER.search(name) or _IN_CONTAINER.search(text):
        return True
    return "smi" not in name.lower() and _NO_ACCESS.search(text) is not None


def _has_sign(text: str, log: Log) -> bool:
    """Tell whether some line holds a sign; the kernel's own lines hold none of an engine."""
    catalogue = load_causes()
    lines = (
        (line, catalogue.likely(log, line)) for line in text.splitlines() if log != "engine" or not of_kernel(line)
    )
    return any(sign.search(line) for line, may in lines if may is not None for sign in may.signs)


def _engine_name(name: str, number: int) -> str:
    found = re.search(r"engine[-_ ]?(\d{1,3})", name)
    return f"engine {found[1]}" if found else f"engine {number}"
