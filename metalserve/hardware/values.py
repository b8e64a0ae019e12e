"""What parsers return: devices, GPUs, links, drives, kernel log events. Frozen values, `None` for what is not known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

SmiState = Literal["absent", "no-driver", "mismatch", "error", "ok"]
XidKind = Literal["xid", "nvlink5", "recovery-action", "sxid", "off-bus"]


@dataclass(frozen=True, slots=True)
class PciDevice:
    """A PCI function as `lspci -Dnn` prints it.

    Attributes:
        address: `0000:19:00.0`, lower case, domain of at least four digits.
        class_code: four hex digits, lower case (`0302` 3D controller, `0300` VGA, `0680` NVSwitch).
        vendor_id: four hex digits, lower case (`10de` NVIDIA).
        device_id: four hex digits, lower case (`2330` H100 SXM).
        description: vendor and device in words, as printed.
        revision: as printed after `rev`; empty when none. `ff` means that the device no longer answers.
    """

    address: str
    class_code: str
    vendor_id: str
    device_id: str
    description: str = ""
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as nvidia-smi sees it. `None` means that the value was not printed or not understood.

    Attributes:
        index: nvidia-smi's number of the GPU.
        name: product name as printed (`NVIDIA H100 80GB HBM3`).
        uuid: `GPU-...`.
        pci: address in the form of `PciDevice.address`.
        device_id: PCI device id (`2330`), when lspci or nvidia-smi told it.
        memory_mib: total memory, MiB.
        power_limit_w: enforced power limit, W.
        temperature_c: GPU temperature, degrees C.
        pcie_gen_current: present link generation; an idle GPU shows 1, that is healthy.
        pcie_gen_max: highest generation that GPU and slot can do.
        pcie_width_current: lanes in use.
        pcie_width_max: lanes that GPU and slot can do.
        fabric_state: `Completed`, `In Progress`, `Not Started`, `Not Supported`, `N/A` ... as printed.
        fabric_status: `Success` or the error, as printed.
        fabric_health: summary (`Healthy`, `Unhealthy`, `Limited Capacity`, `N/A`).
        remapped_pending: a row remap waits for a GPU reset.
        remapped_failure: a row remap failed.
        remapped_correctable: rows remapped because of correctable errors.
        remapped_uncorrectable: rows remapped because of uncorrectable errors.
        sram_threshold_exceeded: too many SRAM errors.
        ecc_uncorrectable_volatile: uncorrectable ECC errors since the driver was loaded.
        recovery_action: `None`, `GPU Reset Required` ... as printed.
        event_reasons: names of active clocks-event (throttle) reasons in snake_case
            (`hw_thermal_slowdown`); `None` when unknown, empty when none is active.
        persistence: persistence mode is on.
        mig_enabled: MIG mode is on.
        driver_version: user-space driver version as nvidia-smi printed it.
        details: what only the long report tells, or `None` when it was not read.
    """

    index: int
    name: str | None = None
    uuid: str | None = None
    pci: str | None = None
    device_id: str | None = None
    memory_mib: int | None = None
    power_limit_w: float | None = None
    temperature_c: float | None = None
    pcie_gen_current: int | None = None
    pcie_gen_max: int | None = None
    pcie_width_current: int | None = None
    pcie_width_max: int | None = None
    fabric_state: str | None = None
    fabric_status: str | None = None
    fabric_health: str | None = None
    remapped_pending: bool | None = None
    remapped_failure: bool | None = None
    remapped_correctable: int | None = None
    remapped_uncorrectable: int | None = None
    sram_threshold_exceeded: bool | None = None
    ecc_uncorrectable_volatile: int | None = None
    recovery_action: str | None = None
    event_reasons: tuple[str, ...] | None = None
    persistence: bool | None = None
    mig_enabled: bool | None = None
    driver_version: str | None = None
    details: GpuDetails | None = None


