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
