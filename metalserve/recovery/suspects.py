"""From single signs to suspects: what each line, state and finding alone would say. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Final

from metalserve.catalogue.causes import Cause, CauseCatalogue, Log
from metalserve.hardware.parsers.smi import addresses_named_in_errors, smi_failure
from metalserve.hardware.parsers.text import clean, pci_address
from metalserve.hardware.values import Gpu, XidEvent
from metalserve.recovery.consequences import AFTERMATH, BY_ENGINES
from metalserve.recovery.evidence import Evidence
from metalserve.recovery.stalls import stalled
from metalserve.recovery.tracebacks import reason, request_lines, started_at

EARLIER = "kernel log of the boot before"
LINE_LIMIT = 400
"""Characters of a line that are kept as evidence."""
_SUBJECTS: Final = ("subject", "other", "third", "fourth")
"""Groups of a sign that name what a line is about: one for each form of the line."""
_BEYOND_A_START: Final = frozenset({"engine-memory-error"})
"""What an engine met that a start after it does not cure."""
_UNREAD_LIMIT: Final = 20
"""Lines that are listed of a kind of log; they are for a person, who reads the log itself when there are more."""
_INFORMATION: Final = re.compile(r"\bNCCL (?:INFO|TRACE) |\bras/\w+\.cc:\d+ NCCL ")
"""Lines of NCCL that tell what it tried and did without, and those of its service for lookers-on."""
_DOES_WITHOUT: Final = re.compile(
    r"(?:\bWARNING\b|\bINFO\b|\bDEBUG\b|[a-z]Warning: ).{0,400}"
    r"(?:\b(?:fall(?:s|ing)? ?back|ignor(?:ed|ing)|skipping|[Rr]etrying|default(?:ing)?|reverting|[Ww]e will)\b"
    r"|is preempted by|are disabled|Found ulimit of)"
)
"""Lines of engines that tell what they do without, or do otherwise: no errors."""
_TOLD: Final = re.compile(r"\b(?:INFO|DEBUG) \d\d-\d\d \d\d:\d\d:\d\d ")
"""Lines of vLLM below a warning; they tell of no error, but that a worker waits for another for minutes."""
_LOOKS: Final = 20
"""Lines of one form that are looked at for what was not understood: the others differ in digits only."""
_EVENT: Final = re.compile(r"Xid ?\(|fallen off the bus")  # read elsewhere, and listed there when it is not understood
_KERNEL_LINE: Final = re.compile(r"NVRM: |\bkernel: |^\[ {0,8}\d{1,9}\.\d{6}\]|^\d{1,3},\d+,\d+,[-c+];|^kern {2}:")
_PARAMETERS: Final = re.compile(r"(?:^|[\] ;])(?:Kernel c|Unknown kernel c|C)ommand line(?: parameters)?:? ")
"""What the kernel was started with: names of settings, and no errors."""
_NUMBERS: Final = re.compile(r"0x[0-9a-fA-F]{1,16}|\d{1,20}")


@dataclass(frozen=True, slots=True)
class Suspect:
    """One sign, and the cause that it speaks for.

    Attributes:
        cause: the cause.
        subject: what it is about: a PCI address, an engine's name, a drive, a device; empty when the line does not say.
        line: the line or value, verbatim.
        origin: where it was read (`kernel log`, `nvidia-smi`, `engine 0`).
        source: why the sign means the cause.
    """

    cause: Cause
    subject: str
    line: str
    origin: str
    source: str


def from_logs(evidence: Evidence, catalogue: CauseCatalogue) -> Iterator[Suspect]:
    """Find the catalogue's signs in all logs."""
    if evidence.kernel is not None:
        yield from _matches("kernel", evidence.kernel, "kernel log", catalogue)
    if evidence.fabric is not None:
        yield from _matches("fabric", evidence.fabric, "fabric manager's log", catalogue)
    for name, text in evidence.engines.items():
        for suspect in of_engine(text, f"{BY_ENGINES}{name}", catalogue):
            yield Suspect(suspect.cause, suspect.subject or name, suspect.line, suspect.origin, suspect.source)
    for name in evidence.silent_engines:
        cause = catalogue.cause("engine-hang")
        yield Suspect(cause, name, f"{name}: /health answers, a completion does not", "probe", cause.source)


