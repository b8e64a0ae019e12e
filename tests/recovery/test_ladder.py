"""The ladder: its data, single decisions, and what must hold on every way through it."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalserve.catalogue.causes import Cause, load_causes
from metalserve.catalogue.ladder import Ladder, load_ladder
from metalserve.catalogue.loader import load_gpus
from metalserve.recovery.case import Case
from metalserve.recovery.ladder import Finish, next_step
from metalserve.recovery.ports import Looked
from metalserve.recovery.rules import Rules
from metalserve.recovery.values import Attempt, Outcome, Proof, Step, StepRecord, Subject
from tests.recovery.worlds import GPU, verdict_of

LADDER = load_ladder()
CAUSES = load_causes()
RUNGS = [rung.name for rung in LADDER.rungs]
height = CAUSES.height
NOW = 1_000_000.0


def case_of(*causes: str, **named: object) -> Case:
    look = Looked(True, True, verdict_of(*causes), False, "boot 1", "/bundle", (GPU,))
    case = Case("h1", look, look, (), (), Rules(reimage=True), NOW, NOW)
    return replace(case, **named)  # type: ignore[arg-type]


def record(rung: str, outcome: Outcome | None = "done", proof: Proof | None = None, number: int = 1) -> StepRecord:
    return StepRecord(number, 1, Step(rung, (), "", 60.0), NOW, NOW + 1, outcome, proof)


def earlier(host: str = "h2", days: float = 1.0, rung: str = "reset-gpu", cause: str = "gpu-fault") -> Attempt:
    then = NOW - days * 86400
    step = StepRecord(1, 9, Step(rung, (), "", 60.0), then, then, "done", "good")
    return Attempt(9, host, "g", "me", (cause,), (GPU,), rung, "", then, then, "recovered", "", (step,))


def test_a_step_whose_controller_died_is_made_once_more_where_it_is_still_asked_for() -> None:
    """The other GPU's engine serves on: that says nothing about a step that may never have been made."""
    look = Looked(True, True, verdict_of("gpu-fault"), True, "boot 1", "/bundle", (GPU,))
    died = record("reset-gpu", "unknown", "bad")
    case = case_of("gpu-fault", latest=look)
    move = next_step(replace(case, steps=(died,)))
    assert isinstance(move, Step) and move.rung == "reset-gpu"
    twice = next_step(replace(case, steps=(died, record("reset-gpu", "unknown", "bad", 2))))
    assert isinstance(twice, Finish) and twice.next == "accept"
    seen = next_step(replace(case, steps=(record("reset-gpu", "done", "bad"),)))
    assert isinstance(seen, Finish) and seen.next == "accept", "it was made, and did not help"


def test_every_platform_of_the_gpu_catalogue_has_its_reset() -> None:
    fabrics = {gpu.fabric for gpu in load_gpus().gpus}
    assert fabrics <= {row.fabric for row in LADDER.resets}
    for fabric in ("nvswitch", "nvlink5"):
        assert LADDER.reset(fabric).together == "all"
        assert LADDER.reset(fabric).stop_fabric_manager
    assert LADDER.reset("none").together == "alone"
    assert LADDER.reset("bridge").together == "joined"
    assert LADDER.reset("imex").together == "never"
    assert LADDER.reset("what nobody knows").together == "all"


def test_what_a_rung_lacks_is_said() -> None:
    assert LADDER.lacks("reboot", {"bmc"}) == ""
    assert LADDER.lacks("reboot", ()) == "SSH does not answer and there is no BMC that answers"
    assert "serial number" in LADDER.lacks("reimage", {"bmc", "template"})


def test_servers_may_test_themselves_for_ten_minutes() -> None:
    for rung in LADDER.rungs:
        if rung.name in ("reboot", "power-cycle", "reimage"):
            assert rung.deadline_s >= 1800
            assert rung.destroys_evidence and rung.drain


def test_a_ladder_that_contradicts_itself_is_refused() -> None:
    data = LADDER.model_dump()
    with pytest.raises(ValueError, match="no such rung"):
        Ladder.model_validate({**data, "ceilings": {"gpu": "pray"}})
    with pytest.raises(ValueError, match="not explained"):
        Ladder.model_validate({**data, "needs": {}})


