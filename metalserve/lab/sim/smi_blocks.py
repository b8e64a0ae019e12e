"""Blocks of `nvidia-smi -q` that depend on a GPU's state: what `smi_tree` puts together."""

from __future__ import annotations

from .smi_query import histogram, uncorrectable
from .view import Gpu

TYPE_CHECKING = False
if TYPE_CHECKING:
    # A node is (label in -q, tag in -x, value or children).
    Node = tuple[str, str, "str | list[Node]"]

NA = "N/A"


def mode(state: str, tag: str) -> list[Node]:
    """Current and pending state of a mode."""
    return [("Current", f"current_{tag}", state), ("Pending", f"pending_{tag}", state)]


def pci(gpu: Gpu) -> list[Node]:
    """Block PCI."""
    domain, bus, device = gpu.slot["bus"].split(".")[0].split(":")
    model = gpu.model
    generation: list[Node] = [
        ("Max", "max_link_gen", str(model["pcie_gen"])),
        ("Current", "current_link_gen", str(gpu.pcie_gen)),
        ("Device Current", "device_current_link_gen", str(gpu.pcie_gen)),
        ("Device Max", "max_device_link_gen", str(model["pcie_gen"])),
        ("Host Max", "max_host_link_gen", NA),
    ]
    width: list[Node] = [
        ("Max", "max_link_width", f"{model['pcie_width']}x"),
        ("Current", "current_link_width", f"{gpu.pcie_width}x"),
    ]
    return [
        ("Bus", "pci_bus", f"0x{bus.upper()}"),
        ("Device", "pci_device", f"0x{device}"),
        ("Domain", "pci_domain", f"0x{domain}"),
        ("Base Classcode", "pci_base_class", "0x3"),
        ("Sub Classcode", "pci_sub_class", "0x2" if model["pci_class"] == "0302" else "0x0"),
        ("Device Id", "pci_device_id", f"0x{model['pci_device'].upper()}10DE"),
        ("Bus Id", "pci_bus_id", gpu.smi_bus),
        ("Sub System Id", "pci_sub_system_id", f"0x{model['pci_subsystem'].upper()}10DE"),
        (
            "GPU Link Info",
            "pci_gpu_link_info",
            [("PCIe Generation", "pcie_gen", generation), ("Link Width", "link_widths", width)],
        ),
        (
            "Bridge Chip",
            "pci_bridge_chip",
            [("Type", "bridge_chip_type", NA), ("Firmware", "bridge_chip_fw", NA)],
        ),
        ("Replays Since Reset", "replay_counter", "0"),
        ("Replay Number Rollovers", "replay_rollover_counter", "0"),
        ("Tx Throughput", "tx_util", "371 KB/s"),
        ("Rx Throughput", "rx_util", "337 KB/s"),
        ("Atomic Caps Outbound", "atomic_caps_outbound", NA),
        ("Atomic Caps Inbound", "atomic_caps_inbound", NA),
    ]


def reasons(gpu: Gpu) -> list[Node]:
    """Block Clocks Event Reasons."""

    def word(bit: int) -> str:
        return "Active" if gpu.event_mask & bit else "Not Active"

    prefix = "clocks_event_reason_"
    return [
        ("Idle", prefix + "gpu_idle", word(0x1)),
        ("Applications Clocks Setting", prefix + "applications_clocks_setting", word(0x2)),
        ("SW Power Cap", prefix + "sw_power_cap", word(0x4)),
        ("HW Slowdown", prefix + "hw_slowdown", word(0x8)),
        ("    HW Thermal Slowdown", prefix + "hw_thermal_slowdown", word(0x40)),
        ("    HW Power Brake Slowdown", prefix + "hw_power_brake_slowdown", word(0x80)),
        ("Sync Boost", prefix + "sync_boost", word(0x10)),
        ("SW Thermal Slowdown", prefix + "sw_thermal_slowdown", word(0x20)),
        ("Display Clock Setting", prefix + "display_clocks_setting", word(0x100)),
    ]


def ecc(gpu: Gpu) -> list[Node]:
    """Block ECC Errors."""
    on = gpu.ecc

    def errors(span: str) -> list[Node]:
        bad = str(uncorrectable(gpu, span)) if on else NA
        zero = "0" if on else NA
        return [
            ("SRAM Correctable", "sram_correctable", zero),
            ("SRAM Uncorrectable Parity", "sram_uncorrectable_parity", zero),
            ("SRAM Uncorrectable SEC-DED", "sram_uncorrectable_secded", zero),
            ("DRAM Correctable", "dram_correctable", zero),
            ("DRAM Uncorrectable", "dram_uncorrectable", bad),
        ]

    sources: list[Node] = [
        (f"SRAM {name}", f"sram_{name.lower()}", "0" if on else NA)
        for name in ("L2", "SM", "Microcontroller", "PCIE", "Other")
    ]
    no = "No" if on else NA
    return [
        ("Volatile", "volatile", errors("volatile")),
        (
            "Aggregate",
            "aggregate",
            [*errors("aggregate"), ("SRAM Threshold Exceeded", "sram_threshold_exceeded", no)],
        ),
        ("Aggregate Uncorrectable SRAM Sources", "aggregate_uncorrectable_sram_sources", sources),
        ("Channel Repair Pending", "channel_repair_pending", no),
        ("TPC Repair Pending", "tpc_repair_pending", no),
        ("Unrepairable Memory", "unrepairable_memory", no),
    ]


