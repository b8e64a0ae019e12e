"""The conductor's controllers die anywhere, and the next one ends what they began."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.recovery.memory import InMemory
from metalserve.errors import MetalserveError
from metalserve.recovery.conduct import NotBegun, recover_host
from metalserve.recovery.ports import Done, Forbidden, Remembers
from metalserve.recovery.store import Store
from metalserve.recovery.values import Attempt, Outcome, Step
from tests.recovery.worlds import RULES, Clock, Died, Fault, Life, TestHands, World, mortal, run, without_a_look_between

FAULTS = {
    "engine": Fault(("engine-hang",), "restart-engine", subjects=()),
    "gpu": Fault(("gpu-fault",), "reset-gpu"),
    "gpu that needs more": Fault(("gpu-fault",), "power-cycle"),
    "off the bus": Fault(("gpu-off-bus",), "reboot"),
    "dead": Fault((), "power-cycle", reachable=False),
    "file system": Fault((), "reimage", reachable=False),
    "flags": Fault(("bad-flags",), "", subjects=()),
    "rma": Fault(("remap-failed",), ""),
    "never cured": Fault(("gpu-no-init",), ""),
    "proof and verify disagree": Fault(("gpu-fault",), "reboot", proven_by="reset-gpu"),
    "two after another": Fault(("gpu-fault",), "reset-gpu", next=Fault(("gpu-off-bus",), "reboot")),
}


def fresh(fault: Fault) -> World:
    return World(Clock(), fault)


def goes_on(world: World, store: Remembers, actor: str, life: Life) -> Attempt | None:
    """One controller: it ends the recovery, or dies; the next comes when its lock is over."""
    hands, memory = mortal(TestHands(world, store), store, life)
    try:
        return recover_host("h1", hands, memory, RULES, world.clock, group="gpus", actor=actor)
    except Died:
        world.clock.sleep(100_000.0)
        return None


def holds(world: World, store: Remembers, fault: Fault) -> None:
    assert store.open_attempts() == []
    assert without_a_look_between(world.log) == []
    last = store.attempts("h1")[0]
    if last.result == "recovered":
        assert world.fault is None and not world.drained
    elif last.result == "quarantined":
        assert world.quarantined and any(mark.kind == "quarantine" for mark in store.marks(world.clock.now()))
    else:
        broken_off = [step for step in last.steps if step.step.rung == "accept" and step.proof == "unknown"]
        assert fault.causes == ("bad-flags",) or len(broken_off) >= RULES.looks, "controller after controller died"
    assert all(step.ended is not None for attempt in store.attempts() for step in attempt.steps)


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("after", [False, True], ids=["before a call", "after a call"])
def test_a_controller_that_dies_anywhere_is_followed_by_one_that_ends_it(name: str, after: bool) -> None:
    fault = FAULTS[name]
    whole = Life()
    goes_on(fresh(fault), InMemory(), "first", whole)
    assert whole.made > 5
    for calls in range(1, whole.made + 1):
        world, store = fresh(fault), InMemory()
        ended = goes_on(world, store, "first", Life(calls, after=after))
        assert ended is None
        for number in range(5):
            try:
                if goes_on(world, store, f"next {number}", Life()) is not None:
                    break
            except NotBegun:
                break  # it had ended in quarantine just before its controller died
        holds(world, store, fault)


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(sorted(FAULTS)),
    lives=st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=2, max_size=5),
    outcomes=st.dictionaries(
        st.sampled_from(["reset-gpu", "reboot", "power-cycle", "restart-engine"]),
        st.lists(st.sampled_from(["done", "failed", "unknown"]), max_size=3),
        max_size=2,
    ),
)
def test_controllers_that_die_one_after_another(
    name: str, lives: list[tuple[int, bool]], outcomes: dict[str, list[Outcome]]
) -> None:
    world, store = fresh(FAULTS[name]), InMemory()
    world.outcomes = {rung: list(planned) for rung, planned in outcomes.items()}
    for number, life in enumerate([*(Life(calls, after=after) for calls, after in lives), Life()]):
        try:
            if goes_on(world, store, f"controller {number}", life) is not None:
                break
        except NotBegun:
            break
    holds(world, store, FAULTS[name])


@pytest.mark.parametrize("name", ["off the bus", "rma"])
def test_the_same_with_the_store_on_disk(name: str, tmp_path: Path) -> None:
    """Every controller opens the file anew, as a process does; the first one's lock is over when the second comes."""
    whole, fault = Life(), FAULTS[name]
    goes_on(fresh(fault), opened(tmp_path / "whole.db"), "first", whole)
    for calls in range(1, whole.made + 1):
        for after in (False, True):
            world, path = fresh(fault), tmp_path / f"{calls} {after}.db"
            assert goes_on(world, opened(path), "first", Life(calls, after=after)) is None
            with suppress(Forbidden):  # it had ended in quarantine just before its controller died
                goes_on(world, opened(path), "second", Life())
            holds(world, opened(path), fault)


