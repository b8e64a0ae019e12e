"""Have a model: fetch what lacks, prove every byte, publish by one rename; mend what is no longer right."""

from __future__ import annotations

import ctypes
import os
import stat
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from . import checks
from .config import Job, WantedFile
from .errors import AgentError
from .fetch import Fetcher, FileFailed, Limiter
from .fill import OneFile
from .full_check import full_check
from .marker import (
    BUFFER,
    PIECE,
    Marker,
    Proved,
    digest_of_list,
    digest_of_samples,
    next_serial,
    plan_samples,
    read_hints,
    to_text,
    write_marker,
)
from .progress import Progress
from .source import source_of
from .store import HINTS, Store, free_bytes
from .tree import SEALED_DIRECTORY, Tree, refuse_escape
from .web import SourceError

_GRACE_S = 3.0
"""Seconds that threads have to end after the job was told to stop; what they wrote is kept in any case."""


def refuse_bad_names(job: Job) -> None:
    """Refuse a job whose names lead anywhere but into its own directory.

    Raises:
        AgentError: naming the first.
    """
    if not os.path.isabs(job.store) or "--" not in os.path.basename(job.store):
        raise AgentError("is no directory of a model", "run the weights role again", where=job.store)
    names = set()
    for each in job.files:
        refuse_escape(each.path)
        if each.path in names:
            raise AgentError("is listed twice", "mend the manifest", where=each.path)
        names.add(each.path)
    for name in names:
        parts = name.split("/")
        if any("/".join(parts[:n]) in names for n in range(1, len(parts))):
            raise AgentError("a file and a directory of the same name", "mend the manifest", where=name)


def stage(job: Job, progress: Progress, *, repair: bool = False) -> dict[str, Any]:
    """Bring a model to where it is published and intact.

    Args:
        job: the model.
        progress: is told.
        repair: read and hash every byte of what is published first, and mend what is wrong.

    Returns:
        `changed`: whether anything was done; `published`: where it is; `fetched`: bytes from the source.

    Raises:
        AgentError: it cannot be had; what came is kept.
        Stopped: the job was told to stop.
    """
    refuse_bad_names(job)
    store = Store(job.store, job.revision)
    done = {"changed": False, "published": store.published, "fetched": 0}
    listed = digest_of_list(job.files)
    if not repair and checks.quick(store, listed).intact:
        progress.found(job.total)
        progress.say(f"{store.published} is published and intact")
        return done
    store.make()

    with store.lock("repair" if repair else "stage", waiting=progress.waiting):
        known: Mapping[str, Proved] = {}
        if repair and store.is_published():
            report = full_check(job, store, progress)
            known = report.proved
        else:
            report = checks.quick(store, listed)
        if report.intact:
            progress.from_start()
            progress.found(job.total)
            progress.say(f"{store.published} is published and intact")
            return done
        if store.is_published():
            store.withdraw()
            progress.say(f"{store.published} is not as it was published ({report.why}): withdrawn until it is mended")
        _fill_and_publish(job, store, listed, known, progress)
    data = progress.snapshot()
    return {**done, "changed": True, "fetched": data["bytes_from_source"]}


def _fill_and_publish(job: Job, store: Store, listed: str, known: Mapping[str, Proved], progress: Progress) -> None:
    with store.open_partial((each.path for each in job.files), progress.say) as tree:
        progress.from_start()
        lacking = _refuse_without_space(job, store, tree, progress)
        if lacking and job.swarm is not None and job.swarm.torrent:
            progress.phase("swarming")
            _swarm(job, store, lacking, progress)
        progress.phase("fetching" if lacking else "checking")
        proved = _fill(job, store, tree, known, progress)
        progress.phase("publishing")
        _leave_swarm()
        _publish(job, store, tree, listed, proved)
    progress.say(f"published {store.published}")


def _refuse_without_space(job: Job, store: Store, tree: Tree, progress: Progress) -> list[WantedFile]:
    lacking, present = [], 0
    for each in job.files:
        state = tree.stat(each.path)
        # a file with holes is not there yet, whatever its size says
        there = min(each.size, state.st_size, state.st_blocks * 512) if state is not None else 0
        present += there
        progress.found(min(each.size, state.st_size) if state is not None else 0)
        if there < each.size or state is None:
            lacking.append(each)
    missing, free = job.total - present, free_bytes(store.directory)
    if missing and missing + job.reserve_bytes > free:
        raise AgentError(
            f"not enough space: {missing / 2**30:.2f} GiB to fetch and {job.reserve_bytes / 2**30:.2f} GiB to stay "
            f"free, but only {free / 2**30:.2f} GiB are free",
            "remove models that are no longer served (metalserve weights gc), or take a larger drive",
            where=store.directory,
        )
    progress.say(
        f"staging {len(job.files)} files, {job.total / 2**30:.2f} GiB, {missing / 2**30:.2f} GiB of it to fetch"
    )
    return lacking


