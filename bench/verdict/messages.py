"""How many messages of the sources of kernels and drivers `metalserve diagnose` understands, each asked alone.

    python -m bench.verdict.messages [LINES.yaml]

The file holds kind of log -> cause -> lines, as known_lines/signs-kernel-check.yaml of the catalogue does. `silent`:
nothing found, `listed`: of those, the line was listed as not understood. `dangerous`: a reboot or more that was not
called for.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import yaml

from metalserve.catalogue.causes import load_causes
from metalserve.paths import ROOT
from metalserve.recovery.evidence import Evidence
from metalserve.recovery.verdict import judge

LINES = ROOT / "metalserve" / "catalogue" / "known_lines" / "signs-kernel-check.yaml"


def ask(line: str, cause: str) -> Iterable[str]:
    """Return what is to be counted of one line of a kernel log whose right cause is `cause`."""
    catalogue = load_causes()
    verdict = judge(Evidence(kernel=f"[ 12.000000] {line}"))
    counting = [found for found in verdict.causes if not found.explained_by]
    right = catalogue.cause(cause).rung
    above = catalogue.height(verdict.rung) > catalogue.height(right)
    if counting and counting[0].id == cause:
        yield "right cause"
    if verdict.rung == right:
        yield "right rung"
    if above and catalogue.height(verdict.rung) >= catalogue.height("reboot"):
        yield "dangerous"
    if not counting:
        yield "silent"
        if verdict.unread:
            yield "listed"


def report(lines: dict[str, list[str]]) -> list[str]:
    """Return the figures of cause -> lines of a kernel log."""
    asked = [(line, cause) for cause, each in lines.items() for line in each]
    counts = Counter(what for line, cause in asked for what in ask(line, cause))
    names = ("right cause", "right rung", "silent", "listed", "dangerous")
    return [f"{name:12}{counts[name]:5} of {len(asked)} = {counts[name] / len(asked):6.1%}" for name in names]


def main(arguments: list[str]) -> None:
    """Ask every line of the kernel log and print the figures."""
    path = Path(arguments[0]) if arguments else LINES
    print("\n".join(report(yaml.safe_load(path.read_text(encoding="utf-8"))["kernel"])))


if __name__ == "__main__":
    main(sys.argv[1:])
