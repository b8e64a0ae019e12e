"""`nvidia-smi -q` and `-q -x`: one tree, printed in two ways.

Shape after the captures of drivers 590.48.01 (H200, H100) and 595.71.05 (GeForce); tags after 570.86.15 (8 x H100).
"""

from __future__ import annotations

import time

from .smi_query import histogram, uncorrectable
from .state import Lab, cuda_version
from .view import Gpu

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    # A node is (label in -q or "" for XML only, tag in -x or "" for text only, value or children).
    Node = tuple[str, str, "str | list[Node]"]

NA = "N/A"
GONE = "Requested functionality has been deprecated"
COLUMN = 55
"""Column of the colon in `-q`."""

SECTIONS = {
    "MEMORY": ("FB Memory Usage", "BAR1 Memory Usage", "Conf Compute Protected Memory Usage"),
    "UTILIZATION": ("Utilization", "Encoder Stats", "FBC Stats"),
    "ECC": ("ECC Mode", "ECC Errors"),
    "TEMPERATURE": ("Temperature",),
    "POWER": ("GPU Power Readings", "GPU Memory Power Readings ", "Module Power Readings"),
    "CLOCK": ("Clocks", "Applications Clocks", "Default Applications Clocks", "Max Clocks", "Clock Policy"),
    "COMPUTE": ("Compute Mode",),
    "PIDS": ("Processes",),
    "PERFORMANCE": ("Performance State", "Clocks Event Reasons", "Clocks Event Reasons Counters"),
    "PAGE_RETIREMENT": ("Retired Pages",),
    "ROW_REMAPPER": ("Remapped Rows",),
}
"""What `-q -d` names keep."""


def _mode(state: str, tag: str) -> list[Node]:
    return [("Current", f"current_{tag}", state), ("Pending", f"pending_{tag}", state)]


def _pci(gpu: Gpu) -> list[Node]:
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


def _reasons(gpu: Gpu) -> list[Node]:
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


def _ecc(gpu: Gpu) -> list[Node]:
    on = gpu.model["ecc"]

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


def _remapped(gpu: Gpu) -> str | list[Node]:
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


def _temperature(gpu: Gpu) -> list[Node]:
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


def _power(gpu: Gpu) -> list[Node]:
    power = gpu.model["power"]
    return [
        ("Average Power Draw", "average_power_draw", f"{power['idle']:.2f} W"),
        ("Instantaneous Power Draw", "instant_power_draw", f"{power['idle']:.2f} W"),
        ("Current Power Limit", "current_power_limit", f"{power['default']:.2f} W"),
        ("Requested Power Limit", "requested_power_limit", f"{power['default']:.2f} W"),
        ("Default Power Limit", "default_power_limit", f"{power['default']:.2f} W"),
        ("Min Power Limit", "min_power_limit", f"{power['minimum']:.2f} W"),
        ("Max Power Limit", "max_power_limit", f"{power['maximum']:.2f} W"),
    ]


def _clocks(graphics: str, sm: str | None, memory: str, video: str | None) -> list[Node]:
    found: list[Node] = [("Graphics", "graphics_clock", graphics)]
    if sm is not None:
        found.append(("SM", "sm_clock", sm))
    found.append(("Memory", "mem_clock", memory))
    if video is not None:
        found.append(("Video", "video_clock", video))
    return found


def _fabric(gpu: Gpu) -> list[Node]:
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


