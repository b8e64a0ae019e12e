"""A walk: decided step by step from what is seen, turned by a failure, and a matter of its host alone."""

from __future__ import annotations

from pathlib import Path

from tests.seam.conftest import Run, Seam


def steps(seam: Seam, *arguments: str, **extra: str) -> Run:
    return seam.pyinfra(*(arguments or ("-y",)), deploy="tests/seam/steps.py", extra=extra)


def plain(seam: Seam) -> Path:
    return seam.root / "plain.conf"


def test_dry_then_walked_then_nothing(seam: Seam) -> None:
    dry = steps(seam, "--dry")
    assert (dry.rc, dry.host()["status"], dry.host()["sessions"]) == (0, "would change", 1)
    assert dry.host()["planned"] == [["steps", "one", "write plain.conf"], ["steps", "two", "make the mark"]]
    assert list(seam.root.iterdir()) == []
    first = steps(seam)
    assert first.rc == 0, first.out
    assert [(step, what.split(":")[0]) for _, step, what in first.host()["changes"]] == [
        ("one", f"file {plain(seam)}"),
        ("two", "record"),
        ("two", "make the mark"),
    ]
    assert first.host()["proofs"]["walk"] == "there"
    again = steps(seam)
    assert (again.rc, again.host()["status"], again.host()["sessions"]) == (0, "unchanged", 1)


def test_the_record_is_written_before_the_step_and_a_failure_is_decided_on(seam: Seam) -> None:
    saw = f"cp {plain(seam)} {seam.root}/seen; echo 'the disk is full -> free it'; exit 3"
    run = steps(seam, SEAM_SCRIPT=saw)
    assert run.rc == 1
    assert (seam.root / "seen").exists(), run.out
    assert (seam.root / "seen").read_text() == "one, and two begun\n"
    assert not plain(seam).exists(), "it went back"
    failure = run.host()["failure"]
    assert (failure["what"], failure["remedy"]) == ("it went back", "mend it")
    assert run.host()["proofs"]["walk"] == "back"
    assert "two: failed: make the mark: the disk is full" in run.out


def test_checks_that_are_not_good_yet_are_waited_for(seam: Seam) -> None:
    run = steps(seam, SEAM_PAUSE="1")
    assert run.rc == 0, run.out
    assert run.out.count("waiting: not good yet") == 1


def test_what_fails_on_one_host_is_its_own(seam: Seam) -> None:
    seam.hosts({"@fake/bad": seam.fake(), "@local": {}})
    refused = steps(seam, SEAM_REFUSE="@fake/bad")
    assert refused.host("@fake/bad")["failure"]["what"] == "strangers are on it"
    assert refused.host()["status"] == "changed"
    (seam.root / "mark").unlink()
    broken = steps(seam, SEAM_BUG="@fake/bad")
    assert "ZeroDivisionError" in broken.host("@fake/bad")["failure"]["what"]
    assert broken.host()["proofs"]["walk"] == "there" and "Traceback" not in broken.out


def test_a_walk_that_leads_nowhere_is_given_up(seam: Seam) -> None:
    """The fake host says "done" to everything and stays as it is."""
    from tests.seam.conftest import BARE

    seam.hosts({"@fake/stuck": seam.fake(BARE + "\n@@ms:step done")})
    run = steps(seam)
    assert run.rc == 1
    assert "moves, and still not at an end" in run.host("@fake/stuck")["failure"]["what"]
