"""When a step is proven: what is seen after it must last to count against it, and a slow look sees nothing last."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from metalserve.pyinfra_seam import recovering
from metalserve.pyinfra_seam.recovering import FABRIC_S, SETTLE_S, HostHands
from metalserve.recovery.ports import Looked
from metalserve.recovery.verdict import Verdict

START_S = 1800.0
NOTHING = Verdict((), "nothing", False)


class Hands(HostHands):
    """Hands that see what the test says, one sight a look; a look takes `look_s` seconds of a clock of its own."""

    def __init__(self, sights: list[str], look_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sights, self.look_s, self.clock = sights, look_s, 1000.0
        engine = SimpleNamespace(start_timeout_s=START_S)
        self.sessions = cast(Any, SimpleNamespace(settings={"one": SimpleNamespace(engine=engine)}))
        self._seen, self._looks = {}, {}
        fake = SimpleNamespace(monotonic=lambda: self.clock, sleep=self._sleep, time=lambda: self.clock)
        monkeypatch.setattr(recovering, "time", fake)

    def _sleep(self, seconds: float) -> None:
        self.clock += seconds

    def _look(self, host: str, since: float) -> Looked:
        self.clock += self.look_s
        sight = self.sights.pop(0) if len(self.sights) > 1 else self.sights[0]
        self._seen[host] = cast(Any, SimpleNamespace(starting=sight == "starting"))
        if sight == "unseen":
            return Looked(False, True, None, None, words=sight)
        return Looked(True, True, NOTHING, sight == "well", words=sight)

    def proof(self, **more: bool) -> tuple[str, str, float]:
        proof, words = self._settled("one", 0.0, **more)
        return proof, words, self.clock - 1000.0


def test_a_mute_engine_counts_when_it_stays_mute(monkeypatch: pytest.MonkeyPatch) -> None:
    proof, words, seconds = Hands(["mute"], 1.0, monkeypatch).proof()
    assert (proof, words) == ("bad", "mute") and SETTLE_S <= seconds < SETTLE_S + 5


@pytest.mark.parametrize("first", ["mute", "unseen"])
def test_one_look_that_took_a_minute_has_not_seen_anything_last(first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Hands([first, "well"], 60.0, monkeypatch).proof()[0] == "good"
    assert Hands(["mute", "mute", "well"], 60.0, monkeypatch).proof()[0] == "bad", "two of them have"


def test_an_engine_that_starts_has_its_time_and_its_first_moment_without_an_answer_is_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Hands([*["starting"] * 100, "mute", "well"], 3.0, monkeypatch).proof()[0] == "good"
    proof, _, seconds = Hands(["starting"], 3.0, monkeypatch).proof()
    assert proof == "bad" and START_S <= seconds < START_S + 10


def test_what_changes_for_ever_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    proof, _, seconds = Hands(["mute", "starting"] * 3000, 3.0, monkeypatch).proof()
    assert proof == "bad" and seconds < START_S + FABRIC_S


def test_a_host_that_is_down_after_a_boot_is_a_bad_proof_and_otherwise_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Hands(["unseen"], 1.0, monkeypatch).proof(down_is_bad=True)[0] == "bad"
    assert Hands(["unseen"], 1.0, monkeypatch).proof()[0] == "unknown"
