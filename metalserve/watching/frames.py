"""Reads the stream of files/watching/sample.sh: lines in, whole frames out."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from metalserve.addresses import EVERYWHERE
from metalserve.hardware.parsers.metrics import FIGURES
from metalserve.paths import FILES

LIMIT_S: Final = 8
"""Seconds after which one command on the node is killed; nvidia-smi of a healthy 8-GPU node with persistence mode
answers within one (guessed, not measured)."""

GPU_FIELDS: Final = (
    "index",
    "name",
    "uuid",
    "pci.bus_id",
    "memory.used",
    "memory.total",
    "utilization.gpu",
    "power.draw",
    "enforced.power.limit",
    "temperature.gpu",
    "temperature.gpu.tlimit",
    "temperature.memory",
    "clocks.current.sm",
    "clocks.max.sm",
    "clocks_event_reasons.active",
    "fabric.state",
    "gpu_recovery_action",
)
"""Asked of `--query-gpu`; what a driver does not know the script leaves out."""

SECTIONS: Final = ("gpu", "engines", "link", "log")
_NUMBER = re.compile(r"\d{1,12}(?:\.\d{1,6})?")


@dataclass(frozen=True, slots=True)
class Section:
    """What one source said.

    Attributes:
        status: exit status of its command; 124 and 137 when it was killed for taking too long.
        began: uptime of the node when it was asked, s.
        ended: uptime when it had answered, s.
        text: what it printed.
    """

    status: int
    began: float
    ended: float
    text: str


@dataclass(frozen=True)
class Frame:
    """One frame.

    Attributes:
        uptime: of the node, s.
        boot: its boot id.
        epoch: its clock, s since 1970.
        sections: what is new since the frame before.
        busy: sources that are being read, name -> uptime when that began.
    """

    uptime: float
    boot: str
    epoch: float
    sections: Mapping[str, Section] = field(default_factory=dict)
    busy: Mapping[str, float] = field(default_factory=dict)


class FrameReader:
    """Collects lines until a frame is whole. Lines that belong to none are kept, as what the host said."""

    def __init__(self) -> None:
        """Begin before the first frame."""
        self.said: list[str] = []
        self._lines: list[str] | None = None

    def feed(self, line: str) -> Frame | None:
        """Take one line; return the frame that it ends, if it does."""
        if line.startswith("@@frame "):
            self._lines = [line]
        elif self._lines is None:
            self.said = [*self.said[-4:], line[:300]] if line.strip() else self.said
        elif line.startswith("@@end "):
            frame, self._lines = _frame(self._lines), None
            return frame
        elif len(self._lines) < 20_000:
            self._lines.append(line)
        return None


def _frame(lines: list[str]) -> Frame | None:
    head = lines[0].split()
    if len(head) != 5 or not all(_NUMBER.fullmatch(word) for word in (head[2], head[4])):
        return None
    sections: dict[str, Section] = {}
    busy: dict[str, float] = {}
    name = ""
    found: list[str] | None = None
    text: list[str] = []

    def close() -> None:
        if found is not None:
            sections[name] = Section(int(found[2]), float(found[3]), float(found[4]), "\n".join(text))

    for line in lines[1:]:
        words = line.split()
        if line.startswith("@@section ") and len(words) == 5 and all(map(_NUMBER.fullmatch, words[2:])):
            close()
            name, found, text = words[1], words, []
        elif line.startswith("@@busy ") and len(words) == 3 and _NUMBER.fullmatch(words[2]):
            busy[words[1]] = float(words[2])
        else:
            text.append(line)
    close()
    return Frame(float(head[2]), head[3], float(head[4]), sections, busy)


def sampling_script(*, address: str, port: int, interval_s: float) -> str:
    """Return the script that a node runs to be watched.

    Args:
        address: where its engines listen, as their settings say it.
        port: of the first engine.
        interval_s: seconds between frames.
    """
    names = sorted({name for names in FIGURES.values() for name in names})
    values = {
        "MS_INTERVAL": f"{interval_s:g}",
        "MS_LIMIT": str(LIMIT_S),
        "MS_FIELDS": ",".join(GPU_FIELDS),
        "MS_METRICS": "|".join(names),
        "MS_ADDRESS": "127.0.0.1" if address in (*EVERYWHERE, "") else address,
        "MS_PORT": str(port),
    }
    given = "\n".join(f"{key}={shlex.quote(value)}" for key, value in values.items())
    return f"{given}\n{(FILES / 'watching/sample.sh').read_text()}"