def from_earlier(evidence: Evidence, catalogue: CauseCatalogue) -> Iterator[Suspect]:
    """Find why the host went down: signs in the kernel log of the boot before. No step is taken for them any more."""
    if evidence.earlier is not None:
        yield from _matches("kernel", evidence.earlier, EARLIER, catalogue)


def of_engine(text: str, origin: str, catalogue: CauseCatalogue) -> Iterator[Suspect]:
    """Find the signs in an engine's log; where none tells why it ended, its tracebacks do, with low confidence."""
    found = list(_matches("engine", text, origin, catalogue))
    yield from found
    if all(suspect.cause.id in AFTERMATH for suspect in found):
        died = all(suspect.cause.id == "engine-died" for suspect in found)
        lines = [line for line in clean(text).splitlines() if not of_kernel(line)]
        why = reason(lines)
        if why is not None and (died or (why.at_start and why.cause not in AFTERMATH)):
            cause = catalogue.cause(why.cause).model_copy(update={"confidence": "low"})
            yield Suspect(cause, "", why.line.strip()[:LINE_LIMIT], origin, why.source)
        elif died and (line := stalled(lines)):
            cause = catalogue.cause("engine-hang").model_copy(update={"confidence": "low"})
            yield Suspect(cause, "", line.strip()[:LINE_LIMIT], origin, cause.source)


def of_kernel(line: str) -> bool:
    """Tell whether a line has the form of the kernel's: no sign of an engine is looked for in it."""
    return _KERNEL_LINE.search(line) is not None


def _matches(log: Log, text: str, origin: str, catalogue: CauseCatalogue) -> Iterator[Suspect]:
    headed: dict[int, int] = {}
    kept: dict[int, list[tuple[int, Suspect]]] = {}
    ends: Counter[tuple[int, str | None]] = Counter()
    lines = clean(text).splitlines()
    requests = request_lines(lines) if log == "engine" else set()
    started = started_at(lines) if log == "engine" else -1
    for number, line in enumerate(lines):
        line = line.strip()[:2000]
        likely = catalogue.likely(log, line)
        if likely is None or (log == "engine" and (of_kernel(line) or _INFORMATION.search(line))):
            continue
        if log == "kernel" and _PARAMETERS.search(line):
            continue
        headed.update({id(sign): number for sign in likely.heads if sign.head is not None and sign.head.search(line)})
        for sign in likely.ends:
            if sign.ends is not None and (end := sign.ends.search(line)):
                over = end.groupdict().get("subject")  # of this one only, when the line says whose end it is
                before = kept.get(id(sign), [])
                left = [each for each in before if over not in (None, each[1].subject)]
                key = (id(sign), over)
                ends[key] += len(left) < len(before) or not ends[key]  # the first may be of what was before the log
                if not 0 < sign.again <= ends[key]:
                    kept[id(sign)] = left
        for sign in likely.signs:
            if sign.head is not None and not 0 <= number - headed.get(id(sign), number + 1) <= sign.within:
                continue
            found = sign.search(line)
            if found is None:
                continue
            if log == "engine" and _is_mild(line, sign.cause):
                break  # it goes on without
            subject = next((value for name in _SUBJECTS if (value := found.groupdict().get(name))), "")
            cause = catalogue.cause(sign.cause)
            if number < started and cause.subject == "engine" and cause.id not in _BEYOND_A_START:
                break  # it started in spite of it, or again
            if number in requests and cause.rung == "converge":
                break  # a request asked for what cannot be; the engine goes on
            suspect = Suspect(cause, pci_address(subject) or subject, line[:LINE_LIMIT], origin, sign.source)
            kept.setdefault(id(sign), []).append((number, suspect))
            break  # the first sign that fits is the most telling one: the file is in that order
    yield from (suspect for _, suspect in sorted(chain.from_iterable(kept.values()), key=itemgetter(0)))


def _is_mild(line: str, cause: str) -> bool:
    """Tell whether a line of an engine tells of no error, though it has the words of one."""
    return _DOES_WITHOUT.search(line) is not None or (cause != "collective-hang" and _TOLD.search(line) is not None)