def opened(path: Path) -> Store:
    return Store(path, alive=lambda actor: None)


@pytest.mark.parametrize("died", [True, False], ids=["controller died", "connection lost"])
def test_a_host_that_still_boots_is_not_booted_again(died: bool) -> None:
    """The next controller comes at once, in the middle of ten minutes of self-test, as does one whose SSH broke off."""
    world, store = World(Clock(), Fault(("gpu-off-bus",), "reboot")), InMemory()
    hands = TestHands(world)
    look, prove = hands.look, hands.prove
    back = 0.0

    def act(host: str, step: Step):  # type: ignore[no-untyped-def]
        nonlocal back
        world.log.append(("act", step.rung))
        world.boots, back = world.boots + 1, world.clock.now() + 600.0
        if died and world.made == ["reboot"]:
            raise Died
        return Done("unknown", "the connection was lost")

    def looks(host: str, *, since: float = 0.0):  # type: ignore[no-untyped-def]
        if world.clock.now() < back:
            return replace(look(host), reachable=False, verdict=None, serving=None, boot="", evidence="")
        return look(host)

    def proves(host: str, step: Step, before):  # type: ignore[no-untyped-def]
        if world.clock.now() < back:
            return "bad", "it does not answer"
        world.fault = None
        return prove(host, step, before)

    hands.act, hands.look, hands.prove = act, looks, proves  # type: ignore[method-assign]
    for actor in ("first", "second"):
        with suppress(Died):
            attempt = recover_host("h1", hands, store, RULES, world.clock, group="gpus", actor=actor)
            break
    assert (attempt.result, world.made) == ("recovered", ["reboot"])


def test_a_host_that_was_never_told_to_boot_is_not_waited_for_for_long() -> None:
    world, store = World(Clock(), Fault(("gpu-off-bus",), "reboot")), InMemory()
    life = Life()
    hands, memory = mortal(TestHands(world), store, life)

    def dies(host: str, step: Step) -> None:
        raise Died

    hands.act = dies
    with pytest.raises(Died):
        recover_host("h1", hands, memory, RULES, world.clock, group="gpus", actor="first")
    began = world.clock.now()
    attempt = recover_host("h1", TestHands(world), store, RULES, world.clock, group="gpus", actor="second")
    assert (attempt.result, world.made) == ("recovered", ["reboot"])
    assert world.clock.now() - began < 600.0


def test_an_error_of_the_store_is_not_swallowed() -> None:
    world, store = fresh(FAULTS["gpu"]), InMemory()

    def full(*_: object) -> None:
        raise MetalserveError("disk full")

    store.begin_step = full  # type: ignore[method-assign, assignment]
    with pytest.raises(MetalserveError, match="disk full"):
        run(world, store)
    assert world.made == [], "what is not written down is not done"
    assert "h1" not in store.locks
