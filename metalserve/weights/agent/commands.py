"""What the agent's commands do; each returns its exit status and what it has to say."""

from __future__ import annotations

import base64
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

from . import checks
from .collect import collect
from .config import Job, read_job
from .errors import AgentError, Found
from .full_check import full_check
from .look import inspect
from .marker import digest_of_list
from .progress import Progress, in_words, read_progress
from .references import Reference, add, read_references, remove
from .staging import refuse_bad_names, stage
from .store import Store
from .torrent import TorrentError, make_torrent, piece_size_for

CHECK_SUFFIX = "-check"
"""The progress of a check has a file of its own: it must not hide that of a staging."""

_REMEDY = "run the weights role, or `metalserve weights repair`"


def run_stage(config: str, stop: threading.Event, *, quiet: bool, repair: bool = False) -> tuple[dict[str, Any], str]:
    """Stage or repair a model."""
    job = read_job(config)
    with Progress(job.key, job.total, len(job.files), quiet=quiet, stop=stop) as progress:
        done = stage(job, progress, repair=repair)
    return done, ""


def run_check(config: str, kind: str, stop: threading.Event, *, quiet: bool) -> tuple[dict[str, Any], str]:
    """Check what is published.

    Raises:
        Found: it is not there, or not what was proved.
    """
    job = read_job(config)
    refuse_bad_names(job)
    store = Store(job.store, job.revision)
    if kind == "full":
        report = _full(job, store, stop, quiet)
    else:
        report = checks.quick(store, digest_of_list(job.files), samples=kind == "fast")
    data = {"job": job.key, "published": store.published, **report.to_data()}
    if not report.intact:
        raise Found(report.why, _REMEDY, data, where=store.published)
    line = f"{store.published} is intact ({kind}): {report.files} files, {report.bytes_there / 2**30:.2f} GiB"
    if report.bytes_read:
        line += f", {report.bytes_read / 2**30:.2f} GiB read in {report.seconds:.2f} s"
    return data, line


def _full(job: Job, store: Store, stop: threading.Event, quiet: bool) -> checks.Report:
    with Progress(job.key + CHECK_SUFFIX, job.total, len(job.files), quiet=quiet, stop=stop) as progress:
        if not store.is_published():
            return checks.Report("full", state="absent")
        with store.lock("check", shared=True, waiting=progress.waiting):
            return full_check(job, store, progress)


def run_status(config: str) -> tuple[dict[str, Any], str]:
    """Tell what is there, what runs, and when it was last hashed; reads no byte of the model."""
    job = read_job(config)
    refuse_bad_names(job)
    store = Store(job.store, job.revision)
    data = inspect(store, digest_of_list(job.files))
    progress = read_progress(job.key)
    try:
        users = [each.name for each in read_references(store.mount) if each.model == _model(store)]
        unreadable = ""
    except AgentError as error:
        users, unreadable = [], str(error)
    data = {
        **data,
        "job": job.key,
        "repository": job.repository,
        "bytes_total": job.total,
        "references": users,
        "references_error": unreadable,
        "progress": progress,
        "check_progress": read_progress(job.key + CHECK_SUFFIX),
        "last_full_check": store.last_check(),
    }
    line = f"{job.repository}@{job.revision[:12]}: {data['state']}, {data['bytes_there'] / 2**30:.2f} GiB"
    if data["what"]:
        line += f" ({data['what']})"
    if progress is not None and progress["phase"] not in ("done", "stopped"):
        line += f"\n{in_words(progress)}"
    return data, line


def _model(store: Store) -> tuple[str, str]:
    return store.directory.rpartition("/")[2], store.revision


def run_gc(mount: str, keep: int, dry: bool, configs: str) -> tuple[dict[str, Any], str]:
    """Remove what nobody references."""
    done = collect(mount, keep, dry=dry, configs=configs)
    verb = "would remove" if dry else "removed"
    lines = [f"{verb} {path}" for path in done.removed]
    lines += [f"kept {path}: {why}" for path, why in done.kept.items()]
    lines.append(f"{verb} {len(done.removed)} entries, {done.freed_bytes / 2**30:.2f} GiB")
    return {"mount": mount, "dry": dry, "keep": keep, **done.to_data()}, "\n".join(lines)


def run_references(mount: str) -> tuple[dict[str, Any], str]:
    """List who serves which model."""
    found = read_references(mount)
    rows = [
        {
            "name": each.name,
            "repository": each.repository,
            "revision": each.revision,
            "release": each.release,
            "since": each.since,
            "published": Store(f"{mount}/{each.model[0]}", each.revision).is_published(),
        }
        for each in found
    ]
    lines = [f"{each.name}: {each.repository}@{each.revision[:12]} {each.release}".rstrip() for each in found]
    return {"mount": mount, "references": rows}, "\n".join(lines)


def run_reference(mount: str, name: str, repository: str, revision: str, release: str) -> tuple[dict[str, Any], str]:
    """Make a reference."""
    return _referenced(name, add(mount, Reference(name, repository, revision, release)))


def run_unreference(mount: str, name: str) -> tuple[dict[str, Any], str]:
    """Remove a reference."""
    return _referenced(name, remove(mount, name))


def _referenced(name: str, changed: bool) -> tuple[dict[str, Any], str]:
    return {"name": name, "changed": changed}, f"{name}: {'changed' if changed else 'as it was'}"


def run_seed(config: str) -> tuple[dict[str, Any], str]:
    """Give the model to other hosts until told to stop."""
    job = read_job(config)
    refuse_bad_names(job)
    store = Store(job.store, job.revision)
    report = checks.quick(store, digest_of_list(job.files))
    if not report.intact:
        raise Found(report.why, _REMEDY, {"job": job.key, **report.to_data()}, where=store.published)
    try:
        swarm = import_module(".swarm", __package__)
    except ImportError as error:
        raise AgentError(f"no swarm on this host: {error}", "run the weights role again") from error
    swarm.seed(job, Path(store.published))
    return {"job": job.key}, ""


def run_torrent(config: str) -> tuple[dict[str, Any], str]:
    """Make the torrent of what is published."""
    job = read_job(config)
    refuse_bad_names(job)
    store = Store(job.store, job.revision)
    if not store.is_published():
        raise Found("is not published", _REMEDY, {"job": job.key}, where=store.published)
    try:
        made = make_torrent(Path(store.published), job.files, piece_size_for(job.total))
    except TorrentError as error:
        raise AgentError(str(error), _REMEDY) from None
    text = base64.encodebytes(made).decode("ascii")
    return {"job": job.key, "torrent": text}, text.rstrip("\n")
