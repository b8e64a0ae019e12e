"""nccl-tests: the table of a collective, of nccl-tests 2.0 to 2.17, with NCCL's own lines between the rows."""

from __future__ import annotations

import re
from dataclasses import dataclass

from metalserve.hardware.parsers.text import ParseError, clean, first_line

_NUMBER = r"(?:\d{1,12}(?:\.\d{1,9})?(?:e[+-]?\d{1,3})?|N/A|nan|-nan|inf)"
_ROW = re.compile(
    rf"\s*(\d{{1,15}})\s+(\d{{1,15}})\s+([a-z][a-z0-9_]{{2,15}})((?:\s+(?:[a-z][a-z0-9_]{{1,11}}|-?\d{{1,5}})){{0,2}})"
    rf"((?:\s+{_NUMBER}){{8,16}})(?:\s+\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d)?\s*",
    re.IGNORECASE,
)
_BEGUN = re.compile(
    r"\s*(\d{1,15})\s+\d{1,15}\s+(?:u?int\d{0,2}|half|float\d{0,2}|double|b?f(?:loat)?\d{1,2}\w{0,6}|fp8\w{0,5})\b"
)
_RANK = re.compile(
    r"#?\s*Rank\s+(\d{1,6})\s+(?:Group\s+\d{1,4}\s+)?Pid\s+\d{1,12} on\s+(\S{1,120}) "
    r"device\s+(\d{1,4}) \[([^\]]{1,20})\] (.{1,80})"
)
_LABEL = re.compile(r"^\s*(?:\[\d{1,6},\d{1,6}\]<std(?:out|err)>:|\d{1,6}: )")  # mpirun --tag-output, srun --label
_AVERAGE = re.compile(r"\s*#?\s*Avg bus bandwidth\s*: {0,8}([0-9.e+-]{1,20})")
_BOUNDS = re.compile(r"\s*#?\s*Out of bounds values\s*: {0,8}(\d{1,15}) (\w{1,10})")
_HEAD = re.compile(r"\s*#?\s*size\s+count\s+.{0,60}\btime\s+algbw\s+busbw\s+(\S{1,10})", re.IGNORECASE)
_SETTINGS = re.compile(r"\bnThread \d{1,6} nGpus \d{1,6} minBytes \d{1,18} maxBytes \d{1,18}\b")
_PROGRAM = re.compile(
    r"\b(all_reduce|all_gather|reduce_scatter|alltoall|sendrecv|broadcast|reduce|gather|scatter|hypercube)_perf\b"
)
_NCCL = re.compile(r"\bNCCL version (\d{1,2}\.\d{1,2}\.\d{1,2})\S{0,20}")
_PER_ITERATION = re.compile(r"Per-Iteration Report|i_p99")


@dataclass(frozen=True, slots=True)
class NcclRow:
    """A row: size in bytes, then time in us, algorithm and bus bandwidth in GB/s and the last column, of each half."""

    size_bytes: int
    type: str
    out_of_place: tuple[float | None, ...]
    in_place: tuple[float | None, ...]

    @property
    def wrong(self) -> float | None:
        """The last column, the worse half; None when it was not checked (`N/A`)."""
        known = [v for half in (self.out_of_place, self.in_place) if (v := half[3]) is not None]
        return max(known) if known else None