def tree(gpu: Gpu, driver: str, persistence: bool) -> list[Node]:
    """Everything `-q` prints about one GPU."""
    model, clocks = gpu.model, gpu.model["clocks"]
    server = model["brand"] == "NVIDIA"
    mig = "Disabled" if model["mig"] else NA
    memory, reserved = model["memory_mib"], model["reserved_mib"]
    zero = [(name, f"{name.lower()}_util", "0 %") for name in ("Encoder", "Decoder", "JPEG", "OFA")]
    stats: list[Node] = [
        ("Active Sessions", "session_count", "0"),
        ("Average FPS", "average_fps", "0"),
        ("Average Latency", "average_latency", "0"),
    ]
    counters: list[Node] = [
        ("SW Power Capping", "clocks_event_reasons_counters_sw_power_cap", "0 us"),
        ("Sync Boost", "clocks_event_reasons_counters_sync_boost", "0 us"),
        (
            "SW Thermal Slowdown",
            "clocks_event_reasons_counters_sw_therm_slowdown",
            "41250000 us" if gpu.hot else "0 us",
        ),
        (
            "HW Thermal Slowdown",
            "clocks_event_reasons_counters_hw_therm_slowdown",
            "41250000 us" if gpu.hot else "0 us",
        ),
        ("HW Power Braking", "clocks_event_reasons_counters_hw_power_brake", "0 us"),
    ]
    mem_idle, mem_max = f"{clocks['memory_idle']} MHz", f"{clocks['memory_max']} MHz"
    sm, sm_max = f"{gpu.sm_mhz} MHz", f"{clocks['sm_max']} MHz"
    return [
        ("Product Name", "product_name", model["name"]),
        ("Product Brand", "product_brand", model["brand"]),
        ("Product Architecture", "product_architecture", model["architecture"]),
        ("Display Mode", "display_mode", GONE),
        ("Display Attached", "display_attached", "No"),
        ("Display Active", "display_active", "Disabled"),
        ("Persistence Mode", "persistence_mode", "Enabled" if persistence else "Disabled"),
        ("Addressing Mode", "addressing_mode", "None"),
        ("MIG Mode", "mig_mode", _mode(mig, "mig")),
        ("Accounting Mode", "accounting_mode", "Disabled"),
        ("Accounting Mode Buffer Size", "accounting_mode_buffer_size", "4000"),
        ("Driver Model", "driver_model", _mode(NA, "dm")),
        ("Serial Number", "serial", gpu.serial if server else NA),
        ("GPU UUID", "uuid", gpu.uuid),
        ("Minor Number", "minor_number", str(gpu.position)),
        ("VBIOS Version", "vbios_version", model["vbios"]),
        ("MultiGPU Board", "multigpu_board", "No"),
        ("Board ID", "board_id", f"0x{int(gpu.slot['bus'].split(':')[1], 16) << 8:x}"),
        ("Board Part Number", "board_part_number", model["board_part"]),
        ("GPU Part Number", "gpu_part_number", model["gpu_part"]),
        ("FRU Part Number", "gpu_fru_part_number", NA),
        (
            "Platform Info",
            "platformInfo",
            [
                ("Chassis Serial Number", "chassis_serial_number", NA),
                ("Slot Number", "slot_number", NA),
                ("Tray Index", "tray_index", NA),
                ("Host ID", "host_id", NA),
                ("Peer Type", "peer_type", NA),
                ("Module Id", "module_id", str(gpu.position + 1)),
                ("GPU Fabric GUID", "gpu_fabric_guid", NA),
            ],
        ),
        (
            "Inforom Version",
            "inforom_version",
            [
                ("Image Version", "img_version", model["inforom"]),
                ("OEM Object", "oem_object", "2.1"),
                ("ECC Object", "ecc_object", "7.16" if model["ecc"] else NA),
                ("Power Management Object", "pwr_object", NA),
            ],
        ),
        ("GPU Operation Mode", "gpu_operation_mode", _mode(NA, "gom")),
        ("GPU C2C Mode", "c2c_mode", "Disabled" if model["mig"] else NA),
        (
            "GPU Virtualization Mode",
            "gpu_virtualization_mode",
            [
                ("Virtualization Mode", "virtualization_mode", "None"),
                ("Host VGPU Mode", "host_vgpu_mode", NA),
                ("vGPU Heterogeneous Mode", "vgpu_heterogeneous_mode", NA),
            ],
        ),
        ("GPU Recovery Action", "gpu_recovery_action", gpu.recovery_action),
        ("GSP Firmware Version", "gsp_firmware_version", driver),
        ("IBMNPU", "ibmnpu", [("Relaxed Ordering Mode", "relaxed_ordering_mode", NA)]),
        ("PCI", "pci", _pci(gpu)),
        ("Fan Speed", "fan_speed", "0 %" if model["fan"] else NA),
        ("Performance State", "performance_state", "P0" if server else "P8"),
        ("Clocks Event Reasons", "clocks_event_reasons", _reasons(gpu)),
        ("Clocks Event Reasons Counters", "clocks_event_reasons_counters", counters),
        ("Sparse Operation Mode", "sparse_operation_mode", "Disabled"),
        (
            "FB Memory Usage",
            "fb_memory_usage",
            [
                ("Total", "total", f"{memory} MiB"),
                ("Reserved", "reserved", f"{reserved} MiB"),
                ("Used", "used", "0 MiB"),
                ("Free", "free", f"{memory - reserved} MiB"),
            ],
        ),
        (
            "BAR1 Memory Usage",
            "bar1_memory_usage",
            [
                ("Total", "total", f"{model['bar1_mib']} MiB"),
                ("Used", "used", "1 MiB"),
                ("Free", "free", f"{model['bar1_mib'] - 1} MiB"),
            ],
        ),
        (
            "Conf Compute Protected Memory Usage",
            "cc_protected_memory_usage",
            [("Total", "total", "0 MiB"), ("Used", "used", "0 MiB"), ("Free", "free", "0 MiB")],
        ),
        ("Compute Mode", "compute_mode", "Default"),
        (
            "Utilization",
            "utilization",
            [("GPU", "gpu_util", "0 %"), ("Memory", "memory_util", "0 %"), *zero],
        ),
        ("Encoder Stats", "encoder_stats", stats),
        ("FBC Stats", "fbc_stats", stats),
        ("DRAM Encryption Mode", "dram_encryption_mode", _mode(NA, "dram_encryption")),
        ("ECC Mode", "ecc_mode", _mode("Enabled" if model["ecc"] else NA, "ecc")),
        ("ECC Errors", "ecc_errors", _ecc(gpu)),
        (
            "Retired Pages",
            "retired_pages",
            [
                ("Single Bit ECC", "multiple_single_bit_retirement", NA),
                ("Double Bit ECC", "double_bit_retirement", NA),
                ("Pending Page Blacklist", "pending_blacklist", NA),
            ],
        ),
        ("Remapped Rows", "remapped_rows", _remapped(gpu)),
        ("Temperature", "temperature", _temperature(gpu)),
        ("GPU Power Readings", "gpu_power_readings", _power(gpu)),
        (
            "GPU Memory Power Readings ",
            "gpu_memory_power_readings",
            [
                ("Average Power Draw", "average_power_draw", NA),
                ("Instantaneous Power Draw", "instant_power_draw", NA),
            ],
        ),
        (
            "Module Power Readings",
            "module_power_readings",
            [
                ("Average Power Draw", "average_power_draw", NA),
                ("Instantaneous Power Draw", "instant_power_draw", NA),
                ("Current Power Limit", "current_power_limit", NA),
                ("Requested Power Limit", "requested_power_limit", NA),
                ("Default Power Limit", "default_power_limit", NA),
                ("Min Power Limit", "min_power_limit", NA),
                ("Max Power Limit", "max_power_limit", NA),
            ],
        ),
        ("Power Smoothing", "power_smoothing", NA),
        (
            "Workload Power Profiles",
            "power_profiles",
            [
                ("Requested Profiles", "power_profile_requested_profiles", NA),
                ("Enforced Profiles", "power_profile_enforced_profiles", NA),
            ],
        ),
        ("EDPp Multiplier", "edpp_multiplier", "100.00%" if server else NA),
        ("Clocks", "clocks", _clocks(sm, sm, mem_idle, f"{clocks['video_idle']} MHz")),
        ("Applications Clocks", "applications_clocks", _clocks(GONE, None, GONE, None)),
        ("Default Applications Clocks", "default_applications_clocks", _clocks(GONE, None, GONE, None)),
        ("Deferred Clocks", "deferred_clocks", [("Memory", "mem_clock", NA)]),
        ("Max Clocks", "max_clocks", _clocks(sm_max, sm_max, mem_max, f"{clocks['video_max']} MHz")),
        (
            "Max Customer Boost Clocks",
            "max_customer_boost_clocks",
            [("Graphics", "graphics_clock", sm_max if server else NA)],
        ),
        (
            "Clock Policy",
            "clock_policy",
            [("Auto Boost", "auto_boost", NA), ("Auto Boost Default", "auto_boost_default", NA)],
        ),
        ("Fabric", "fabric", _fabric(gpu)),
        ("Processes", "processes", "None"),
        ("Capabilities", "capabilities", [("EGM", "egm", "disabled")]),
    ]