def unread(evidence: Evidence, catalogue: CauseCatalogue) -> Iterator[str]:
    """Find lines of this boot that look like errors of a known component, and that no sign knows.

    Lines that differ in their numbers only are one. They are no suspects: what they mean is not known.
    """
    texts: list[tuple[Log, str]] = [("kernel", evidence.kernel or ""), ("fabric", evidence.fabric or "")]
    texts += [("engine", text) for text in evidence.engines.values()]
    seen: set[str] = set()
    for log, text in texts:
        listed = 0
        looked: Counter[int] = Counter()
        for line in clean(text).splitlines():
            line = line.strip()[:2000]
            likely = catalogue.likely(log, line)
            if likely is None or not likely.unread or looked[id(likely)] >= _LOOKS:
                continue
            looked[id(likely)] += 1
            kind = next((each for each in likely.unread if each.compiled.search(line)), None)
            if kind is None or (kind.excused is not None and kind.excused.search(line)):
                continue
            if (log == "engine" and of_kernel(line)) or (
                log == "kernel" and (_EVENT.search(line) or _PARAMETERS.search(line))
            ):
                continue
            form = _NUMBERS.sub("#", line)
            if form in seen or any(sign.head is None and sign.search(line) for sign in likely.signs):
                continue
            seen.add(form)
            listed += 1
            if listed > _UNREAD_LIMIT:
                break
            yield line[:LINE_LIMIT]


_NO_HANDLE: Final = re.compile(r"Unable to (?:determine|detect) the device handle for (?i:gpu)")
_SMI_STATES = {"mismatch": "driver-mismatch", "no-driver": "driver-absent", "absent": "driver-absent"}


def from_smi(evidence: Evidence, catalogue: CauseCatalogue) -> Iterator[Suspect]:
    """Find what a failing nvidia-smi says: which GPUs it cannot reach, or why it cannot speak with the driver."""
    if not evidence.smi and not evidence.smi_status:
        return
    lost = addresses_named_in_errors(evidence.smi)
    for address in lost:
        cause = catalogue.cause("gpu-off-bus")
        line = next((each for each in clean(evidence.smi).splitlines() if pci_address(each)), evidence.smi)
        yield Suspect(cause, address, line.strip()[:LINE_LIMIT], "nvidia-smi", catalogue.sources["nvml"])
    failure = smi_failure(evidence.smi, evidence.smi_status)
    if failure is not None and not lost:
        state = _SMI_STATES.get(failure.state, "gpu-no-init")
        if evidence.smi_status in (124, 137):
            state = "driver-hang"
        elif _NO_HANDLE.search(evidence.smi):  # of one GPU: the address may be mangled
            state = "gpu-off-bus"
        cause = catalogue.cause(state)
        yield Suspect(cause, "", failure.message[:LINE_LIMIT], "nvidia-smi", catalogue.sources["nvml"])


def from_gpus(gpus: Iterable[Gpu], catalogue: CauseCatalogue) -> Iterator[Suspect]:
    """Find what the state of GPUs says beside the driver's recovery action."""
    for gpu in gpus:
        details = gpu.details
        states = (
            ("remap-failed", gpu.remapped_failure, "Remapping Failure Occurred : Yes"),
            ("remap-pending", gpu.remapped_pending, "Remapped Rows Pending : Yes"),
            ("sram-threshold", gpu.sram_threshold_exceeded, "SRAM Threshold Exceeded : Yes"),
            ("memory-unrepairable", details and details.unrepairable_memory, "Unrepairable Memory : Yes"),
            ("remap-pending", details and details.channel_repair_pending, "Channel Repair Pending : Yes"),
            ("remap-pending", details and details.tpc_repair_pending, "TPC Repair Pending : Yes"),
        )
        for cause_id, is_so, line in states:
            if is_so:
                cause = catalogue.cause(cause_id)
                yield Suspect(cause, gpu.pci or f"GPU {gpu.index}", line, "nvidia-smi", cause.source)


def from_findings(evidence: Evidence, catalogue: CauseCatalogue) -> Iterator[Suspect]:
    """Find what failing checks say; those of Xids and recovery actions are read at their source instead."""
    for finding in evidence.findings:
        cause_id = catalogue.checks.get(finding.check)
        if cause_id is not None and finding.status == "fail":
            cause = catalogue.cause(cause_id)
            subject = pci_address(finding.subject) or ("" if finding.subject == "host" else finding.subject)
            yield Suspect(cause, subject, finding.observed[:LINE_LIMIT], f"check {finding.check}", finding.source)


def from_event(event: XidEvent, cause_id: str, catalogue: CauseCatalogue, source: str) -> Suspect:
    """Return the suspect of one Xid or SXid line."""
    return Suspect(catalogue.cause(cause_id), event.pci or "", event.message[:LINE_LIMIT], "kernel log", source)
