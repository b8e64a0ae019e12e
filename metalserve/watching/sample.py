"""What a section of a frame tells: GPUs, engines, links, Xids. None means not told, never 0."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from metalserve.catalogue.clock_reasons import reasons_of
from metalserve.catalogue.loader import load_gpus, load_xids
from metalserve.hardware.parsers.kernel_log import parse_kernel_log
from metalserve.hardware.parsers.metrics import parse_metrics
from metalserve.hardware.parsers.nvlink import parse_nvlink_status
from metalserve.hardware.parsers.smi import parse_smi_csv, smi_failure
from metalserve.hardware.parsers.text import ParseError, absent, integer, number, pci_address
from metalserve.watching.frames import Section

_ENGINE = re.compile(r"@@engine (\d{1,4}) (\d{1,5}) (\S{1,40}) (\d{3}) (\d{1,12}(?:\.\d{1,6})?)")


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One GPU at one moment.

    Attributes:
        margin_c: degrees C to the highest operating temperature, from where clocks go down.
        margin_from: `T.Limit` (the GPU says it), `catalogue`, or empty.
        held: clocks-event reasons by NVML's names, the worst first; None when not told.
    """

    index: int
    name: str | None = None
    pci: str | None = None
    memory_used_mib: int | None = None
    memory_total_mib: int | None = None
    utilisation: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    temperature_c: float | None = None
    memory_temperature_c: float | None = None
    margin_c: float | None = None
    margin_from: str = ""
    sm_mhz: int | None = None
    sm_max_mhz: int | None = None
    held: tuple[str, ...] | None = None
    fabric: str | None = None
    recovery: str | None = None


@dataclass(frozen=True, slots=True)
class GpuAnswer:
    """The GPUs, or why nvidia-smi did not tell; `lost` are lines about GPUs that cannot be reached."""

    gpus: tuple[GpuSample, ...] = ()
    failure: str = ""
    timed_out: bool = False
    lost: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineSample:
    """One engine at one moment; counters since its start.

    Attributes:
        unit: state of its systemd unit.
        http: status of `/metrics`, 0 when nothing answered.
        taken: uptime of the node, s.
        kv_usage: share of the KV cache in use, 0 to 1.
    """

    number: int
    port: int
    unit: str
    http: int
    taken: float
    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    prompt_tokens: float | None = None
    generation_tokens: float | None = None
    cache_queries: float | None = None
    cache_hits: float | None = None

    @property
    def answers(self) -> bool:
        """It gives its metrics."""
        return self.http == 200 and self.running is not None


@dataclass(frozen=True, slots=True)
class Links:
    """NVLinks of one GPU: up, and how many should be by the catalogue (None: not known)."""

    up: int
    down: int
    wanted: int | None


@dataclass(frozen=True, slots=True)
class Xid:
    """The last Xid of a GPU (or of the node): code, GPU's address, what the catalogue says of it."""

    code: int
    pci: str | None
    name: str
    severity: str
    remedy: str
    line: str


def gpus_of(section: Section) -> GpuAnswer:
    """Read `nvidia-smi --query-gpu`."""
    if section.status in (124, 137):
        return GpuAnswer(failure="nvidia-smi did not answer in time", timed_out=True)
    failure = smi_failure(section.text, section.status)
    try:
        table = parse_smi_csv(section.text)
    except ParseError as error:
        return GpuAnswer(failure=failure.message if failure else str(error))
    found = [gpu for row in table.rows if (gpu := _gpu(row)) is not None]
    if not found:
        return GpuAnswer(failure=failure.message if failure else "nvidia-smi lists no GPU", lost=table.notes)
    return GpuAnswer(tuple(sorted(found, key=lambda g: g.index)), lost=table.notes)


