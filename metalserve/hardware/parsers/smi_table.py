"""The table that `nvidia-smi` prints without options, of branches 352 to 610, Linux and Windows."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from metalserve.hardware.parsers.text import ParseError, absent, clean, first_line, integer, number, pci_address

_DATE = re.compile(r"\b\d{1,2}:\d\d:\d\d\b.{0,10}\b\d{4}\b|\b\d{4}\b.{0,20}\b\d{1,2}:\d\d:\d\d\b")
_SMI = re.compile(r"NVIDIA-SMI (\d{3,4}\.\d{1,4}(?:\.\d{1,4})?)\b")
_DRIVER = re.compile(r"\b(?:Driver|KMD) Version: {0,20}(\S{1,20})")
_CUDA = re.compile(r"\bCUDA (?:UMD )?Version: {0,20}(\S{1,20})")
_MODE = r"On|Off|N/A|WDDM|TCC|MCDM|ERR!|Enabled|Disabled"
_FIRST = re.compile(rf"\s*(\d{{1,4}})\s+(\S.{{0,80}}?)\s+({_MODE})\s*")
_BUS = re.compile(r"\s*(\S{7,20})\s+(On|Off|N/A|ERR!|Enabled|Disabled)\s*")
_SECOND = re.compile(r"\s*(\S{1,12})\s+(\S{1,12})\s+(\S{1,12})\s+(\S.{0,40}?)\s*")
_MEASURE = re.compile(
    r"(?:\d{1,7}(?:\.\d{1,3})?\s?(?:%|C|W|MiB)|P\d{1,2}|N/A|ERR!|Not Supported|Unknown Error|\[.{1,30}\])"
)
_WORDS = re.compile(r"[A-Za-z][A-Za-z. ]{0,30}|N/A|ERR!")
_ECC = re.compile(r"\d{1,12}|Off|On|N/A|ERR!|Enabled|Disabled")
_TITLES = re.compile(
    r"GPU {1,4}Name|Fan {1,4}Temp|MIG M\.|Bus-Id|GPU {2,8}(?:GI|PID)|ID {2,8}ID|GI {1,4}CI|SM {2,8}Unc|ECC\|"
)
_PROCESS = re.compile(
    r"\s*(\d{1,4})\s+(?:(\d{1,4}|N/A)\s+(\d{1,4}|N/A)\s+)?(\d{1,10})\s+([CGM+]{1,5}|N/A)\s+(\S.{0,80}?)\s+"
    r"(\d{1,8}MiB|N/A|\[.{1,30}\]|Insufficient Permissions)\s*"
)
_MIG = re.compile(r"\s*(\d{1,4})\s+(\d{1,4})\s+(\d{1,4})\s+(\d{1,4})\s*")


@dataclass(frozen=True, slots=True)
class TableGpu:
    """A GPU of the table; `None` means not printed, `N/A` or `ERR!`.

    Attributes:
        index: nvidia-smi's number.
        name: product name as printed; ends with `...` where the table cut it.
        mode: persistence mode (`On`, `Off`), or driver model (`WDDM`, `TCC`) on Windows.
        pci: PCI address.
        ecc_uncorrectable: volatile uncorrectable ECC errors; None when ECC is off or absent.
        ecc: the ECC cell as printed (`0`, `Off`, `N/A`).
        fan_percent: fan speed, percent.
        temperature_c: degrees C.
        performance_state: `P0` ...
        power_w: present power, W.
        power_limit_w: power limit, W.
        memory_used_mib: used memory, MiB.
        memory_mib: total memory, MiB.
        utilization_percent: GPU utilisation, percent.
        compute_mode: `Default`, `E. Process` ...
        mig: `Enabled` or `Disabled`.
    """

    index: int
    name: str | None
    mode: str | None = None
    pci: str | None = None
    ecc_uncorrectable: int | None = None
    ecc: str | None = None
    fan_percent: int | None = None
    temperature_c: float | None = None
    performance_state: str | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    memory_used_mib: int | None = None
    memory_mib: int | None = None
    utilization_percent: int | None = None
    compute_mode: str | None = None
    mig: str | None = None


@dataclass(frozen=True, slots=True)
class TableProcess:
    """A process of the table: GPU number, MIG instances (`None` without MIG), pid, type, name, memory in MiB."""

    gpu: int
    gi: int | None
    ci: int | None
    pid: int
    type: str
    name: str
    memory_mib: int | None


@dataclass(frozen=True, slots=True)
class TableMig:
    """A MIG device of the table: GPU, GPU instance, compute instance, device number, memory in MiB."""

    gpu: int
    gi: int
    ci: int
    device: int
    memory_used_mib: int | None
    memory_mib: int | None


@dataclass
class SmiTable:
    """What the table told; `notes` holds lines and cells not understood, errors about single GPUs included."""

    timestamp: str | None = None
    smi: str | None = None
    driver: str | None = None
    cuda: str | None = None
    gpus: list[TableGpu] = field(default_factory=list)
    processes: list[TableProcess] = field(default_factory=list)
    mig_devices: list[TableMig] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def parse_smi_table(text: str) -> SmiTable:
    """Read the table of `nvidia-smi`.

    Raises:
        ParseError: no table, several ones, or a damaged one: rows wrapped, cut or run together.
    """
    table = SmiTable()
    part = ""
    for line in clean(text).splitlines():
        stripped = line.strip()
        if not stripped or stripped.startswith("+") or re.fullmatch(r"\|[-=+|]{3,}", stripped):
            continue
        version = _SMI.search(stripped)
        if version and stripped.startswith("|"):
            if part:
                raise ParseError("several tables of nvidia-smi in one text: give one at a time")
            part = "gpus"
            _head(stripped, version.group(1), table)
        elif not part and table.timestamp is None and _DATE.search(stripped):
            table.timestamp = stripped[:80]
        elif not part or not stripped.startswith("|"):
            table.notes.append(stripped[:200])
        elif not stripped.endswith("|"):
            raise ParseError(f"table row wrapped or cut: {stripped[:80]!r}")
        elif "MIG devices" in stripped:
            part = "mig"
        elif "Processes:" in stripped:
            part = "processes"
        elif not _TITLES.search(stripped):
            _row(stripped[1:-1], part, table)
    if not part:
        raise ParseError(f"no table of nvidia-smi; the text begins with {first_line(text)!r}")
    _check(table)
    return table


def _head(line: str, smi: str, table: SmiTable) -> None:
    driver, cuda = _DRIVER.search(line), _CUDA.search(line)
    table.smi = smi
    table.driver = driver.group(1) if driver and not absent(driver.group(1)) else None
    table.cuda = cuda.group(1) if cuda and not absent(cuda.group(1)) else None


def _row(row: str, part: str, table: SmiTable) -> None:
    if part == "processes":
        _process(row, table)
        return
    cells = row.split("|")
    if part == "mig":
        _mig(cells, table)
        return
    if not any(cell.strip() for cell in cells):
        return
    if len(cells) != 3:
        raise ParseError(f"table row has {len(cells)} cells instead of 3: {row.strip()[:80]!r}")
    first = _FIRST.fullmatch(cells[0])
    bus = _BUS.fullmatch(cells[1])
    if first and bus and pci_address(bus.group(1)):
        _gpu(first, bus.group(1), cells[2].strip(), table)
    elif first and absent(cells[1].split("  ")[0].strip() or cells[1].strip()):
        table.notes.append(row.strip()[:200])  # a GPU that gives no address: "Unknown Error", "GPU is lost"
    elif table.gpus and not cells[0].strip() and not cells[1].strip():
        mig = cells[2].strip()
        if not re.fullmatch(r"Enabled\*?|Disabled\*?|N/A|ERR!", mig):
            raise ParseError(f"GPU {table.gpus[-1].index}: {mig[:40]!r} is no MIG mode")
        table.gpus[-1] = replace(table.gpus[-1], mig=None if absent(mig) else mig)
    elif table.gpus and table.gpus[-1].compute_mode is None and table.gpus[-1].performance_state is None:
        table.gpus[-1] = _second(table.gpus[-1], cells)
    else:
        raise ParseError(f"table row not understood: {row.strip()[:80]!r}")


def _gpu(first: re.Match[str], bus: str, ecc: str, table: SmiTable) -> None:
    index = int(first.group(1))
    if any(gpu.index == index for gpu in table.gpus):
        raise ParseError(f"GPU {index} comes twice in the table")
    if not _ECC.fullmatch(ecc):
        table.notes.append(f"GPU {index}: {ecc[:60]!r} where the ECC errors should stand")
        ecc = ""
    table.gpus.append(
        TableGpu(
            index=index,
            name=None if absent(first.group(2)) else first.group(2),
            mode=None if absent(first.group(3)) else first.group(3),
            pci=pci_address(bus),
            ecc_uncorrectable=integer(ecc),
            ecc=ecc or None,
        )
    )


def _second(gpu: TableGpu, cells: list[str]) -> TableGpu:
    left = _SECOND.fullmatch(cells[0])
    right = re.fullmatch(r"\s*(\S{1,8})\s+(\S.{0,30}?)\s*", cells[2])
    if not left or not right:
        raise ParseError(f"GPU {gpu.index}: table row not understood: {'|'.join(cells).strip()[:80]!r}")
    power, limit = _halves(left.group(4), gpu.index)
    used, total = _halves(cells[1].strip(), gpu.index)
    for cell in (left.group(1), left.group(2), left.group(3), power, limit, used, total, right.group(1)):
        if cell and not _MEASURE.fullmatch(cell):
            raise ParseError(f"GPU {gpu.index}: {cell[:40]!r} is no measure: words run together")
    if not _WORDS.fullmatch(right.group(2)):
        raise ParseError(f"GPU {gpu.index}: {right.group(2)[:40]!r} is no compute mode")
    state = left.group(3)
    return replace(
        gpu,
        fan_percent=integer(left.group(1)),
        temperature_c=number(left.group(2)),
        performance_state=state,
        power_w=number(power),
        power_limit_w=number(limit),
        memory_used_mib=integer(used),
        memory_mib=integer(total),
        utilization_percent=integer(right.group(1)),
        compute_mode=None if absent(right.group(2)) else right.group(2),
    )


def _halves(cell: str, index: int) -> tuple[str, str]:
    # N/A holds a slash itself; between two measures there are blanks around it.
    parts = re.split(r"\s+/\s*|(?<=[WB%])\s*/\s*", cell)
    if len(parts) == 1 and absent(cell):  # "Not Supported" or "N/A" instead of two measures
        return "", ""
    if len(parts) != 2:
        raise ParseError(f"GPU {index}: {cell[:40]!r} is no pair of measures")
    return parts[0].strip(), parts[1].strip()


def _process(row: str, table: SmiTable) -> None:
    found = _PROCESS.fullmatch(row)
    if found:
        table.processes.append(
            TableProcess(
                gpu=int(found.group(1)),
                gi=integer(found.group(2)),
                ci=integer(found.group(3)),
                pid=int(found.group(4)),
                type=found.group(5),
                name=found.group(6),
                memory_mib=integer(found.group(7)),
            )
        )
    elif row.strip() and "No running processes" not in row:
        table.notes.append(row.strip()[:200])


def _mig(cells: list[str], table: SmiTable) -> None:
    found = _MIG.fullmatch(cells[0])
    if found and len(cells) >= 2:
        used, total = _halves(cells[1].strip(), int(found.group(1)))
        gpu, gi, ci, device = (int(found.group(n)) for n in range(1, 5))
        table.mig_devices.append(TableMig(gpu, gi, ci, device, integer(used), integer(total)))
    elif cells[0].strip() and "No MIG devices" not in cells[0]:
        table.notes.append("|".join(cells).strip()[:200])


def _check(table: SmiTable) -> None:
    if not table.gpus and not table.notes:
        raise ParseError("the table of nvidia-smi is cut: it has no GPU")
    rows = [gpu.performance_state is not None for gpu in table.gpus]
    if any(rows) and not all(rows):
        raise ParseError(f"GPU {table.gpus[rows.index(False)].index}: the table lacks its second line")
    table.gpus[:] = [
        replace(gpu, performance_state=None) if absent(gpu.performance_state) else gpu for gpu in table.gpus
    ]
