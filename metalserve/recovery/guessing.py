"""A guess where no sign knows a line: by the known line that it resembles, or by words for who and how it ended. Pure.

It is made only when nothing else tells what ails the host, and it is for people: it names one cause with low
confidence, and asks for no step that is heavier than to start services again. `metalserve recover` judges without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from metalserve.catalogue.causes import Cause, CauseCatalogue, Log
from metalserve.catalogue.guesses import Guesses, Outcome, Pair, load_guesses
from metalserve.catalogue.known_lines import NOTHING
from metalserve.hardware.parsers.text import clean
from metalserve.recovery.evidence import Evidence
from metalserve.recovery.resembling import Resembling, known_lines
from metalserve.recovery.suspects import LINE_LIMIT, Suspect

HIGHEST: Final = "restart-services"
"""The heaviest step that a guess may ask for."""
_LOOKED_AT: Final = 400
"""Characters of a line in which its words are looked for: in a longer one they need not belong together."""
_FORMS: Final = 20_000
"""Lines of different form that are looked at in a log; one with more repeats itself in words, too."""
_NUMBERS: Final = re.compile(r"0x[0-9a-fA-F]{1,16}|\d{1,20}")
_LOGGED: Final = re.compile(
    r"^.{0,60}?\d\d:\d\d:\d\d|^.{0,20}\[[ \d]{1,12}\.\d{1,9}\]|^.{0,80}?[\w)]\[\d{1,10}\]: "
    r"|^[^<|\"'=]{0,100}?[^\s:]: \S|^\s*[0-9a-f]{1,4} \||^[A-Z][\w-]{1,30}(?: [\w()./:%-]{1,60}){4}"
)
"""How a line of a log begins: with a time, who speaks, or a sentence. Tables and listings of tools do not."""
_A_FEW: Final = 6
"""Lines of a text that are read in whatever form they are: somebody picked them out of a log."""
_PICKED: Final = 40
"""Lines of different form of a text that somebody picked out of a log, and whose words need not be those of trouble."""
_NEAR: Final = 0.3
"""How near a known line must be: below, as many answers were wrong as right (bench/verdict/README.md)."""
_BAD: Final = ("Critical", "Warning", "")
"""Severities of a BMC's events that speak of trouble."""
_SOURCE: Final = "words of the line, no sign"


def guessed(
    evidence: Evidence, catalogue: CauseCatalogue, table: Guesses | None = None, known: Resembling | None = None
) -> list[Suspect]:
    """Return the lines that a guess is made of, all for one cause; none when no line has words for one.

    Args:
        evidence: of the host; logs of engines and of the boot before are not looked at.
        catalogue: signs and causes: a line that a sign knows is no line for a guess.
        table: components, outcomes and pairs; the one of the catalogue when it is left out.
        known: lines whose meaning is known; those of the catalogue when it is left out.
    """
    table = table or load_guesses()
    hits: dict[str, list[tuple[Guess, str, str]]] = {}
    seen: set[str] = set()
    for log, text, origin in _texts(evidence):
        for guess, line in _hits(text, log, catalogue, table, known, seen):
            hits.setdefault(guess.cause, []).append((guess, line[:LINE_LIMIT], origin))
    best = {name: max(each, key=lambda hit: hit[0].weight)[0] for name, each in hits.items()}
    if not best:
        return []
    first = max(best.values(), key=lambda guess: guess.weight)
    cause = held_down(first.cause, catalogue)
    return [Suspect(cause, "", line, origin, first.source) for _, line, origin in hits[first.cause]]


def guessable(text: str, catalogue: CauseCatalogue) -> bool:
    """Tell whether some line of a text, of which nothing else is known, has words for a guess."""
    return next(_hits(text, "kernel", catalogue, load_guesses(), None, set()), None) is not None


def held_down(name: str, catalogue: CauseCatalogue) -> Cause:
    """Return the cause `name` as a guess has it: not sure, for a person to look at, and with no heavy step."""
    cause = catalogue.cause(name)
    heavy = catalogue.height(cause.rung) > catalogue.height(HIGHEST)
    then = f"read the lines first: if it is so, the step is `{cause.rung}`" if heavy else "read the lines first"
    return cause.model_copy(
        update={
            "rung": "nothing" if heavy else cause.rung,
            "confidence": "low",
            "person": True,
            "then": f"{then}; {cause.then}" if cause.then else then,
        }
    )


@dataclass(frozen=True, slots=True)
class Guess:
    """What one line is taken for.

    Attributes:
        cause: id of the catalogue.
        weight: the heavier counts: 0 to 1 for a line that resembles a known one, below 0 for words alone.
        source: what it is taken from.
        pair: place in the table of the pair of words, where words say the same: it tells when it is over.
    """

    cause: str
    weight: float
    source: str
    pair: int | None = None


