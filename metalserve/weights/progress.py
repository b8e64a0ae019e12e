"""How far a job on a host is: what the agent writes beside it, read and put into words. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GIB, MIB = 2**30, 2**20


@dataclass(frozen=True, slots=True)
class Progress:
    """One look at a job.

    Attributes:
        job: its key.
        phase: waiting, fetching, swarming, checking, publishing, done, failed or stopped.
        bytes_total: of the model.
        bytes_done: fetched and hashed.
        from_peers: bytes that came from other hosts.
        from_source: bytes that came from the source.
        rate: bytes a second.
        eta_s: seconds left, None where that is not known.
        files_total: files of the model.
        files_done: whole files.
        error: why it failed, "" when it did not.
        remedy: what to do then.
    """

    job: str
    phase: str
    bytes_total: int = 0
    bytes_done: int = 0
    from_peers: int = 0
    from_source: int = 0
    rate: float = 0.0
    eta_s: float | None = None
    files_total: int = 0
    files_done: int = 0
    error: str = ""
    remedy: str = ""

    @property
    def running(self) -> bool:
        """Whether the job had not ended when this was written; whether its unit lives is systemd's to say."""
        return self.phase not in ("done", "failed", "stopped")

    def in_words(self) -> str:
        """Return a line for people: `fetching: 1.20 of 4.00 GiB, 310.5 MiB/s, about 9 s left`."""
        if self.phase == "waiting":
            return "waiting for another run that works on this model"
        words = f"{self.phase}: {self.bytes_done / GIB:.2f} of {self.bytes_total / GIB:.2f} GiB"
        if self.running:
            words += f", {self.rate / MIB:.1f} MiB/s"
            words += f", about {duration(self.eta_s)} left" if self.eta_s is not None else ""
        if self.from_peers:
            words += f" ({self.from_peers / GIB:.2f} GiB from other hosts)"
        return words


def duration(seconds: float) -> str:
    """Return seconds in words: `45 s`, `3 min`, `2 h 5 min`, `3 d`."""
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole} s"
    if whole < 2 * 3600:
        return f"{whole // 60} min"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d"


def read_progress(text: str) -> Progress | None:
    """Read a progress file; None for anything that is none (not there, cut off, of another version)."""
    try:
        data: Any = json.loads(text)
    except ValueError:
        return None
    if not isinstance(data, dict) or data.get("format") != 1 or not isinstance(data.get("phase"), str):
        return None
    error = data["error"] if isinstance(data.get("error"), dict) else {}
    eta = data.get("eta_s")
    return Progress(
        job=str(data.get("job") or ""),
        phase=data["phase"],
        bytes_total=_whole(data, "bytes_total"),
        bytes_done=_whole(data, "bytes_done"),
        from_peers=_whole(data, "bytes_from_peers"),
        from_source=_whole(data, "bytes_from_source"),
        rate=float(rate) if isinstance(rate := data.get("rate_bytes_s"), int | float) else 0.0,
        eta_s=float(eta) if isinstance(eta, int | float) else None,
        files_total=_whole(data, "files_total"),
        files_done=_whole(data, "files_done"),
        error=str(error.get("what") or ""),
        remedy=str(error.get("remedy") or ""),
    )


def _whole(data: Mapping[str, Any], key: str) -> int:
    value = data.get(key)
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0
