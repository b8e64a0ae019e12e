"""The hands of a recovery on real hosts: looks, acts and proves by single SSH sessions, pyinfra runs and the BMC."""

from __future__ import annotations

import gzip
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from metalserve.catalogue.causes import load_causes
from metalserve.catalogue.ladder import load_ladder
from metalserve.errors import MetalserveError
from metalserve.pyinfra_seam import routers
from metalserve.pyinfra_seam.cli_run import Outcome as Ran
from metalserve.pyinfra_seam.cli_run import run_pyinfra
from metalserve.pyinfra_seam.outofband import NO_REIMAGE, OutOfBand
from metalserve.pyinfra_seam.recovery_sessions import Sessions
from metalserve.pyinfra_seam.sessions import Answer
from metalserve.recovery.bundle import DEADLINE_S, Token, collecting_script
from metalserve.recovery.host_steps import BUSY, step_script
from metalserve.recovery.look import Seen, see, unpacked
from metalserve.recovery.ports import Done, Looked
from metalserve.recovery.values import Attempt, Proof, Step
from metalserve.report.writing import write_whole

MAIN_JOB, VERIFY = "deploys/gpu_node.py", "deploys/verify.py"

SETTLE_S = 20.0
"""Seconds that a bad sign may last after a step before it counts: daemons and engines are on their way up."""

FABRIC_S = 150.0
"""The same for the NVLink fabric, whose state takes up to two minutes after a reset (FM User Guide)."""

SKEW_S = 30.0
"""Seconds by which a host's clock may differ from ours before times are converted."""

FRESH_S = 5.0
"""Seconds that the look of a good proof stands for the next one."""

_FREES_GPUS = ("reset-gpu", "reload-driver", "reboot", "power-cycle", "reimage")
_LOOK_AGAIN_S = 2.0