def guess_of(line: str, table: Guesses, known: Resembling | None, *, picked: bool = False) -> Guess | None:
    """Return what a line is taken for; None when healthy hosts print such lines, or it tells of no trouble.

    Args:
        line: of a log.
        table: components, outcomes and pairs.
        known: lines whose meaning is known; None: those of the catalogue, read at the first line of trouble.
        picked: somebody picked the line: it need not have a word of trouble.
    """
    lower = line[:_LOOKED_AT].lower()
    ended = [each for each in table.outcomes if each.fits(lower)]
    if not (ended or picked) or table.excused.search(line[:_LOOKED_AT]):
        return None
    like, rank = (known or known_lines()).ask(line), _pair(lower, ended, table)
    if like is not None and like.score >= _NEAR:
        if like.cause == NOTHING:
            return None
        same = rank if rank is not None and table.pairs[rank].cause == like.cause else None
        return Guess(like.cause, like.score, f"resembles `{like.line}`", same)
    return None if rank is None else Guess(table.pairs[rank].cause, -1.0 - rank, _SOURCE, rank)


def pair_of(line: str, table: Guesses) -> int | None:
    """Return which pair a line fits, by its place in the table; None when it has no words of trouble for any."""
    lower = line[:_LOOKED_AT].lower()
    ended = [each for each in table.outcomes if each.fits(lower)]
    return None if not ended or table.excused.search(line[:_LOOKED_AT]) else _pair(lower, ended, table)


def _pair(lower: str, ended: Sequence[Outcome], table: Guesses) -> int | None:
    speaks: dict[str, bool] = {}
    telling = {each.name for each in ended if not each.general}
    general = set() if any(each.mild for each in ended) else {each.name for each in ended if each.general}
    for names in (telling, general):
        for rank, pair in enumerate(table.pairs):
            if names.isdisjoint(pair.what):
                continue
            if pair.who not in speaks:
                speaks[pair.who] = table.component(pair.who).speaks(lower)
            if speaks[pair.who]:
                return rank
    return None


def _texts(evidence: Evidence) -> Iterator[tuple[Log, str, str]]:
    yield "kernel", evidence.kernel or "", "log of the host"
    yield "fabric", evidence.fabric or "", "fabric manager's log"
    if evidence.bmc is not None:
        told = [f"{event.code} {event.message}".strip() for event in evidence.bmc.events if event.severity in _BAD]
        yield "bmc", "\n".join(told), "BMC's event log"


def _hits(
    text: str, log: Log, catalogue: CauseCatalogue, table: Guesses, known: Resembling | None, seen: set[str]
) -> Iterator[tuple[Guess, str]]:
    """Find the lines that tell of something and were not said to be over again, each form once."""
    found: list[tuple[Guess, str, str]] = []
    lines = [line.strip()[:2000] for line in clean(text).splitlines()]
    picked = len({_NUMBERS.sub("#", line[:_LOOKED_AT]) for line in lines[: 100 * _PICKED]}) <= _PICKED
    for line in lines:
        if len(lines) > _A_FEW and not _LOGGED.search(line):
            continue
        pairs = {guess.pair for guess, _, _ in found if guess.pair is not None}
        over = {rank for rank in pairs if _is_over(table.pairs[rank], line, table)}
        seen -= {form for guess, _, form in found if guess.pair in over}  # it may come again, and stay
        found = [each for each in found if each[0].pair not in over]
        form = _NUMBERS.sub("#", line[:_LOOKED_AT])
        if form in seen or len(seen) >= _FORMS:
            continue
        seen.add(form)
        guess = guess_of(line, table, known, picked=picked)
        if guess is not None and not _known(line, log, catalogue):
            found.append((guess, line, form))
    yield from ((guess, line) for guess, line, _ in found)


def _is_over(pair: Pair, line: str, table: Guesses) -> bool:
    if pair.ends is None or not pair.ends.search(line):
        return False
    return table.component(pair.who).speaks(line.lower())


def _known(line: str, log: Log, catalogue: CauseCatalogue) -> bool:
    """Tell whether a sign knows the line or its `unless` excuses it, or healthy hosts print it: it was weighed."""
    likely = catalogue.likely(log, line)
    if likely is None:
        return False
    for kind in likely.unread:
        if kind.excused is not None and kind.compiled.search(line) and kind.excused.search(line):
            return True
    return any(sign.head is None and sign.compiled.search(line) for sign in likely.signs)