def _text(nodes: list[Node], depth: int, out: Callable[[str], None]) -> None:
    for label, _, value in nodes:
        start = "    " * depth + label
        if isinstance(value, str):
            out(f"{start.ljust(COLUMN)}: {value}")
        else:
            out(start)
            _text(value, depth + 1, out)


def _xml(nodes: list[Node], depth: int, out: Callable[[str], None]) -> None:
    for _, tag, value in nodes:
        if isinstance(value, str):
            bare = "" if tag == "processes" else value
            out("\t" * depth + f"<{tag}>{bare}</{tag}>")
        else:
            out("\t" * depth + f"<{tag}>")
            _xml(value, depth + 1, out)
            out("\t" * depth + f"</{tag}>")


def query(
    lab: Lab,
    rows: list[Gpu],
    *,
    xml: bool,
    sections: list[str],
    total: int,
    persistence: bool,
    out: Callable[[str], None],
) -> int:
    """Print `-q`, `-q -x` or `-q -d SECTION,...`."""
    driver = lab.module_version() or NA
    head: list[Node] = [
        ("Timestamp", "timestamp", time.strftime("%a %b %e %H:%M:%S %Y")),
        ("Driver Version", "driver_version", driver),
        ("CUDA Version", "cuda_version", cuda_version(driver)),
    ]
    keep = {label for section in sections for label in SECTIONS.get(section, ())}
    count: Node = ("Attached GPUs", "attached_gpus", str(total))
    if xml:
        out('<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">\n<nvidia_smi_log>')
        _xml([*head, count], 1, out)
    else:
        out("\n==============NVSMI LOG==============\n")
        _text(head, 0, out)
        out("")
        _text([count], 0, out)
    for gpu in rows:
        nodes = [node for node in tree(gpu, driver, persistence) if not keep or node[0] in keep]
        if xml:
            out(f'\t<gpu id="{gpu.smi_bus}">')
            _xml(nodes, 2, out)
            out("\t</gpu>\n")
        else:
            out(f"GPU {gpu.smi_bus}")
            _text(nodes, 1, out)
            out("")
    if xml:
        out("</nvidia_smi_log>")
    return 0
