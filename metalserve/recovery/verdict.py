"""Evidence in, verdict out: causes by rank, and the rung at which the ladder begins. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from metalserve.catalogue.causes import CauseCatalogue, Confidence, load_causes
from metalserve.hardware.parsers.kernel_log import parse_kernel_log
from metalserve.hardware.values import Gpu, XidEvent
from metalserve.recovery.bmc_evidence import from_bmc
from metalserve.recovery.consequences import (
    BY_ENGINES,
    CONSEQUENCES,
    EXPLAINED_BY,
    TOLD_BETTER_BY,
    WHY_ENGINES_DIE,
    WHY_NO_CONTAINER,
    WHY_NOT_COMPILED,
)
from metalserve.recovery.evidence import Evidence
from metalserve.recovery.found import SCHEMA, Found, Verdict
from metalserve.recovery.gpus import GpuVerdict, judge_gpus, switch_suspects, told_suspects
from metalserve.recovery.guessing import guessed
from metalserve.recovery.stopped import stopped_by_iommu
from metalserve.recovery.suspects import (
    EARLIER,
    Suspect,
    from_earlier,
    from_findings,
    from_gpus,
    from_logs,
    from_smi,
    unread,
)

_RANK: Final[dict[Confidence, int]] = {"high": 2, "medium": 1, "low": 0}
_LINES = 5
"""Lines of evidence that are kept for each cause: the first ones and the last."""

_THE_DRIVER_KNOWS: Final = frozenset({"reset-asked", "gsp"})
"""What lines without an Xid say of a GPU, unless every GPU's own recovery action is None: it was reset since."""


def judge(evidence: Evidence, catalogue: CauseCatalogue | None = None, *, guess: bool = True) -> Verdict:
    """Judge a node. Evidence of this boot decides about GPUs; the boot before tells why the host went down.

    Args:
        evidence: what there is.
        catalogue: causes and signs; the usual one when it is left out.
        guess: where no cause counts, name the one that the words of unknown lines make likely. It is for people: who
            takes steps by the verdict leaves it out.
    """
    catalogue = catalogue or load_causes()
    log = parse_kernel_log(evidence.kernel or "")
    events: Sequence[XidEvent] = log.events
    if not events and evidence.hardware is not None:
        events = evidence.hardware.xids
    gpus = evidence.hardware.gpus if evidence.hardware is not None else ()
    found = [_of_gpu(verdict) for verdict in judge_gpus(events, gpus, catalogue)]
    quiet = bool(gpus) and all((gpu.recovery_action or "").strip().lower() == "none" for gpu in gpus)
    suspects = [
        *switch_suspects(events, catalogue),
        *(() if events else told_suspects(evidence, catalogue)),
        *from_smi(evidence, catalogue),
        *from_gpus(gpus, catalogue),
        *(s for s in from_logs(evidence, catalogue) if not (quiet and s.cause.id in _THE_DRIVER_KNOWS)),
        *from_findings(evidence, catalogue),
        *(from_bmc(evidence.bmc, catalogue, kernel=evidence.kernel is not None) if evidence.bmc else ()),
    ]
    merged = _merged([*found, *(_of_suspect(_by_the_host(s, gpus, catalogue)) for s in suspects)])
    causes = _explained(merged, catalogue, stopped_by_iommu(suspects, evidence.kernel))
    causes += _past(evidence, catalogue)
    causes.sort(key=lambda c: (c.past, bool(c.explained_by), -catalogue.height(c.rung), -_RANK[c.confidence], c.id))
    counting = [c for c in causes if not c.explained_by and not c.past]
    if guess and not counting:
        counting = [replace(c, guess=True) for c in _merged(_of_suspect(s) for s in guessed(evidence, catalogue))]
        causes = [*counting, *causes]
    sure = [c for c in counting if c.confidence != "low"] or counting
    rung = max((c.rung for c in sure), key=catalogue.height, default="nothing")
    person = any(c.person for c in sure if c.rung == rung)
    return Verdict(tuple(causes), rung, person, evidence.lacking, (*log.notes, *unread(evidence, catalogue)))


