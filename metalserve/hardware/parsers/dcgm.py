"""`dcgmi diag`: the table and the JSON of DCGM 2, 3 and 4."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

from metalserve.hardware.parsers.jsontext import find_object, objects, words
from metalserve.hardware.parsers.text import ParseError, clean, first_line

_ROOTS = ("DCGM Diagnostic", "DCGM GPU Diagnostic")
_STATUSES: Final = {
    "pass": "Pass",
    "fail": "Fail",
    "warn": "Warn",
    "skip": "Skip",
    "skipped": "Skip",
    "notrun": "NotRun",
    "not run": "NotRun",
    "error": "Fail",
}
_WORST: Final = ("Fail", "Warn", "Pass", "Skip", "NotRun")
_SECTION = re.compile(r"[|+]-{2,8}\s{1,4}(\S.{0,40}?)\s{1,4}-{2,20}\+-{10,80}[|+]")
_ROW = re.compile(r"\|\s(.{1,40}?)\s*\|\s(.{1,120}?)\s*\|")
_RAW_ROW = re.compile(r"\|(.{1,40}?)\|(.{1,130})\|")
_RESULT = re.compile(
    r"(Pass|Fail|Warn|Skip|Skipped|Not ?Run|Error)(?: - (All|[A-Z]{2,4}s?:? ?[\d, ]{1,60}))?", re.IGNORECASE
)
_ENTITY = re.compile(r"(GPU|CPU|Switch|NvSwitch) ?(\d{1,4}): (Pass|Fail|Warn|Skip|Not ?Run|Error)", re.IGNORECASE)
_META = {"DCGM Version": "version", "Driver Version Detected": "driver"}
_NOTE_ROW = re.compile(r"(Warning|Error|Info)(?:: ?[A-Za-z]{2,10} ?\d{1,4})?")
_BROKEN = re.compile(
    r"unable to (?:establish a connection|connect)|Diagnostic could not be run|Error: .{1,120}", re.IGNORECASE
)


@dataclass
class DcgmTest:
    """One test of a run.

    Attributes:
        category: `Deployment`, `Hardware`, `Integration`, `Stress`.
        name: as printed (`software`, `PCIe`).
        status: `Pass`, `Fail`, `Warn`, `Skip` or `NotRun`; the test's own summary row, which decides even where it
            contradicts the rows of its GPUs; without one the worst of them.
        gpus: GPU number -> status; empty where results are not told by GPU.
        warnings: what went wrong, in DCGM's words.
        info: what it tells besides.
    """

    category: str
    name: str
    status: str = ""
    gpus: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    info: list[str] = field(default_factory=list)


@dataclass
class DcgmRun:
    """A run of `dcgmi diag`; `notes` holds what was not understood, a cut end included."""

    version: str | None = None
    driver: str | None = None
    device_ids: list[str] = field(default_factory=list)
    tests: list[DcgmTest] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def status(self) -> str:
        """The worst status of all tests; `NotRun` without tests."""
        return worst([test.status for test in self.tests])


def worst(statuses: list[str]) -> str:
    """Return the worst of `Fail`, `Warn`, `Pass`, `Skip`, `NotRun`; one pass among skipped ones is a pass."""
    return next((status for status in _WORST if status in statuses), "NotRun")


def parse_dcgm(text: str) -> DcgmRun:
    """Read `dcgmi diag -r N`, as table or with `-j`.

    Raises:
        ParseError: neither form, no test in it, a damaged row, or DCGM's own error message.
    """
    body = clean(text)
    run = _from_json(body) if any(f'"{root}"' in body for root in _ROOTS) else _from_table(body)
    if not run.tests:
        broken = _BROKEN.search(body)
        raise ParseError(
            f"dcgmi did not run: {broken.group()[:160]}" if broken else "dcgmi diag: no test in the output"
        )
    return run


def _from_json(body: str) -> DcgmRun:
    data, around = find_object(body, _ROOTS)
    root = next(data[name] for name in _ROOTS if name in data)
    if not isinstance(root, dict):
        raise ParseError("dcgmi diag: the JSON's root is no object")
    found = data.get("metadata")
    meta: dict[str, Any] = found if isinstance(found, dict) else root
    run = DcgmRun(
        version=words(meta.get("DCGM Version")) or (words(meta.get("version")) if meta is not root else None),
        driver=words(meta.get("Driver Version Detected")),
    )
    for group in objects(data.get("entity_groups"), "dcgmi diag: `entity_groups`"):
        run.device_ids += [i for e in objects(group.get("entities"), "`entities`") if (i := words(e.get("device_id")))]
    for category in objects(root.get("test_categories"), "dcgmi diag: `test_categories`"):
        for test in objects(category.get("tests"), "dcgmi diag: `tests`"):
            run.tests.append(_json_test(words(category.get("category")) or "", test))
    run.notes = [line.strip()[:200] for line in around.splitlines() if "rror" in line or "arning" in line][:20]
    return run


def _json_test(category: str, test: dict[str, Any]) -> DcgmTest:
    name = words(test.get("name"))
    if name is None:
        raise ParseError("dcgmi diag: a test without a name")
    read = DcgmTest(category, name)
    statuses = []
    for result in objects(test.get("results"), f"dcgmi diag: results of {name}"):
        status = _status(result.get("status"), name)
        statuses.append(status)
        for gpu in _entities(result):
            read.gpus[gpu] = worst([status, *([read.gpus[gpu]] if gpu in read.gpus else [])])
        _texts(result, read)
    summary = test.get("test_summary")
    if isinstance(summary, dict):
        read.status = _status(summary.get("status"), name)
        _texts(summary, read)
    else:
        read.status = worst(statuses)
    return read


def _status(value: object, name: str) -> str:
    found = _STATUSES.get(str(value).strip().lower())
    if found is None:
        raise ParseError(f"dcgmi diag: {name} has the status {str(value)[:40]!r}")
    return found


def _entities(result: dict[str, Any]) -> list[str]:
    if words(result.get("entity_group")) not in (None, "GPU"):
        return []
    value = result.get("gpu_ids", result.get("gpu_id", result.get("entity_id")))
    return [part.strip() for part in str(value).split(",") if part.strip().isdigit()] if value is not None else []


def _texts(holder: dict[str, Any], test: DcgmTest) -> None:
    for key, store in (
        ("warnings", test.warnings),
        ("warning", test.warnings),
        ("error", test.warnings),
        ("info", test.info),
    ):
        value = holder.get(key)
        for item in value if isinstance(value, list) else [value]:
            said = item.get("warning", item.get("error")) if isinstance(item, dict) else item
            if isinstance(said, str) and said.strip() and said.strip() not in store:
                store.append(said.strip())


def _from_table(body: str) -> DcgmRun:
    run = DcgmRun()
    category = ""
    begun = False
    continued: list[str] | None = None
    for line in body.splitlines():
        stripped = line.strip()
        if re.fullmatch(r"\|\s?Diagnostic\s*\|\s?Result\s*\|", stripped):
            if begun:
                raise ParseError("several runs of dcgmi diag in one text: give one at a time")
            begun = True
            continue
        if not begun or not stripped or re.fullmatch(r"\+[-=+]{3,}\+?", stripped):
            continue
        section = _SECTION.fullmatch(stripped)
        if section:
            category, continued = section.group(1), None
            continue
        if not stripped.startswith("|"):
            run.notes.append(stripped[:200])
            continue
        row = _ROW.fullmatch(stripped)
        if not row:
            raise ParseError(f"dcgmi diag: row not understood or wrapped: {stripped[:80]!r}")
        continued = _row(row.group(1).strip(), row.group(2), stripped, category, run, continued)
    for test in run.tests:
        test.warnings, test.info = _joined(test.warnings), _joined(test.info)
    if not begun:
        broken = _BROKEN.search(body)
        what = f"dcgmi did not run: {broken.group()[:160]}" if broken else "neither table nor JSON of dcgmi diag"
        raise ParseError(f"{what}; the text begins with {first_line(body)!r}")
    return run


def _row(
    label: str, value: str, line: str, category: str, run: DcgmRun, continued: list[str] | None
) -> list[str] | None:
    """Take one row; returns the list whose last text goes on in the next row, or None."""
    if category == "Metadata":
        if label in _META:
            setattr(run, _META[label], value)
        elif label in ("GPU Device IDs Detected", ""):  # many GPUs need a second row
            run.device_ids += [part.strip() for part in value.split(",") if part.strip()]
        return None
    entity = _ENTITY.fullmatch(value)
    if not label and entity and run.tests:
        if entity.group(1).upper() == "GPU":
            run.tests[-1].gpus[entity.group(2)] = _status(entity.group(3), run.tests[-1].name)
        return None
    note = _NOTE_ROW.fullmatch(label)
    if note and run.tests:
        store = run.tests[-1].info if note.group(1) == "Info" else run.tests[-1].warnings
        store.append(_raw(line))
        return store
    if not label and continued:
        continued[-1] += _raw(line)
        return continued
    result = _RESULT.fullmatch(value)
    if not label or not result:
        raise ParseError(f"dcgmi diag: row not understood: {line[:80]!r}")
    status = _status(result.group(1), label)
    same = next((t for t in run.tests if t.name == label and t.category == category), None)
    test = same or DcgmTest(category, label)
    if same is None:
        run.tests.append(test)
    test.status = worst([status, test.status]) if same else status
    for gpu in re.findall(r"\d{1,4}", result.group(2) or ""):
        test.gpus[gpu] = status
    return None


def _raw(line: str) -> str:
    # DCGM breaks texts at any letter, so the blanks at a break count; the frame has one left and two right of it.
    found = _RAW_ROW.fullmatch(line)
    text = found.group(2) if found else line
    return text[1:-2] if not text[:1].strip() and not text[-2:].strip() else text


def _joined(texts: list[str]) -> list[str]:
    return [" ".join(text.split()) for text in texts]