@dataclass(frozen=True, slots=True)
class GpuDetails:
    """What `nvidia-smi -q` alone tells of a GPU. `None` means that it was not printed or not understood.

    Attributes:
        performance_state: `P0` (fastest) to `P12`.
        virtualization: `None`, `Pass-Through`, `VGPU` ... as printed.
        clock_sm_mhz: present SM clock.
        clock_memory_mhz: present memory clock.
        clock_sm_max_mhz: highest SM clock.
        clock_memory_max_mhz: highest memory clock.
        application_clock_mhz: graphics clock set for applications, on GPUs that have it.
        default_application_clock_mhz: the same as delivered.
        ecc_enabled: ECC is on now.
        ecc_pending: ECC will be on after the next reset.
        ecc_uncorrectable_aggregate: uncorrectable errors in the life of the GPU.
        channel_repair_pending: a memory channel waits to be repaired by a reset.
        tpc_repair_pending: a TPC waits to be repaired by a reset.
        unrepairable_memory: memory that cannot be repaired.
        banks_max: memory banks with all spare rows left.
        banks_low: memory banks with few spare rows left.
        banks_none: memory banks with no spare row left.
        retired_pages: memory pages taken out of use after uncorrectable errors (GPUs before Ampere).
        retirement_pending: a page waits to be taken out of use by a reset (GPUs before Ampere).
        margin_c: T.Limit, degrees C to the highest operating temperature.
        memory_temperature_c: temperature of the memory.
        max_operating_c: highest operating temperature, on GPUs that print it.
        slowdown_c: temperature at which the hardware slows down, on GPUs that print it.
        power_draw_w: present draw.
        power_default_w: power limit as delivered.
        power_max_w: highest power limit that can be set.
        pcie_replays: packets sent again since the last reset.
        slowed_us: clocks-event reason -> time it was active since the driver was loaded, microseconds.
    """

    performance_state: str | None = None
    virtualization: str | None = None
    clock_sm_mhz: int | None = None
    clock_memory_mhz: int | None = None
    clock_sm_max_mhz: int | None = None
    clock_memory_max_mhz: int | None = None
    application_clock_mhz: int | None = None
    default_application_clock_mhz: int | None = None
    ecc_enabled: bool | None = None
    ecc_pending: bool | None = None
    ecc_uncorrectable_aggregate: int | None = None
    channel_repair_pending: bool | None = None
    tpc_repair_pending: bool | None = None
    unrepairable_memory: bool | None = None
    banks_max: int | None = None
    banks_low: int | None = None
    banks_none: int | None = None
    retired_pages: int | None = None
    retirement_pending: bool | None = None
    margin_c: float | None = None
    memory_temperature_c: float | None = None
    max_operating_c: float | None = None
    slowdown_c: float | None = None
    power_draw_w: float | None = None
    power_default_w: float | None = None
    power_max_w: float | None = None
    pcie_replays: int | None = None
    slowed_us: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NvlinkStatus:
    """NVLinks of one GPU, from `nvidia-smi nvlink -s`.

    Attributes:
        index: nvidia-smi's number of the GPU.
        name: product name, when printed.
        uuid: `GPU-...`, when printed.
        supported: False when the GPU says that it has no NVLink.
        link_gb_per_s: link number -> GB/s in one direction as printed; `None` for an inactive link.
        note: what nvidia-smi said instead of links ("all links are inActive", MIG ...); empty when it listed them.
    """

    index: int
    name: str | None = None
    uuid: str | None = None
    supported: bool = True
    link_gb_per_s: Mapping[int, float | None] = field(default_factory=dict)
    note: str = ""

    @property
    def active(self) -> int:
        """Number of active links."""
        return sum(speed is not None for speed in self.link_gb_per_s.values())

    @property
    def inactive(self) -> int:
        """Number of links printed as inactive."""
        return sum(speed is None for speed in self.link_gb_per_s.values())


@dataclass(frozen=True, slots=True)
class PcieLink:
    """State of one PCI function's link, from `lspci -vv` or sysfs; `None` means not known.

    Attributes:
        address: PCI address.
        gen_current: present generation (16 GT/s = 4).
        gen_max: highest generation that the device itself can do.
        width_current: lanes in use.
        width_max: lanes that the device itself can do.
    """

    address: str
    gen_current: int | None = None
    gen_max: int | None = None
    width_current: int | None = None
    width_max: int | None = None


@dataclass(frozen=True, slots=True)
class NvmeDrive:
    """An NVMe namespace. `None` means not known.

    Attributes:
        device: `/dev/nvme0n1`.
        model: model string, stripped.
        serial: serial number, stripped.
        firmware: firmware revision.
        size_bytes: size of the namespace, bytes.
        used_bytes: used bytes of the namespace as the drive counts them.
        pci: PCI address, when known.
        link: PCIe link, when known.
    """

    device: str
    model: str | None = None
    serial: str | None = None
    firmware: str | None = None
    size_bytes: int | None = None
    used_bytes: int | None = None
    pci: str | None = None
    link: PcieLink | None = None


@dataclass(frozen=True, slots=True)
class XidEvent:
    """One Xid, SXid or "fallen off the bus" line of the kernel log.

    Attributes:
        kind: which sort of line it is.
        xid: Xid number (SXid number when kind is `sxid`); `None` for a line without a number.
        pci: PCI address of GPU or NVSwitch, or `None` when the line has none that can be read.
        message: the whole line as logged.
        process: name of the process, when the line has one.
        severity: what the line itself says (`Fatal`, `Nonfatal`, `Non-fatal`), else `None`.
        unit: NVLink5 unit (`NETIR_LINK_EVT`), else `None`.
        link: NVLink number, when the line has one.
        action: recovery action that Xid 154 changed to (`Drain and Reset`), else `None`.
    """

    kind: XidKind
    xid: int | None
    pci: str | None
    message: str
    process: str | None = None
    severity: str | None = None
    unit: str | None = None
    link: int | None = None
    action: str | None = None
