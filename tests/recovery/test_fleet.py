"""Whom of the fleet to recover: limits, floors, marks, and that no combination of states exceeds a limit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalserve.recovery.fleet import Choice, Member, Pool, choose, floor_of, group_limit
from metalserve.recovery.memory import Lock, Memory
from metalserve.recovery.values import Attempt, BreakerState, Mark
from metalserve.settings.recovery import RecoveryFleetSettings

NOW = 1_000_000.0
RULES = RecoveryFleetSettings(percent=50, at_once=10, floor_percent=0)


def bad(name: str, *, group: str = "hgx", **changes: object) -> Member:
    member = Member(name, group, "fleet", NOW - 600, rung="reboot")
    return replace(member, **changes)  # type: ignore[arg-type]


def well(name: str, group: str = "hgx") -> Member:
    return Member(name, group, "fleet")


def attempt(host: str, group: str = "hgx") -> Attempt:
    return Attempt(7, host, group, "eve@ctl pid 1 start 2", (), (), "reboot", "", NOW - 300)


def lock(host: str, *, live: bool = True) -> Lock:
    return Lock(host, "eve@ctl pid 1 start 2", NOW - 300, NOW + 600, live)


def mark(host: str, kind: str, **changes: object) -> Mark:
    return replace(Mark(host, kind, "eve", "a cable is out", NOW - 1), **changes)  # type: ignore[arg-type]


def names(choice: Choice) -> tuple[list[str], list[str], list[str]]:
    return [p.host for p in choice.take], [p.host for p in choice.wait], [p.host for p in choice.refuse]


def why(choice: Choice, host: str) -> str:
    (found,) = [p.why for p in (*choice.take, *choice.wait, *choice.refuse, *choice.restore) if p.host == host]
    return found


def test_a_share_of_the_group_and_at_least_one() -> None:
    assert [group_limit(size, RULES) for size in (1, 2, 3, 4, 5)] == [1, 1, 1, 2, 2]
    choice = choose([bad("a"), bad("b"), bad("c"), well("d"), bad("z", group="pairs")], [], Memory(NOW), RULES)
    assert names(choice) == (["a", "b", "z"], ["c"], [])
    assert why(choice, "c") == "2 of 4 hosts of hgx are in recovery (limit 2)"
    assert why(choice, "a") == "unhealthy for 10 min"


def test_what_is_in_recovery_already_counts() -> None:
    members = [bad("a"), bad("b"), Member("c", "hgx"), Member("d", "hgx")]
    for memory in (
        Memory(NOW, open=(attempt("c"), attempt("d"))),
        Memory(NOW, locks=(lock("c"), lock("d"))),
        Memory(NOW, open=(attempt("gone-1"), attempt("gone-2"))),  # of another controller's inventory
    ):
        assert names(choose(members, [], memory, RULES)) == ([], ["a", "b"], [])


def test_an_absolute_number_at_once() -> None:
    members = [bad("a", group="g1"), bad("b", group="g2"), bad("c", group="g3")]
    choice = choose(members, [], Memory(NOW), RULES.model_copy(update={"at_once": 2}))
    assert names(choice) == (["a", "b"], ["c"], [])
    assert why(choice, "c") == "2 hosts are in recovery (limit 2)"


def test_the_longest_unhealthy_first_and_before_them_who_serves_nothing() -> None:
    members = [bad("a"), bad("b", unhealthy_since=NOW - 9000), bad("c", unhealthy_since=NOW - 60)]
    pools = [Pool("m", ("b",), 8, 7), Pool("m", ("a",), 8, 0), Pool("m", ("c",), 8, 0)]
    choice = choose(members, pools, Memory(NOW), RULES.model_copy(update={"percent": 100}))
    assert names(choice)[0] == ["a", "c", "b"]


class TestFloor:
    rules = RecoveryFleetSettings(percent=100, at_once=100)

    def test_capacity_stays_above_it(self) -> None:
        members = [bad(name) for name in "abcd"]
        pools = [Pool("m", (name,), 2, 1) for name in "abcd"]
        rules = self.rules.model_copy(update={"floor": {"m": 3}})
        choice = choose(members, pools, Memory(NOW), rules)
        assert names(choice)[:2] == (["a"], ["b", "c", "d"])
        assert why(choice, "b") == "m: 3 replicas serve, 1 of them here, and 3 must stay"
        (capacity,) = choice.capacity
        assert (capacity.wanted, capacity.serving, capacity.remaining, capacity.floor) == (8, 4, 3, 3)
        assert capacity.in_words() == "m: 3 of 4 serving replicas go on (8 wanted, floor 3)"

    def test_a_host_that_serves_nothing_is_always_free_to_take(self) -> None:
        members = [bad("a"), bad("b")]
        pools = [Pool("m", ("a",), 1, 0), Pool("m", ("b",), 1, 0)]
        assert names(choose(members, pools, Memory(NOW), self.rules))[0] == ["a", "b"]

    def test_the_last_replica_is_not_taken_down(self) -> None:
        choice = choose([bad("a")], [Pool("m", ("a",), 1, 1)], Memory(NOW), self.rules)
        assert why(choice, "a") == "m: 1 replicas serve, 1 of them here, and 1 must stay"

    def test_one_model_holds_a_host_that_others_would_let_go(self) -> None:
        pools = [Pool("m", ("a",), 1, 1), Pool("m", ("b",), 1, 1), Pool("n", ("a",), 1, 1)]
        assert why(choose([bad("a"), well("b")], pools, Memory(NOW), self.rules), "a").startswith("n: 1 replicas")

    def test_a_replica_of_several_hosts_is_lost_with_any_of_them_once(self) -> None:
        pools = [Pool("m", ("a", "b"), 1, 1), Pool("m", ("c",), 1, 1)]
        rules = self.rules.model_copy(update={"floor": {"m": 1}})
        choice = choose([bad("a"), bad("b"), bad("c")], pools, Memory(NOW), rules)
        assert names(choice)[:2] == (["a", "b"], ["c"])

    def test_what_others_recover_serves_nothing(self) -> None:
        pools = [Pool("m", (name,), 1, 1) for name in "abc"]
        choice = choose([bad("a"), well("b"), well("c")], pools, Memory(NOW, locks=(lock("b"),)), self.rules)
        assert why(choice, "a") == "m: 2 replicas serve, 1 of them here, and 2 must stay"
        assert choice.capacity[0].remaining == 2

    def test_a_share_is_rounded_up(self) -> None:
        assert [floor_of("m", wanted, self.rules) for wanted in (0, 1, 2, 3, 16)] == [0, 1, 1, 2, 8]


class TestMarks:
    @pytest.mark.parametrize("kind", ["maintenance", "do-not-touch", "quarantine"])
    @pytest.mark.parametrize("asked", ["named", "fleet"])
    def test_nothing_lifts_them(self, kind: str, asked: str) -> None:
        choice = choose([bad("a", asked=asked)], [], Memory(NOW, marks=(mark("a", kind),)), RULES)
        assert names(choice) == ([], [], ["a"])
        assert why(choice, "a") == f"marked {kind} by eve: a cable is out"

    def test_the_strongest_is_named(self) -> None:
        marks = (mark("a", "do-not-touch"), mark("a", "maintenance"), mark("a", "quarantine"))
        assert "do-not-touch" in why(choose([bad("a")], [], Memory(NOW, marks=marks), RULES), "a")

    def test_a_quarantine_that_was_not_finished_goes_on(self) -> None:
        memory = Memory(NOW, open=(attempt("a"),), marks=(mark("a", "quarantine"),))
        assert choose([bad("a")], [], memory, RULES).take[0].resume

    def test_what_a_person_took_over_no_longer_counts(self) -> None:
        memory = Memory(NOW, open=(attempt("a"),), locks=(lock("a", live=False),), marks=(mark("a", "maintenance"),))
        assert names(choose([bad("a"), bad("b")], [], memory, RULES)) == (["b"], [], ["a"])
        memory = replace(memory, locks=(lock("a"),))  # its controller is still at work
        assert names(choose([bad("a"), bad("b")], [], memory, RULES)) == ([], ["b"], ["a"])


class TestOthers:
    def test_one_recovery_a_host(self) -> None:
        choice = choose([bad("a"), well("b"), well("c"), well("d")], [], Memory(NOW, locks=(lock("a"),)), RULES)
        assert why(choice, "a") == "in recovery: eve@ctl pid 1 start 2 holds it for 5 min; it expires in 10 min"

    def test_an_attempt_without_its_controller_goes_on_whatever_the_limits_say(self) -> None:
        opened = BreakerState(True, NOW, "too many")
        for locks in ((), (lock("a", live=False),)):
            memory = Memory(NOW, open=(attempt("a"),), locks=locks, breaker=opened)
            choice = choose([well("a"), bad("b")], [], memory, RULES)
            assert names(choice)[:2] == (["a"], ["b"])
            assert choice.take[0].resume
            assert why(choice, "a") == "goes on with attempt 7, begun 5 min ago by eve@ctl pid 1 start 2"

    def test_the_breaker_stops_what_is_new_and_lets_heal(self) -> None:
        memory = Memory(NOW, breaker=BreakerState(True, NOW, "9 hosts turned unhealthy"))
        choice = choose([bad("a", asked="named"), replace(well("b"), out=True)], [], memory, RULES)
        assert why(choice, "a") == "the breaker is open: 9 hosts turned unhealthy"
        assert [p.host for p in choice.restore] == ["b"]

    def test_what_is_marked_is_not_put_back(self) -> None:
        memory = Memory(NOW, marks=(mark("b", "maintenance"),))
        choice = choose([replace(well("b"), out=True)], [], memory, RULES)
        assert choice.restore == ()

    def test_too_short_a_time(self) -> None:
        short = bad("a", unhealthy_since=NOW - 40, evidence=False, unreachable_s=300.0)
        assert why(choose([short], [], Memory(NOW), RULES), "a") == "without an answer for 40 s, taken after 5 min"
        assert names(choose([replace(short, evidence=True)], [], Memory(NOW), RULES))[0] == ["a"]
        assert names(choose([replace(short, asked="named")], [], Memory(NOW), RULES))[0] == ["a"]

    def test_the_pause_after_a_recovery(self) -> None:
        rules = RULES.model_copy(update={"pause_s": 600})
        memory = Memory(NOW, last_ended={"hgx": NOW - 400})
        choice = choose([bad("a"), bad("b", group="pairs")], [], memory, rules)
        assert why(choice, "a") == "the group pauses for 3 min after its last recovery"
        assert names(choice)[0] == ["b"]

    def test_who_is_not_taken_by_itself(self) -> None:
        choice = choose([bad("a", automatic=False), bad("b", automatic=False, asked="named")], [], Memory(NOW), RULES)
        assert names(choice) == (["b"], [], ["a"])

    def test_who_needs_nothing(self) -> None:
        members = [replace(well("a"), asked="named"), bad("b", rung="nothing"), well("c"), bad("d", asked="no")]
        choice = choose(members, [], Memory(NOW), RULES)
        assert names(choice) == ([], [], ["a", "b"])
        assert why(choice, "a") == "well: nothing to recover"


hosts = st.integers(1, 12)


@st.composite
def fleets(draw: st.DrawFn) -> tuple[list[Member], list[Pool], Memory, RecoveryFleetSettings]:
    number = draw(hosts)
    members, pools, opened, locks, marks = [], [], [], [], []
    for each in range(number):
        name = f"h{each}"
        group = draw(st.sampled_from(["g1", "g2"]))
        members.append(
            Member(
                name, group, draw(st.sampled_from(["named", "fleet", "no"])),
                draw(st.none() | st.floats(NOW - 1000, NOW)), draw(st.booleans()),
                draw(st.sampled_from(["reboot", "nothing", ""])), draw(st.booleans()), 100.0, 300.0,
            )
        )  # fmt: skip
        if draw(st.booleans()):
            model = draw(st.sampled_from(["m", "n"]))
            wanted = draw(st.integers(0, 4))
            partner = f"h{draw(st.integers(0, number - 1))}"
            pools.append(Pool(model, (name, partner), wanted, draw(st.integers(0, wanted))))
        if draw(st.integers(0, 3)) == 0:
            opened.append(attempt(name, group))
        if draw(st.integers(0, 3)) == 0:
            locks.append(lock(name, live=draw(st.booleans())))
        if draw(st.integers(0, 5)) == 0:
            marks.append(mark(name, draw(st.sampled_from(["maintenance", "do-not-touch", "quarantine"]))))
    breaker = BreakerState(draw(st.integers(0, 4)) == 0, NOW, "open")
    rules = RecoveryFleetSettings(
        percent=draw(st.integers(1, 100)), at_once=draw(st.integers(1, 6)), floor_percent=draw(st.integers(0, 100))
    )
    memory = Memory(NOW, open=tuple(opened), locks=tuple(locks), marks=tuple(marks), breaker=breaker)
    return members, pools, memory, rules


@settings(max_examples=150, deadline=None)
@given(fleets())
def test_no_limit_is_exceeded(case: tuple[list[Member], list[Pool], Memory, RecoveryFleetSettings]) -> None:
    members, pools, memory, rules = case
    choice = choose(members, pools, memory, rules)
    group = {m.name: m.group for m in members}
    new = [p.host for p in choice.take if not p.resume]
    taken = {p.host for p in choice.take}
    live = {each.host for each in memory.locks if each.live}
    persons = {m.host for m in memory.marks if m.kind in ("do-not-touch", "maintenance")}
    before = {a.host for a in memory.open} - (persons - live) | live
    listed = [p.host for p in (*choice.take, *choice.wait, *choice.refuse, *choice.restore)]

    assert len(listed) == len(set(listed))
    assert set(listed) <= {m.name for m in members if m.asked != "no"}
    assert not taken & live
    assert not taken & persons
    assert not set(new) & {m.host for m in memory.marks}
    assert not set(new) & {a.host for a in memory.open}
    if memory.breaker.open:
        assert new == []
    if new:
        assert len(before | set(new)) <= rules.at_once
    for name in {group[host] for host in new}:
        size = sum(m.group == name for m in members)
        assert sum(group[host] == name for host in before | set(new)) <= group_limit(size, rules)
    for capacity in choice.capacity:
        away = taken | {a.host for a in memory.open} | live
        serving = sum(p.serving for p in pools if p.model == capacity.model and not away & set(p.hosts))
        assert capacity.remaining == serving
        lost_by_new = any(
            p.serving and p.model == capacity.model and set(new) & set(p.hosts)
            and not ({a.host for a in memory.open} | live) & set(p.hosts)
            for p in pools
        )  # fmt: skip
        if lost_by_new:
            assert capacity.remaining >= capacity.floor


@settings(max_examples=40, deadline=None)
@given(fleets())
def test_everybody_s_turn_comes(case: tuple[list[Member], list[Pool], Memory, RecoveryFleetSettings]) -> None:
    """Without marks, locks and floors, hosts that are taken and brought back make room until none waits."""
    members, _, _, rules = case
    left = [replace(m, unhealthy_since=NOW - 900) if m.unhealthy_since else m for m in members]
    for _ in range(len(members) + 1):
        choice = choose(left, [], Memory(NOW), rules)
        if not choice.take:
            break
        done = {p.host for p in choice.take}
        left = [replace(m, unhealthy_since=None) if m.name in done else m for m in left]
    assert choice.wait == ()