def _by_the_host(suspect: Suspect, gpus: Sequence[Gpu], catalogue: CauseCatalogue) -> Suspect:
    """A GPU that a container says is lost, and that the host's driver shows, is lost to the container only."""
    by_engine = suspect.cause.id == "gpu-off-bus" and suspect.origin.startswith(BY_ENGINES)
    if not by_engine or all(gpu.pci != suspect.subject for gpu in gpus):
        return suspect
    cause = catalogue.cause("container-lost-gpus").model_copy(update={"confidence": "low"})  # it may be of long ago
    return replace(suspect, cause=cause, source=cause.source)


def _past(evidence: Evidence, catalogue: CauseCatalogue) -> list[Found]:
    """What the boot before ended with. A reboot has cured it, or this boot's evidence shows it again."""
    verdicts = judge_gpus(parse_kernel_log(evidence.earlier or "").events, (), catalogue)
    found = [replace(_of_gpu(verdict), origins=(EARLIER,)) for verdict in verdicts]
    found += [_of_suspect(suspect) for suspect in from_earlier(evidence, catalogue)]
    return [replace(cause, past=True) for cause in _merged(found)]


def _of_suspect(suspect: Suspect) -> Found:
    cause = suspect.cause
    return Found(
        cause.id, cause.title, (suspect.subject,) if suspect.subject else (), cause.rung, cause.confidence,
        cause.person, cause.then, (suspect.line,), 1, (suspect.origin,), (suspect.source,),
    )  # fmt: skip


def _of_gpu(verdict: GpuVerdict) -> Found:
    cause, suspect = verdict.suspect.cause, verdict.suspect
    return Found(
        cause.id, cause.title, (suspect.subject,) if suspect.subject else (), cause.rung, cause.confidence,
        cause.person, cause.then, verdict.lines, len(verdict.lines), (suspect.origin,), (suspect.source,),
        verdict.authority, (f"{suspect.subject}: {verdict.disagreement}",) if verdict.disagreement else (),
    )  # fmt: skip


def _merged(found: Iterable[Found]) -> list[Found]:
    """One entry a cause, with all subjects and the first and last lines."""
    groups: dict[tuple[str, str], list[Found]] = {}
    for each in found:
        groups.setdefault((each.id, each.authority), []).append(each)
    return [_joined(group) for group in groups.values()]


def _joined(group: list[Found]) -> Found:
    first = group[0]
    lines = [line for each in group for line in each.lines]
    kept = lines if len(lines) <= _LINES else [*lines[: _LINES - 1], lines[-1]]
    return Found(
        first.id, first.title, _unique(s for each in group for s in each.subjects), first.rung, first.confidence,
        first.person, first.then, tuple(kept), sum(each.times for each in group),
        _unique(o for each in group for o in each.origins), _unique(s for each in group for s in each.sources),
        first.authority, _unique(d for each in group for d in each.disagreements),
    )  # fmt: skip


