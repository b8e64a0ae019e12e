"""`metalserve template rebuild`: builds what is stale, only when told, and says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from metalserve.cli import template_rebuild
from metalserve.errors import MetalserveError
from metalserve.templates.shelf import Build, Shelf
from metalserve.templates.spec import TemplateSpec
from metalserve.templates.stale import Reason, Staleness

STALE = Staleness("debian-13", "b", (Reason("kernel", "new kernel: 1 -> 2"),), ("a note",))
FRESH = Staleness("debian-12", "b")
UNKNOWN = Staleness("debian-12", "b", (), (), ("the archive could not be asked: no answer",))


class Yard:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.found = {"debian-13": STALE, "debian-12": FRESH}
        self.built: list[str] = []
        self.fails = ""
        monkeypatch.setattr(template_rebuild, "look", lambda spec, _shelf, **_more: self.found[spec.name])
        monkeypatch.setattr(template_rebuild, "tool_root", lambda: None)
        monkeypatch.setattr(template_rebuild, "build_template", self.build)

    def build(self, spec: TemplateSpec, *, shelf: Shelf, **_more: Any) -> Build:
        if spec.name == self.fails:
            raise MetalserveError("the disk is full", where=spec.name)
        self.built.append(spec.name)
        return Build(spec.name, "new", shelf.path)

    def run(self, *words: str) -> tuple[int, str, str]:
        status = template_rebuild.command.main(args=list(words), standalone_mode=False)
        printed = self.capsys.readouterr()
        return status, printed.out, printed.err


@pytest.fixture
def yard(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Yard:
    monkeypatch.setenv("METALSERVE_TEMPLATES_DIR", str(tmp_path))
    return Yard(monkeypatch, capsys)


BOTH = ("debian-12", "debian-13", "--if-stale")


def test_without_yes_it_only_tells_and_says_so_by_its_status(yard: Yard) -> None:
    status, out, err = yard.run(*BOTH)
    assert status == 3
    assert yard.built == []
    assert out == "debian-12/b: fresh\ndebian-13/b: stale\n  new kernel: 1 -> 2\n  note: a note\n"
    assert "to be built: debian-13; --yes builds" in err


def test_only_what_is_stale_is_built(yard: Yard) -> None:
    status, out, _ = yard.run(*BOTH, "--yes")
    assert (status, yard.built) == (0, ["debian-13"])
    assert "debian-13/new: built" in out


def test_all_fresh_is_status_0_and_nothing_is_built(yard: Yard) -> None:
    yard.found["debian-13"] = FRESH
    assert yard.run(*BOTH)[0] == 0
    assert yard.run(*BOTH, "--yes")[0] == 0
    assert yard.built == []


def test_what_could_not_be_found_out_is_not_status_0(yard: Yard) -> None:
    yard.found = {"debian-12": UNKNOWN, "debian-13": FRESH}
    status, out, _ = yard.run(*BOTH)
    assert status == 1
    assert "unknown: the archive could not be asked" in out
    yard.found["debian-13"] = STALE
    status, _, _ = yard.run(*BOTH, "--yes")
    assert (status, yard.built) == (1, ["debian-13"])


def test_without_if_stale_all_that_is_named_is_built(yard: Yard) -> None:
    assert yard.run("debian-12", "--yes")[0] == 0
    assert yard.built == ["debian-12"]


def test_one_that_fails_does_not_keep_the_others_from_being_built(yard: Yard) -> None:
    yard.found["debian-12"] = STALE
    yard.fails = "debian-12"
    status, _, err = yard.run(*BOTH, "--yes")
    assert (status, yard.built) == (1, ["debian-13"])
    assert "debian-12: the disk is full" in err


def test_json_has_the_reasons_and_what_was_done(yard: Yard) -> None:
    status, out, _ = yard.run(*BOTH, "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert status == 3
    assert (rows["debian-12"]["state"], rows["debian-12"]["wanted"]) == ("fresh", False)
    assert rows["debian-13"]["reasons"] == [{"kind": "kernel", "what": "new kernel: 1 -> 2"}]
    status, out, _ = yard.run(*BOTH, "--json", "--yes")
    assert (status, [row["built"] for row in json.loads(out)]) == (0, [False, True])


def test_an_empty_shelf_and_no_name_is_an_error(yard: Yard) -> None:
    with pytest.raises(MetalserveError, match="there is none on the shelf"):
        yard.run("--if-stale")
