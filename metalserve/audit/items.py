"""The items of a node's record, in the order in which they are read. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime

from metalserve.audit.evidence import Evidence, Latest
from metalserve.audit.known import Known
from metalserve.audit.record import Item, item, nothing
from metalserve.releases import Release
from metalserve.report.identity import gpu_spec
from metalserve.report.model import gpu_name
from metalserve.report.values import line, mapping, mappings, whole
from metalserve.settings import HostSettings

_SERVED = re.compile(r"(?P<name>\S+)@(?P<revision>[0-9a-f]{7,40})\b")
_DOCKER = re.compile(r"version (\S+)")


def node_items(name: str, known: Known, found: Latest, now: datetime) -> Iterator[Item]:
    """Return every item of a node; what nothing is known of is there as unknown."""
    settings = known.settings.get(name)
    wanted = settings.release if settings is not None else ""
    release = known.release(wanted or (found.newest.host.release if found.newest else ""))
    yield from _release(wanted, known, found)
    yield from _machine(found.verified, settings, release)
    yield from _serving(name, settings, release, known, found)
    yield from _history(name, known, found, now)


def _release(wanted: str, known: Known, found: Latest) -> Iterator[Item]:
    seen = next((e for e in (found.verified, found.upgraded, found.compared) if e and _proves_release(e)), None)
    on = seen.proofs.get("release", seen.host.release) if seen is not None else ""
    bad = found.verified.host.verdict if seen is None and found.verified is not None else ""
    note = f"the last verification is {bad}, so nothing proves it" if bad else ""
    yield item("release", "release", wanted, on, source=_source(seen), note=note)
    name = wanted or on
    verdict = known.releases.get(name)
    if verdict is None:
        yield item("release_consistent", "versions fit together", note=f"{name or 'no release'} cannot be read")
        yield item("release_current", "newest of its line")
        return
    words = "yes" if verdict.fits else "no: " + "; ".join(str(problem) for problem in verdict.problems)
    yield item("release_consistent", "versions fit together", "yes", words, source="metalserve release check")
    newest = known.newest.get(name, "")
    current = "yes" if newest == name else f"no: {newest} is there" if newest else ""
    yield item("release_current", "newest of its line", "", current, source="files/releases")


def _proves_release(one: Evidence) -> bool:
    """Tell whether a run proves that the host is on the release that it was held against."""
    if not one.host.release:
        return False
    if one.verifies:
        return one.host.verdict in ("ok", "warn", "inconclusive")
    return one.executed and one.complete and one.host.outcome in ("unchanged", "changed")


def _machine(proof: Evidence | None, settings: HostSettings | None, release: Release | None) -> Iterator[Item]:
    hardware, source = proof.host.hardware if proof is not None else {}, _source(proof)
    bought = ""
    if settings is not None and settings.expect.gpu is not None:
        count = settings.expect.count
        bought = f"{count}x {settings.expect.gpu}" if count else settings.expect.gpu
    gpus = gpu_name(proof.host) if proof is not None else ""
    yield item("gpus", "GPUs", bought, gpus, same=_as_bought(proof, settings), source=source)
    driver = line(hardware.get("module_version"))
    user = line(hardware.get("driver_version"))
    note = f"user space {user}" if user and user != driver else ""
    yield item("driver", "driver", release.driver.version if release else "", driver or user, source=source, note=note)
    opened = hardware.get("module_open")
    kind = {True: "open", False: "proprietary"}.get(opened, "") if isinstance(opened, bool) else ""
    yield item("kernel_modules", "kernel modules", "", kind, source=source)
    if hardware.get("needs_fabric_manager") is False:
        yield nothing("fabric_manager", "fabric manager", "these GPUs need none")
    else:
        fabric = line(hardware.get("fabric_manager_version"))
        yield item(
            "fabric_manager", "fabric manager", release.fabric_manager.version if release else "", fabric, source=source
        )
    runs = _finding(proof, "cuda-driver")
    image_cuda = f"CUDA {release.vllm.cuda} in the image" if release else ""
    yield item(
        "cuda", "CUDA", image_cuda, f"{image_cuda}: the driver runs it" if runs and image_cuda else "",
        same=runs is True, source=source,
    )  # fmt: skip
    toolkit = release.container_toolkit.version if release else ""
    yield item("container_toolkit", "container toolkit", toolkit, note="reports do not say the installed one")
    docker = _DOCKER.search(_observed(proof, "docker-answers"))
    yield item("docker", "Docker", "", docker[1] if docker else "", source=source)


def _as_bought(proof: Evidence | None, settings: HostSettings | None) -> bool:
    """Tell whether the GPUs that were seen are those that the inventory expects."""
    if proof is None or settings is None or settings.expect.gpu is None:
        return False
    spec, count = gpu_spec(proof.host), len(mappings(proof.host.hardware.get("gpus")))
    return spec is not None and spec.id == settings.expect.gpu and settings.expect.count in (None, count)


def _serving(
    name: str, settings: HostSettings | None, release: Release | None, known: Known, found: Latest
) -> Iterator[Item]:
    served = next((e for e in (found.verified, found.changed, found.newest) if e and "weights" in e.proofs), None)
    match = _SERVED.search(served.proofs["weights"]) if served is not None else None
    model = settings.model if settings is not None else None
    if settings is not None and model is None:
        yield nothing("model", "model", "the inventory serves none")
        yield nothing("revision", "its revision")
        yield nothing("manifest", "its manifest")
    else:
        seen_name, seen_revision = (match["name"], match["revision"]) if match else ("", "")
        revision = model.revision if model else ""
        source = _source(served)
        yield item("model", "model", model.name if model else "", seen_name, source=source)
        same = bool(seen_revision) and revision.startswith(seen_revision)
        yield item("revision", "its revision", revision, seen_revision, same=same, source=source)
        digest = known.manifests.get(model.manifest, "") if model else ""
        proved = _finding(found.verified, "published")
        yield item(
            "manifest", "its manifest (SHA-256)", digest, digest if digest and proved is not None else "",
            same=proved is True, source=_source(found.verified),
            note="every file on the host has the size and hash of it" if proved else "",
        )  # fmt: skip
    image = release.image if release else ""
    note = "" if not release or release.vllm.digest else "no digest is recorded: the tag decides what this is"
    answers = _finding(found.verified, "answers")
    yield item("image", "image", image, note="; ".join(filter(None, (note, "reports do not say which one runs"))))
    if settings is not None and settings.model is None:
        yield nothing("plan", "launch plan")
        yield nothing("quantisation", "quantisation")
        yield nothing("answers", "answers a prompt")
        return
    yield from _plan(name, known, found)
    said = next((e.proofs["answers"] for e in (found.verified, found.newest) if e and "answers" in e.proofs), "")
    yield item(
        "answers", "answers a prompt", "yes" if model is not None else "", said or ("no" if answers is False else ""),
        same=answers is not False and bool(said), source=_source(found.verified or found.newest),
    )  # fmt: skip


def _plan(name: str, known: Known, found: Latest) -> Iterator[Item]:
    learned = next((e for e in (found.changed, found.newest) if e and mapping(e.raw.get("learned"))), None)
    values = mapping(learned.raw.get("learned")) if learned is not None else {}
    tensor, pipeline = whole(values.get("tensor_parallel")), whole(values.get("pipeline_parallel"))
    seen = f"TP{tensor} PP{pipeline}, vLLM {line(values.get('vllm'))}" if tensor and pipeline else ""
    plan = known.plans.get(name)
    if plan is None or not plan.fits:
        yield item("plan", "launch plan", "", seen, source=_source(learned))
        yield item("quantisation", "quantisation")
        return
    split = plan.split
    flags = " ".join(plan.vllm_args)
    words = (
        f"{plan.replicas} x TP{split.tensor} PP{split.pipeline} DP{split.data}{' EP' if split.expert else ''}: {flags}"
    )
    same = (split.tensor, split.pipeline) == (tensor, pipeline)
    how = "what was seen is the launch's own print" if seen else "not read off the host"
    note = f"planned anew from the inventory and the hardware seen; {how}"
    yield item("plan", "launch plan", words, seen, same=same, source=_source(learned), note=note)
    yield item("quantisation", "quantisation", plan.quantization or "as trained", note="by the model's config.json")


def _history(name: str, known: Known, found: Latest, now: datetime) -> Iterator[Item]:
    if name in known.drift:
        entries = known.drift[name]
        words = _counted(entries, "difference") if entries else "none"
        yield item("drift", "drift", "none", words, source=known.drift_source, note="; ".join(entries[:5]))
    elif found.compared is not None:
        one = found.compared
        entries = one.planned if not one.executed else []
        bad = one.host.outcome in ("failed", "interrupted")
        words = f"the run {one.host.outcome}" if bad else _counted(entries, "difference") if entries else "none"
        note = "; ".join(entries[:5]) or ("after that run" if one.executed else "")
        yield item("drift", "drift", "none", words, source=_source(one), note=note)
    else:
        yield item("drift", "drift")
    changed = found.changed
    if changed is not None:
        words = f"{_counted(changed.changes, 'change')}, the host then {changed.host.outcome or 'unknown'}"
        yield item("last_change", "last change", "", words, source=_source(changed))
    else:
        yield nothing("last_change", "last change", "in the reports that were read")
    up = found.upgraded
    if up is not None:
        words = up.proofs.get("upgrade") or f"the run {up.host.outcome or 'is unknown'}"
        yield item("last_upgrade", "last upgrade", "", words, source=_source(up))
    else:
        yield nothing("last_upgrade", "last upgrade", "in the reports that were read")
    back = found.recovered
    if name in known.recoveries:
        yield item("last_recovery", "last recovery", "", known.recoveries[name], source=known.recovery_source)
    elif back is not None:
        recovery = mapping(back.raw.get("recovery"))
        words = line(recovery.get("words")) or ", ".join(f"{line(k)}: {line(v)}" for k, v in recovery.items())
        yield item("last_recovery", "last recovery", "", words, source=_source(back))
    else:
        where = "in the memory of `metalserve recover`" if known.recovery_source else "in the reports that were read"
        yield nothing("last_recovery", "last recovery", where)


def _finding(proof: Evidence | None, *checks: str) -> bool | None:
    """Tell whether all findings of some checks are good; None where none was made."""
    made = [e for e in proof.host.entries if e.check in checks] if proof is not None else []
    return all(e.status in ("ok", "warn") for e in made) if made else None


def _observed(proof: Evidence | None, check: str) -> str:
    entries = proof.host.entries if proof is not None else ()
    return next((e.observed for e in entries if e.check == check), "")


def _source(evidence: Evidence | None) -> str:
    if evidence is None:
        return ""
    when = f"{evidence.started:%Y-%m-%d %H:%M} UTC" if evidence.started else "time not recorded"
    return f"{evidence.file} ({when})"


def _counted(entries: list[str], what: str) -> str:
    return f"1 {what}" if len(entries) == 1 else f"{len(entries)} {what}s"
