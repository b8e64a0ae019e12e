"""One node as it is watched: frames and broken connections in, a view at any moment out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from metalserve.catalogue.clock_reasons import reason_named
from metalserve.watching.frames import LIMIT_S, Frame
from metalserve.watching.sample import (
    EngineSample,
    GpuAnswer,
    GpuSample,
    Links,
    Xid,
    engines_of,
    gpus_of,
    links_of,
    xids_of,
)

State = Literal["down", "hung", "error", "xid", "engine", "link", "slowed", "connecting", "ok"]
STATES: Final[tuple[State, ...]] = ("down", "hung", "error", "xid", "engine", "link", "slowed", "connecting", "ok")
"""The worst first."""

HUNG_S: Final = LIMIT_S + 4
"""A source that is read for longer than this hangs: its command should have been killed by then."""


SILENT_S: Final = 12
"""Seconds without a connection after which a node counts as down; it goes on being tried (pyinfra gives up at 10)."""


@dataclass(frozen=True, slots=True)
class EngineView:
    """An engine with its rates over the last interval, None where two samples of one run are not there."""

    sample: EngineSample
    tokens_s: float | None = None
    prompt_tokens_s: float | None = None
    cached: float | None = None

    @property
    def trouble(self) -> str:
        """Why it does not serve, or an empty text."""
        unit = self.sample.unit
        if unit in ("failed", "inactive"):
            return f"unit {unit}"
        if unit in ("activating", "reloading", "deactivating"):
            return {"activating": "loading", "deactivating": "stopping"}.get(unit, unit)
        if self.sample.answers:
            return ""
        return "does not answer" if self.sample.http == 0 else f"HTTP {self.sample.http}, no metrics"


@dataclass(frozen=True)
class NodeView:
    """A node at one moment.

    Attributes:
        state: the worst that is true of it.
        said: that in words; empty when all is well.
        gpus_age_s: how old the GPUs' values are, None without any; engines_age_s likewise.
        stale: the values are older than they should be.
        links: None when they were not told.
        xids: the last of each GPU since the boot; None when the kernel log was not told.
    """

    name: str
    state: State
    said: str = ""
    simulated: bool = False
    gpus: tuple[GpuSample, ...] = ()
    engines: tuple[EngineView, ...] = ()
    links: Mapping[int, Links] | None = None
    xids: tuple[Xid, ...] | None = None
    uptime_s: float | None = None
    gpus_age_s: float | None = None
    engines_age_s: float | None = None
    stale: bool = False

    @property
    def xid(self) -> Xid | None:
        """The newest Xid since the boot."""
        return self.xids[-1] if self.xids else None


@dataclass
class NodeWatch:
    """What is known of a node so far. Times named `now` and `at` are of one steady clock of this machine, s."""

    name: str
    interval_s: float
    simulated: bool = False
    began: float | None = None
    broken: str = ""
    heard_at: float | None = None
    _frame: Frame | None = None
    _gpus: GpuAnswer = field(default_factory=GpuAnswer)
    _gpus_ended: float | None = None
    _failure: GpuAnswer | None = None
    _engines: dict[int, EngineView] = field(default_factory=dict)
    _engines_ended: float | None = None
    _links: dict[int, Links] | None = None
    _xids: tuple[Xid, ...] | None = None
    told: set[str] = field(default_factory=set)

    def lost(self, why: str) -> None:
        """Note that the connection broke, or was never made."""
        self.broken = why

    def take(self, frame: Frame, at: float) -> None:
        """Take a frame that came at `at`."""
        if self._frame is not None and frame.boot != self._frame.boot:
            self._engines, self._xids, self._links = {}, None, None
            self._gpus, self._gpus_ended, self._failure = GpuAnswer(), None, None
        self._frame, self.heard_at, self.broken = frame, at, ""
        self.told |= set(frame.sections)
        if "gpu" in frame.sections:
            section = frame.sections["gpu"]
            answer = gpus_of(section)
            if answer.gpus:
                self._gpus, self._gpus_ended, self._failure = answer, section.ended, None
            else:
                self._failure = answer  # the values of before stay, and grow old
        if "engines" in frame.sections:
            section = frame.sections["engines"]
            found = engines_of(section)
            self._engines = {each.number: self._rated(each) for each in found}
            self._engines_ended = section.ended
        if "link" in frame.sections:
            self._links = links_of(frame.sections["link"])
        if "log" in frame.sections:
            self._xids = xids_of(frame.sections["log"])

    def _rated(self, new: EngineSample) -> EngineView:
        before = self._engines.get(new.number)
        if before is None or not before.sample.answers or not new.answers:
            return EngineView(new)
        old, span = before.sample, new.taken - before.sample.taken
        if span <= 0 or _fell(old.generation_tokens, new.generation_tokens):  # restarted in between
            return EngineView(new)
        queries, hits = _grown(old.cache_queries, new.cache_queries), _grown(old.cache_hits, new.cache_hits)
        answered, read = (
            _grown(old.generation_tokens, new.generation_tokens),
            _grown(old.prompt_tokens, new.prompt_tokens),
        )
        return EngineView(
            new,
            tokens_s=answered / span if answered is not None else None,
            prompt_tokens_s=read / span if read is not None else None,
            cached=hits / queries if queries and hits is not None else None,
        )

    def view(self, now: float) -> NodeView:
        """Return the node as it is known at `now`."""
        empty = NodeView(self.name, "connecting", "no answer yet", self.simulated)
        if self._frame is None or self.heard_at is None:
            why = self.broken
            if not why and self.began is not None and now - self.began > SILENT_S:
                why = f"no connection within {now - self.began:.0f} s"
            return replace(empty, state="down", said=why, stale=True) if why else empty
        silent = now - self.heard_at
        uptime = self._frame.uptime + silent
        view = replace(
            empty,
            gpus=self._gpus.gpus,
            engines=tuple(self._engines[number] for number in sorted(self._engines)),
            links=self._links,
            xids=self._xids,
            uptime_s=uptime,
            gpus_age_s=uptime - self._gpus_ended if self._gpus_ended is not None else None,
            engines_age_s=uptime - self._engines_ended if self._engines_ended is not None else None,
        )
        state, said = self._judged(view, silent)
        old = view.gpus_age_s is not None and view.gpus_age_s > 3 * self.interval_s + HUNG_S
        return replace(view, state=state, said=said, stale=state in ("down", "hung") or old)

    def _judged(self, view: NodeView, silent: float) -> tuple[State, str]:
        assert self._frame is not None
        if self.broken:
            return "down", f"{self.broken}, {silent:.0f} s ago"
        if silent > 3 * self.interval_s + 6:
            return "down", f"no answer for {silent:.0f} s"
        began = self._frame.busy.get("gpu")
        busy = self._frame.uptime + silent - began if began is not None else 0.0
        if busy > HUNG_S:
            return "hung", f"nvidia-smi hangs for {busy:.0f} s"
        if self._failure is not None:
            age = f", last answer {view.gpus_age_s:.0f} s ago" if view.gpus_age_s is not None else ""
            return ("hung" if self._failure.timed_out else "error"), f"{self._failure.failure}{age}"
        if "gpu" not in self.told:
            return "connecting", "nvidia-smi has not answered yet"
        return _worst(view, self._gpus.lost)


def _worst(view: NodeView, lost: tuple[str, ...]) -> tuple[State, str]:
    if lost:
        return "error", lost[0]
    fatal = [each for each in view.xids or () if each.severity == "fatal"]
    if fatal:
        return "xid", f"Xid {fatal[-1].code}: {fatal[-1].name}"
    down = [f"engine {e.sample.number} {e.trouble}" for e in view.engines if e.trouble]
    if down:
        return "engine", ", ".join(down[:3]) + (f" and {len(down) - 3} more" if len(down) > 3 else "")
    short = [
        f"GPU {index}: {each.up} of {each.wanted} NVLinks"
        for index, each in (view.links or {}).items()
        if each.wanted is not None and 0 < each.up < each.wanted
    ]
    if short:
        return "link", ", ".join(short[:3])
    slow: dict[int, str] = {}
    for gpu in view.gpus:
        for name in gpu.held or ():  # the worst first
            reason = reason_named(name)
            if reason is not None and reason.kind == "bad":
                slow.setdefault(gpu.index, reason.words)
    if slow:
        index, words = next(iter(slow.items()))
        return "slowed", f"GPU {index}: {words}" + (f", and {len(slow) - 1} more GPUs" if len(slow) > 1 else "")
    return "ok", ""


def _fell(old: float | None, new: float | None) -> bool:
    return old is not None and new is not None and new < old


def _grown(old: float | None, new: float | None) -> float | None:
    return new - old if old is not None and new is not None and new >= old else None
