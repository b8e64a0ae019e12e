"""Reads Python's tracebacks in logs of engines: what was raised, where, and whether the engine ended by it. Pure.

Signs know what exceptions say; there are more of those than signs. An exception that no sign knows still tells where it
was raised, whether the engine was starting or serving, and whether it ended a request or the engine.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from metalserve.catalogue.tracebacks import Place, Tracebacks, load_tracebacks

_DRESS: Final = re.compile(
    r"^(?:"
    r"\s{0,8}>\s"  # a quotation
    r"|[\w.-]{1,60}\s{0,20}\|\s"  # docker compose
    r"|\[?\d{4}-\d\d-\d\d[T ][\d:.,]{8,18}(?:Z|[+-]\d\d:?\d\d)?\]?\s(?:-\s)?"
    r"|[A-Z][a-z]{2} [ \d]\d [\d:]{8} \S{1,80} \S{1,80}?(?:\[\d{1,10}\])?:\s"  # the journal
    r"|[\w.-]{1,80} [\w./@-]{1,60}\[\d{1,10}\]:\s"  # the journal, behind a time in ISO's form
    r"|\s{0,7}\d{1,6}(?::|\s)\s{0,2}(?=\S|  )"  # numbers of lines
    r"|(?:stdout|stderr) [FP] "
    r"|\((?:\w[\w ,.=-]{0,60} ?)?pid=\d{1,10}[^)]{0,60}\)\s?"
    r"|\[(?:rank|default)?\d{1,4}(?:,\d{1,4})?\](?:<std(?:err|out)>)?:\s?"
    r"|(?:CRITICAL|ERROR|WARNING|INFO|DEBUG) (?:\d{4}-)?\d\d-\d\d [\d:.]{8,12} \[?[\w./-]{1,80}:\d{1,5}\]\s?"
    r"|(?:CRITICAL|ERROR|WARNING|INFO|DEBUG)\s{1,5}[\w./-]{1,80}:\d{1,5}\]?\s(?:--?\s)?"
    r"|(?:CRITICAL|ERROR):\s{1,8}"
    r")"
)
_FRAME: Final = re.compile(r'^\s{0,40}File "([^"]{1,300})", line \d{1,6}(?:, in (\S{1,120}))?')
_KIND: Final = re.compile(
    r"^(?:Exception: )?(?:[A-Za-z_]\w{0,60}\.){0,8}"
    r"(?P<kind>Exception|gaierror|[A-Z]\w{0,60}(?:Error|Exception|Timeout|TimedOut|NotFound|Failure|Expired|Interrupt|Exit|Died|Killed)"
    r"|[A-Z]\w{2,40}(?:Error|Exception)\((?P<inner>\w{1,60})\))(?:: ?(?P<words>.*))?$"
)
_SERVED: Final = re.compile(
    r"Application startup complete|Avg (?:prompt|generation) throughput|\"(?:POST|GET) /\S{0,100} HTTP/[\d.]{1,3}\" 200"
    r"|(?:Added|Received) request "
)
_STARTED: Final = re.compile(r"Application startup complete")
_AT_REQUEST: Final = re.compile(
    r"(?:ERROR|WARNING|INFO) \d\d-\d\d [\d:.]{8,12} \[?(?:[\w/]{0,60}/)?"
    r"(?:serving_?\w{0,40}|protocol|chat_utils|preprocess|\w{0,30}tool_parser|\w{0,30}reasoning_parser|abstract_tool_parser)\.py:"
    r"|^(?:ERROR:\s{1,8})?Exception in ASGI application"
)

_BY_HAND: Final = frozenset({"KeyboardInterrupt", "SystemExit", "GeneratorExit", "CancelledError"})
"""Exceptions by which programs are told to end."""
_REFERS: Final = re.compile(
    r"[Ss]ee (?:the )?(?:root cause|stack trace)|(?:Engine core|WorkerProc) initialization failed|EngineDeadError"
    r"|(?:EngineCoreProc|WorkerProc|Engine process) failed to start|EngineCore encountered an issue"
)
"""Exceptions of vLLM that only say that there is another one."""
_IMPORT: Final = "<import>"


@dataclass
class Failure:
    """An exception that a log tells of.

    Attributes:
        kind: name of the exception without its package; empty when the log ends before it.
        words: what it says, in one line.
        frames: `path:function`, the outermost first.
        line: the line that names it, or the last frame.
        first: number of its first line.
        last: number of its last line.
        request: it ended a request, not the engine: its place says so, or its kind.
    perhaps: its words sound like those of a request.
    """

    kind: str = ""
    words: str = ""
    frames: list[str] = field(default_factory=list)
    line: str = ""
    first: int = 0
    last: int = 0
    request: bool = False
    perhaps: bool = False


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an engine ended, as far as its tracebacks tell.

    Attributes:
        cause: id of the cause.
        line: the line that says so.
        source: why it means that.
        at_start: the place where it was raised says so, and it was raised before the engine served.
    """

    cause: str
    line: str
    source: str
    at_start: bool = False