def _swarm(job: Job, store: Store, lacking: list[WantedFile], progress: Progress) -> None:
    try:
        module = import_module(".swarm", __package__)
    except ImportError as error:
        progress.say(f"no swarm on this host ({error}); all is fetched directly")
        return
    module.swarm(job, Path(store.partial), lacking, progress)
    progress.go_on()


def _leave_swarm() -> None:
    # it gave to others while the files were hashed; the unit that seeds goes on with what is published
    module = sys.modules.get(f"{__package__}.swarm")
    if module is not None:
        module.leave()


def _fill(job: Job, store: Store, tree: Tree, known: Mapping[str, Proved], progress: Progress) -> dict[str, Proved]:
    hints = read_hints(tree)
    try:
        source = source_of(job)
    except SourceError as error:
        raise AgentError(error.what, error.remedy) from None
    fetcher = Fetcher(source, Limiter(job.rate_bytes_s), progress)
    # largest first, so that no large file is begun when all others are done
    queue = sorted(job.files, key=lambda each: (-each.size, each.path))
    queue.reverse()
    proved: dict[str, Proved] = {}
    failures: list[BaseException] = []
    hopeless = threading.Event()

    def work() -> None:
        buffer = memoryview(bytearray(BUFFER))
        while not hopeless.is_set() and not progress.stop.is_set():
            try:
                wanted = queue.pop()
            except IndexError:
                return
            try:
                before = known.get(wanted.path)
                if before is not None and _unchanged(tree, before):
                    progress.file_done()
                    proved[wanted.path] = before
                    continue
                one = OneFile(tree, store, wanted, hints.get(wanted.path), fetcher, progress, buffer)
                proved[wanted.path] = one.run()
            except FileFailed as error:
                failures.append(error)
            except BaseException as error:  # given on by the thread that waits
                failures.append(error)
                hopeless.set()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(max(1, min(job.jobs, len(queue))))]
    for each in threads:
        each.start()
    _join(threads, fetcher, progress)
    progress.go_on()
    if failures:
        first = next((each for each in failures if not isinstance(each, FileFailed)), failures[0])
        if len(failures) > 1 or len(proved) < len(job.files) - 1:
            progress.say(f"{len(job.files) - len(proved)} files are not whole; the next run goes on from what came")
        raise first
    return proved


def _join(threads: list[threading.Thread], fetcher: Fetcher, progress: Progress) -> None:
    until = None
    while any(each.is_alive() for each in threads):
        for each in threads:
            each.join(0.05)
        fetcher.break_stalled(all_of_them=progress.stop.is_set())
        if progress.stop.is_set():
            until = until or time.monotonic() + _GRACE_S
            if time.monotonic() > until:
                return


def _unchanged(tree: Tree, before: Proved) -> bool:
    state = tree.stat(before.path)
    return state is not None and (state.st_size, state.st_mtime_ns) == (before.size, before.mtime_ns)


def _publish(job: Job, store: Store, tree: Tree, listed: str, proved: Mapping[str, Proved]) -> None:
    names = {path for path, state in tree.entries() if not stat.S_ISDIR(state.st_mode)} - {HINTS}
    if names != {each.path for each in job.files} or names != proved.keys():
        raise AgentError("files came or went while it was staged", "see who writes there", where=store.partial)
    rows = {}
    for each, samples in zip(job.files, plan_samples([each.size for each in job.files])):  # noqa: B905 - Python 3.9
        descriptor = tree.open(each.path)
        try:
            before, state = proved[each.path], os.fstat(descriptor)
            if (state.st_size, state.st_mtime_ns) != (before.size, before.mtime_ns):
                raise AgentError(
                    f"{each.path} changed while it was staged", "see who writes there", where=store.partial
                )
            rows[each.path] = replace(
                before, ctime_ns=state.st_ctime_ns, samples=samples, sampled=digest_of_samples(descriptor, samples)
            )
        finally:
            os.close(descriptor)
    _sync_all(tree)
    if tree.stat(HINTS) is not None:
        tree.unlink(HINTS)
    marker = Marker(2, listed, rows, serial=next_serial(store.mount), published_at=int(time.time()), piece=PIECE)
    write_marker(store, tree, to_text(marker, job.repository, job.revision))
    for path in tree.directories():
        with tree.parent(path) as (directory, name):
            os.chmod(name, SEALED_DIRECTORY, dir_fd=directory)
        tree.sync_directory(path)
    os.fchmod(tree.fd, SEALED_DIRECTORY)
    tree.sync_directory()
    store.publish()


def _sync_all(tree: Tree) -> None:
    """Bring all that was written on the directory's file system to the drive."""
    if ctypes.CDLL(None, use_errno=True).syncfs(tree.fd) != 0:
        number = ctypes.get_errno()
        raise AgentError(
            f"cannot be written: {os.strerror(number)}", "see what the kernel says: dmesg", where=tree.path
        )
