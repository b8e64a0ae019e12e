"""The fleet's breaker: unique hosts that turned bad, percent and number, and what a person's closing means."""

from __future__ import annotations

from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalserve.recovery.admission import admit, watch
from metalserve.recovery.breaker import KNOWN_S, SPELL_S, consider, limit, spells, turned
from metalserve.recovery.fleet import Member
from metalserve.recovery.memory import Memory, Seen
from metalserve.recovery.store import Store
from metalserve.recovery.values import BreakerState, Mark, Sighting
from metalserve.settings.recovery import RecoveryFleetSettings

NOW = 1_000_000.0
RULES = RecoveryFleetSettings(breaker_hosts=4, breaker_percent=50, breaker_window_s=300, breaker_slow_hosts=1000)
FLEET = {f"h{n}": {"release": "2026.11", "rack": f"r{n % 5}"} for n in range(100)}
CLOSED = BreakerState()


def seen(host: str, at: float) -> Sighting:
    return Sighting(host, at, ("gpu-fault",), FLEET[host])


def judged(
    sightings: list[Sighting], state: BreakerState = CLOSED, memory: Memory | None = None, **changes: int
) -> BreakerState:
    return consider(state, told(sightings), memory or Memory(NOW), FLEET, RULES.model_copy(update=changes))


def told(sightings: list[Sighting]) -> Seen:
    listed = sorted(sightings, key=lambda s: s.at)

    def since(begin: float) -> list[Sighting]:
        return [s for s in listed if s.at >= begin]

    return Seen(since, lambda begin: list({s.host: s for s in since(begin)}.values()))


def test_the_smaller_of_percent_and_number_but_never_too_few() -> None:
    rules = RecoveryFleetSettings(breaker_percent=50, breaker_hosts=10, breaker_least=3)
    assert [limit(size, rules) for size in (1, 2, 4, 5, 8, 19, 20, 21, 2000)] == [3, 3, 3, 3, 4, 10, 10, 10, 10]


def test_it_opens_at_the_limit_and_says_why() -> None:
    three = [seen(f"h{n}", NOW - n) for n in range(3)]
    assert judged(three) is CLOSED
    state = judged([*three, seen("h3", NOW - 200)])
    assert (state.open, state.since, state.hosts) == (True, NOW, ("h0", "h1", "h2", "h3"))
    assert state.why.startswith("4 of 100 hosts turned unhealthy within 5 min (limit 4): h0, h1, h2, h3; ")
    assert "release 2026.11 (4 of 4 bad hosts, 100 of 100 of the fleet: that explains nothing)" in state.why


def test_it_names_the_common_rack() -> None:
    state = judged([seen(f"h{n}", NOW) for n in range(0, 60, 5)])
    assert "in common: rack r0 (12 of 12 bad hosts, 20 of 100 of the fleet" in state.why


def test_hosts_count_not_events() -> None:
    assert not judged([seen(f"h{n % 3}", NOW - n) for n in range(200)]).open


def test_a_host_that_has_been_bad_for_long_does_not_count_again() -> None:
    chronic = [seen(f"h{n}", NOW - 60 * minute) for n in range(20) for minute in range(100)]
    assert not judged(chronic).open
    assert judged([*chronic, *(seen(f"h{n}", NOW - 5) for n in range(30, 34))]).hosts == ("h30", "h31", "h32", "h33")


def test_out_of_sight_for_long_is_a_new_spell() -> None:
    old = [seen(f"h{n}", NOW - SPELL_S - 200) for n in range(4)]
    assert judged([*old, *(seen(f"h{n}", NOW - 10) for n in range(4))]).open


def test_a_host_that_was_brought_back_counts_again() -> None:
    twice = [seen(f"h{n}", at) for n in range(4) for at in (NOW - 1000, NOW - 10)]
    assert not judged(twice).open
    back = {f"h{n}": NOW - 500 for n in range(4)}
    assert judged(twice, memory=Memory(NOW, recovered=back)).open


