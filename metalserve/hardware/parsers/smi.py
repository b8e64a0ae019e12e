"""`nvidia-smi`: whether it answers at all, `--query-gpu` CSV, and `-L`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from metalserve.hardware.parsers.text import ParseError, clean, first_line, is_prompt, pci_address
from metalserve.hardware.values import SmiState

# Spellings collected from captures; nvidia-smi may say them on stderr with status 0 (seen with a lost GPU).
_FAILURES: tuple[tuple[str, SmiState], ...] = (
    ("couldn't communicate with the nvidia driver", "no-driver"),
    ("couldn't find libnvidia-ml.so", "no-driver"),
    ("driver/library version mismatch", "mismatch"),
    ("failed to initialize nvml: driver not loaded", "no-driver"),
    ("failed to initialize nvml", "error"),
    ("no devices were found", "error"),
    ("unable to determine the device handle", "error"),
    ("gpu is lost", "error"),
    ("unable to retrieve", "error"),
    ("not a valid field to query", "error"),
)
_ABSENT = ("not found", "no such file or directory", "permission denied")
_FIELD = re.compile(r"[a-z][A-Za-z0-9_.]{0,120}(?: \[[A-Za-z%/.]{1,12}\])?")
_ONE_WORD = {"index", "name", "uuid", "count", "serial", "timestamp", "pstate", "pid"}
_LISTED = re.compile(r"GPU (\d{1,4}): (.{1,200}?)(?: \(UUID: (GPU-[0-9A-Za-z.-]{1,64})\))?\s*")
_MIG = re.compile(r"\s*MIG (\S{1,40})\s+Device\s+(\d{1,4}): \(UUID: (MIG-[0-9A-Za-z./-]{1,100})\)\s*")
_LOST = re.compile(r"(unknown error|gpu is lost|device handle)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SmiFailure:
    """nvidia-smi did not answer as it should.

    Attributes:
        state: what kind of failure.
        message: what was printed, first telling line.
    """

    state: SmiState
    message: str


def smi_failure(text: str, rc: int = 0) -> SmiFailure | None:
    """Tell why nvidia-smi failed, or None when the text has none of the known failures and `rc` is 0.

    Args:
        text: standard output and error of any nvidia-smi call.
        rc: its exit status; 124 and 137 mean that it was ended for not answering, 126 and 127 that it is not there.
    """
    lines = [line.strip() for line in clean(text).splitlines() if line.strip()]
    for line in lines[:200]:
        low = line.lower().replace("\u2019", "'")
        for words, state in _FAILURES:
            if words in low:
                return SmiFailure(state, line[:300])
    if rc in (126, 127):
        said = next((line for line in lines if any(w in line.lower() for w in _ABSENT)), first_line(text))
        return SmiFailure("absent", said or "nvidia-smi is not installed")
    if rc in (124, 137, -9):
        return SmiFailure("error", "nvidia-smi did not answer in time")
    if rc != 0:
        return SmiFailure("error", first_line(text) or f"nvidia-smi ended with status {rc}")
    return None


@dataclass(frozen=True)
class CsvTable:
    """Output of `nvidia-smi --query-... --format=csv`.

    Attributes:
        fields: names in the order of the header, without unit.
        units: field -> unit of the header (`MiB`), where it has one.
        rows: one mapping a line, field -> cell as printed, stripped.
        notes: lines that are no rows (errors about single GPUs), verbatim.
    """

    fields: tuple[str, ...]
    units: Mapping[str, str]
    rows: tuple[Mapping[str, str], ...]
    notes: tuple[str, ...] = ()


def parse_smi_csv(text: str) -> CsvTable:
    """Read CSV with a header, with or without units in the cells.

    Raises:
        ParseError: no header row, or a row whose number of cells differs from the header's.
    """
    fields: tuple[str, ...] = ()
    units: dict[str, str] = {}
    rows: list[Mapping[str, str]] = []
    notes: list[str] = []
    for line in clean(text).splitlines():
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split(",")]
        if not fields:
            if is_csv_header(cells):
                names = [cell.partition(" [")[0] for cell in cells]
                units = {n: c.partition(" [")[2][:-1] for n, c in zip(names, cells, strict=True) if " [" in c}
                fields = tuple(names)
            else:
                notes.append(line.strip()[:300])
        elif (
            (cells := _whole_words(cells, fields))
            and len(cells) == len(fields)
            and not (len(cells) == 1 and _LOST.search(line))
        ):
            rows.append(dict(zip(fields, cells, strict=True)))
        elif _LOST.search(line) or line.startswith("Field "):
            notes.append(line.strip()[:300])
        else:
            raise ParseError(f"CSV row has {len(cells)} cells, its header {len(fields)}: {line.strip()[:80]!r}")
    if not fields:
        raise ParseError(f"no CSV header row; the text begins with {first_line(text)!r}")
    return CsvTable(fields, units, tuple(rows), tuple(notes))


def _whole_words(cells: list[str], fields: tuple[str, ...]) -> list[str]:
    """Join what commas in the one free text, a process name, have split; other cells never hold a comma."""
    free = next((f for f in fields if f == "process_name" or (f == "name" and "pid" in fields)), None)
    more = len(cells) - len(fields)
    if free is None or more <= 0:
        return cells
    at = fields.index(free)
    return [*cells[:at], ", ".join(cells[at : at + more + 1]), *cells[at + more + 1 :]]


def is_csv_header(cells: list[str]) -> bool:
    """Tell whether a line, split at its commas and stripped, is the header of nvidia-smi's CSV."""
    if not all(_FIELD.fullmatch(cell) for cell in cells):
        return False
    # A line of one word is a header only when it can be a field's name, not any word of any text.
    return len(cells) > 1 or cells[0] in _ONE_WORD or "." in cells[0] or "_" in cells[0]


@dataclass(frozen=True, slots=True)
class ListedGpu:
    """A line of `nvidia-smi -L`.

    Attributes:
        index: nvidia-smi's number.
        name: product name.
        uuid: `GPU-...` or None.
        mig: MIG devices: (profile, UUID).
    """

    index: int
    name: str
    uuid: str | None
    mig: tuple[tuple[str, str], ...] = field(default=())


def parse_smi_list(text: str) -> tuple[ListedGpu, ...]:
    """Read `nvidia-smi -L`.

    Raises:
        ParseError: no line names a GPU, or a line is not understood.
    """
    gpus: list[ListedGpu] = []
    for line in clean(text).splitlines():
        found = _LISTED.fullmatch(line)
        mig = _MIG.fullmatch(line)
        if found:
            gpus.append(ListedGpu(int(found.group(1)), found.group(2), found.group(3)))
        elif mig and gpus:
            last = gpus.pop()
            gpus.append(ListedGpu(last.index, last.name, last.uuid, (*last.mig, (mig.group(1), mig.group(3)))))
        elif (
            line.strip() and not _LOST.search(line) and not is_prompt(line) and not (not gpus and "nvidia-smi" in line)
        ):  # a pasted prompt
            raise ParseError(f"not a line of `nvidia-smi -L`: {line.strip()[:80]!r}")
    if not gpus:
        raise ParseError(f"no GPU listed; the text begins with {first_line(text)!r}")
    return tuple(gpus)


def addresses_named_in_errors(text: str) -> tuple[str, ...]:
    """Return the PCI addresses of GPUs that nvidia-smi says it cannot reach."""
    found = []
    for line in clean(text).splitlines():
        if _LOST.search(line):
            address = pci_address(re.sub(r"GPU(?=[0-9A-Fa-f]{4}:)", "", line))
            if address:
                found.append(address)
    return tuple(dict.fromkeys(found))
