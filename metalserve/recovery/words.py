"""A verdict in words, for a terminal and for a ticket. Pure."""

from __future__ import annotations

from metalserve.catalogue.causes import CauseCatalogue, load_causes
from metalserve.recovery.verdict import Found, Verdict

_WIDTH = 160
_UNREAD = 8
"""Lines that were not understood, of which so many are printed; JSON holds them all."""


def in_words(verdict: Verdict, catalogue: CauseCatalogue | None = None) -> list[str]:
    """Return the lines that a person reads: what to do first, then why, each with the lines that say so."""
    catalogue = catalogue or load_causes()
    lines = [_headline(verdict, catalogue)]
    for cause in verdict.causes:
        lines += ["", *_cause(cause, catalogue)]
    told = {line for cause in verdict.causes if cause.guess for line in cause.lines}
    unread = [line for line in verdict.unread if line not in told]
    if unread:
        lines += [
            "",
            f"{len(unread)} line(s) look like errors and were not understood; somebody should read them:",
        ]
        lines += [f"    {line[:_WIDTH]}" for line in unread[:_UNREAD]]
    if verdict.lacking:
        lines += ["", f"not seen: {'; '.join(verdict.lacking)}"]
    return lines


def _headline(verdict: Verdict, catalogue: CauseCatalogue) -> str:
    if all(cause.past for cause in verdict.causes):
        return "verdict: nothing found that calls for a step"
    rung = catalogue.rung(verdict.rung)
    if any(cause.guess for cause in verdict.causes):
        step = "nothing to do before" if rung.name == "nothing" else f"perhaps {rung.name} ({rung.what}), after"
        return f"verdict: no sign knows what is wrong, only a guess is left: {step} somebody looked"
    if rung.name == "nothing":
        return "verdict: nothing to do" + (", but somebody should look" if verdict.needs_person else "")
    person = "; somebody must change something, or it comes back" if verdict.needs_person else ""
    return f"verdict: {rung.name}: {rung.what} (lost by it: {rung.destroys}){person}"


def _cause(cause: Found, catalogue: CauseCatalogue) -> list[str]:
    about = f" [{', '.join(cause.subjects[:8])}{', ...' if len(cause.subjects) > 8 else ''}]" if cause.subjects else ""
    says = f", says {cause.authority}" if cause.authority else ""
    if cause.past:
        lines = [f"in the boot before: {cause.title}{about}"]
    elif cause.explained_by:
        lines = [f"{cause.title}{about}: a consequence of: {catalogue.cause(cause.explained_by).title}"]
    else:
        lines = [f"{cause.title}{about} -> {cause.rung} (confidence: {cause.confidence}{says})"]
        if cause.guess:
            lines = [
                "a guess: no sign knows these lines; it is probably:",
                f"{cause.title} -> {cause.rung} (confidence: {cause.confidence}, a guess)",
            ]
        if cause.then:
            lines.append(f"  then: {cause.then}")
        lines += [f"  differs: {each}" for each in cause.disagreements]
    lines += [f"    {line[:_WIDTH]}" for line in cause.lines]
    if cause.times > len(cause.lines):
        lines.append(f"    ... {cause.times} lines in all, in the {', '.join(cause.origins)}")
    if not cause.explained_by and not cause.past:
        lines.append(f"  source: {'; '.join(cause.sources)}")
    return lines