@dataclass(frozen=True)
class NcclRun:
    """One table.

    Attributes:
        ranks: ranks that the header lists; 0 when the text has no such list.
        devices: (rank, host, device number, bus id, name) of each.
        rows: all rows.
        average_busbw: GB/s over all rows, as printed; None when the run was cut short.
        out_of_bounds: wrong values in all, as printed; None when the run was cut short.
        program: `all_reduce` ...; None when the text does not name it.
        nccl: NCCL version, when printed.
        check: what the last column holds: `#wrong` (wrong elements) or `error` (largest error, old versions).
        notes: rows that were not understood, torn by NCCL's own lines.
    """

    ranks: int
    devices: tuple[tuple[int, str, int, str, str], ...]
    rows: tuple[NcclRow, ...]
    average_busbw: float | None
    out_of_bounds: int | None
    program: str | None
    nccl: str | None
    check: str | None
    notes: tuple[str, ...] = ()

    @property
    def largest(self) -> NcclRow:
        """The first row of the largest size."""
        return max(self.rows, key=lambda row: row.size_bytes)

    @property
    def wrong(self) -> float | None:
        """The last column at the largest size, the worse half; None when it was not checked (`N/A`)."""
        return self.largest.wrong

    @property
    def rows_wrong(self) -> int:
        """Number of rows whose last column is not zero in one of the halves."""
        return sum(bool(row.wrong) for row in self.rows)


def parse_nccl(text: str) -> NcclRun:
    """Read the output of a program of nccl-tests.

    Raises:
        ParseError: no table, a summary without rows, or a torn row of the largest size.
    """
    devices: dict[int, tuple[int, str, int, str, str]] = {}
    rows: list[NcclRow] = []
    torn: list[tuple[int, str]] = []
    average: list[float] = []
    bounds: list[int] = []
    check = nccl = program = None
    known = wide = False
    for line in clean(text).splitlines():
        line = _LABEL.sub("", line)
        row = _ROW.fullmatch(line)
        if row:
            read = _row(row, wide)
            if read:
                rows.append(read)
            else:
                torn.append((int(row.group(1)), line.strip()[:160]))
            continue
        begun = _BEGUN.match(line)
        if begun:
            torn.append((int(begun.group(1)), line.strip()[:160]))
            continue
        if rank := _RANK.search(line):
            number = int(rank.group(1))
            devices[number] = (number, rank.group(2), int(rank.group(3)), rank.group(4), rank.group(5).strip())
        elif found := _AVERAGE.match(line):
            average.append(_value(found.group(1)) or 0.0)
        elif found := _BOUNDS.match(line):
            bounds.append(int(found.group(1)))
        elif head := _HEAD.match(line):
            check, known = ("#wrong" if "wrong" in head.group(1).lower() else "error"), True
        elif _SETTINGS.search(line):
            known = True
        wide = wide or bool(_PER_ITERATION.search(line))
        program = program or _first(_PROGRAM, line)
        nccl = nccl or _first(_NCCL, line)
    if not rows:
        what = "the table has no row" if known or torn else "no table of nccl-tests"
        raise ParseError(f"{what}; the text begins with {first_line(text)!r}")
    largest = max(row.size_bytes for row in rows)
    for size, line in torn:
        if size > largest:
            raise ParseError(f"the row of the largest size is torn: {line!r}")
    if len(average) > 1 and len(set(average)) > 1:
        raise ParseError("several runs of nccl-tests in one text: give one at a time")
    return NcclRun(
        ranks=len(devices),
        devices=tuple(devices[n] for n in sorted(devices)),
        rows=tuple(rows),
        average_busbw=average[0] if average else None,
        out_of_bounds=bounds[0] if bounds else None,
        program=program,
        nccl=nccl,
        check=check,
        notes=tuple(f"row not understood: {line}" for _, line in torn[:50]),
    )


def _row(found: re.Match[str], wide: bool) -> NcclRow | None:
    values = found.group(5).split()
    half = len(values) // 2
    if half not in (4, 8) or len(values) % 2 or (half == 8) != wide:
        return None
    numbers = [_value(v) for v in values]
    first, second = numbers[:4], numbers[half : half + 4]
    # Time and both bandwidths are always numbers, save the half that a collective does not do (all N/A).
    for part in (first, second):
        if any(v is None for v in part[:3]) and any(v is not None for v in part):
            return None
    return NcclRow(int(found.group(1)), found.group(3), tuple(first), tuple(second))


def _value(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < 1e24 else None


def _first(pattern: re.Pattern[str], line: str) -> str | None:
    found = pattern.search(line)
    return found.group(1) if found else None