def _unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def _explained(causes: list[Found], catalogue: CauseCatalogue, stopped: frozenset[str]) -> list[Found]:
    """Mark what is only the consequence of another cause: engines die of their GPUs, not the other way round.

    `stopped` are causes of devices that failed when the IOMMU had stopped them.
    """
    by_id = {cause.id: cause for cause in causes}
    reset = catalogue.height("restart-services")
    hardware = [
        c for c in causes
        if catalogue.cause(c.id).subject in EXPLAINED_BY and c.confidence != "low"
        and (catalogue.height(c.rung) >= reset or c.id in WHY_ENGINES_DIE)
    ]  # fmt: skip
    why = next((by_id[each] for each in sorted(WHY_ENGINES_DIE) if each in by_id), None)
    result = []
    for cause in causes:
        by = ""
        blamed = next((c for c in _by_height(hardware, catalogue) if _can_explain(c, cause, catalogue)), None)
        if cause.id in CONSEQUENCES and blamed is not None:
            by = blamed.id
        elif cause.id in stopped:
            by = "iommu-fault"
        elif cause.id == "engine-memory-error" and (judged := _judged(causes, catalogue)) is not None:
            by = judged.id
        elif cause.id in ("engine-died", "engine-gpu-error") and why is not None and why.id != cause.id:
            by = why.id
        elif cause.id == "compile-failed" and (known := _first(WHY_NOT_COMPILED, by_id)):
            by = known
        elif cause.id == "engine-died" and "engine-gpu-error" in by_id:
            by = "engine-gpu-error"
        elif cause.id in ("gpu-no-init", "driver-hang", "driver-absent") and "gpu-off-bus" in by_id:
            by = "gpu-off-bus"
        elif cause.id == "driver-absent" and "container-lost-gpus" in by_id and _by_engines(cause):
            by = "container-lost-gpus"
        elif known := _said_beside(cause, by_id) or _first(TOLD_BETTER_BY.get(cause.id, ()), by_id):
            by = known
        elif cause.id == "filesystem-damaged" and "disk-full" in by_id and "-28" in by_id["disk-full"].lines[0]:
            by = "disk-full"
        elif cause.id == "fabric-down" and not cause.authority and (known := _why_fabric(by_id)):
            by = known
        elif "drive-gone" in by_id and (cause.id == "drive-slow" or _of_a_drive_that_is_gone(cause, by_id)):
            by = "drive-gone"
        result.append(replace(cause, explained_by=by) if by else cause)
    return result


def _by_engines(cause: Found) -> bool:
    return all(origin.startswith(BY_ENGINES) for origin in cause.origins)


def _why_fabric(by_id: dict[str, Found]) -> str:
    """Why fabric manager does not run, when it said so itself."""
    why = ("fabric-idle", "fabric-version", "fabric-config", "fabric-topology", "driver-absent", "driver-mismatch")
    return _first(why, by_id)


def _said_beside(cause: Found, by_id: dict[str, Found]) -> str:
    """Why a GPU or a container did not start, when that is told too.

    No reboot cures a driver that does not know the GPU, or of which half was replaced.
    """
    if cause.id == "container-runtime":
        return _first(WHY_NO_CONTAINER, by_id)
    if cause.id != "gpu-no-init":
        return ""
    unsupported = by_id.get("driver-unsupported")
    if unsupported is not None and len(cause.subjects) <= unsupported.times:  # it is said once for each such GPU
        return unsupported.id
    return _first(("driver-mismatch", "driver-incomplete"), by_id)


def _first(ids: Iterable[str], by_id: dict[str, Found]) -> str:
    return next((each for each in ids if each in by_id), "")


def _judged(causes: list[Found], catalogue: CauseCatalogue) -> Found | None:
    """The highest cause that the driver named for a GPU: it knows better than a program whether memory is bad."""
    return next((c for c in _by_height(causes, catalogue) if c.authority and c.rung != "nothing"), None)


def _of_a_drive_that_is_gone(cause: Found, by_id: dict[str, Found]) -> bool:
    own_word = ("critical medium error", "error: { UNC")  # what the drive says itself
    medium = any(word in line for line in cause.lines for word in own_word)
    fails = cause.id in ("drive-bad", "drive-errors") and not medium
    return fails and set(cause.subjects) <= set(by_id["drive-gone"].subjects)


def _can_explain(blamed: Found, cause: Found, catalogue: CauseCatalogue) -> bool:
    if blamed.id == cause.id:
        return False
    if catalogue.cause(cause.id).subject == "gpu" and catalogue.cause(blamed.id).subject == "gpu":
        return bool(set(blamed.subjects) & set(cause.subjects))  # one GPU's fault is not another's
    return True


def _by_height(causes: list[Found], catalogue: CauseCatalogue) -> list[Found]:
    return sorted(causes, key=lambda c: (-catalogue.height(c.rung), c.id))


__all__ = ["SCHEMA", "Found", "Verdict", "judge"]
