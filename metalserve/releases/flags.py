"""Options of vLLM that went, came or have another default between two versions. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from metalserve.catalogue.vllm_check import check_args
from metalserve.catalogue.vllm_flags import Flag, FlagCatalogue, known_releases, load_flags


@dataclass(frozen=True, slots=True)
class RemovedFlag:
    """An option that the second version refuses.

    Attributes:
        flag: the option as it was written.
        remedy: what to do about it, "" when nothing is known.
        spelling: the option itself stays, under another spelling.
    """

    flag: str
    remedy: str
    spelling: bool = False


@dataclass(frozen=True, slots=True)
class ChangedDefault:
    """An option that does another thing when it is left out."""

    flag: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class RemovedValues:
    """Values that an option took and takes no more."""

    flag: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class FlagChanges:
    """The difference between the options of two versions of vLLM.

    Attributes:
        before, after: the versions.
        unknown: versions whose options the catalogue does not have; the rest is empty then.
        removed: options that are refused from now on: an engine with one of them does not start.
        added: new options.
        defaults: options with another default.
        values: options that do not take some of their old values any more.
    """

    before: str
    after: str
    unknown: tuple[str, ...] = ()
    removed: tuple[RemovedFlag, ...] = ()
    added: tuple[str, ...] = ()
    defaults: tuple[ChangedDefault, ...] = ()
    values: tuple[RemovedValues, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


def flag_changes(before: str, after: str) -> FlagChanges:
    """Compare the options of vLLM `before` and `after` ("0.32.0"), as far as the catalogue has them."""
    known = known_releases()
    unknown = tuple(version for version in dict.fromkeys((before, after)) if version not in known)
    if unknown:
        return FlagChanges(before, after, unknown)
    old, new = load_flags(before), load_flags(after)
    gone = {name for name in old.by_name if name.startswith("--") and name not in new.by_name}
    # The inverse spelling of an option goes with it.
    removed = sorted(name for name in gone if f"--{name.removeprefix('--no-')}" not in gone - {name})
    named = [flag for flag in new.flags if flag.names]
    added = sorted(flag.names[0] for flag in named if not _shared(flag, old))
    both = [(old.by_name[name], flag, name) for flag in named for name in [_shared(flag, old)] if name]
    return FlagChanges(
        before,
        after,
        (),
        tuple(_removed(name, old, new) for name in removed),
        tuple(added),
        tuple(
            ChangedDefault(name, _shown(was.default), _shown(now.default))
            for was, now, name in both
            if was.default != now.default
        ),
        tuple(RemovedValues(name, gone) for was, now, name in both for gone in [_gone(was, now)] if gone),
    )


def _shared(flag: Flag, old: FlagCatalogue) -> str:
    return next((name for name in flag.names if name in old.by_name), "")


def _gone(was: Flag, now: Flag) -> tuple[str, ...]:
    if was.choices is None or now.choices is None:
        return ()  # an option that takes any text now still takes the old values
    return tuple(sorted(set(map(str, was.choices)) - set(map(str, now.choices))))


def _removed(name: str, old: FlagCatalogue, new: FlagCatalogue) -> RemovedFlag:
    spelled = next((other for other in old.by_name[name].names if other in new.by_name), None)
    if spelled is not None:
        return RemovedFlag(name, f"leave out {spelled}" if name in _negated(spelled) else f"write {spelled}", True)
    problems = [problem for problem in check_args(["MODEL", name], new.release) if problem.flag == name]
    # A name alone may be read as the beginning of another option, or lack its value: then nothing is known of it.
    told = next((problem for problem in problems if problem.kind in ("removed", "unknown", "too-new")), None)
    return RemovedFlag(name, (told.remedy or "") if told is not None else "")


def _negated(name: str) -> tuple[str, ...]:
    """Return the spellings that turn the option `name` off."""
    bare = name.removeprefix("--").removeprefix("enable-")
    return (f"--no-{bare}", f"--no-enable-{bare}", f"--disable-{bare}")


def _shown(value: object) -> str:
    return "unset" if value is None else str(value)