@pytest.mark.parametrize("this", CAUSES.causes, ids=lambda cause: cause.id)
def test_every_cause_has_a_beginning(this: Cause) -> None:
    case = case_of(this.id)
    move = next_step(case)
    if this.rung == "quarantine":
        assert isinstance(move, Finish) and move.next == "quarantine"
    elif this.rung == "nothing":
        assert isinstance(move, Step) and move.rung == "restart-engine", "it does not serve"
        serving = replace(case.first, serving=True)
        ends = next_step(replace(case, first=serving, latest=serving))
        assert isinstance(ends, Finish) and ends.next == ("stop" if this.person else "well")
        assert (this.then in ends.person) if this.person else True
    else:
        assert isinstance(move, Step) and move.rung == this.rung


def test_a_hint_is_no_reason_to_disturb_a_host_that_serves() -> None:
    case = case_of("program-fault-hardware")
    serving = replace(case.first, serving=True)
    move = next_step(replace(case, first=serving, latest=serving))
    assert isinstance(move, Finish) and move.next == "stop"


def test_verify_decides_about_a_host_that_serves_whatever_its_evidence_says() -> None:
    case = case_of("driver-hang")
    serving = replace(case.first, serving=True)
    case = replace(case, first=serving, latest=serving)
    assert getattr(next_step(case), "rung", "") == "reboot"
    case = replace(case, steps=(record("reboot", "done", "bad"),))
    move = next_step(case)
    assert isinstance(move, Finish) and move.next == "accept"
    case = replace(case, steps=(*case.steps, record("accept", "done", "bad", 2)))
    move = next_step(case)
    assert isinstance(move, Finish) and move.next == "quarantine", "neither switched off nor written anew"


def test_what_cannot_be_tried_is_left_out_and_named() -> None:
    move = next_step(case_of("gpu-fault", cannot={"reset-gpu": "SSH does not answer", "reload-driver": "no module"}))
    assert isinstance(move, Step)
    assert move.rung == "reboot"
    assert "reset-gpu: SSH does not answer" in move.reason and "reload-driver: no module" in move.reason


def test_a_step_names_its_gpus_and_its_boot() -> None:
    move = next_step(case_of("gpu-fault"))
    assert isinstance(move, Step)
    assert (move.subjects, move.boot, move.deadline_s) == ((GPU,), "boot 1", LADDER.rung("reset-gpu").deadline_s)
    rules = Rules(deadlines={"reset-gpu": 5.0})
    assert getattr(next_step(case_of("gpu-fault", rules=rules)), "deadline_s", None) == 5.0


def test_what_failed_to_happen_is_done_again_as_often_as_the_ladder_says() -> None:
    case = case_of("host-panic")
    once = replace(case, steps=(record("power-cycle", "failed", "bad"),))
    move = next_step(once)
    assert isinstance(move, Step) and move.rung == "power-cycle" and "once more" in move.reason
    twice = replace(case, steps=(record("power-cycle", "failed", "bad"), record("power-cycle", "failed", "bad", 2)))
    move = next_step(twice)
    assert isinstance(move, Step) and move.rung == "reimage"
    helped_not = replace(case, steps=(record("power-cycle", "done", "bad"),))
    move = next_step(helped_not)
    assert isinstance(move, Step) and move.rung == "reimage"


def test_recurrence_by_serial_number_within_the_window() -> None:
    two = (earlier("h2", 1), earlier("h3", 2))
    move = next_step(case_of("gpu-fault", earlier=two))
    assert isinstance(move, Finish) and move.next == "quarantine" and GPU.serial in move.reason
    old = (earlier("h2", 1), earlier("h3", 8))
    assert isinstance(next_step(case_of("gpu-fault", earlier=old)), Step)
    other = tuple(replace(each, subjects=(Subject("gpu", GPU.name, "1650000000009"),)) for each in two)
    assert isinstance(next_step(case_of("gpu-fault", earlier=other)), Step), "another GPU in the same slot"


def test_a_part_that_was_in_quarantine_does_not_come_in_by_another_host() -> None:
    move = next_step(case_of("gpu-fault", earlier=(replace(earlier("h2"), result="quarantined"),)))
    assert isinstance(move, Finish) and move.next == "quarantine"


def test_a_host_counts_anew_after_a_person_had_it() -> None:
    no_part = Looked(True, True, verdict_of("host-hang"), False)
    many = tuple(replace(earlier("h1", days, "reboot", "host-hang"), subjects=()) for days in (1, 2, 3, 4))
    case = case_of("host-hang", first=no_part, latest=no_part, earlier=many)
    move = next_step(case)
    assert isinstance(move, Finish) and move.next == "quarantine"
    repaired = (*many[:2], replace(many[2], result="quarantined"), many[3])
    assert isinstance(next_step(replace(case, earlier=repaired)), Step)


