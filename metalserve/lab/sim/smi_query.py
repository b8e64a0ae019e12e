"""`nvidia-smi --query-gpu=...`: the fields, and the CSV they are printed as."""

from __future__ import annotations

import time

from .state import Lab
from .view import Gpu

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

NA = "[N/A]"
DEPRECATED = "[Requested functionality has been deprecated]"
REASONS = {
    "gpu_idle": 0x1,
    "applications_clocks_setting": 0x2,
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "hw_thermal_slowdown": 0x40,
    "hw_power_brake_slowdown": 0x80,
    "sw_thermal_slowdown": 0x20,
    "sync_boost": 0x10,
}
"""Clocks-event reasons and their NVML bits (nvml.h, nvmlClocksEventReason*)."""


def values(gpu: Gpu, total: int, persistence: bool) -> dict[str, tuple[str, str]]:
    """All fields of one GPU: name -> (value, unit). Printed header is `name [unit]`."""
    lab, model, slot = gpu.lab, gpu.model, gpu.slot
    memory, clocks, power = model["memory_mib"], model["clocks"], model["power"]
    used = 0
    ecc = "0" if gpu.ecc else NA
    mode = gpu.ecc_mode if model["ecc"] else NA
    mig = "Disabled" if model["mig"] else NA
    rows = model["remap_banks"] is not None
    domain, bus, device = slot["bus"].split(".")[0].split(":")
    state, status = gpu.fabric()
    draw = f"{power['idle']:.2f}"
    yes = {True: "Yes", False: "No"}
    fields: dict[str, tuple[str, str]] = {
        "timestamp": (time.strftime("%Y/%m/%d %H:%M:%S") + ".000", ""),
        "driver_version": (lab.module_version() or NA, ""),
        "count": (str(total), ""),
        "name": (model["name"], ""),
        "serial": (gpu.serial if model["brand"] == "NVIDIA" else NA, ""),
        "uuid": (gpu.uuid, ""),
        "pci.bus_id": (gpu.smi_bus, ""),
        "pci.domain": (f"0x{domain}", ""),
        "pci.bus": (f"0x{bus.upper()}", ""),
        "pci.device": (f"0x{device}", ""),
        "pci.baseClass": ("0x3", ""),
        "pci.subClass": ("0x2" if model["pci_class"] == "0302" else "0x0", ""),
        "pci.device_id": (f"0x{model['pci_device'].upper()}10DE", ""),
        "pci.sub_device_id": (f"0x{model['pci_subsystem'].upper()}10DE", ""),
        "pcie.link.gen.current": (str(gpu.pcie_gen), ""),
        "pcie.link.gen.gpucurrent": (str(gpu.pcie_gen), ""),
        "pcie.link.gen.max": (str(model["pcie_gen"]), ""),
        "pcie.link.gen.gpumax": (str(model["pcie_gen"]), ""),
        "pcie.link.gen.hostmax": (NA, ""),
        "pcie.link.width.current": (str(gpu.pcie_width), ""),
        "pcie.link.width.max": (str(model["pcie_width"]), ""),
        "index": (str(gpu.index), ""),
        "display_mode": (DEPRECATED, ""),
        "display_attached": ("No", ""),
        "display_active": ("Disabled", ""),
        "persistence_mode": ("Enabled" if persistence else "Disabled", ""),
        "addressing_mode": ("None", ""),
        "accounting.mode": ("Disabled", ""),
        "accounting.buffer_size": ("4000", ""),
        "vbios_version": (model["vbios"], ""),
        "inforom.img": (model["inforom"], ""),
        "inforom.oem": ("2.1", ""),
        "inforom.ecc": ("7.16" if model["ecc"] else NA, ""),
        "inforom.pwr": (NA, ""),
        "inforom.checksum_validation": ("valid", ""),
        "gpu_recovery_action": (gpu.recovery_action, ""),
        "fan.speed": ("0", "%") if model["fan"] else (NA, "%"),
        "pstate": ("P0" if model["brand"] == "NVIDIA" else "P8", ""),
        "clocks_event_reasons.supported": ("0x00000000000001FF", ""),
        "clocks_event_reasons.active": (f"0x{gpu.event_mask:016X}", ""),
        "memory.total": (str(memory), "MiB"),
        "memory.reserved": (str(model["reserved_mib"]), "MiB"),
        "memory.used": (str(used), "MiB"),
        "memory.free": (str(memory - model["reserved_mib"] - used), "MiB"),
        "compute_mode": ("Default", ""),
        "compute_cap": (model["compute_capability"], ""),
        "utilization.gpu": ("0", "%"),
        "utilization.memory": ("0", "%"),
        "utilization.encoder": ("0", "%"),
        "utilization.decoder": ("0", "%"),
        "utilization.jpeg": ("0", "%"),
        "utilization.ofa": ("0", "%"),
        "ecc.mode.current": (mode, ""),
        "ecc.mode.pending": (mode, ""),
        "retired_pages.single_bit_ecc.count": (NA, ""),
        "retired_pages.double_bit.count": (NA, ""),
        "retired_pages.pending": (NA, ""),
        "remapped_rows.correctable": ("0" if rows else NA, ""),
        "remapped_rows.uncorrectable": (str(gpu.remapped_uncorrectable) if rows else NA, ""),
        "remapped_rows.pending": (yes[gpu.remap_pending] if rows else NA, ""),
        "remapped_rows.failure": (yes[gpu.remap_failed] if rows else NA, ""),
        "temperature.gpu": (str(gpu.temperature), ""),
        "temperature.gpu.tlimit": (str(gpu.headroom) if gpu.headroom is not None else NA, ""),
        "temperature.memory": (str(model["temperature"]["memory"] or "N/A"), ""),
        "power.management": (DEPRECATED, ""),
        "power.draw": (draw, "W"),
        "power.draw.average": (draw, "W"),
        "power.draw.instant": (draw, "W"),
        "power.limit": (f"{gpu.power_limit:.2f}", "W"),
        "enforced.power.limit": (f"{gpu.power_limit:.2f}", "W"),
        "power.default_limit": (f"{power['default']:.2f}", "W"),
        "power.min_limit": (f"{power['minimum']:.2f}", "W"),
        "power.max_limit": (f"{power['maximum']:.2f}", "W"),
        "clocks.current.graphics": (str(gpu.sm_mhz), "MHz"),
        "clocks.current.sm": (str(gpu.sm_mhz), "MHz"),
        "clocks.current.memory": (str(clocks["memory_idle"]), "MHz"),
        "clocks.current.video": (str(clocks["video_idle"]), "MHz"),
        "clocks.max.graphics": (str(clocks["sm_max"]), "MHz"),
        "clocks.max.sm": (str(clocks["sm_max"]), "MHz"),
        "clocks.max.memory": (str(clocks["memory_max"]), "MHz"),
        "mig.mode.current": (mig, ""),
        "mig.mode.pending": (mig, ""),
        "gsp.mode.current": ("Enabled", ""),
        "gsp.mode.default": ("Enabled", ""),
        "c2c.mode": ("Disabled" if model["mig"] else NA, ""),
        "fabric.state": (state, ""),
        "fabric.status": (status, ""),
        "fabric.cliqueId": ("0" if state == "Completed" else "N/A", ""),
        "fabric.clusterUuid": (
            "00000000-0000-0000-0000-000000000000" if state == "Completed" else "N/A",
            "",
        ),
        "hostname": (NA, ""),
    }
    for name, bit in REASONS.items():
        active = "Active" if gpu.event_mask & bit else "Not Active"
        fields[f"clocks_event_reasons.{name}"] = (active, "")
    for name in ("sw_power_cap", "sync_boost", "sw_thermal_slowdown", "hw_thermal_slowdown"):
        took = "41250000" if gpu.hot and "thermal" in name else "0"
        fields[f"clocks_event_reasons_counters.{name}"] = (took, "us")
    fields["clocks_event_reasons_counters.hw_power_brake_slowdown"] = ("0", "us")
    for part in ("max", "high", "partial", "low", "none"):
        fields[f"remapped_rows.histogram.{part}"] = (_histogram(gpu, part) if rows else NA, "")
    for kind in ("corrected", "uncorrected"):
        for span in ("volatile", "aggregate"):
            for place in ("device_memory", "dram", "sram", "total"):
                count = ecc
                if kind == "uncorrected" and gpu.ecc and place != "sram":
                    count = str(uncorrectable(gpu, span))
                fields[f"ecc.errors.{kind}.{span}.{place}"] = (count, "")
            for place in ("register_file", "l1_cache", "l2_cache", "texture_memory", "cbu"):
                fields[f"ecc.errors.{kind}.{span}.{place}"] = (NA, "")
    fields["ecc.errors.uncorrected.aggregate.sram.thresholdExceeded"] = ("No" if gpu.ecc else NA, "")
    for part in ("summary", "bandwidth", "route_recovery_in_progress", "route_unhealthy"):
        fields[f"fabric.health.{part}"] = ("N/A", "")
    for part in ("access_timeout_recovery", "incorrect_configuration"):
        fields[f"fabric.health.{part}"] = ("N/A", "")
    return fields


