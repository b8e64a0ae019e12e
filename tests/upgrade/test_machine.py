"""From any record and any state of the host the walk comes to an end: done, or back where it came from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from hypothesis import given, settings
from hypothesis import strategies as st

from metalserve.releases import load_release
from metalserve.upgrade.machine import Do, Fail, Finish, Seen, Wait, after_failure, next_step, resumed
from metalserve.upgrade.record import Record, Step

OLD, NEW = load_release("2026.11-lts"), load_release("2026.11-production")
Which = Literal["origin", "target", "neither"]
MOVES = 40
"""More than the longest walk there and back: twice seven steps, services stopped anew after each, and the turn."""


@dataclass(frozen=True)
class World:
    """A host that can be half-way in every respect; the last five say what works on it at all."""

    engines: bool
    held: bool
    on_disk: Which
    loaded: Which
    stranger: bool
    boot: int = 0
    running: bool = False
    unloads: bool = True
    may_reboot: bool = True
    installs: frozenset[Which] = frozenset(("origin", "target"))
    loads: frozenset[Which] = frozenset(("origin", "target"))
    serves: frozenset[Which] = frozenset(("origin", "target"))

    def seen(self, record: Record) -> Seen:
        goal: Which = "target" if record.direction == "forward" else "origin"
        started = self.loaded == goal and self.running
        return Seen(
            engines=self.engines,
            held=self.held,
            strangers=("process 1 (train)",) if self.stranger else (),
            installed=self.on_disk == goal,
            loaded=self.loaded == goal,
            in_use="" if self.unloads else "module nvidia is in use (reference count 1)",
            may_reboot=self.may_reboot,
            boot_id=f"boot {self.boot}",
            started=started,
            verdict="good" if goal in self.serves else "bad",
            complaint="no token",
        )

    def booted(self) -> World:
        """After a restart: what is on the disk is loaded, if it loads, and what is enabled starts."""
        loaded: Which = self.on_disk if self.on_disk in self.loads else "neither"
        return replace(
            self,
            boot=self.boot + 1,
            loaded=loaded,
            engines=True,
            held=True,
            stranger=False,
            running=loaded != "neither",
        )

    def after(self, record: Record) -> World | str:
        """Return the host after the record's step, or why that failed."""
        goal: Which = "target" if record.direction == "forward" else "origin"
        match record.step:
            case "drain":
                return replace(self, engines=False, running=False)
            case "free":
                return replace(self, held=False, running=False)
            case "install":
                if goal not in self.installs:
                    return "apt-get install failed"
                return replace(self, on_disk=goal, held=True)  # packages start their services
            case "reload":
                if goal not in self.loads:
                    return replace(self, loaded="neither") and "module nvidia does not load"
                return replace(self, loaded=goal)
            case "reboot":
                return self.booted()
            case "start":
                return replace(self, engines=True, held=True, running=True)
        raise AssertionError(record.step)


def allowed(record: Record, world: World) -> None:
    """What a step must never be done without."""
    goal: Which = "target" if record.direction == "forward" else "origin"
    match record.step:
        case "drain":
            assert world.engines
        case "free":
            assert world.held and not world.engines
        case "install":
            assert not world.engines and not world.held and world.on_disk != goal
        case "reload" | "reboot":
            assert not world.engines and not world.held and world.on_disk == goal and world.loaded != goal
            if record.step == "reboot":
                assert world.may_reboot and record.rebooted_from == f"boot {world.boot}"
        case "start":
            assert world.loaded == goal and not world.running
    if record.step in ("drain", "free", "install", "reload", "reboot"):
        assert not world.stranger, "nothing is stopped or taken while somebody else works on the GPUs"


@dataclass
class Ended:
    record: Record
    world: World
    moves: int
    failed: str = ""


def run(record: Record, world: World, cut: int | None = None, how: str = "before") -> Ended:
    """One run of the controller; `cut` is the number of the move at which it is cut off, `how` in which way."""
    now = resumed(record, "a test")
    moves = 0
    while True:
        moves += 1
        assert moves <= MOVES, f"no end: {now.words}"
        decision = next_step(now, world.seen(now))
        failure = ""
        if isinstance(decision, Finish):
            if moves == cut:
                return Ended(now, world, moves, "cut off")
            return Ended(decision.record.end("later"), world, moves)
        assert not isinstance(decision, Wait), "the verdict of this host is always known"
        if isinstance(decision, Do):
            now = decision.record  # written first
            allowed(now, world)
            if moves == cut and how == "before":
                return Ended(now, world, moves, "cut off")
            after = world.after(now)
            if isinstance(after, World):
                world = after
            else:
                failure = after
                if now.step == "reload":
                    world = replace(world, loaded="neither")
            if moves == cut:
                return Ended(now, world.booted() if how == "power" else world, moves, "cut off")
        if isinstance(decision, Fail):
            failure = decision.reason
        if failure:
            back = after_failure(now, failure)
            if back is None:
                return Ended(now, world, moves, failure)
            now = back


