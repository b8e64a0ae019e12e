"""Simulated time: what happens when, and recoveries that wait in it as they would on a clock."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from greenlet import getcurrent, greenlet  # comes with pyinfra's gevent


class Events:
    """A queue of events; implements `Clock` for what runs in `begin`."""

    def __init__(self, start: float) -> None:
        self._now = start
        self._queue: list[tuple[float, int, Callable[[], object]]] = []
        self._number = 0
        self._hub = getcurrent()

    def now(self) -> float:
        """Return seconds since the epoch, in simulated time."""
        return self._now

    def at(self, when: float, what: Callable[[], object]) -> None:
        """Let something happen at a time; what is due at once happens in the order in which it was said."""
        self._number += 1
        heapq.heappush(self._queue, (max(when, self._now), self._number, what))

    def after(self, seconds: float, what: Callable[[], object]) -> None:
        """Let something happen some seconds from now."""
        self.at(self._now + seconds, what)

    def begin(self, work: Callable[[], object]) -> None:
        """Run something that sleeps; it goes on beside all others."""
        self.at(self._now, greenlet(work, self._hub).switch)

    def sleep(self, seconds: float) -> None:
        """Wait; only in what was begun with `begin`."""
        self.after(seconds, getcurrent().switch)
        self._hub.switch()

    def run(self, until: float) -> None:
        """Let everything happen that is due until then."""
        while self._queue and self._queue[0][0] <= until:
            self._now, _, what = heapq.heappop(self._queue)
            what()
        self._now = until
