"""Garbage collection: what nobody references is removed, the most recent ones excepted.

Only what metalserve made is ever touched: directories named like a commit with a marker in them, and names of the
store's own (.partial-, .deleting-, .twin- ...), in directories of models, under the model's lock. What is removed is
renamed first, so that a run that is cut off leaves nothing that looks like a model; the next run goes on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .config import ConfigError, read_job
from .errors import AgentError
from .marker import MarkerError, is_revision, read_marker
from .references import locked, read_references
from .store import Store
from .tree import Tree, remove_tree

_NOTES = (".damaged-", ".checked-")
_LEFTOVERS = (".deleting-", ".twin-")
_OLD_LEFTOVERS = (".marker.new", ".wanted", ".failed")
"""What the staging script of metalserve before 0.2 left when it was killed."""


@dataclass
class Collected:
    """What a collection did, or with `dry` would do.

    Attributes:
        removed: paths.
        freed_bytes: of what was removed.
        kept: path -> why.
        foreign: paths that are not metalserve's; not touched.
    """

    removed: list[str] = field(default_factory=list)
    freed_bytes: int = 0
    kept: dict[str, str] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)

    def to_data(self) -> dict[str, Any]:
        """Return what is printed as JSON."""
        return {
            "removed": self.removed,
            "freed_bytes": self.freed_bytes,
            "kept": self.kept,
            "foreign": self.foreign,
        }


def collect(mount: str, keep: int = 1, *, dry: bool = False, configs: str) -> Collected:
    """Remove what nobody references below a mount point.

    Args:
        mount: of the models.
        keep: published models without a reference that stay, the most recently published first.
        dry: only say what would be removed.
        configs: directory of the jobs; what one of them is to stage may be partial for long, and is kept.

    Raises:
        AgentError: a reference cannot be read: then nothing is removed at all.
    """
    done = Collected()
    with locked(mount):
        references = read_references(mount)
        users = {each.model: each.name for each in references}
        wanted = users.keys() | _configured(configs)
        spared = _most_recent(mount, users.keys(), keep)
        for model in sorted(os.listdir(mount)):
            directory = f"{mount}/{model}"
            if model == ".references" or model == "lost+found":
                continue
            if "--" not in model or model.startswith(".") or os.path.islink(directory) or not os.path.isdir(directory):
                done.foreign.append(directory)
                continue
            _collect_model(directory, users, wanted, spared, dry, done)
    return done


def _configured(configs: str) -> set[tuple[str, str]]:
    found = set()
    try:
        paths = sorted(Path(configs).glob("*.json"))
    except OSError:
        return set()
    for path in paths:
        try:
            job = read_job(str(path))
        except ConfigError as error:
            raise AgentError(str(error)) from error
        found.add((os.path.basename(job.store), job.revision))
    return found


def _serial(store: Store) -> tuple[int, int] | None:
    """Return where a published directory stands in the order of publication, or None where it is not ours."""
    try:
        with Tree(store.published) as tree:
            marker = read_marker(tree)
            state = os.fstat(tree.fd)
    except (OSError, MarkerError):
        return None
    return marker.serial, marker.published_at or int(state.st_mtime)


def _most_recent(mount: str, referenced: Iterable[tuple[str, str]], keep: int) -> set[str]:
    used = set(referenced)
    order = []
    for model in os.listdir(mount):
        directory = f"{mount}/{model}"
        if "--" in model and os.path.isdir(directory) and not os.path.islink(directory):
            for name in filter(is_revision, os.listdir(directory)):
                serial = _serial(Store(directory, name))
                if serial is not None and (model, name) not in used:
                    order.append((serial, f"{directory}/{name}"))
    order.sort(reverse=True)
    return {path for _, path in order[:keep]}


def _collect_model(
    directory: str,
    users: dict[tuple[str, str], str],
    wanted: set[tuple[str, str]],
    spared: set[str],
    dry: bool,
    done: Collected,
) -> None:
    if not any(_is_ours(directory, name) for name in os.listdir(directory)):
        done.foreign.append(directory)
        return
    try:
        with Store(directory, "").lock("gc", wait=False):
            # notes last: they go with what they are about
            for name in sorted(os.listdir(directory), key=lambda each: (each.startswith(_NOTES), each)):
                why = _why_kept(directory, name, users, wanted, spared)
                path = f"{directory}/{name}"
                if why == "foreign":
                    done.foreign.append(path)
                elif why is None:
                    _remove(directory, name, dry, done)
                elif why:
                    done.kept[path] = why
            if not dry and os.listdir(directory) == [".lock"]:
                os.unlink(f"{directory}/.lock")
                os.rmdir(directory)
    except AgentError as error:
        done.kept[directory] = error.what
    except OSError as error:
        raise AgentError(f"{error.strerror}", "see why it cannot be removed", where=directory) from error


def _is_ours(directory: str, name: str) -> bool:
    if is_revision(name):
        return _serial(Store(directory, name)) is not None
    return name == ".lock" or name.startswith((".partial-", *_LEFTOVERS, *_NOTES)) or name in _OLD_LEFTOVERS


def _why_kept(
    directory: str,
    name: str,
    users: dict[tuple[str, str], str],
    wanted: set[tuple[str, str]],
    spared: set[str],
) -> str | None:
    """Return why an entry stays, `foreign`, an empty text for what is not worth a word, or None: it goes."""
    model, path = os.path.basename(directory), f"{directory}/{name}"
    if name == ".lock":
        return ""
    if name in _OLD_LEFTOVERS or name.startswith(_LEFTOVERS):
        return None
    if is_revision(name):
        if (model, name) in users:
            return f"referenced by {users[(model, name)]}"
        if path in spared:
            return "recently published"
        return None if _is_ours(directory, name) else "foreign"
    if name.startswith(".partial-"):
        revision = name[len(".partial-") :]
        if not is_revision(revision):
            return "foreign"
        if os.path.isdir(f"{directory}/{revision}"):
            return None  # what is published is whole
        return "to be staged" if (model, revision) in wanted else None
    if name.startswith(_NOTES):
        revision = name.partition("-")[2]
        there = any(os.path.isdir(f"{directory}/{prefix}{revision}") for prefix in ("", ".partial-"))
        return "" if there else None
    return "foreign"


def _remove(directory: str, name: str, dry: bool, done: Collected) -> None:
    path = f"{directory}/{name}"
    done.removed.append(path)
    plain = os.path.islink(path) or not os.path.isdir(path)
    done.freed_bytes += os.lstat(path).st_blocks * 512 if plain else _bytes_below(path)
    if dry:
        return
    if plain:
        os.unlink(path)
        return
    if not name.startswith(".deleting-"):
        gone = f"{directory}/.deleting-{name.lstrip('.')}-{os.getpid()}"
        remove_tree(gone)
        os.rename(path, gone)
        path = gone
    remove_tree(path)


def _bytes_below(path: str) -> int:
    with Tree(path) as tree:
        return sum(state.st_blocks * 512 for _, state in tree.entries())
