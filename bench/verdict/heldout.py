"""How often `metalserve diagnose` is right on logs that were not looked at while it was written.

    python -m bench.verdict.heldout [CASES.yaml]

Prints a line for each wrong answer, then the figures. `right` is both: the first cause that counts, and the rung.
A wrong rung is `dangerous` when it destroys more than the right one and is a reboot or beyond, `weak` when it is
below it.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from metalserve.catalogue.causes import load_causes
from metalserve.errors import MetalserveError
from metalserve.paths import ROOT
from metalserve.recovery.reading import read_evidence
from metalserve.recovery.verdict import judge

CASES = ROOT / "tests" / "recovery" / "heldout" / "cases.yaml"


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said of one case.

    Attributes:
        name: of the case.
        cause: id of the first cause that counts; empty when there is none.
        rung: where the ladder would begin.
        right_cause: the cause is one of those that were written down.
        right_rung: the rung is.
        dangerous: a reboot or more that was not called for.
        weak: the rung is below the right one.
        expected: what was written down, in words.
    """

    name: str
    cause: str
    rung: str
    right_cause: bool
    right_rung: bool
    dangerous: bool
    weak: bool
    expected: str


def ask(case: dict[str, Any]) -> Answer:
    """Give the logs of a case to the reader and the judge, as files of one directory."""
    height = load_causes().height
    with tempfile.TemporaryDirectory() as place:
        for name, text in case["logs"].items():
            (Path(place) / name).write_text(text, encoding="utf-8")
        try:
            verdict = judge(read_evidence([place]))
            counting = [c for c in verdict.causes if not c.explained_by and not c.past]
            cause, rung = (counting[0].id if counting else ""), verdict.rung
        except MetalserveError:  # nothing in it is known: a person sees "holds no kernel log"
            cause, rung = "", "nothing"
    rungs = [case["rung"], *case.get("also", [])]
    right_cause = cause in case["causes"] if case["causes"] else rung == "nothing"
    above = height(rung) > max(height(r) for r in rungs)
    return Answer(
        case["name"], cause, rung, right_cause, rung in rungs,
        above and height(rung) >= height("reboot"), height(rung) < min(height(r) for r in rungs),
        f"{'/'.join(case['causes']) or 'none'} -> {'/'.join(rungs)}",
    )  # fmt: skip


def report(answers: list[Answer]) -> list[str]:
    """Return the lines: wrong answers first, then the figures."""
    lines = []
    for each in answers:
        if each.right_cause and each.right_rung:
            continue
        what = [w for w, so in (("cause", not each.right_cause), ("rung", not each.right_rung)) if so]
        kind = " DANGEROUS" if each.dangerous else " weak" if each.weak else ""
        lines.append(f"wrong {' and '.join(what)}{kind}: {each.name}")
        lines.append(f"    said {each.cause or 'none'} -> {each.rung}; right: {each.expected}")
    n = len(answers)
    for name, count in (
        ("right (cause and rung)", sum(a.right_cause and a.right_rung for a in answers)),
        ("right cause first", sum(a.right_cause for a in answers)),
        ("right rung", sum(a.right_rung for a in answers)),
        ("dangerous rung", sum(a.dangerous for a in answers)),
        ("rung too weak", sum(a.weak for a in answers)),
    ):
        lines.append(f"{name:24}{count:4} of {n} = {count / n:6.1%}")
    return lines


def main(arguments: list[str]) -> None:
    """Ask every case and print the report."""
    path = Path(arguments[0]) if arguments else CASES
    cases: list[dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    print("\n".join(report([ask(case) for case in cases])))


if __name__ == "__main__":
    main(sys.argv[1:])
