"""The conductor: one host, from evidence to serving or quarantine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.recovery.memory import InMemory
from metalserve.recovery.conduct import Lost, NotBegun, recover_host
from metalserve.recovery.ports import Done
from metalserve.recovery.rules import Rules
from metalserve.recovery.values import Mark, Step
from tests.recovery.worlds import GPU, RULES, Clock, Fault, TestHands, World, run


def test_the_verdicts_rung_and_no_other() -> None:
    world = World(Clock(), Fault(("gpu-off-bus",), "reboot"))
    attempt = run(world)
    assert attempt.result == "recovered"
    assert world.made == ["reboot"]
    kinds = [kind for kind, _ in world.log]
    assert kinds.index("drain") < kinds.index("act") < kinds.index("accept") < kinds.index("restore")
    assert ("accept", "standard") in world.log
    assert not world.drained


def test_an_engine_is_restarted_without_leaving_the_router_first() -> None:
    world = World(Clock(), Fault(("engine-hang",), "restart-engine", subjects=()))
    assert run(world).result == "recovered"
    assert world.made == ["restart-engine"]
    assert ("drain", "h1") not in world.log
    assert ("accept", "quick") in world.log


def test_it_falls_through_when_the_proof_is_bad() -> None:
    world = World(Clock(), Fault(("gpu-fault",), "power-cycle"))
    assert run(world).result == "recovered"
    assert world.made == ["reset-gpu", "reload-driver", "reboot", "power-cycle"]
    assert [what for kind, what in world.log if kind == "drain"] == ["h1"]


def test_a_good_proof_and_a_bad_verify_go_on_upwards() -> None:
    world = World(Clock(), Fault(("gpu-fault",), "reboot", proven_by="reset-gpu"))
    attempt = run(world)
    assert attempt.result == "recovered"
    assert world.made == ["reset-gpu", "reload-driver", "reboot"]
    assert [what for kind, what in world.log if kind == "accept"] == ["standard"] * 3


def test_what_nothing_cures_ends_in_quarantine_with_a_packet_and_a_mark() -> None:
    world, store = World(Clock(), Fault(("gpu-off-bus",), "")), InMemory()
    attempt = run(world, store)
    assert attempt.result == "quarantined"
    assert world.made == ["reboot", "power-cycle"], "a template does not cure a GPU"
    assert "/packet" in attempt.words
    assert [mark.kind for mark in store.marks(world.clock.now())] == ["quarantine"]
    assert world.drained
    with pytest.raises(NotBegun, match="quarantine"):
        run(world, store)


def test_a_dead_host_without_evidence() -> None:
    world = World(Clock(), Fault((), "reimage", reachable=False))
    assert run(world).result == "recovered"
    assert world.made == ["reboot", "power-cycle", "reimage"]
    assert ("accept", "deep") in world.log


def test_a_dead_host_that_may_not_be_imaged_anew() -> None:
    world = World(Clock(), Fault((), "reimage", reachable=False))
    attempt = run(world, rules=Rules(reimage=False))
    assert attempt.result == "quarantined"
    assert world.made == ["reboot", "power-cycle"]
    assert "re-imaging this host is not allowed" in attempt.words


def test_a_host_that_is_off_is_switched_on() -> None:
    world = World(Clock(), Fault((), "power-cycle", reachable=False, powered=False))
    assert run(world).result == "recovered"
    assert world.made == ["power-cycle"]


def test_a_dead_host_that_nothing_can_be_done_to_is_left_to_a_person() -> None:
    no_bmc = {"reboot": "no BMC", "power-cycle": "no BMC", "reimage": "no BMC"}
    world = World(Clock(), Fault((), "", reachable=False), cannot=no_bmc)
    attempt = run(world)
    assert attempt.result == "stopped"
    assert world.made == []
    assert "no BMC" in attempt.words


def test_a_host_that_serves_while_ssh_is_dead_is_not_touched() -> None:
    world = World(Clock(), Fault((), "", reachable=False, serving=True))
    hands = TestHands(world)
    look = hands.look

    def serving(host: str, *, since: float = 0.0):  # type: ignore[no-untyped-def]
        return replace(look(host, since=since), serving=True)

    hands.look = serving  # type: ignore[method-assign]
    attempt = recover_host("h1", hands, InMemory(), RULES, world.clock, group="gpus", actor="me")
    assert (attempt.result, world.made) == ("stopped", [])


def test_what_is_set_up_wrongly_is_for_a_person_and_no_reason_for_a_reboot() -> None:
    world = World(Clock(), Fault(("bad-flags",), "", subjects=()))
    attempt = run(world)
    assert attempt.result == "stopped"
    assert world.made == ["converge"]
    assert "metalserve vllm check" in attempt.words


def test_nothing_wrong_is_nothing_done() -> None:
    world = World(Clock(), None)
    attempt = run(world)
    assert (attempt.result, attempt.steps) == ("recovered", ())
    assert [kind for kind, _ in world.log] == ["look"]


def test_a_fault_that_goes_away_while_the_host_is_drained() -> None:
    world = World(Clock(), Fault(("gpu-off-bus",), "reboot"))
    hands, store = TestHands(world), InMemory()
    drain = hands.drain

    def healed(host: str, deadline_s: float):  # type: ignore[no-untyped-def]
        world.fault = None
        return drain(host, deadline_s)

    hands.drain = healed  # type: ignore[method-assign]
    attempt = recover_host("h1", hands, store, RULES, world.clock, group="gpus", actor="me")
    assert (attempt.result, world.made) == ("recovered", [])
    assert not world.drained, "it was drained in vain, and is back"


def test_a_drain_of_which_nobody_knows_is_not_asked_for_for_ever() -> None:
    world = World(Clock(), Fault(("gpu-off-bus",), "reboot"))
    hands = TestHands(world)
    hands.drain = lambda host, deadline_s: Done("unknown", "the router does not answer")  # type: ignore[method-assign]
    attempt = recover_host("h1", hands, InMemory(), RULES, world.clock, group="gpus", actor="me")
    assert (attempt.result, world.made) == ("recovered", ["reboot"])
    assert [step.step.rung for step in attempt.steps].count("drain") == RULES.looks


def test_another_cause_is_followed_upwards() -> None:
    off_bus = Fault(("gpu-off-bus",), "reboot")
    world = World(Clock(), Fault(("gpu-fault",), "reset-gpu", next=off_bus))
    assert run(world).result == "recovered"
    assert world.made == ["reset-gpu", "reboot"]


def test_a_lower_cause_afterwards_is_left_to_the_main_job() -> None:
    lower = Fault(("engine-died",), "restart-engine")
    world = World(Clock(), Fault(("gpu-off-bus",), "reboot", next=lower))
    attempt = run(world)
    assert world.made[0] == "reboot"
    assert world.log.index(("accept", "standard")) > 0
    assert attempt.result in ("recovered", "quarantined")


def test_an_unknown_outcome_is_seen_to_and_not_repeated_when_it_took_effect() -> None:
    world = World(Clock(), Fault(("gpu-off-bus",), "reboot"), outcomes={"reboot": ["unknown"]})
    assert run(world).result == "recovered"
    assert world.made == ["reboot"]


def test_a_proof_that_nobody_can_see_is_asked_for_again() -> None:
    world = World(Clock(), Fault(("gpu-off-bus",), "reboot"), unseen=2)
    assert run(world).result == "recovered"
    assert world.made == ["reboot"]
    assert world.log.count(("prove", "reboot")) == 3


def test_a_verify_without_a_result_never_accepts() -> None:
    world = World(Clock(), Fault(("gpu-off-bus",), "reboot"), outcomes={"accept": ["unknown"] * 9})
    attempt = run(world)
    assert attempt.result == "stopped"
    assert world.drained, "it stays out of the router"


def test_a_router_that_does_not_let_go_stops_it_before_anything_is_disturbed() -> None:
    world = World(Clock(), Fault(("gpu-off-bus",), "reboot"), drain_refused=True)
    attempt = run(world)
    assert (attempt.result, world.made) == ("stopped", [])
    assert "too few replicas" in attempt.words


def test_a_router_that_does_not_take_it_back_is_asked_again() -> None:
    world = World(Clock(), Fault(("gpu-off-bus",), "reboot"), outcomes={"restore": ["failed", "done"]})
    assert run(world).result == "recovered"
    world = World(Clock(), Fault(("gpu-off-bus",), "reboot"), outcomes={"restore": ["failed"] * 9})
    assert run(world).result == "stopped"


@pytest.mark.parametrize("kind", ["do-not-touch", "maintenance"])
def test_marks_forbid_it(kind: str) -> None:
    world, store = World(Clock(), Fault(("gpu-off-bus",), "reboot")), InMemory()
    store.mark(Mark("h1", kind, "ops", "at work on it", 0.0))  # type: ignore[arg-type]
    with pytest.raises(NotBegun, match="at work on it"):
        run(world, store)
    assert world.log == []


def test_a_mark_that_comes_meanwhile_stops_the_next_step() -> None:
    world, store = World(Clock(), Fault(("gpu-fault",), "power-cycle")), InMemory()
    hands = TestHands(world)
    act = hands.act

    def marked(host: str, step: Step):  # type: ignore[no-untyped-def]
        store.mark(Mark("h1", "do-not-touch", "ops", "hands off", world.clock.now()))
        return act(host, step)

    hands.act = marked  # type: ignore[method-assign]
    attempt = recover_host("h1", hands, store, RULES, world.clock, group="gpus", actor="me")
    assert (attempt.result, world.made) == ("stopped", ["reset-gpu"])


def test_one_recovery_of_a_host_at_a_time() -> None:
    world, store = World(Clock(), Fault(("gpu-off-bus",), "reboot")), InMemory()
    assert store.take("h1", "another", world.clock.now(), 60.0) == ""
    with pytest.raises(NotBegun, match="another"):
        run(world, store)


def test_a_host_that_another_took_over_is_let_go_of() -> None:
    world, store = World(Clock(), Fault(("gpu-fault",), "reboot")), InMemory()
    hands = TestHands(world)
    act = hands.act

    def slow(host: str, step: Step):  # type: ignore[no-untyped-def]
        world.clock.sleep(50_000.0)
        assert store.take("h1", "another", world.clock.now(), 60.0) == ""
        return act(host, step)

    hands.act = slow  # type: ignore[method-assign]
    with pytest.raises(Lost):
        recover_host("h1", hands, store, RULES, world.clock, group="gpus", actor="me")
    assert world.made == ["reset-gpu"]
    assert store.locks["h1"][0] == "another"


def test_the_same_gpu_again_and_again_is_not_sent_round_again() -> None:
    store, clock = InMemory(), Clock()
    made = []
    for _ in range(3):
        world = World(clock, Fault(("gpu-fault",), "reset-gpu"))
        attempt = run(world, store)
        made.append((attempt.result, world.made))
        clock.sleep(3600.0)
    assert made == [("recovered", ["reset-gpu"]), ("recovered", ["reset-gpu"]), ("quarantined", [])]


def test_a_gpu_is_known_again_in_another_host() -> None:
    store, clock = InMemory(), Clock()
    for host in ("h1", "h2"):
        world = World(clock, Fault(("gpu-fault",), "reset-gpu"))
        recover_host(host, TestHands(world), store, RULES, clock, group="gpus", actor="me")
        clock.sleep(3600.0)
    world = World(clock, Fault(("gpu-fault",), "reset-gpu"))
    attempt = recover_host("h3", TestHands(world), store, RULES, clock, group="gpus", actor="me")
    assert attempt.result == "quarantined"
    assert GPU.serial in attempt.words and "h1, h2" in attempt.words


def test_programs_that_fail_do_not_make_a_gpu_bad() -> None:
    store, clock = InMemory(), Clock()
    for _ in range(6):
        world = World(clock, Fault(("program-fault",), "restart-engine"))
        assert run(world, store).result == "recovered"
        clock.sleep(3600.0)


def test_what_comes_back_starts_higher() -> None:
    store, clock = InMemory(), Clock()
    run(World(clock, Fault(("gpu-off-bus",), "reboot")), store)
    world = World(clock, Fault(("gpu-off-bus",), "reboot"))
    assert run(world, store).result == "recovered"
    assert world.made == ["power-cycle"]
    assert ("accept", "deep") in world.log


def test_what_comes_back_without_a_bmc_is_rebooted_again() -> None:
    store, clock = InMemory(), Clock()
    run(World(clock, Fault(("gpu-off-bus",), "reboot")), store)
    world = World(clock, Fault(("gpu-off-bus",), "reboot"), cannot={"power-cycle": "no BMC"})
    run(world, store)
    assert world.made == ["reboot"]
