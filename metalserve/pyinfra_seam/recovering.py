"""The hands of a recovery on real hosts: looks, acts and proves by single SSH sessions, pyinfra runs and the BMC."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from metalserve.catalogue.causes import load_causes
from metalserve.catalogue.ladder import load_ladder
from metalserve.errors import MetalserveError
from metalserve.pyinfra_seam import routers
from metalserve.pyinfra_seam.cli_run import Outcome as Ran
from metalserve.pyinfra_seam.cli_run import run_pyinfra
from metalserve.pyinfra_seam.recovery_looks import Looks
from metalserve.pyinfra_seam.reimaging import Reimaging
from metalserve.recovery.host_steps import BUSY, IDLE, step_script
from metalserve.recovery.look import no_driver
from metalserve.recovery.packet import write_packet
from metalserve.recovery.ports import Done, Looked
from metalserve.recovery.reimage import begun_at
from metalserve.recovery.values import Attempt, Proof, Step

MAIN_JOB, VERIFY = "deploys/gpu_node.py", "deploys/verify.py"

SETTLE_S = 20.0
"""Seconds that a bad sign may last after a step before it counts: daemons and engines are on their way up."""

FABRIC_S = 150.0
"""The same for the NVLink fabric, whose state takes up to two minutes after a reset (FM User Guide)."""

_FREES_GPUS = ("reset-gpu", "reload-driver", "reboot", "power-cycle", "reimage")
_LOOK_AGAIN_S = 2.0


class HostHands(Looks):
    """Implements `metalserve.recovery.ports.Hands`; how it looks stands in `Looks`.

    Args:
        inventory: the inventory file.
        keep: directory for bundles of evidence and packets.
        actor: who acts, as the store calls it.
        history: returns all attempts, for packets.
        say: told what is being done, in a line.

    Raises:
        MetalserveError: the inventory cannot be read.
    """

    def __init__(
        self,
        inventory: str,
        *,
        keep: Path,
        actor: str,
        history: Callable[[], Sequence[Attempt]],
        say: Callable[[str, str], None] = lambda host, words: None,
    ) -> None:
        super().__init__(inventory, keep)
        self._inventory, self._actor, self._history, self._say = inventory, actor, history, say
        self._reimaging = Reimaging(self.sessions.settings, self._bands.open, say)

    # -- what can be done

    def can(self, host: str, rung: str) -> str:
        """Return why a rung cannot be tried on this host; empty when it can."""
        seen, settings = self._seen.get(host), self.sessions.settings[host]
        have = {"ssh"} if seen is not None else set()
        if seen is not None and not no_driver(seen.texts):
            have.add("driver")
        have |= self._bands.have(host, rung)
        if lacks := load_ladder().lacks(rung, have):
            why = self._bands.lacking(host) if "BMC" in lacks or "template" in lacks else ""
            return f"{lacks}{f' ({why})' if why else ''}"
        if rung in ("reboot", "power-cycle", "reimage") and settings.driver.reboot == "never":
            return "driver.reboot is 'never'"
        if rung in ("reboot", "power-cycle", "reimage") and self.sessions.local(host):
            return "it is the machine that this runs on"
        if rung == "reimage" and (why := self._reimaging.why_not(host, self._orders_since(host))):
            return why
        if rung == "restart-engine" and seen is not None and not seen.tokens:
            return "it has no engine yet"
        if seen is None:
            return ""
        if seen.upgrading:
            return f"an upgrade is unfinished ({seen.upgrading}): deploys/upgrade.py goes on with it"
        if rung in _FREES_GPUS and seen.strangers:
            return f"its GPUs are in use by {', '.join(seen.strangers[:3])}, and nobody ends that but its owner"
        if rung == "reset-gpu" and seen.reset is not None and seen.reset.together == "never":
            return seen.reset.why
        return ""

    def _orders_since(self, host: str) -> float:
        return begun_at(host, list(self._history()), time.time())

    # -- the router

    def drain(self, host: str, deadline_s: float) -> Done:
        """Take the host out of every router and wait for requests in flight."""
        return self._drain(host, deadline_s, force=self._serving(host) is not True)

    def _serving(self, host: str) -> bool | None:
        seen = self._seen.get(host)
        return seen.serving if seen is not None else None

    def _drain(self, host: str, deadline_s: float, *, force: bool) -> Done:
        if not self._routed():
            return Done("done", "no router in the inventory")
        self._say(host, "taken out of the router")
        answers = routers.drain(self._inventory, [host], wait_s=int(deadline_s), force=force)
        known = [a for a in answers if "has no replica" not in a.said]
        said = "; ".join(f"{a.router}: {a.said}" for a in known) or "it is in no router"
        if any(a.outcome == "refused" for a in known):
            return Done("refused", said)
        return Done("failed" if any(a.outcome == "failed" for a in known) else "done", said)

    def restore(self, host: str) -> Done:
        """Put the host back into every router."""
        if not self._routed():
            return Done("done", "no router in the inventory")
        answers = [a for a in routers.enable(self._inventory, [host]) if "has no replica" not in a.said]
        said = "; ".join(f"{a.router}: {a.said}" for a in answers) or "it is in no router"
        return Done("failed" if any(a.outcome != "done" for a in answers) else "done", said)

    def _routed(self) -> bool:
        return any(settings.router is not None for settings in self.sessions.settings.values())

    # -- acting and proving

    def act(self, host: str, step: Step) -> Done:
        """Make a step and wait until it took effect or its deadline passed."""
        self._say(host, f"{step.rung}: {step.reason}")
        self._looks.pop(host, None)
        self._since[host] = time.time()
        until = time.monotonic() + step.deadline_s
        try:
            if step.rung == "converge":
                return self._ran(host, self._run(MAIN_JOB, host))
            if step.rung == "reboot" and host in self._seen:
                came, words = self.sessions.reboot(host, step.deadline_s)
                return Done("done" if came else "unknown" if came is None else "failed", words)
            if step.rung == "reimage":
                return self._reimaging.act(host, step, self.sessions, until, self._orders_since(host))
            if step.rung in ("reboot", "power-cycle"):
                return self._bands.act(host, step, self.sessions, until)
            reset = self._seen[host].reset if host in self._seen else None
            together = reset is None or reset.together != "alone"
            script = step_script(step.rung, step.subjects, together=together, who=self._actor)
        except MetalserveError as error:
            return Done("failed", str(error))
        answer = self.sessions.ask(host, script, step.deadline_s)
        lines = [ln for ln in answer.data.decode(errors="replace").splitlines() if ln.strip() and "@@ms:" not in ln]
        last = lines[-1].strip()[:300] if lines else ""
        if answer.error:
            return Done("unknown", answer.error)
        if answer.status == BUSY:
            return Done("refused", last)
        return Done("done", last) if answer.status == 0 else Done("failed", last or f"status {answer.status}")

    def prove(self, host: str, step: Step, before: Looked) -> tuple[Proof, str]:
        """Look until the host is as the step should have made it, or it is plain that it is not."""
        if step.rung == "reimage":
            return self._installed(host, before.boot)
        other_boot = step.rung in ("reboot", "power-cycle")
        before_boot = before.boot if other_boot else ""
        return self._settled(host, self._since.get(host, 0.0), before_boot, down_is_bad=other_boot)

    def idle(self, host: str) -> bool | None:
        """Say whether nothing holds the host's locks: that of a run, and that of a script which a run left there."""
        answer = self.sessions.ask(host, IDLE, 30)
        return None if answer.error or answer.status not in (0, BUSY) else answer.status == 0

    def _installed(self, host: str, before_boot: str) -> tuple[Proof, str]:
        """Prove an installation: its order was carried out, and SSH answers in another boot. What it lacks yet
        (driver, engines) is for the main job."""
        try:
            if words := self._reimaging.in_flight(host):
                return "unknown", words
            if words := self._reimaging.installed(host, self.sessions, self._orders_since(host)):
                return "bad", words
        except MetalserveError as error:
            return "unknown", str(error)
        look = self._look(host, self._since.get(host, 0.0))
        if not look.reachable:
            return "bad", f"installed, but {look.words}"
        if before_boot and look.boot == before_boot:
            return "bad", "it is still in the boot from before"
        return "good", f"installed, and SSH answers: {look.words}"

    def _settled(
        self, host: str, since: float, before_boot: str = "", *, down_is_bad: bool = False
    ) -> tuple[Proof, str]:
        """Look until all engines give a token and nothing asks for a step, or it is plain that it will not be so.

        Args:
            host: its name.
            since: seconds since the epoch; events from before do not count.
            before_boot: the boot that must be over; "" when it does not matter.
            down_is_bad: a host that does not answer is a bad proof, not an unknown one.
        """
        began = since_then = time.monotonic()
        sign = ""
        start_s = float(self.sessions.settings[host].engine.start_timeout_s)
        while True:
            look = self._look(host, since)
            now = time.monotonic()
            before, sign = sign, self._sign(host, look)
            if sign != before and now - began < start_s:
                since_then = now  # what one look sees, however long that took, has not lasted
            lasted = now - since_then
            if look.verdict is None:
                if lasted >= SETTLE_S:
                    return ("bad" if down_is_bad and not look.reachable else "unknown"), look.words
            elif before_boot and look.boot == before_boot:
                return "bad", "it is still in the boot from before"
            elif sign == "well":
                self._looks[host] = (now, look)
                return "good", f"{look.words}, after {now - began:.0f} s"
            elif sign == "ill":
                if lasted >= self._patience(look):
                    return "bad", look.words
            elif lasted >= (start_s if sign == "starting" else SETTLE_S):
                return ("unknown" if look.serving is None else "bad"), look.words
            time.sleep(_LOOK_AGAIN_S)

    def _sign(self, host: str, look: Looked) -> str:
        if look.verdict is None:
            return "unseen"
        if load_causes().height(look.verdict.rung) > 0:
            return "ill"
        if look.serving is True:
            return "well"
        return "starting" if self._seen[host].starting else "mute"

    def _patience(self, look: Looked) -> float:
        assert look.verdict is not None
        causes = [c for c in look.verdict.causes if not c.explained_by and not c.past]
        fabric = any(load_causes().cause(c.id).subject == "fabric" for c in causes)
        return FABRIC_S if fabric else SETTLE_S

    def accept(self, host: str, depth: str) -> tuple[Proof, str]:
        """Main job, weights, verify at `depth`, engines answering.

        The main job proves all that a quick verify does, weights and tokens included; a deeper one is run after it.
        """
        self._say(host, f"accepted again: main job, verify {depth}")
        self._looks.pop(host, None)
        done = self._ran(host, self._run(MAIN_JOB, host))
        if done.outcome == "done" and depth != "quick":
            data = {"depth": depth, "stop_engines": "true"}
            done = self._ran(host, self._run(VERIFY, host, data))
        if done.outcome != "done":
            return ("bad" if done.outcome == "failed" else "unknown"), done.words
        # A verify that measures has stopped the engines, and began their start at its end.
        proof, words = self._settled(host, self._since.get(host, 0.0))
        if proof != "good":
            return proof, f"main job and verify are good, yet {words}"
        return "good", f"main job, weights and verify {depth} are good, every engine gives a token"

    def _run(self, deploy: str, host: str, data: dict[str, str] | None = None) -> Ran:
        return run_pyinfra(self._inventory, deploy, [host], quiet=True, data=data, alone=False)

    def _ran(self, host: str, ran: Ran) -> Done:
        report = ran.report.hosts.get(host) if ran.report is not None else None
        if report is None or ran.interrupted:
            return Done("unknown", f"the run has no result: {ran.output.strip().splitlines()[-1:] or ran.rc}")
        if report.failure is not None:
            failure = report.failure
            words = f"{failure.role} / {failure.stage}: {failure.what}"[:400]
            return Done("unknown" if failure.role == "connect" else "failed", words)
        return Done("done", "") if ran.rc == 0 else Done("failed", f"pyinfra ended with {ran.rc}")

    def quarantine(self, host: str, attempt: Attempt) -> str:
        """Keep the host out of every router and write its RMA packet; returns the packet's path."""
        self._drain(host, 0, force=True)
        simulated = self.sessions.settings[host].simulated
        paths = [Path(attempt.evidence)] if attempt.evidence else []
        paths += [p for p in self._kept.get(host, []) if p not in paths and p.suffix == ".gz"]
        try:
            packet = write_packet(
                self._keep.parent / "packets", attempt, paths[:1] + paths[1:][-5:], None, self._history(),
                simulated=simulated,
            )  # fmt: skip
        except MetalserveError as error:
            self._say(host, f"its packet could not be written: {error}")
            return ""
        return str(packet)
