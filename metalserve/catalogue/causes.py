"""What ails a node: signs in logs (`signs/`), causes, and the rung of the recovery ladder that can cure each."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from metalserve.catalogue.models import CatalogueError
from metalserve.catalogue.needles import needles
from metalserve.yaml_text import read_yaml

Confidence = Literal["low", "medium", "high"]
Log = Literal["kernel", "fabric", "engine", "bmc"]
SIGN_FILES: Final = ("nvidia", "pcie", "storage", "host", "bmc", "fabric", "container", "engine")
"""Files of `signs/`, in the order in which a line is held against them."""

_DIGITS: Final = str.maketrans("123456789", "000000000")
_IDS: Final = re.compile(r"[0-9a-f]{12,}")
"""Ids of requests and addresses in lower case; no word is spelt by these letters alone at such a length."""
_FORMS: Final = 16384
"""Forms of lines whose candidates are kept."""


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Rung(_Row):
    """A step of the recovery ladder."""

    name: str
    what: str
    destroys: str = Field(description="what is lost by it, in words")


class Cause(_Row):
    """Something that ails a node."""

    id: str
    title: str
    rung: str = Field(description="the cheapest step that can cure it")
    confidence: Confidence
    subject: Literal["gpu", "fabric", "host", "pcie", "drive", "filesystem", "engine"]
    then: str = Field("", description="what to do beside or after the step")
    person: bool = Field(False, description="a step of the ladder alone will not cure it")
    source: str


class Sign(_Row):
    """A line of a log that tells of a cause."""

    log: Log
    pattern: str
    cause: str
    source: str
    over: str | None = Field(
        None, description="a later line that says that it was nothing; its group `subject`: for whom"
    )
    again: int = Field(0, description="times of it being over that say it comes back: it counts then; 0: never")
    unless: str | None = Field(None, description="words with which a line that fits the pattern is no sign")
    after: str | None = Field(None, description="a line that must stand shortly before, as a trace's head")
    within: int = Field(40, description="lines after that head that still belong to it")

    @cached_property
    def ends(self) -> re.Pattern[str] | None:
        """The pattern of `over`, if there is one."""
        return re.compile(self.over) if self.over else None

    @cached_property
    def head(self) -> re.Pattern[str] | None:
        """The pattern of `after`, if there is one."""
        return re.compile(self.after) if self.after else None

    @cached_property
    def compiled(self) -> re.Pattern[str]:
        """The pattern; a group `subject` in it names what the line is about. Engines write in any case."""
        return re.compile(self.pattern, re.IGNORECASE if self.log == "engine" else 0)

    @cached_property
    def excused(self) -> re.Pattern[str] | None:
        """The pattern of `unless`, if there is one."""
        return re.compile(self.unless) if self.unless else None

    def search(self, line: str) -> re.Match[str] | None:
        """Return where the sign stands in a line; None when it is not there, or when `unless` excuses the line."""
        found = self.compiled.search(line)
        if found is None or (self.excused is not None and self.excused.search(line)):
            return None
        return found


class Unread(_Row):
    """What makes a line look like an error of a known component; when no sign knows it, that is said."""

    log: Log
    component: str
    pattern: str
    harmless: str | None = Field(None, description="lines of the kind that are no errors")

    @cached_property
    def needles(self) -> tuple[str, ...]:
        """Literals in lower case, one of which is in every line that fits; empty when that is not sure."""
        return needles(self.pattern)

    @cached_property
    def compiled(self) -> re.Pattern[str]:
        """The pattern of a line that looks like an error."""
        return re.compile(self.pattern)

    @cached_property
    def excused(self) -> re.Pattern[str] | None:
        """The pattern of `harmless`, if there is one."""
        return re.compile(self.harmless) if self.harmless else None


@dataclass(frozen=True, slots=True)
class Likely:
    """What may fit a line, by the literals in it: each in the order of its file.

    Attributes:
        signs: signs whose pattern may fit.
        ends: signs that the line may say to have been nothing (`over`).
        heads: signs whose head it may be (`after`).
        unread: kinds of lines that look like errors.
    """

    signs: tuple[Sign, ...]
    ends: tuple[Sign, ...]
    heads: tuple[Sign, ...]
    unread: tuple[Unread, ...]


class Nvlink5Rule(_Row):
    """How to read an NVLink 5 Xid (144 to 150); what is None fits anything."""

    xid: int | None = None
    unit: str | None = None
    text: str | None = None
    severity: Literal["Fatal", "Nonfatal"] | None = None
    cause: str
    source: str


class XidText(_Row):
    """An Xid whose words say more than its number."""

    xid: int
    text: str
    cause: str
    source: str


class CauseCatalogue(_Row):
    """Rungs, causes, signs, and the ways from Xids, recovery actions and findings to causes."""

    sources: dict[str, str]
    rungs: tuple[Rung, ...]
    causes: tuple[Cause, ...]
    signs: tuple[Sign, ...]
    unread: tuple[Unread, ...]
    xids: dict[int, str]
    xid_actions: dict[str, str]
    recovery_actions: dict[str, str]
    nvlink5: tuple[Nvlink5Rule, ...]
    xid_texts: tuple[XidText, ...] = ()
    checks: dict[str, str]

    @cached_property
    def _by_id(self) -> dict[str, Cause]:
        return {cause.id: cause for cause in self.causes}

    @cached_property
    def _order(self) -> dict[str, int]:
        return {rung.name: number for number, rung in enumerate(self.rungs)}

    @cached_property
    def _words(self) -> dict[str, dict[str, tuple[tuple[str, tuple[tuple[str, int], ...]], ...]]]:
        """Literals of the patterns, by log and by that part of three characters which the fewest of them have.

        Those of patterns without any literal stand under the empty part: they may fit every line.
        """
        found: dict[str, dict[str, list[tuple[str, int]]]] = {}
        for place, sign in enumerate(self.signs):
            for role, pattern in (("signs", sign.pattern), ("ends", sign.over), ("heads", sign.after)):
                for word in (needles(pattern) or ("",)) if pattern is not None else ():
                    found.setdefault(sign.log, {}).setdefault(word.translate(_DIGITS), []).append((role, place))
        for place, kind in enumerate(self.unread):
            for word in kind.needles or ("",):
                found.setdefault(kind.log, {}).setdefault(word.translate(_DIGITS), []).append(("unread", place))
        return {log: _by_rarest_part(words) for log, words in found.items()}

    @cached_property
    def _known_forms(self) -> dict[tuple[str, str], Likely | None]:
        return {}

    def likely(self, log: Log, line: str) -> Likely | None:
        """Return what may fit a line: that of which it holds a literal; None when nothing can.

        Lines that differ in their digits and ids only have the same, and a log has few such forms.
        """
        key = (log, _IDS.sub("0", line.lower()).translate(_DIGITS))
        try:
            return self._known_forms[key]
        except KeyError:
            pass
        if len(self._known_forms) >= _FORMS:
            self._known_forms.clear()
        return self._known_forms.setdefault(key, self._looked_up(*key))

    def _looked_up(self, log: str, form: str) -> Likely | None:
        words = self._words.get(log, {})
        parts = ("", *(words.keys() & _parts(form)))
        places = {at for part in parts for word, found in words.get(part, ()) if word in form for at in found}
        if not places:
            return None
        order = sorted(places)
        return Likely(
            signs=tuple(self.signs[place] for role, place in order if role == "signs"),
            ends=tuple(self.signs[place] for role, place in order if role == "ends"),
            heads=tuple(self.signs[place] for role, place in order if role == "heads"),
            unread=tuple(self.unread[place] for role, place in order if role == "unread"),
        )

    def cause(self, cause_id: str) -> Cause:
        """Return the cause `cause_id`; KeyError for one that is not in the file."""
        return self._by_id[cause_id]

    def height(self, rung: str) -> int:
        """Return how far up the ladder a rung is, from 0 (`nothing`)."""
        return self._order[rung]

    def rung(self, name: str) -> Rung:
        """Return the rung `name`."""
        return self.rungs[self._order[name]]

    @model_validator(mode="after")
    def _whole(self) -> CauseCatalogue:
        ids = [cause.id for cause in self.causes]
        if len(set(ids)) != len(ids):
            raise ValueError("a cause is listed twice")
        named = [
            *(sign.cause for sign in self.signs), *self.xids.values(), *self.xid_actions.values(),
            *self.recovery_actions.values(), *(rule.cause for rule in self.nvlink5), *self.checks.values(),
            *(rule.cause for rule in self.xid_texts),
        ]  # fmt: skip
        unknown = sorted(set(named) - set(ids))
        if unknown:
            raise ValueError(f"no such cause: {', '.join(unknown)}")
        rungs = {rung.name for rung in self.rungs}
        wrong = sorted({cause.rung for cause in self.causes} - rungs)
        if wrong:
            raise ValueError(f"no such rung: {', '.join(wrong)}")
        for pattern in (*(sign.pattern for sign in self.signs), *(kind.pattern for kind in self.unread)):
            re.compile(pattern)
        return self


def _parts(text: str) -> set[str]:
    return {text[at : at + 3] for at in range(len(text) - 2)}


def _by_rarest_part(
    words: dict[str, list[tuple[str, int]]],
) -> dict[str, tuple[tuple[str, tuple[tuple[str, int], ...]], ...]]:
    common = Counter(part for word in words for part in _parts(word))
    found: dict[str, list[tuple[str, tuple[tuple[str, int], ...]]]] = {}
    for word, places in words.items():
        part = min(_parts(word), key=lambda each: (common[each], each), default="")
        found.setdefault(part, []).append((word, tuple(places)))
    return {part: tuple(each) for part, each in found.items()}


@cache
def load_causes() -> CauseCatalogue:
    """Return the catalogue of causes.

    Raises:
        CatalogueError: the file is damaged or contradicts itself.
    """
    place = resources.files("metalserve.catalogue")
    data: Any = read_yaml(place.joinpath("causes.yaml").read_text(encoding="utf-8"))
    data["signs"] = []
    for name in SIGN_FILES:
        data["signs"] += read_yaml(place.joinpath("signs", f"{name}.yaml").read_text(encoding="utf-8"))
    data["unread"] = read_yaml(place.joinpath("signs", "unread.yaml").read_text(encoding="utf-8"))
    for kind in ("causes", "signs", "nvlink5", "xid_texts"):
        for row in data[kind]:
            row["source"] = data["sources"][row["source"]]
    try:
        return CauseCatalogue.model_validate(data)
    except (ValidationError, re.error) as error:
        raise CatalogueError(f"causes.yaml: {error}") from error