ALIASES = {
    "gpu_name": "name",
    "gpu_bus_id": "pci.bus_id",
    "gpu_uuid": "uuid",
    "gpu_serial": "serial",
    "clocks.gr": "clocks.current.graphics",
    "clocks.sm": "clocks.current.sm",
    "clocks.mem": "clocks.current.memory",
    "clocks.video": "clocks.current.video",
    "clocks.max.gr": "clocks.max.graphics",
    "clocks.max.mem": "clocks.max.memory",
    "ecc.mode": "ecc.mode.current",
    "mig.mode": "mig.mode.current",
}


def uncorrectable(gpu: Gpu, span: str) -> int:
    """Uncorrectable DRAM errors; the volatile count is since the driver was loaded, so a cured fault leaves none."""
    return int(gpu.remap_pending or gpu.remap_failed) if span == "volatile" else gpu.remapped_uncorrectable


def _histogram(gpu: Gpu, part: str) -> str:
    banks = gpu.model["remap_banks"] or 0
    spent = int(gpu.remap_failed)
    used = int(gpu.remapped_uncorrectable > 0) - spent
    return str({"max": banks - used - spent, "high": used, "none": spent}.get(part, 0))


def histogram(gpu: Gpu) -> dict[str, int]:
    """Banks by what is left for row remapping."""
    return {part: int(_histogram(gpu, part)) for part in ("max", "high", "partial", "low", "none")}


def canonical(name: str, known: dict[str, tuple[str, str]]) -> str | None:
    """The field that a name means, or None. The old name of the event reasons is still taken, as by the real tool."""
    name = name.strip().replace("clocks_throttle_reasons", "clocks_event_reasons")
    name = ALIASES.get(name, name)
    return name if name in known else None


def query(
    names: list[str],
    rows: list[Gpu],
    lab: Lab,
    *,
    header: bool,
    units: bool,
    persistence: bool,
    out: Callable[[str], None],
) -> int:
    """Print the CSV; returns the exit status (2 for a field that does not exist, as the real tool)."""
    tables = [values(gpu, len(rows), persistence) for gpu in rows]
    known = tables[0]
    fields = []
    for name in names:
        field = canonical(name, known)
        if field is None:
            out(f'Field "{name.strip()}" is not a valid field to query.\n')
            return 2
        fields.append(field)
    if header:
        out(", ".join(f"{f} [{known[f][1]}]" if known[f][1] else f for f in fields))
    for table in tables:
        cells = []
        for field in fields:
            value, unit = table[field]
            plain = not unit or not units or value.startswith("[")
            cells.append(value if plain else f"{value} {unit}")
        out(", ".join(cells))
    return 0