def remapped(gpu: Gpu) -> str | list[Node]:
    """Block Remapped Rows; N/A on GPUs without row remapping."""
    if gpu.model["remap_banks"] is None:
        return NA
    yes = {True: "Yes", False: "No"}
    banks = histogram(gpu)
    return [
        ("Correctable Error", "remapped_row_corr", "0"),
        ("Uncorrectable Error", "remapped_row_unc", str(gpu.remapped_uncorrectable)),
        ("Pending", "remapped_row_pending", yes[gpu.remap_pending]),
        ("Remapping Failure Occurred", "remapped_row_failure", yes[gpu.remap_failed]),
        (
            "Bank Remap Availability Histogram",
            "row_remapper_histogram",
            [
                (name.capitalize(), f"row_remapper_histogram_{name}", f"{banks[name]} bank(s)")
                for name in ("max", "high", "partial", "low", "none")
            ],
        ),
    ]


def temperature(gpu: Gpu) -> list[Node]:
    """Block Temperature: headroom (T.Limit) or thresholds."""
    t = gpu.model["temperature"]
    memory = NA if t["memory"] is None else f"{t['memory']} C"
    if t["style"] == "absolute":
        return [
            ("GPU Current Temp", "gpu_temp", f"{gpu.temperature} C"),
            ("GPU T.Limit Temp", "gpu_temp_tlimit", NA),
            ("GPU Shutdown Temp", "gpu_temp_max_threshold", f"{t['shutdown']} C"),
            ("GPU Slowdown Temp", "gpu_temp_slow_threshold", f"{t['slowdown']} C"),
            ("GPU Max Operating Temp", "gpu_temp_max_gpu_threshold", f"{t['max_operating']} C"),
            ("GPU Target Temperature", "gpu_target_temperature", NA),
            ("Memory Current Temp", "memory_temp", memory),
            (
                "Memory Max Operating Temp",
                "gpu_temp_max_mem_threshold",
                NA if t["memory"] is None else "95 C",
            ),
        ]
    top = t["max_operating"]
    return [
        ("GPU Current Temp", "gpu_temp", f"{gpu.temperature} C"),
        ("GPU T.Limit Temp", "gpu_temp_tlimit", f"{gpu.headroom} C"),
        ("GPU Shutdown T.Limit Temp", "gpu_temp_max_tlimit_threshold", f"{top - t['shutdown']} C"),
        ("GPU Slowdown T.Limit Temp", "gpu_temp_slow_tlimit_threshold", f"{top - t['slowdown']} C"),
        ("GPU Max Operating T.Limit Temp", "gpu_temp_max_gpu_tlimit_threshold", "0 C"),
        ("GPU Target Temperature", "gpu_target_temperature", NA),
        ("Memory Current Temp", "memory_temp", memory),
        (
            "Memory Max Operating T.Limit Temp",
            "gpu_temp_max_mem_tlimit_threshold",
            NA if t["memory"] is None else "0 C",
        ),
    ]


def power(gpu: Gpu) -> list[Node]:
    """Block GPU Power Readings."""
    power = gpu.model["power"]
    return [
        ("Average Power Draw", "average_power_draw", f"{power['idle']:.2f} W"),
        ("Instantaneous Power Draw", "instant_power_draw", f"{power['idle']:.2f} W"),
        ("Current Power Limit", "current_power_limit", f"{gpu.power_limit:.2f} W"),
        ("Requested Power Limit", "requested_power_limit", f"{gpu.power_limit:.2f} W"),
        ("Default Power Limit", "default_power_limit", f"{power['default']:.2f} W"),
        ("Min Power Limit", "min_power_limit", f"{power['minimum']:.2f} W"),
        ("Max Power Limit", "max_power_limit", f"{power['maximum']:.2f} W"),
    ]


def clocks(graphics: str, sm: str | None, memory: str, video: str | None) -> list[Node]:
    """A block of clocks."""
    found: list[Node] = [("Graphics", "graphics_clock", graphics)]
    if sm is not None:
        found.append(("SM", "sm_clock", sm))
    found.append(("Memory", "mem_clock", memory))
    if video is not None:
        found.append(("Video", "video_clock", video))
    return found


def fabric(gpu: Gpu) -> list[Node]:
    """Block Fabric."""
    state, status = gpu.fabric()
    done = state == "Completed"
    health: list[Node] = [
        ("Summary", "summary", NA),
        ("Bandwidth", "bandwidth", NA),
        ("Route Recovery in progress", "route_recovery_in_progress", NA),
        ("Route Unhealthy", "route_unhealthy", NA),
        ("Access Timeout Recovery", "access_timeout_recovery", NA),
        ("Incorrect Configuration", "incorrect_configuration", NA),
    ]
    return [
        ("State", "state", state),
        ("Status", "status", status),
        ("CliqueId", "cliqueId", "0" if done else NA),
        ("ClusterUUID", "clusterUuid", "00000000-0000-0000-0000-000000000000" if done else NA),
        ("Health", "health", health),
    ]