looks = st.builds(
    Looked,
    reachable=st.booleans(),
    powered=st.sampled_from([True, False, None]),
    verdict=st.one_of(
        st.none(), st.lists(st.sampled_from([c.id for c in CAUSES.causes]), max_size=3, unique=True).map(
            lambda ids: verdict_of(*ids)
        )
    ),
    serving=st.sampled_from([True, False, None]),
    boot=st.sampled_from(["", "boot 1"]),
    subjects=st.sampled_from([(), (GPU,), (Subject("engine", "engine 0"),)]),
)  # fmt: skip
OUTCOMES: list[Outcome] = ["done", "failed", "unknown", "refused"]
PROOFS: list[Proof] = ["good", "bad", "unknown"]
LIMIT = 60


@settings(max_examples=400, deadline=None)
@given(
    first=looks,
    other=looks,
    dice=st.randoms(use_true_random=False),
    cannot=st.sets(st.sampled_from(RUNGS), max_size=4),
    reimage=st.booleans(),
    history=st.lists(st.builds(earlier, st.sampled_from(["h1", "h2"]), st.floats(0.1, 9)), max_size=4),
    slow=st.sampled_from([1.0, 3600.0]),
)
def test_whatever_the_world_answers(
    first: Looked,
    other: Looked,
    dice: Random,
    cannot: set[str],
    reimage: bool,
    history: list[Attempt],
    slow: float,
) -> None:
    """It ends; no rung before a cheaper one that could be tried; nothing is accepted that was not seen good."""
    rules = Rules(reimage=reimage)
    case = Case("h1", first, first, (), tuple(history), rules, NOW, NOW, dict.fromkeys(cannot, "no"))
    named = _asked_for(first)
    good = dice.choice([0.0, 0.2, 0.8])
    for number in range(1, LIMIT):
        move = next_step(case)
        assert next_step(case) == move
        done = case.steps
        outcome = dice.choice(OUTCOMES)
        proof = "good" if dice.random() < good else dice.choice(PROOFS)
        if isinstance(move, Finish):
            if move.next == "recovered":
                proofs = [step.proof for step in done if step.step.rung == "accept"]
                assert proofs[-1] == "good" and done[-1].step.rung == "restore"
            if move.next == "restore":
                assert [s for s in done if s.step.rung in ("accept", *RUNGS)][-1].proof == "good"
            if move.next not in ("accept", "restore"):
                return
            step = Step(move.next, (), "", 1.0)
            ended = StepRecord(number, 1, step, NOW, NOW, outcome, proof if move.next == "accept" else None)
        else:
            assert move.rung not in cannot and (reimage or move.rung != "reimage")
            made = [each.step.rung for each in case.rungs]
            for cheaper in RUNGS[: RUNGS.index(move.rung)]:
                if cheaper in cannot or (cheaper == "reimage" and not reimage) or cheaper in made:
                    continue
                assert height(cheaper) < height(named), f"{cheaper} could have been tried before {move.rung}"
            assert made.count(move.rung) <= LADDER.rung(move.rung).tries
            ended = StepRecord(number, 1, move, NOW, NOW, outcome, None if outcome == "refused" else proof)
        look = first if dice.random() < 0.8 else other
        case = replace(case, latest=look, steps=(*done, ended), now=case.now + slow)
        named = max(named, _asked_for(look), key=height)
    pytest.fail(f"no end after {LIMIT} steps: {[step.step.rung for step in case.steps]}")


def _asked_for(look: Looked) -> str:
    """The highest rung that a look names, a returned cause included: cheaper ones need not have been tried."""
    if look.verdict is None:
        return "power-cycle" if look.powered is False else "reboot"
    again = [LADDER.rung_again(cause.id) for cause in look.verdict.causes]
    return max([look.verdict.rung, "restart-engine", *filter(None, again)], key=height)


@given(
    first=looks, latest=looks, made=st.lists(st.tuples(st.sampled_from(OUTCOMES), st.sampled_from(PROOFS)), max_size=4)
)
def test_a_host_that_may_not_be_touched(first: Looked, latest: Looked, made: list[tuple[Outcome, Proof]]) -> None:
    steps = tuple(record(RUNGS[n], outcome, proof, n) for n, (outcome, proof) in enumerate(made))
    case = Case("h1", first, latest, steps, (), Rules(), NOW, NOW, {}, "marked do-not-touch by ops: no")
    move = next_step(case)
    assert isinstance(move, Finish) and move.next == "stop"