class HostHands:
    """Implements `metalserve.recovery.ports.Hands`.

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
        self.sessions = Sessions(inventory)
        self._inventory, self._keep, self._actor, self._history, self._say = inventory, keep, actor, history, say
        self._bands = OutOfBand(self.sessions.settings)
        self._seen: dict[str, Seen] = {}
        self._looks: dict[str, tuple[float, Looked]] = {}
        self._since: dict[str, float] = {}
        self._kept: dict[str, list[Path]] = {}
        self._last: dict[str, Looked] = {}

    # -- looking

    def look(self, host: str, *, since: float = 0.0) -> Looked:
        """Collect evidence and judge; see `Hands.look`. The bundle is kept."""
        self._since[host] = max(since, self._since.get(host, 0.0))
        at, latest = self._looks.pop(host, (0.0, None))
        if latest is not None and time.monotonic() - at < FRESH_S:
            return latest
        return self._look(host, since)

    def survey(self, hosts: Sequence[str], since: Mapping[str, float]) -> dict[str, Looked]:
        """Look at several hosts side by side; bundles are kept of those alone that are not well.

        Args:
            hosts: their names.
            since: host -> seconds since the epoch; events from before do not count.
        """
        began = time.time()
        answers = self.sessions.ask_all(list(hosts), collecting_script(), DEADLINE_S)
        return {h: self._judged(h, answers[h], since.get(h, 0.0), began, keep_well=False) for h in hosts}

    def _look(self, host: str, since: float) -> Looked:
        began = time.time()
        answer = self.sessions.ask(host, collecting_script(), DEADLINE_S)
        return self._judged(host, answer, since, began)

    def _judged(self, host: str, answer: Answer, since: float, began: float, *, keep_well: bool = True) -> Looked:
        self._last[host] = self._read(host, answer, since, began, keep_well)
        return self._last[host]

    def _read(self, host: str, answer: Answer, since: float, began: float, keep_well: bool) -> Looked:
        self._seen.pop(host, None)
        if answer.error:
            return self._unseen(host, answer.error)
        try:
            texts = unpacked(answer.data)
            known = self._serials(host)
            now = see(texts).now if since else 0.0
            skew = now - began if now and abs(now - began) > SKEW_S else 0.0
            seen = see(texts, since=since + skew if since else 0.0, known=known)
        except MetalserveError as error:
            return Looked(True, True, None, None, words=f"no evidence: {error.what}")
        self._seen[host] = seen
        if seen.serials and not seen.serials.items() <= known.items():
            write_whole(self._keep / f"{_safe(host)}-gpus.json", json.dumps({**known, **seen.serials}).encode())
        model = self.sessions.settings[host].model is not None
        serving = seen.serving if seen.tokens else not model
        well = serving is True and seen.verdict.rung == "nothing"
        path = self._write(host, answer.data) if keep_well or not well else ""
        return Looked(True, True, seen.verdict, serving, seen.boot, path, seen.subjects, seen.in_words())

    def _unseen(self, host: str, error: str) -> Looked:
        powered, words, files = self._bands.glance(host)
        evidence = ""
        if files:
            path = self._keep / f"{_safe(host)}-{_stamp()}-bmc.json"
            write_whole(path, json.dumps(files, indent=1).encode())
            self._kept.setdefault(host, []).append(path)
            evidence = str(path)
        return Looked(
            False, powered, None, None, evidence=evidence, words=f"SSH: {error}{f'; {words}' if words else ''}"
        )

    def _write(self, host: str, data: bytes) -> str:
        path = self._keep / f"{_safe(host)}-{_stamp()}.tar.gz"
        write_whole(path, gzip.compress(data, compresslevel=3, mtime=0))
        self._kept.setdefault(host, []).append(path)
        return str(path)

    def _serials(self, host: str) -> dict[str, str]:
        path = self._keep / f"{_safe(host)}-gpus.json"
        try:
            return {str(k): str(v) for k, v in json.loads(path.read_text()).items()}
        except (OSError, ValueError, AttributeError):
            return {}

    def tokens(self, host: str) -> Mapping[str, Token]:
        """Return what each engine did when the host was last looked at; nothing when it did not answer."""
        seen = self._seen.get(host)
        return seen.tokens if seen is not None else {}

    def latest(self, host: str) -> Looked | None:
        """Return the last look at a host."""
        return self._last.get(host)

    # -- what can be done

    def can(self, host: str, rung: str) -> str:
        """Return why a rung cannot be tried on this host; empty when it can."""
        seen, settings = self._seen.get(host), self.sessions.settings[host]
        have = {"ssh"} if seen is not None else set()
        if seen is not None and "NVRM version" in seen.texts.get("driver.txt", ""):
            have.add("driver")
        have |= self._bands.have(host, rung)
        if lacks := load_ladder().lacks(rung, have):
            why = self._bands.lacking(host) if "BMC" in lacks or "template" in lacks else ""
            return f"{lacks}{f' ({why})' if why else ''}"
        if rung == "reimage":
            return NO_REIMAGE
        if rung in ("reboot", "power-cycle"):
            if settings.driver.reboot == "never":
                return "driver.reboot is 'never'"
            if self.sessions.local(host):
                return "it is the machine that this runs on"
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
            if step.rung in ("reboot", "power-cycle", "reimage"):
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
        since, began = self._since.get(host, 0.0), time.monotonic()
        rebooted = step.rung in ("reboot", "power-cycle", "reimage")
        start_s = float(self.sessions.settings[host].engine.start_timeout_s)
        while True:
            look = self._look(host, since)
            spent = time.monotonic() - began
            if look.verdict is None:
                if spent >= SETTLE_S:
                    return ("bad" if rebooted and not look.reachable else "unknown"), look.words
            elif rebooted and before.boot and look.boot == before.boot:
                return "bad", "it is still in the boot from before"
            else:
                ill = load_causes().height(look.verdict.rung) > 0
                if not ill and (look.serving is True or step.rung == "reimage"):
                    self._looks[host] = (time.monotonic(), look)
                    return "good", f"{look.words}, after {spent:.0f} s"
                if ill and spent >= self._patience(look):
                    return "bad", look.words
                seen = self._seen[host]
                if not ill and spent >= (start_s if seen.starting else SETTLE_S):
                    return ("unknown" if look.serving is None else "bad"), look.words
            time.sleep(_LOOK_AGAIN_S)

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
        look = self._look(host, self._since.get(host, 0.0))
        if look.serving is not True:
            return ("unknown" if look.serving is None else "bad"), f"main job and verify are good, yet {look.words}"
        self._looks[host] = (time.monotonic(), look)
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
        try:
            from metalserve.recovery.packet import write_packet
        except ModuleNotFoundError:
            return ""
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


def _safe(host: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", host)


def _stamp() -> str:
    now = time.time()
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03}Z"