def test_marked_hosts_do_not_count() -> None:
    four = [seen(f"h{n}", NOW) for n in range(4)]
    assert not judged(four, memory=Memory(NOW, marks=(Mark("h1", "quarantine", "eve", "", NOW),))).open


def test_an_open_one_stays_as_it_is() -> None:
    state = BreakerState(True, NOW - 5000, "earlier", ("h9",))
    assert judged([seen(f"h{n}", NOW) for n in range(50)], state) is state


def test_no_fleet_no_breaker() -> None:
    assert not consider(CLOSED, told([seen(f"h{n}", NOW) for n in range(9)]), Memory(NOW), {}, RULES).open


class TestClosed:
    state = BreakerState(False, 0.0, "", ("h0", "h1", "h2", "h3"), "eve", NOW - 100)

    def test_what_was_seen_before_does_not_count(self) -> None:
        assert not judged([seen(f"h{n}", NOW - 150) for n in range(10, 20)], self.state).open

    def test_nor_do_its_hosts_until_they_were_well(self) -> None:
        again = [seen(f"h{n}", NOW - 10) for n in range(4)]
        assert not judged(again, self.state).open
        assert judged(again, self.state, Memory(NOW, recovered={f"h{n}": NOW - 50 for n in range(4)})).open

    def test_for_a_day(self) -> None:
        later = NOW + KNOWN_S
        again = [seen(f"h{n}", later) for n in range(4)]
        assert judged(again, self.state, Memory(later)).open

    def test_others_open_it_again(self) -> None:
        assert judged([seen(f"h{n}", NOW - 10) for n in range(4, 8)], self.state).hosts == ("h4", "h5", "h6", "h7")


def test_spells() -> None:
    sightings = [seen("h1", 10), seen("h2", 20), seen("h1", 70), seen("h1", 70 + SPELL_S + 1), seen("h2", 90)]
    found = spells(sorted(sightings, key=lambda s: s.at), {"h2": 100.0})
    assert {host: since for host, (since, _) in found.items()} == {"h1": 71 + SPELL_S}
    assert {host: since for host, (since, _) in spells(sightings[:3], {"h1": 40.0}).items()} == {"h1": 70, "h2": 20}


class TestSlowly:
    """A bad rollout that breaks a host an hour, so that the short window never sees two."""

    rules: ClassVar = RecoveryFleetSettings()
    fleet: ClassVar = {
        f"h{n}": {"release": "2026.12" if n < 40 else "2026.11", "rack": f"r{n % 20}"} for n in range(400)
    }

    def judged(self, hosts: list[int], state: BreakerState = CLOSED, memory: Memory | None = None) -> BreakerState:
        hourly = [Sighting(f"h{n}", NOW - 3600 * i, ("gpu-fault",), self.fleet[f"h{n}"]) for i, n in enumerate(hosts)]
        return consider(state, told(hourly), memory or Memory(NOW), self.fleet, self.rules)

    def test_the_release_is_blamed(self) -> None:
        state = self.judged([1, 5, 100, 9, 13, 222, 17, 21])
        assert state.open and state.hosts == ("h1", "h100", "h13", "h17", "h21", "h222", "h5", "h9")
        assert state.why.startswith("8 of 400 hosts turned unhealthy within 24 h: h1, h100, h13, h17, h21, h222 and 2 ")
        assert "in common: release 2026.12 (6 of 8 bad hosts, 40 of 400 of the fleet" in state.why

    def test_brought_back_or_quarantined_hosts_count_too(self) -> None:
        back = Memory(NOW, recovered={f"h{n}": NOW - 60 for n in range(400)})
        assert self.judged([1, 5, 9, 13, 17, 21], memory=back).open
        lost = Memory(NOW, marks=tuple(Mark(f"h{n}", "quarantine", "tool", "", NOW) for n in (1, 5, 9, 13)))
        assert self.judged([1, 5, 9, 13, 17, 21], memory=lost).open

    def test_hosts_in_maintenance_do_not_count(self) -> None:
        away = Memory(NOW, marks=tuple(Mark(f"h{n}", "maintenance", "eve", "", NOW) for n in (1, 5)))
        assert not self.judged([1, 5, 9, 13, 17, 21], memory=away).open

    def test_a_day_of_ordinary_faults_does_not_open_it(self) -> None:
        assert not self.judged([3, 45, 90, 111, 150, 201, 222, 260, 301, 333, 350, 399]).open
        assert not self.judged([1, 5, 9, 13]).open, "too few"

    def test_what_was_seen_before_a_person_closed_it_does_not_count(self) -> None:
        state = BreakerState(False, 0.0, "", (), "eve", NOW - 1800)
        assert not self.judged([1, 5, 9, 13, 17, 21], state).open

    def test_nor_a_host_that_has_been_bad_all_the_time(self) -> None:
        ages = range(0, 30 * 3600, 1800)
        chronic = [Sighting(f"h{n}", NOW - ago, ("gpu-fault",), self.fleet[f"h{n}"]) for ago in ages for n in range(8)]
        assert not consider(CLOSED, told(chronic), Memory(NOW), self.fleet, self.rules).open


times = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4000)), max_size=120)


@settings(max_examples=100, deadline=None)
@given(times, st.integers(0, 4000))
def test_it_opens_exactly_when_so_many_turned(events: list[tuple[int, int]], closed: int) -> None:
    """Against a slow count by hand: for every host, is there a first sighting of a spell within the window?"""
    sightings = sorted((seen(f"h{n}", NOW - ago) for n, ago in events), key=lambda s: s.at)
    state = BreakerState(closed_at=NOW - closed)
    expected = set()
    for host in {s.host for s in sightings}:
        own = [s.at for s in sightings if s.host == host]
        starts = [at for i, at in enumerate(own) if i == 0 or at - own[i - 1] > SPELL_S]
        if starts[-1] > NOW - min(300, closed):
            expected.add(host)
    assert set(turned(sightings, state, RULES, NOW, well={})) == expected
    assert judged(sightings, state).open == (len(expected) >= 4)


rollouts = st.lists(st.tuples(st.integers(0, 59), st.integers(0, 1800)), min_size=1, max_size=60)


@settings(max_examples=10, deadline=None)
@given(rollouts, st.sampled_from([60, 120]))
def test_of_hosts_that_turn_bad_together_fewer_than_the_limit_are_taken(
    tmp_path_factory: pytest.TempPathFactory, turns: list[tuple[int, int]], every: int
) -> None:
    """A fleet whose hosts turn bad at random times and never heal, watched with limits that would allow all of them."""
    store = Store(tmp_path_factory.mktemp("s") / "recovery.db", alive=lambda actor: None)
    rules = RULES.model_copy(update={"percent": 100, "at_once": 100})
    begins: dict[str, int] = {}
    for number, at in turns:
        begins[f"h{number}"] = min(at, begins.get(f"h{number}", at))
    first_seen: dict[str, int] = {}
    taken: dict[str, int] = {}
    for now in range(0, 2000, every):
        ill = sorted(host for host, at in begins.items() if at <= now)
        for host in ill:
            first_seen.setdefault(host, now)
        state = watch(store, [seen(host, NOW + now) for host in ill], FLEET, rules, by="w", now=NOW + now)
        members = [Member(host, "g", "fleet", NOW + begins[host] if host in ill else None, rung="reboot")
                   for host in FLEET]  # fmt: skip
        choice = admit(store, members, [], rules, actor="w", now=NOW + now, ttl_s=1e6)
        for pick in choice.take:
            assert not state.open
            taken[pick.host] = first_seen[pick.host]
    for at in taken.values():
        assert sum(at <= other < at + rules.breaker_window_s for other in taken.values()) < limit(len(FLEET), rules)
    store.close()