worlds = st.builds(
    World,
    engines=st.booleans(),
    held=st.booleans(),
    on_disk=st.sampled_from(("origin", "target", "neither")),
    loaded=st.sampled_from(("origin", "target", "neither")),
    stranger=st.booleans(),
    boot=st.integers(0, 2),
    running=st.booleans(),
    unloads=st.booleans(),
    may_reboot=st.booleans(),
)
records = st.builds(
    Record,
    origin=st.just(OLD),
    target=st.just(NEW),
    direction=st.sampled_from(("forward", "back")),
    step=st.sampled_from(get_args(Step)),
    started=st.just("2026-11-25T00:00:00Z"),
    controller=st.just("test"),
    reload_tried=st.booleans(),
    rebooted_from=st.sampled_from(("", "boot 0", "boot 1", "boot 2")),
)
cuts = st.lists(st.tuples(st.integers(1, 25), st.sampled_from(("before", "after", "power"))), max_size=5)
broken = st.sampled_from((frozenset(("origin",)), frozenset(("origin", "target"))))


def brought_to_an_end(record: Record, world: World, interruptions: list[tuple[int, str]]) -> Ended:
    for cut, how in interruptions:
        ended = run(record, world, cut, how)
        if ended.failed != "cut off":
            return ended
        assert (ended.record.origin, ended.record.target) == (OLD, NEW), "the way back is never lost"
        record, world = ended.record, ended.world
    return run(record, world)


@settings(max_examples=400, deadline=None)
@given(records, worlds, cuts, broken, broken, broken)
def test_where_the_old_release_works_the_host_ends_on_one_of_the_two(
    record: Record,
    world: World,
    interruptions: list[tuple[int, str]],
    installs: frozenset[Which],
    loads: frozenset[Which],
    serves: frozenset[Which],
) -> None:
    able = replace(world, stranger=False, unloads=True, may_reboot=True, installs=installs, loads=loads, serves=serves)
    ended = brought_to_an_end(record, able, interruptions)
    assert ended.record.result == ("done" if ended.record.direction == "forward" else "rolled back"), ended.failed
    on: Which = "target" if ended.record.result == "done" else "origin"
    assert ended.world.loaded == on and ended.world.running and on in ended.world.serves
    if ended.record.result == "rolled back" and record.direction == "forward":
        assert ended.record.reason


@settings(max_examples=400, deadline=None)
@given(records, worlds, cuts)
def test_whatever_the_host_is_a_run_ends_and_keeps_the_way_back(
    record: Record, world: World, interruptions: list[tuple[int, str]]
) -> None:
    """Strangers on the GPUs, modules that nobody can unload, reboots forbidden: then it may end without a result."""
    ended = brought_to_an_end(record, world, interruptions)
    assert (ended.record.origin, ended.record.target) == (OLD, NEW)
    if not ended.record.finished:
        assert ended.record.direction == "back" and ended.failed
        # and when what stands in the way is gone, the same command brings it home
        free = replace(ended.world, stranger=False, unloads=True, may_reboot=True)
        assert run(ended.record, free).record.result == "rolled back"


def fresh(**changes: object) -> Record:
    return Record(origin=OLD, target=NEW, started="", controller="").model_copy(update=changes)


BEFORE = World(engines=True, held=True, on_disk="origin", loaded="origin", stranger=False, running=True)


def steps(record: Record, world: World) -> list[str]:
    """Return the steps that a run does, with the direction of each."""
    done = []
    now = record
    while len(done) < MOVES:
        decision = next_step(now, world.seen(now))
        if isinstance(decision, Finish):
            return [*done, decision.record.end("").result]
        if isinstance(decision, Do):
            now = decision.record
            done.append(now.step)
            after = world.after(now)
            if isinstance(after, World):
                world = after
                continue
            reason = after
        else:
            assert isinstance(decision, Fail)
            reason = decision.reason
        back = after_failure(now, reason)
        assert back is not None, reason
        done.append("turn")
        now = back
    raise AssertionError(done)


def test_the_plain_way() -> None:
    assert steps(fresh(), BEFORE) == ["drain", "free", "install", "free", "reload", "start", "done"]


def test_a_module_that_is_held_takes_a_reboot() -> None:
    assert steps(fresh(), replace(BEFORE, unloads=False))[-3:] == ["free", "reboot", "done"]


def test_a_release_that_does_not_serve_is_taken_back() -> None:
    way = steps(fresh(), replace(BEFORE, serves=frozenset(("origin",))))
    assert way[way.index("turn") :] == ["turn", "drain", "free", "install", "free", "reload", "start", "rolled back"]


def test_a_failed_installation_is_taken_back_without_touching_the_kernel() -> None:
    way = steps(fresh(), replace(BEFORE, installs=frozenset(("origin",))))
    assert way == ["drain", "free", "install", "turn", "start", "rolled back"]


def test_a_driver_that_never_loads_is_not_rebooted_for_ever() -> None:
    lost = replace(BEFORE, unloads=False, loads=frozenset(("origin",)), serves=frozenset(("origin",)))
    way = steps(fresh(), lost)
    assert way.count("reboot") == 2 and way[-1] == "rolled back", way


def test_a_change_that_leaves_the_driver_alone_stops_nothing_but_what_it_must() -> None:
    only_engines = replace(BEFORE, on_disk="target", loaded="target", running=False)
    assert steps(fresh(), only_engines) == ["start", "done"]
