"""Merges what nvidia-smi told in its several outputs: list of GPUs, topology, NVLinks, and whether it answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from metalserve.hardware.gpu_details import gpu_details
from metalserve.hardware.parsers.nvlink import parse_nvlink_status
from metalserve.hardware.parsers.smi import CsvTable, SmiFailure, parse_smi_csv, smi_failure
from metalserve.hardware.parsers.smi_q import SmiReport, parse_smi_q
from metalserve.hardware.parsers.text import absent, flag, integer, number, pci_address
from metalserve.hardware.parsers.topo import Topology, parse_topo
from metalserve.hardware.reader import Reader
from metalserve.hardware.section import Section
from metalserve.hardware.values import Gpu, NvlinkStatus, PciDevice, SmiState

_LIBRARY = re.compile(r"NVML library version: (\d{3,4}(?:\.\d{1,3}){1,2})")


@dataclass
class SmiAnswer:
    """What nvidia-smi told."""

    state: SmiState = "absent"
    message: str = ""
    version: str | None = None
    gpus: tuple[Gpu, ...] = ()
    topology: Topology | None = None
    nvlinks: tuple[NvlinkStatus, ...] = ()


def nvidia_smi(reader: Reader, by_address: Mapping[str, PciDevice]) -> SmiAnswer:
    """Merge the sections of nvidia-smi; `by_address` holds the GPUs that lspci lists, for their device ids."""
    csv = reader.sections.get("smi-csv")
    if csv is None:
        reader.parse("smi-csv", parse_smi_csv)
        return SmiAnswer("error", "nvidia-smi was not observed")
    failure = smi_failure(csv.text, csv.rc)
    if failure and failure.state in ("absent", "no-driver", "mismatch"):
        reader.unread += ["smi-csv", "smi-q", "topo", "nvlink-status"]
        library = _LIBRARY.search(csv.text)
        return SmiAnswer(failure.state, failure.message, library.group(1) if library else None)
    table = _table(reader, csv, failure)
    report = reader.parse("smi-q", parse_smi_q)
    gpus = _gpus(table, report, by_address, reader)
    if not gpus:
        message = failure.message if failure else "nvidia-smi lists no GPU"
        reader.unread += ["topo", "nvlink-status"]
        return SmiAnswer("error", message, report.driver if report else None)
    smi = SmiAnswer("ok", failure.message if failure else "", gpus[0].driver_version, gpus)
    if failure:
        reader.problems.append(f"nvidia-smi: {failure.message}")
    smi.topology = reader.parse("topo", parse_topo)
    links = reader.sections.get("nvlink-status")
    if not (len(gpus) == 1 and links is not None and links.rc == 0 and not links.text.strip()):
        # nvidia-smi says nothing at all, and that it went well, where one GPU of a board is alone in its machine
        smi.nvlinks = reader.parse("nvlink-status", parse_nvlink_status) or ()
    return smi


def _table(reader: Reader, csv: Section, failure: SmiFailure | None) -> CsvTable | None:
    if failure and failure.message.startswith("nvidia-smi did not answer"):
        reader.unread.append("smi-csv")
        reader.problems.append(f"smi-csv: {failure.message}")
        return None
    return reader.parse("smi-csv", parse_smi_csv)


def _gpus(
    table: CsvTable | None, report: SmiReport | None, by_address: Mapping[str, PciDevice], reader: Reader
) -> tuple[Gpu, ...]:
    told = _with_details(report) if report else []
    from_q = {g.pci: g for g in told if g.pci}
    if not table or not table.rows:
        if told:
            reader.problems.append("smi-csv: not readable; GPUs are numbered in the order of `nvidia-smi -q`")
        merged = told
    else:
        merged = []
        for row in table.rows:
            gpu = _csv_gpu(row)
            if gpu is None or any(g.index == gpu.index for g in merged):
                reader.problems.append(f"smi-csv: row without a GPU number of its own: {', '.join(row.values())[:120]}")
                continue
            merged.append(_joined(gpu, from_q.pop(gpu.pci or "", None)))
        if report and from_q:
            reader.problems.append(
                f"smi-q: shows GPU(s) that the CSV lacks: {', '.join(sorted(str(a) for a in from_q))}"
            )
    out = []
    for gpu in sorted(merged, key=lambda g: g.index):
        device = by_address.get(gpu.pci or "")
        if device and gpu.device_id and device.device_id != gpu.device_id:
            reader.problems.append(f"GPU {gpu.index}: lspci says device {device.device_id}, nvidia-smi {gpu.device_id}")
        out.append(replace(gpu, device_id=device.device_id) if device else gpu)
    return tuple(out)


def _with_details(report: SmiReport) -> list[Gpu]:
    return [replace(g, details=gpu_details(tree)) for g, tree in zip(report.gpus, report.trees, strict=True)]


def _csv_gpu(row: Mapping[str, str]) -> Gpu | None:
    index = integer(row.get("index"))
    if index is None:
        return None
    device = row.get("pci.device_id", "")
    driver = row.get("driver_version")
    return Gpu(
        index=index,
        name=None if absent(row.get("name")) else row.get("name"),
        uuid=None if absent(row.get("uuid")) else row.get("uuid"),
        pci=pci_address(row.get("pci.bus_id", "")),
        device_id=device[2:6].lower() if re.fullmatch(r"0x[0-9A-Fa-f]{8}", device) else None,
        memory_mib=integer(row.get("memory.total")),
        power_limit_w=number(row.get("power.limit")),
        temperature_c=number(row.get("temperature.gpu")),
        pcie_gen_current=integer(row.get("pcie.link.gen.current")),
        pcie_gen_max=integer(row.get("pcie.link.gen.max")),
        pcie_width_current=integer(row.get("pcie.link.width.current")),
        pcie_width_max=integer(row.get("pcie.link.width.max")),
        persistence=flag(row.get("persistence_mode")),
        mig_enabled=flag(row.get("mig.mode.current")),
        driver_version=None if absent(driver) else driver,
    )


def _joined(gpu: Gpu, other: Gpu | None) -> Gpu:
    """Fill what the CSV did not tell from `-q`; the number stays the CSV's."""
    if other is None:
        return gpu
    missing = {f.name: getattr(other, f.name) for f in fields(Gpu) if getattr(gpu, f.name) is None}
    return replace(gpu, **missing)


def compare(pci_gpus: tuple[PciDevice, ...], smi: SmiAnswer, reader: Reader, *, known_pci: bool) -> None:
    """Add to the problems where PCI bus, list of GPUs and topology contradict each other."""
    seen = {g.pci for g in smi.gpus}
    on_bus = {d.address for d in pci_gpus}
    for address in sorted(on_bus - seen):
        reader.problems.append(f"GPU {address} is on the PCI bus, but nvidia-smi does not show it")
    if known_pci:
        for address in sorted(str(a) for a in seen - on_bus):
            reader.problems.append(f"GPU {address} is shown by nvidia-smi, but not on the PCI bus")
    indices = {g.index for g in smi.gpus}
    if smi.topology:
        named = {int(name[3:]) for name in smi.topology.gpus}
        if named != indices:
            reader.problems.append(
                f"topo: its GPUs {sorted(named)} are not those of nvidia-smi's list {sorted(indices)}"
            )
