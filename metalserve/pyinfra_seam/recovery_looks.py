"""Looks at real hosts for a recovery: one SSH session a look, its bundle kept, judged, and what was seen remembered."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from metalserve.errors import MetalserveError
from metalserve.pyinfra_seam.outofband import OutOfBand
from metalserve.pyinfra_seam.recovery_sessions import Sessions
from metalserve.pyinfra_seam.sessions import Answer
from metalserve.recovery.bundle import DEADLINE_S, Token, collecting_script
from metalserve.recovery.keeping import file_name, keep_bmc, keep_bundle
from metalserve.recovery.look import Seen, see, unpacked
from metalserve.recovery.ports import Looked
from metalserve.report.writing import write_whole

SKEW_S = 30.0
"""Seconds by which a host's clock may differ from ours before times are converted."""

FRESH_S = 5.0
"""Seconds that the look of a good proof stands for the next one."""


class Looks:
    """What is seen of the hosts of an inventory.

    Args:
        inventory: the inventory file.
        keep: directory for bundles of evidence.

    Attributes:
        sessions: the hosts, to be asked.

    Raises:
        MetalserveError: the inventory cannot be read.
    """

    def __init__(self, inventory: str, keep: Path) -> None:
        self.sessions = Sessions(inventory)
        self._keep = keep
        self._bands = OutOfBand(self.sessions.settings)
        self._seen: dict[str, Seen] = {}
        self._last: dict[str, Looked] = {}
        self._looks: dict[str, tuple[float, Looked]] = {}
        self._since: dict[str, float] = {}
        self._kept: dict[str, list[Path]] = {}

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
            write_whole(self._keep / f"{file_name(host)}-gpus.json", json.dumps({**known, **seen.serials}).encode())
        model = self.sessions.settings[host].model is not None
        serving = seen.serving if seen.tokens else not model
        well = serving is True and seen.verdict.rung == "nothing"
        keep = keep_well or not well
        path = self._noted(host, keep_bundle(self._keep, host, answer.data)) if keep else ""
        return Looked(True, True, seen.verdict, serving, seen.boot, path, seen.subjects, seen.in_words())

    def _unseen(self, host: str, error: str) -> Looked:
        powered, words, files = self._bands.glance(host)
        evidence = self._noted(host, keep_bmc(self._keep, host, files)) if files else ""
        return Looked(
            False, powered, None, None, evidence=evidence, words=f"SSH: {error}{f'; {words}' if words else ''}"
        )

    def _noted(self, host: str, path: Path) -> str:
        self._kept.setdefault(host, []).append(path)
        return str(path)

    def _serials(self, host: str) -> dict[str, str]:
        path = self._keep / f"{file_name(host)}-gpus.json"
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
