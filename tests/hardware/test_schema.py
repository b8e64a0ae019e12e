"""docs/read-schema.md and the code tell the same keys, kind by kind."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from metalserve.hardware.readable import KINDS, SCHEMA, read_any

from .kinds import SAMPLES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "read-schema.md"
SHARED = {"smi-xml": "smi-q"}  # kinds that have the keys of another
ALL = [(kind, n) for kind, texts in SAMPLES.items() for n in range(len(texts))]


def documented() -> dict[str, dict[str, str]]:
    kinds: dict[str, dict[str, str]] = {}
    here: dict[str, str] = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            here = kinds.setdefault(line[3:].strip(), {})
        row = re.fullmatch(r"\| `([^`]+)` \| ([^|]+) \| (.+) \|", line)
        if row:
            here[row.group(1)] = row.group(2).strip()
    return kinds


PAGE_KINDS = documented()


def paths(value: Any, rows: dict[str, str], path: str = "") -> set[str]:
    """Paths of `value` in the notation of the page; below a free object or a list of plain values there is none."""
    path = re.sub(r"\.(write|trim)(?=$|\.)", ".read", path)
    kind = rows.get(path, "")
    if isinstance(value, dict) and path and "free" not in kind:
        inner = {p for k, v in value.items() for p in paths(v, rows, f"{path}.{k}")}
        return inner | ({path} if path in rows else set())
    if isinstance(value, list) and "free" not in kind and any(isinstance(v, dict) for v in value):
        return {p for item in value for p in paths(item, rows, f"{path}[]")}
    return {path} if path else {p for k, v in value.items() for p in paths(v, rows, k)}


def rows_of(kind: str) -> dict[str, str]:
    return PAGE_KINDS[SHARED.get(kind, kind)]


def test_the_page_has_every_kind_and_no_other() -> None:
    assert set(PAGE_KINDS) == {"Every object", *KINDS}
    assert set(SAMPLES) == set(KINDS)
    assert f"schema {SCHEMA}" in PAGE.read_text(encoding="utf-8").splitlines()[0]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_keys_are_those_of_the_page(kind: str) -> None:
    rows = rows_of(kind)
    seen: set[str] = set()
    for text in SAMPLES[kind]:
        seen |= paths(KINDS[kind].read(text), rows)
    # A list that is empty in one sample and full in another shows as itself and as its items.
    seen -= {p for p in seen if p not in rows and any(q.startswith(f"{p}[]") for q in seen)}
    assert seen <= set(rows), f"not on the page: {sorted(seen - set(rows))}"
    assert set(rows) <= seen, f"on the page, in no sample: {sorted(set(rows) - seen)}"


def fits(value: Any, kind: str) -> bool:
    if value is None:
        return True
    if kind.startswith("list of objects"):
        return isinstance(value, list)
    if kind.startswith("list of"):
        inner = str if kind.endswith("text") else int | float
        return isinstance(value, list) and all(isinstance(v, inner) for v in value)
    if kind.startswith("object"):
        return isinstance(value, dict)
    if kind == "true/false":
        return isinstance(value, bool)
    if kind == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    assert kind == "text", kind
    return isinstance(value, str)


def check_types(value: Any, rows: dict[str, str], path: str = "") -> None:
    path = re.sub(r"\.(write|trim)(?=$|\.)", ".read", path)
    if path in rows:
        assert fits(value, rows[path]), f"{path} is {value!r}, the page says {rows[path]}"
        if "free" in rows[path]:
            return
    if isinstance(value, dict):
        for key, inner in value.items():
            check_types(inner, rows, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for inner in value:
            check_types(inner, rows, f"{path}[]")


@pytest.mark.parametrize(("kind", "n"), ALL)
def test_samples_are_read_recognised_and_typed_as_the_page_says(kind: str, n: int) -> None:
    text = SAMPLES[kind][n]
    found, read = read_any(text)
    assert found.name == kind
    assert read == KINDS[kind].read(text)
    check_types(read, rows_of(kind))
    assert json.loads(json.dumps(read, allow_nan=False)) == read, "a value that JSON does not know"


@pytest.mark.parametrize("name", sorted(p.name for p in (Path(__file__).with_name("fixtures") / "h100x2").iterdir()))
def test_the_real_machine_is_read_with_nothing_left_over(name: str) -> None:
    read = KINDS[Path(name).stem].read((Path(__file__).with_name("fixtures") / "h100x2" / name).read_text())
    assert read.get("notes", []) == []
