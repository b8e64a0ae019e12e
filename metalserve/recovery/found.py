"""The verdict on a node as values: causes with what speaks for them, and where the ladder begins. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from metalserve.catalogue.causes import Confidence

SCHEMA: Final = 1


@dataclass(frozen=True, slots=True)
class Found:
    """A cause, with what speaks for it.

    Attributes:
        id: of the catalogue.
        title: in words.
        subjects: what it is about (PCI addresses, engines, drives).
        rung: cheapest step that can cure it.
        confidence: how sure the sign is.
        person: somebody must change something: no step alone cures it.
        then: what to do beside or after the step.
        lines: evidence, verbatim.
        times: lines there were in all.
        origins: where they were read.
        sources: why they mean this.
        authority: for GPUs: who said so (`the driver's recovery action`, `Xid 154`, `the Xid table`).
        disagreements: what lower authorities would do.
        explained_by: id of the cause that brought this about; empty when it stands alone.
        past: of the boot before: tells why the host went down, and no step is taken for it any more.
        guess: no sign knows the lines; it is what their words probably mean.
    """

    id: str
    title: str
    subjects: tuple[str, ...]
    rung: str
    confidence: Confidence
    person: bool
    then: str
    lines: tuple[str, ...]
    times: int
    origins: tuple[str, ...]
    sources: tuple[str, ...]
    authority: str = ""
    disagreements: tuple[str, ...] = ()
    explained_by: str = ""
    past: bool = False
    guess: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in ((name, getattr(self, name)) for name in self.__slots__)
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """What ails the node, and where the ladder begins.

    Attributes:
        causes: by rank: what stands alone before consequences, what wants the higher rung first, then confidence.
        rung: first rung to try; `nothing` when no cause wants a step.
        needs_person: some cause that counts wants a person.
        lacking: evidence that could not be had.
        unread: lines that look like errors (Xids, and what known components print) and were not understood.
    """

    causes: tuple[Found, ...]
    rung: str
    needs_person: bool
    lacking: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {
            "schema": SCHEMA,
            "rung": self.rung,
            "needs_person": self.needs_person,
            "causes": [cause.as_dict() for cause in self.causes],
            "lacking": list(self.lacking),
            "unread": list(self.unread),
        }
