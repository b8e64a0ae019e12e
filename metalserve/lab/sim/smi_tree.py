"""Everything `nvidia-smi -q` tells about one GPU, as a tree.

Shape after the captures of drivers 590.48.01 (H200, H100) and 595.71.05 (GeForce); tags after 570.86.15 (8 x H100).
"""

from __future__ import annotations

from . import smi_blocks as blocks
from .smi_blocks import NA
from .view import Gpu

TYPE_CHECKING = False
if TYPE_CHECKING:
    # A node is (label in -q, tag in -x, value or children).
    Node = tuple[str, str, "str | list[Node]"]

GONE = "Requested functionality has been deprecated"


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
        ("MIG Mode", "mig_mode", blocks.mode(mig, "mig")),
        ("Accounting Mode", "accounting_mode", "Disabled"),
        ("Accounting Mode Buffer Size", "accounting_mode_buffer_size", "4000"),
        ("Driver Model", "driver_model", blocks.mode(NA, "dm")),
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
        ("GPU Operation Mode", "gpu_operation_mode", blocks.mode(NA, "gom")),
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
        ("PCI", "pci", blocks.pci(gpu)),
        ("Fan Speed", "fan_speed", "0 %" if model["fan"] else NA),
        ("Performance State", "performance_state", "P0" if server else "P8"),
        ("Clocks Event Reasons", "clocks_event_reasons", blocks.reasons(gpu)),
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
        ("DRAM Encryption Mode", "dram_encryption_mode", blocks.mode(NA, "dram_encryption")),
        ("ECC Mode", "ecc_mode", blocks.mode(gpu.ecc_mode, "ecc")),
        ("ECC Errors", "ecc_errors", blocks.ecc(gpu)),
        (
            "Retired Pages",
            "retired_pages",
            [
                ("Single Bit ECC", "multiple_single_bit_retirement", NA),
                ("Double Bit ECC", "double_bit_retirement", NA),
                ("Pending Page Blacklist", "pending_blacklist", NA),
            ],
        ),
        ("Remapped Rows", "remapped_rows", blocks.remapped(gpu)),
        ("Temperature", "temperature", blocks.temperature(gpu)),
        ("GPU Power Readings", "gpu_power_readings", blocks.power(gpu)),
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
        ("Clocks", "clocks", blocks.clocks(sm, sm, mem_idle, f"{clocks['video_idle']} MHz")),
        ("Applications Clocks", "applications_clocks", blocks.clocks(GONE, None, GONE, None)),
        ("Default Applications Clocks", "default_applications_clocks", blocks.clocks(GONE, None, GONE, None)),
        ("Deferred Clocks", "deferred_clocks", [("Memory", "mem_clock", NA)]),
        ("Max Clocks", "max_clocks", blocks.clocks(sm_max, sm_max, mem_max, f"{clocks['video_max']} MHz")),
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
        ("Fabric", "fabric", blocks.fabric(gpu)),
        ("Processes", "processes", "None"),
        ("Capabilities", "capabilities", [("EGM", "egm", "disabled")]),
    ]
