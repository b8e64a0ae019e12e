"""How far a job is: a file that is replaced once a second, and a plain line every ten.

The file is MS_RUN/KEY.json, by default below /run/metalserve/weights. Phases: `waiting` (for another run), `fetching`,
`swarming`, `checking` (hashing what is on the disk), `publishing`, and at the end `done`, `failed` or `stopped` (by a
signal). Rates and what is left come from a monotonic clock; only `started_at` and `updated_at` are of the wall clock.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import AgentError, Stopped

RUN = "/run/metalserve/weights"
FORMAT = 1

_FILE_S = 1.0
_LINE_S = 10.0
_WINDOW_S = 15.0
"""Seconds over which the rate is taken: short enough to follow, long enough not to jump."""


class Progress:
    """What one job has done so far; may be told by several threads at once.

    Args:
        key: names the job, and the file.
        bytes_total: bytes that the job is about.
        files_total: files that it is about.
        quiet: no lines on standard output (they would stand between what `--json` prints).
        stop: set when the job is to stop; what works for it looks at it through `go_on`.
    """

    def __init__(
        self, key: str, bytes_total: int, files_total: int, *, quiet: bool = False, stop: threading.Event | None = None
    ) -> None:
        self.key = key
        self.stop = stop or threading.Event()
        self._quiet = quiet
        self._path = Path(os.environ.get("MS_RUN", RUN)) / f"{key}.json"
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._began = time.monotonic()
        self._marks: deque[tuple[float, int]] = deque()
        self._worked = 0
        self._data: dict[str, Any] = {
            "format": FORMAT,
            "job": key,
            "phase": "waiting",
            "bytes_total": bytes_total,
            "bytes_done": 0,
            "bytes_from_peers": 0,
            "bytes_from_source": 0,
            "rate_bytes_s": 0,
            "eta_s": None,
            "files_total": files_total,
            "files_done": 0,
            "started_at": int(time.time()),
            "updated_at": int(time.time()),
            "message": "",
            "error": None,
        }

    def __enter__(self) -> Progress:
        self._write()
        self._thread = threading.Thread(target=self._tell, name="progress", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            self._data["eta_s"] = None
            if isinstance(error, Stopped):
                self._data.update(phase="stopped", message=str(error))
            elif error is not None:
                what, remedy = (error.what, error.remedy) if isinstance(error, AgentError) else (str(error), "")
                self._data.update(phase="failed", message=str(error), error={"what": what, "remedy": remedy})
            else:
                self._data["phase"] = "done"
        self._write()

    def phase(self, name: str, message: str = "") -> None:
        """Begin a phase."""
        with self._lock:
            self._data.update(phase=name, message=message)
            self._marks.clear()
        self._write()

    def say(self, line: str) -> None:
        """Print a line, and keep it as the message."""
        with self._lock:
            self._data["message"] = line
        if not self._quiet:
            print(line, flush=True)

    def found(self, count: int) -> None:
        """Count bytes that were there already; a negative number takes back what turned out wrong."""
        with self._lock:
            self._data["bytes_done"] += count

    def from_start(self) -> None:
        """Forget what was counted as there: it is counted anew."""
        with self._lock:
            self._data.update(bytes_done=0, files_done=0)

    def moved(self, count: int, *, peers: bool = False) -> None:
        """Count bytes that came, from the source or from peers."""
        with self._lock:
            self._data["bytes_done"] += count
            self._data["bytes_from_peers" if peers else "bytes_from_source"] += count
            self._worked += count

    def hashed(self, count: int) -> None:
        """Count bytes that were read from the disk and hashed: they are work, but nothing new."""
        with self._lock:
            self._worked += count

    def file_done(self) -> None:
        """Count a file that is right."""
        with self._lock:
            self._data["files_done"] += 1

    def go_on(self) -> None:
        """Return, unless the job is to stop.

        Raises:
            Stopped: it is.
        """
        if self.stop.is_set():
            raise Stopped

    def waiting(self, line: str) -> None:
        """Stand in a queue: `Store.lock` calls it with a line at first, and then with none until the lock is free.

        Raises:
            Stopped: the job is to stop.
        """
        self.go_on()
        if line:
            self.say(line)

    def snapshot(self) -> dict[str, Any]:
        """Return what the file has now."""
        now = time.monotonic()
        with self._lock:
            self._marks.append((now, self._worked))
            while len(self._marks) > 2 and now - self._marks[0][0] > _WINDOW_S:
                self._marks.popleft()
            seconds = now - self._marks[0][0]
            rate = int((self._worked - self._marks[0][1]) / seconds) if seconds > 0 else 0
            left = max(0, self._data["bytes_total"] - self._data["bytes_done"])
            self._data["rate_bytes_s"] = rate
            self._data["eta_s"] = int(left / rate) if rate and left else None
            self._data["updated_at"] = int(time.time())
            return dict(self._data)

    def _tell(self) -> None:
        last_line = time.monotonic()
        while not self._ended.wait(_FILE_S):
            self._write()
            if time.monotonic() - last_line >= _LINE_S:
                last_line = time.monotonic()
                if not self._quiet:
                    print(in_words(self.snapshot()), flush=True)

    def _write(self) -> None:
        # What cannot be told must not stop what is done.
        try:
            write_whole(self._path, json.dumps(self.snapshot()))
        except OSError as error:
            if self._thread is None and not self._quiet:
                print(f"{self._path}: {error.strerror}: no progress there", file=sys.stderr, flush=True)


def write_whole(path: Path, text: str) -> None:
    """Replace a file by one with `text`: a reader sees the old one or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        new.write_text(text + "\n", encoding="utf-8")
        os.replace(new, path)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise


def read_progress(key: str) -> dict[str, Any] | None:
    """Return what the progress file of a job has, or None where there is none that can be read."""
    try:
        data = json.loads((Path(os.environ.get("MS_RUN", RUN)) / f"{key}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) and data.get("format") == FORMAT else None


def in_words(data: dict[str, Any]) -> str:
    """Return a progress file in one line."""
    line = (
        f"{data['phase']}: {data['bytes_done'] / 2**30:.2f} of {data['bytes_total'] / 2**30:.2f} GiB, "
        f"{data['files_done']} of {data['files_total']} files, {data['rate_bytes_s'] / 2**20:.1f} MiB/s"
    )
    if data["bytes_from_peers"]:
        line += f", {data['bytes_from_peers'] / 2**30:.2f} GiB from peers"
    return line + (f", about {data['eta_s']} s left" if data["eta_s"] is not None else "")