def _gpu(row: Mapping[str, str]) -> GpuSample | None:
    index = integer(row.get("index"))
    if index is None:
        return None
    name = row.get("name")
    temperature, margin, told_by = number(row.get("temperature.gpu")), number(row.get("temperature.gpu.tlimit")), ""
    if margin is not None:
        told_by = "T.Limit"
    elif temperature is not None and name:
        spec = load_gpus().by_name(name)
        top = spec.temperature_c.max_operating if spec and spec.temperature_c else None
        if top is None and spec and spec.temperature_c:
            top = spec.temperature_c.slowdown
        margin, told_by = (top - temperature, "catalogue") if top is not None else (None, "")
    return GpuSample(
        index=index,
        name=_word(name),
        pci=pci_address(row.get("pci.bus_id", "")),
        memory_used_mib=integer(row.get("memory.used")),
        memory_total_mib=integer(row.get("memory.total")),
        utilisation=number(row.get("utilization.gpu")),
        power_w=number(row.get("power.draw")),
        power_limit_w=number(row.get("enforced.power.limit")),
        temperature_c=temperature,
        memory_temperature_c=number(row.get("temperature.memory")),
        margin_c=margin,
        margin_from=told_by,
        sm_mhz=integer(row.get("clocks.current.sm")),
        sm_max_mhz=integer(row.get("clocks.max.sm")),
        held=_held(row.get("clocks_event_reasons.active") or row.get("clocks_throttle_reasons.active")),
        fabric=_word(row.get("fabric.state")),
        recovery=None if row.get("gpu_recovery_action") == "None" else _word(row.get("gpu_recovery_action")),
    )


def _word(value: str | None) -> str | None:
    return None if absent(value) else value


def _held(mask: str | None) -> tuple[str, ...] | None:
    if absent(mask) or mask is None or not re.fullmatch(r"0x[0-9a-fA-F]{1,16}", mask):
        return None
    return tuple(reason.name for reason in reasons_of(int(mask, 16)))


def engines_of(section: Section) -> tuple[EngineSample, ...]:
    """Read the engines' metrics."""
    return tuple(_engines(section.text))


def _engines(text: str) -> Iterator[EngineSample]:
    parts = re.split(r"^(?=@@engine )", text, flags=re.MULTILINE)
    for part in parts:
        head, _, body = part.partition("\n")
        found = _ENGINE.fullmatch(head.strip())
        if not found:
            continue
        number_, port, unit, http, taken = found.groups()
        try:
            figures = parse_metrics(body).figures
        except ParseError:
            figures = {}
        yield EngineSample(
            number=int(number_),
            port=int(port),
            unit=unit,
            http=int(http),
            taken=float(taken),
            running=figures.get("running"),
            waiting=figures.get("waiting"),
            kv_usage=figures.get("kv_cache_usage"),
            prompt_tokens=figures.get("prompt_tokens"),
            generation_tokens=figures.get("generation_tokens"),
            cache_queries=figures.get("prefix_cache_queries"),
            cache_hits=figures.get("prefix_cache_hits"),
        )


def links_of(section: Section) -> dict[int, Links] | None:
    """Read `nvidia-smi nvlink -s`: GPU index -> links, None when it did not tell; GPUs without NVLink are left out."""
    if section.status != 0:
        return None
    try:
        told = parse_nvlink_status(section.text)
    except ParseError:
        return {} if not section.text.strip() else None
    found = {}
    for gpu in told:
        if not gpu.supported:
            continue
        spec = load_gpus().by_name(gpu.name) if gpu.name else None
        up = sum(1 for speed in gpu.link_gb_per_s.values() if speed is not None)
        wanted = spec.nvlink.links if spec and spec.nvlink else None
        found[gpu.index] = Links(up, len(gpu.link_gb_per_s) - up, wanted)
    return found


def xids_of(section: Section) -> tuple[Xid, ...] | None:
    """Return the last Xid of each GPU since the boot, the newest last; None when the kernel log was not told."""
    if section.status != 0:
        return None
    last: dict[str | None, Xid] = {}
    for event in parse_kernel_log(section.text).events:
        code = 79 if event.kind == "off-bus" else event.xid
        if code is None or event.kind == "sxid":
            continue
        row = load_xids().by_code(code)
        last.pop(event.pci, None)
        last[event.pci] = Xid(
            code,
            event.pci,
            row.name if row else "not in the catalogue",
            row.severity if row else "unknown",
            row.remedy if row else "",
            event.message,
        )
    return tuple(last.values())
