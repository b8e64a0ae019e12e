"""The full check: every byte of what is published is read and hashed, files in parallel."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from dataclasses import replace

from .checks import Report, against_marker, mark, open_published
from .config import Job, WantedFile
from .marker import (
    BUFFER,
    PIECE,
    Marker,
    Proved,
    digest_of_list,
    digest_of_samples,
    plan_samples,
    to_text,
    write_marker,
)
from .progress import Progress, write_whole
from .store import Store
from .tree import OPEN_DIRECTORY, SEALED_DIRECTORY, Tree

_COUNTING = threading.Lock()


def full_check(job: Job, store: Store, progress: Progress, *, threads: int = 0) -> Report:
    """Hash every byte; the caller holds the model's lock, shared or not.

    What comes of it is written into the store: when it was, and which files are wrong. Where all bytes are right, the
    marker gets the times that the files have now, so that a touched file is no longer suspicious.

    Args:
        job: the model.
        store: where it is.
        progress: is told.
        threads: files hashed at a time; 0 takes twice as many as there are processors, since some wait for the drive.
    """
    began = time.monotonic()
    report = Report("full")
    tree = open_published(store, report)
    if tree is None:
        return report
    with tree:
        try:
            _full(job, store, tree, report, progress, threads or min(32, 2 * (os.cpu_count() or 1)))
        except OSError as error:
            report.bad("", f"cannot be read: {error.strerror}")
    report.seconds = time.monotonic() - began
    data = {**report.to_data(), "at": int(time.time())}
    try:
        write_whole(store.checked, json.dumps(data))
    except OSError as error:
        progress.say(f"{store.checked}: {error.strerror}: this check is not written down")
    return report


def _full(job: Job, store: Store, tree: Tree, report: Report, progress: Progress, threads: int) -> None:
    told = Report("full")
    listed = digest_of_list(job.files)
    marker = against_marker(store, tree, listed, told)
    report.files, report.bytes_there, report.listed = told.files, told.bytes_there, told.listed
    names = {each.path for each in job.files}
    if marker is None or marker.listed != listed:
        report.bad("", "has no marker" if marker is None else "was staged from another manifest")
    for path, what in told.problems.items():
        # what is said of sizes, times and earlier damage the bytes themselves will tell
        if path and path not in names:
            report.bad(path, what)
    progress.phase("checking")
    before = marker.files if marker is not None and marker.piece == PIECE else {}
    hashed = _hash_all(job.files, tree, before, report, progress, threads)
    progress.go_on()
    wrong = {path: what for path, what in report.problems.items() if path in names}
    if wrong:
        mark(store, wrong)
    elif report.intact:
        store.damaged.unlink(missing_ok=True)
        if marker is not None:
            _refresh(job, store, tree, marker, hashed)


def _hash_all(
    files: tuple[WantedFile, ...],
    tree: Tree,
    before: dict[str, Proved],
    report: Report,
    progress: Progress,
    threads: int,
) -> dict[str, Proved]:
    queue = sorted(files, key=lambda each: each.size)
    failures: list[BaseException] = []

    def work() -> None:
        buffer = memoryview(bytearray(BUFFER))
        while not progress.stop.is_set():
            try:
                wanted = queue.pop()
            except IndexError:
                return
            try:
                found = _hash_one(tree, wanted, before.get(wanted.path), buffer, report, progress)
            except OSError as error:
                report.bad(wanted.path, f"cannot be read: {error.strerror}", "damaged")
                continue
            except BaseException as error:  # given on by the thread that waits
                failures.append(error)
                return
            if found is not None:
                report.proved[wanted.path] = found
                progress.file_done()

    running = [threading.Thread(target=work, daemon=True) for _ in range(max(1, min(threads, len(files))))]
    for each in running:
        each.start()
    for each in running:
        each.join()
    if failures:
        raise failures[0]
    return report.proved


def _hash_one(
    tree: Tree, wanted: WantedFile, before: Proved | None, buffer: memoryview, report: Report, progress: Progress
) -> Proved | None:
    descriptor = tree.open(wanted.path)
    try:
        state = os.fstat(descriptor)
        if state.st_size != wanted.size:
            report.bad(wanted.path, f"has {state.st_size} bytes instead of {wanted.size}", "damaged")
            return None
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        digest, pieces, at = hashlib.sha256(), [], 0
        while at < wanted.size and not progress.stop.is_set():
            count = os.preadv(descriptor, [buffer[: PIECE - at % PIECE]], at)
            if not count:
                break
            digest.update(buffer[:count])
            at += count
            progress.found(count)
            progress.hashed(count)
            if at % PIECE == 0 and at < wanted.size:
                pieces.append(digest.hexdigest())
        with _COUNTING:
            report.bytes_read += at
        progress.go_on()
        if digest.hexdigest() != wanted.sha256:
            report.bad(wanted.path, _where(wanted, pieces, before), "damaged")
            return None
        after = os.fstat(descriptor)
        if (state.st_mtime_ns, state.st_size) != (after.st_mtime_ns, after.st_size):
            report.bad(wanted.path, "was changed while it was read", "damaged")
            return None
        return Proved(wanted.path, after.st_size, after.st_mtime_ns, after.st_ctime_ns, wanted.sha256, tuple(pieces))
    finally:
        os.close(descriptor)


def _where(wanted: WantedFile, pieces: list[str], before: Proved | None) -> str:
    if before is None or before.sha256 != wanted.sha256 or len(before.pieces) != len(pieces) or not pieces:
        return "SHA-256 is not that of the manifest"
    good = next((i for i, (a, b) in enumerate(zip(pieces, before.pieces)) if a != b), len(pieces))  # noqa: B905
    return (
        f"SHA-256 is not that of the manifest: bytes {good * PIECE} to {min((good + 1) * PIECE, wanted.size)} changed"
    )


def _refresh(job: Job, store: Store, tree: Tree, marker: Marker, hashed: dict[str, Proved]) -> None:
    same = marker.format == 2 and all(
        (old.mtime_ns, old.ctime_ns) == (hashed[path].mtime_ns, hashed[path].ctime_ns)
        for path, old in marker.files.items()
    )
    if same:
        return
    rows = {}
    for each, samples in zip(job.files, plan_samples([each.size for each in job.files])):  # noqa: B905
        descriptor = tree.open(each.path)
        try:
            digest = digest_of_samples(descriptor, samples)
        finally:
            os.close(descriptor)
        rows[each.path] = replace(hashed[each.path], samples=samples, sampled=digest)
    os.fchmod(tree.fd, OPEN_DIRECTORY)
    text = to_text(replace(marker, format=2, files=rows, piece=PIECE), job.repository, job.revision)
    write_marker(store, tree, text)
    os.fchmod(tree.fd, SEALED_DIRECTORY)