def bare(line: str) -> str:
    """Return a line without what the programs that pass it on write before it: names, times, levels."""
    for _ in range(8):
        found = _DRESS.match(line)
        if found is None:
            return line
        line = line[found.end() :]
    return line


def failures(lines: Sequence[str], known: Tracebacks | None = None) -> list[Failure]:
    """Return the exceptions of a log, in its order; frames without an exception at the end are one as well."""
    known = known or load_tracebacks()
    found: list[Failure] = []
    now: Failure | None = None
    for number, line in enumerate(lines):
        text = bare(line)
        if text.startswith("Traceback (most recent call last)"):
            now = Failure(first=number, request=_AT_REQUEST.search(line) is not None)
        elif frame := _FRAME.match(text):
            now = now or Failure(first=number)
            now.frames.append(f"{frame[1]}:{frame[2] or ''}")
            now.last, now.line = number, line
            now.request = now.request or _AT_REQUEST.search(line) is not None
        elif kind := _KIND.match(text):
            now = now or Failure(first=number)
            now.kind, now.words, now.line, now.last = kind["inner"] or kind["kind"], kind["words"] or "", line, number
            now.request = now.request or _AT_REQUEST.search(line) is not None
            found.append(now)
            now = None
        elif found and now is None and number - found[-1].last == 1 and not found[-1].words and text.startswith("  "):
            found[-1].words, found[-1].last = text.strip(), number  # pydantic says it in the next line
    if now is not None and now.frames:
        found.append(now)
    for each in found:
        if _importing(each.frames):
            each.frames.append(_IMPORT)
        each.request = (
            each.request
            or any(known.of_requests.search(frame) for frame in each.frames)
            or re.search(known.request_kinds, each.kind) is not None
        )
        each.perhaps = not each.words.startswith("--") and re.search(known.request_words, each.words) is not None
        if any(f == _IMPORT or known.of_runs.search(f) or known.of_starts.search(f) for f in each.frames):
            each.request = each.perhaps = False
        each.request = each.request or each.kind in _BY_HAND
    return found


def said(lines: Sequence[str], known: Tracebacks) -> list[Failure]:
    """Return what a log says without an exception of things that did not come up."""
    return [
        Failure("Failed", bare(line).strip(), [], line, number, number)
        for number, line in enumerate(lines)
        if known.of_failures.search(bare(line)) and not known.of_warnings.search(line)
    ]


def request_lines(lines: Sequence[str]) -> set[int]:
    """Return the numbers of lines that tell of an exception which ended a request and not the engine."""
    return {number for each in failures(lines) if each.request for number in range(each.first, each.last + 1)}


def started_at(lines: Sequence[str]) -> int:
    """Return the number of the line that says that the engine has started, the last one; -1 when there is none."""
    return max((number for number, line in enumerate(lines) if _STARTED.search(line)), default=-1)


def reason(lines: Sequence[str], known: Tracebacks | None = None) -> Reason | None:
    """Return why the engine ended, by its tracebacks; `None` when they do not tell that it ended."""
    known = known or load_tracebacks()
    since = started_at(lines)
    ended = [each for each in failures(lines, known) if each.last > since and not (each.request or each.perhaps)]
    ended = ended or [each for each in said(lines, known) if each.last > since]
    if not ended or _goes_on(lines, ended[-1].last):
        return None
    last = ended[-1]
    ended = [each for each in ended if _REFERS.search(f"{each.kind}: {each.words}") is None]
    reasons = [(each, _placed(each, known, served=_served(lines, each, known))) for each in ended]
    for each, place in reasons:
        if place is not None and place.cause != "engine-died":
            return Reason(place.cause, each.line, known.sources[place.source], not _served(lines, each, known))
    for each in ended:
        if not _served(lines, each, known):
            kind = next((k for k in known.kinds if k.fits("", each.kind, each.words)), None)
            if kind is not None and each.kind:
                return Reason(kind.cause, each.line, known.sources[kind.source])
    return Reason("engine-died", last.line, known.sources["python"])


def _importing(frames: Sequence[str]) -> bool:
    """Whether the last frames are files that import each other: what failed is an import."""
    own = [frame for frame in frames if "importlib" not in frame and "<frozen" not in frame][-2:]
    return len(own) == 2 and all(frame.endswith((":<module>", ":__getattr__")) for frame in own)


def _goes_on(lines: Sequence[str], last: int) -> bool:
    """Whether the engine answers requests after its last exception."""
    return any('" 200' in line and '"POST' in line for line in lines[last + 1 :])


def _served(lines: Sequence[str], failure: Failure, known: Tracebacks) -> bool:
    """Whether the engine had served when it failed: its frames say so, else the lines before."""
    if any(known.of_starts.search(frame) for frame in failure.frames):
        return False
    if any(known.of_runs.search(frame) for frame in failure.frames):
        return True
    return any(_SERVED.search(line) for line in lines[: failure.first])


def _placed(failure: Failure, known: Tracebacks, *, served: bool) -> Place | None:
    for frame in reversed(failure.frames):
        for place in known.places:
            if (place.run or not served) and place.fits(frame, failure.kind, failure.words):
                return place
    return None
