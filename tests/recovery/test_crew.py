"""Many hosts: within the limits, in parallel, and decided anew after each."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

import pytest

from metalserve.errors import MetalserveError
from metalserve.recovery.crew import Ended, Turn, recover_fleet
from metalserve.recovery.values import Attempt

LIMIT = 3


def attempt(host: str) -> Attempt:
    return Attempt(1, host, "g", "me", (), (), "reboot", "", 0.0, 1.0, "recovered")


class Threads:
    """A crew of threads; the one that recovers real hosts has greenlets, which need hosts."""

    def __init__(self) -> None:
        self._ended: SimpleQueue[tuple[str, Ended]] = SimpleQueue()

    def start(self, host: str, work: Callable[[], Attempt]) -> None:
        """Begin with a host; returns at once."""
        threading.Thread(target=self._run, args=(host, work), name=f"recover {host}", daemon=True).start()

    def wait(self) -> tuple[str, Ended]:
        """Wait for one of them to end, and return how it did."""
        return self._ended.get()

    def _run(self, host: str, work: Callable[[], Attempt]) -> None:
        try:
            self._ended.put((host, work()))
        except BaseException as error:  # told to who waits, so that a broken recovery does not go unseen
            self._ended.put((host, error))


class Busy:
    """Counts how many are at work at once, and holds each until enough others are."""

    def __init__(self, hosts: int) -> None:
        self.lock, self.now, self.most = threading.Lock(), 0, 0
        self.together = threading.Barrier(LIMIT)
        self.full_rounds = hosts // LIMIT

    def recover(self, host: str) -> Attempt:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        if int(host[1:]) < self.full_rounds * LIMIT:
            self.together.wait(30)
        with self.lock:
            self.now -= 1
        return attempt(host)


def test_as_many_at_once_as_the_limit_lets_and_never_more() -> None:
    hosts = [f"h{number}" for number in range(7)]
    busy, ended = Busy(len(hosts)), []

    def turn(had: frozenset[str]) -> Turn:
        free = LIMIT - (len(had) - len(ended))
        left = [host for host in hosts if host not in had]
        return Turn(tuple(left[:free]), dict.fromkeys(left[free:], "not yet"), {"h9": "marked do-not-touch"})

    outcome = recover_fleet(turn, busy.recover, Threads(), on_end=lambda host, _: ended.append(host))
    assert set(outcome.attempts) == set(hosts)
    assert busy.most == LIMIT
    assert outcome.wait == {} and outcome.refuse == {"h9": "marked do-not-touch"}


def test_a_host_has_one_turn_in_a_run() -> None:
    calls = []

    def recover(host: str) -> Attempt:
        calls.append(host)
        return attempt(host)

    outcome = recover_fleet(lambda had: Turn(("h1",)), recover, Threads())
    assert calls == ["h1"] and list(outcome.attempts) == ["h1"]


def test_one_that_breaks_off_does_not_stop_the_others() -> None:
    def recover(host: str) -> Attempt:
        if host == "h1":
            raise MetalserveError("disk full", where="state/recovery.db")
        return attempt(host)

    outcome = recover_fleet(lambda had: Turn(tuple({"h1", "h2"} - had)), recover, Threads())
    assert outcome.errors == {"h1": "state/recovery.db: disk full"}
    assert list(outcome.attempts) == ["h2"]


def test_a_bug_is_not_hidden() -> None:
    ended = []

    def recover(host: str) -> Attempt:
        if host == "h1":
            raise ZeroDivisionError
        return attempt(host)

    with pytest.raises(ZeroDivisionError):
        recover_fleet(
            lambda had: Turn(tuple({"h1", "h2"} - had)), recover, Threads(), on_end=lambda host, _: ended.append(host)
        )
    assert sorted(ended) == ["h1", "h2"]
