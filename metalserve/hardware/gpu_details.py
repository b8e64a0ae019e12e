"""Reads from the tree of `nvidia-smi -q` what `Gpu` has no field for: clocks, ECC, spare rows, heat, power."""

from __future__ import annotations

from metalserve.hardware.parsers.smi_q import Node
from metalserve.hardware.parsers.text import absent, flag, integer, number
from metalserve.hardware.values import GpuDetails

_COUNTERS = {
    "SW Power Capping": "sw_power_cap",
    "Sync Boost": "sync_boost",
    "SW Thermal Slowdown": "sw_thermal_slowdown",
    "HW Thermal Slowdown": "hw_thermal_slowdown",
    "HW Power Braking": "hw_power_brake_slowdown",
}


def gpu_details(block: Node) -> GpuDetails:
    """Read one GPU's block; what it lacks stays `None`."""
    heat = block.at("Temperature") or Node("")
    ecc = block.at("ECC Errors") or Node("")
    aggregate = ecc.at("Aggregate")
    banks = block.at("Remapped Rows", "Bank Remap Availability Histogram") or Node("")
    virtual = block.text("GPU Virtualization Mode", "Virtualization Mode")
    return GpuDetails(
        performance_state=_word(block.text("Performance State")),
        virtualization=_word(virtual),
        clock_sm_mhz=integer(block.text("Clocks", "SM")),
        clock_memory_mhz=integer(block.text("Clocks", "Memory")),
        clock_sm_max_mhz=integer(block.text("Max Clocks", "SM")),
        clock_memory_max_mhz=integer(block.text("Max Clocks", "Memory")),
        application_clock_mhz=integer(block.text("Applications Clocks", "Graphics")),
        default_application_clock_mhz=integer(block.text("Default Applications Clocks", "Graphics")),
        ecc_enabled=flag(block.text("ECC Mode", "Current") or block.text("Ecc Mode", "Current")),
        ecc_pending=flag(block.text("ECC Mode", "Pending") or block.text("Ecc Mode", "Pending")),
        ecc_uncorrectable_aggregate=_uncorrectable(aggregate),
        channel_repair_pending=flag(ecc.text("Channel Repair Pending")),
        tpc_repair_pending=flag(ecc.text("TPC Repair Pending")),
        unrepairable_memory=flag(ecc.text("Unrepairable Memory")),
        banks_max=integer(banks.text("Max")),
        banks_low=integer(banks.text("Low")),
        banks_none=integer(banks.text("None")),
        retired_pages=integer(block.text("Retired Pages", "Double Bit ECC")),
        retirement_pending=flag(block.text("Retired Pages", "Pending Page Blacklist")),
        margin_c=number(heat.text("GPU T.Limit Temp")),
        memory_temperature_c=number(heat.text("Memory Current Temp")),
        max_operating_c=number(heat.text("GPU Max Operating Temp")),
        slowdown_c=number(heat.text("GPU Slowdown Temp")),
        power_draw_w=_first(
            block,
            ("GPU Power Readings", "Instantaneous Power Draw"),
            ("GPU Power Readings", "Power Draw"),
            ("GPU Power Readings", "Average Power Draw"),
            ("Power Readings", "Power Draw"),
        ),
        power_default_w=_first(
            block,
            ("GPU Power Readings", "Default Power Limit"),
            ("GPU Power Readings", "GPU Ceiling Power Limit", "Default Power Limit"),
            ("Power Readings", "Default Power Limit"),
        ),
        power_max_w=_first(
            block,
            ("GPU Power Readings", "Max Power Limit"),
            ("GPU Power Readings", "GPU Ceiling Power Limit", "Max Power Limit"),
            ("Power Readings", "Max Power Limit"),
        ),
        pcie_replays=integer(block.text("PCI", "Replays Since Reset") or block.text("PCI", "Replay Counter")),
        slowed_us=_counters(block.at("Clocks Event Reasons Counters")),
    )


def _word(value: str | None) -> str | None:
    return None if absent(value) else value


def _first(block: Node, *paths: tuple[str, ...]) -> float | None:
    return next((v for v in (number(block.text(*path)) for path in paths) if v is not None), None)


def _uncorrectable(aggregate: Node | None) -> int | None:
    if aggregate is None:
        return None
    counts = [integer(n.value) for n in aggregate.children if "Uncorrectable" in n.key]
    known = [c for c in counts if c is not None]
    return sum(known) if known else None


def _counters(block: Node | None) -> dict[str, int]:
    found = {}
    for node in block.children if block else ():
        took = integer(node.value)
        if node.key in _COUNTERS and took is not None:
            found[_COUNTERS[node.key]] = took
    return found
