"""A stage that only begins something on the host: it is looked at until it has ended, and what it says is passed on."""

from __future__ import annotations

import json

from tests.seam.conftest import Run, Seam


def follow(seam: Seam, *arguments: str, **extra: str) -> Run:
    return seam.pyinfra(*(arguments or ("-y",)), deploy="tests/seam/follows.py", extra=extra)


def test_it_is_followed_to_its_end_and_then_the_stage_is_judged(seam: Seam) -> None:
    assert follow(seam, "--dry").host()["status"] == "would change"
    count, kept = seam.directory / "count", seam.directory / "progress"
    kept.mkdir()
    script = (
        f"echo x >>{count}; if [ $(wc -l <{count}) -lt 4 ]; then echo 'running half of it'; "
        f"else : >{seam.root}/mark; echo 'ended all of it'; fi"
    )
    # nobody else is kept out meanwhile: the lock can be taken while it is followed
    run = follow(seam, SEAM_FOLLOW=script, METALSERVE_PROGRESS_DIR=str(kept))
    assert run.rc == 0, run.out
    assert run.out.count("half of it") == 1, "not the same line twice"
    assert "follow / begin: all of it" in run.out
    assert json.loads((kept / "@local.json").read_text()) == {
        "host": "@local", "running": False, "failed": "", "phase": "ended",
    }  # fmt: skip
    again = follow(seam)
    assert (again.host()["status"], again.host()["sessions"]) == ("unchanged", 1)


def test_what_fails_or_says_nothing_fails_the_host_with_its_words(seam: Seam) -> None:
    failed = follow(seam, SEAM_FOLLOW="echo 'failed the disk is full'").host()["failure"]
    assert (failed["role"], failed["stage"]) == ("follow", "begin")
    assert (failed["what"], failed["remedy"]) == ("the disk is full", "look there")
    silent = follow(seam, SEAM_FOLLOW="exit 3").host()["failure"]
    assert "no longer says how far it is" in silent["what"] and "followed" in silent["remedy"]
    ended = follow(seam, SEAM_FOLLOW="echo 'ended well'").host()["failure"]
    assert "still not as wanted after the change: begin it" in ended["what"]
