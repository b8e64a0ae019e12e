"""Hands on simulated hosts: they take their time, break down as the figures say, and count what was wrong to do."""

from __future__ import annotations

from dataclasses import dataclass

from bench.recovery.fleet import RELEASE, Fleet, Host, height
from bench.recovery.rates import PERSON
from metalserve.catalogue.causes import load_causes
from metalserve.catalogue.ladder import load_ladder
from metalserve.recovery.ports import Done, Looked
from metalserve.recovery.values import Attempt, Proof, Step, Subject
from metalserve.recovery.verdict import Found, Verdict

BOOTS = ("reboot", "power-cycle", "reimage")


def verdict_of(causes: tuple[str, ...]) -> Verdict:
    """Return the verdict that names these causes."""
    found = tuple(
        Found(c.id, c.title, (), c.rung, c.confidence, c.person, c.then, (), 1, ("simulated",), (c.source,))
        for c in map(load_causes().cause, causes)
    )
    rung = max((each.rung for each in found), key=height, default="nothing")
    return Verdict(found, rung, any(each.person for each in found))


def step_was_right(host: Host, rung: str) -> bool:
    """Say whether no cheaper step would have done. Of a part that must be replaced nobody could know: right."""
    trouble = host.trouble
    if trouble is None or trouble.cure in ("itself", "release"):
        return False
    if trouble.cure in PERSON:
        return trouble.cure == "part"
    return height(rung) <= height(trouble.cure)


@dataclass
class SimulatedHands:
    """Implements `Hands`; all of it is simulated."""

    fleet: Fleet

    def look(self, host: str, *, since: float = 0.0) -> Looked:
        """Tell what a look would find."""
        h = self._host(host)
        self._takes("look")
        if h.trouble is None:
            return Looked(True, True, verdict_of(()), True, f"{h.boots}", "simulated", ())
        t = h.trouble
        powered = t.powered if h.has_bmc else None
        if not t.answers:
            return Looked(False, powered, None, None)
        subjects = (Subject("gpu", "0000:09:00.0", t.part),) if t.part else ()
        return Looked(True, powered, verdict_of(t.shown), t.serves, f"{h.boots}", "simulated", subjects)

    def can(self, host: str, rung: str) -> str:
        """Tell what lacks."""
        h = self._host(host)
        have = {"template", "disk-serial", "driver"}
        have |= {"ssh"} if h.trouble is None or h.trouble.answers else set()
        have |= {"bmc"} if h.has_bmc else set()
        return load_ladder().lacks(rung, have)

    def drain(self, host: str, deadline_s: float) -> Done:
        """Take it out of service."""
        h = self._host(host)
        self._touched(h)
        self.fleet.events.sleep(min(deadline_s, self.fleet.spread(self.fleet.rates.seconds["drain"])))
        self._away(h, True)
        return Done("done")

    def act(self, host: str, step: Step) -> Done:
        """Make a step; now and then nobody knows how it ended."""
        h, wrong, dice = self._host(host), self.fleet.rates.wrong, self.fleet.dice
        self.judge(h, step.rung)
        was = h.away
        self._touched(h)
        self._away(h, True)
        self._takes(step.rung)
        unknown = dice.random() < wrong.unknown_step
        if not (unknown and dice.random() < 0.5):
            self.effect(h, step.rung)
        self._away(h, was)
        return Done("unknown" if unknown else "done")

    def effect(self, h: Host, rung: str) -> None:
        """What a step does to a host: a new boot, and the end of a trouble that it can end."""
        t = h.trouble
        if rung in BOOTS:
            if rung == "reboot" and self.fleet.dice.random() < self.fleet.rates.wrong.no_return:
                if t is not None:
                    t.answers = False  # it hangs on its way down; the trouble is as it was
                return
            h.boots += 1
            if t is not None and t.cure != "part":
                t.powered = True
        if t is not None and t.cure not in PERSON and height(rung) >= height(t.cure):
            self.fleet.cure(h)

    def judge(self, h: Host, rung: str) -> None:
        """Count a step, and whether it was one too many."""
        count, destroys = self.fleet.count, load_ladder().rung(rung).destroys_evidence
        count.steps += 1
        right = step_was_right(h, rung)
        count.wrong += destroys and not right
        count.needless_reboots += rung in BOOTS and not right
        if destroys and not right:
            why = f"{h.trouble.kind} ({h.trouble.cure})" if h.trouble is not None else "nothing"
            count.wrong_by[f"{rung}: {why}"] = count.wrong_by.get(f"{rung}: {why}", 0) + 1
        if rung == "reimage" and h.trouble is not None and h.trouble.kind == RELEASE:
            count.lost_to_rollout.add(h.name)

    def prove(self, host: str, step: Step, before: Looked) -> tuple[Proof, str]:
        """See whether the step helped; a proof is narrower than the fault, so now and then it is good for nothing."""
        h = self._host(host)
        if step.rung in BOOTS and before.boot and before.boot == f"{h.boots}":
            return "bad", "the same boot"
        if h.trouble is None:
            return "good", ""
        seen = h.trouble.answers and self.fleet.dice.random() < self.fleet.rates.wrong.proof
        return ("good" if seen else "bad"), ""

    def idle(self, host: str) -> bool | None:
        """Nothing outlives its controller here: no controller dies."""
        return True

    def accept(self, host: str, depth: str) -> tuple[Proof, str]:
        """Run main job and verify: the main job cures what it can."""
        h, t = self._host(host), self._host(host).trouble
        self._takes(depth)
        if t is not None and t.answers and t.cure in ("restart-engine", "converge"):
            self.fleet.cure(h)
        if self.fleet.dice.random() < self.fleet.rates.wrong.unknown_verify:
            return "unknown", "verify broke off"
        well = h.trouble is None or (h.trouble.serves and h.trouble.cure == "itself")
        return ("good", "") if well else ("bad", "a check failed")

    def restore(self, host: str) -> Done:
        """Put it back into service."""
        self._away(self._host(host), False)
        return Done("done")

    def quarantine(self, host: str, attempt: Attempt) -> str:
        """Keep it out of service."""
        self._away(self._host(host), True)
        return "simulated packet"

    def _host(self, name: str) -> Host:
        return self.fleet.hosts[name]

    def _takes(self, what: str) -> None:
        self.fleet.events.sleep(self.fleet.spread(self.fleet.rates.seconds[what]))

    def _touched(self, h: Host) -> None:
        self.fleet.count.serving_touched += h.serves and (h.trouble is None or h.trouble.cure == "itself")

    def _away(self, h: Host, away: bool) -> None:
        self.fleet.put(h, away=away)
