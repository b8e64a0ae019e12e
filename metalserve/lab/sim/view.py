"""The GPUs as the driver would see them now: profile with the faults in force laid over it."""

from __future__ import annotations

from .state import Lab

TYPE_CHECKING = False
if TYPE_CHECKING:
    from metalserve.lab.profiles import GpuModel, GpuSlot

LINKS_LOST = 2
"""NVLinks that the nvlink-degraded fault takes from a GPU unless it says otherwise."""


class Gpu:
    """One GPU of the profile, with its present values."""

    def __init__(self, lab: Lab, position: int) -> None:
        model = lab.profile["gpu"]
        if model is None:
            raise ValueError("this profile has no GPUs")
        self.lab = lab
        self.position = position
        self.index = position
        self.model: GpuModel = model
        self.slot: GpuSlot = lab.profile["gpus"][position]
        self.uuid = self.slot.get("uuid", "GPU-00000000-0000-0000-0000-000000000000")
        self.serial = self.slot.get("serial", "0000000000000")
        self.absent = lab.fault("wrong-gpu-count", position) is not None
        self.lost = lab.fault("gpu-off-bus", position) is not None
        self.hot = lab.fault("thermal-throttle", position) is not None
        self.braked = lab.fault("power-brake", position) is not None
        self.slowed = lab.fault("hw-slowdown", position) is not None
        self.ecc_off = lab.fault("ecc-off", position) is not None
        limited = lab.fault("power-limited", position)
        power = model["power"]
        self.power_limit = float(limited.get("watts", power["minimum"])) if limited else power["default"]
        self.remap_pending = lab.fault("remap-pending", position) is not None
        self.remap_failed = lab.fault("remap-failed", position) is not None
        self.needs_reset = lab.fault("gpu-needs-reset", position) is not None
        remapped = lab.was_remapped(position)
        self.remapped_uncorrectable = 512 if self.remap_failed else int(self.remap_pending or remapped)
        downgraded = lab.fault("pcie-downgraded", position)
        self.pcie_gen = int(downgraded.get("gen", 3)) if downgraded else model["pcie_gen"]
        self.pcie_width = int(downgraded.get("width", 8)) if downgraded else model["pcie_width"]

    # An address appears in three spellings: 0000:1b:00.0 (lspci), 00000000:1B:00.0 (smi), 0000:1b:00 (Xid lines).

    @property
    def smi_bus(self) -> str:
        """Address as nvidia-smi prints it."""
        return "0000" + self.slot["bus"].upper()

    @property
    def xid_bus(self) -> str:
        """Address as Xid lines print it."""
        return self.slot["bus"].rsplit(".", 1)[0]

    @property
    def temperature(self) -> int:
        """Degrees C."""
        return self.model["temperature"]["slowdown"] + 1 if self.hot else self.model["temperature"]["idle"]

    @property
    def headroom(self) -> int | None:
        """Degrees C to the highest operating temperature, on GPUs that print it."""
        if self.model["temperature"]["style"] != "tlimit":
            return None
        return self.model["temperature"]["max_operating"] - self.temperature

    @property
    def event_mask(self) -> int:
        """Clocks-event (throttle) reasons, NVML bits: idle 0x1; HW slowdown 0x8, thermal 0x20, 0x40, brake 0x80."""
        return (0x68 if self.hot else 0) | (0x88 if self.braked else 0) | (0x8 if self.slowed else 0) or 0x1

    @property
    def ecc(self) -> bool:
        """ECC is there and on."""
        return self.model["ecc"] and not self.ecc_off

    @property
    def ecc_mode(self) -> str:
        """ECC mode as nvidia-smi -q prints it."""
        return "Enabled" if self.ecc else "Disabled" if self.model["ecc"] else "N/A"

    @property
    def sm_mhz(self) -> int:
        """SM clock, MHz."""
        return self.model["clocks"]["sm_idle"]

    @property
    def recovery_action(self) -> str:
        """Recovery action that the driver recommends."""
        if self.remap_failed or self.needs_reset:
            return "GPU Reset Required"
        return "Drain and Reset" if self.remap_pending else "None"

    # -- links -----------------------------------------------------------------------------------------------------

    def links(self) -> list[bool]:
        """State of every NVLink slot; empty for a GPU without NVLink."""
        nvlink = self.model["nvlink"]
        if nvlink is None:
            return []
        fabric = self.lab.profile["fabric"]
        wired = [number not in nvlink["inactive"] for number in range(nvlink["slots"])]
        if fabric["kind"] == "pcie" or (fabric["kind"] == "bridge" and self.partner() is None):
            return [False] * len(wired)
        if fabric["manager"] and not fabric["links_train_alone"] and not fabric_ready(self.lab):
            return [False] * len(wired)
        fault = self.lab.fault("nvlink-degraded", self.position)
        if fault:
            up = [number for number, active in enumerate(wired) if active]
            for number in fault.get("links") or up[-LINKS_LOST:]:
                wired[number] = False
        return wired

    def partner(self) -> int | None:
        """Position of the GPU at the other end of the bridge."""
        for pair in self.lab.profile["fabric"]["pairs"]:
            if self.position in pair:
                return next(other for other in pair if other != self.position)
        return None

    def links_to(self, other: Gpu) -> int:
        """Number of NVLinks that join two GPUs."""
        fabric = self.lab.profile["fabric"]
        mine, theirs = self.links(), other.links()
        if fabric["kind"] == "nvswitch":
            return min(sum(mine), sum(theirs))
        if fabric["kind"] == "bridge":
            return min(sum(mine), sum(theirs)) if self.partner() == other.position else 0
        if fabric["kind"] == "direct" and fabric["links_per_pair"]:
            return min(
                self._direct(mine, other.position, fabric["links_per_pair"]),
                other._direct(theirs, self.position, fabric["links_per_pair"]),
            )
        return 0

    def _direct(self, links: list[bool], other: int, each: int) -> int:
        """Links to one neighbour on a board where the links are dealt out to the others in order."""
        place = other if other < self.position else other - 1
        return sum(links[place * each : (place + 1) * each])

    # -- fabric ----------------------------------------------------------------------------------------------------

    def fabric(self) -> tuple[str, str]:
        """State and status of the fabric block of `nvidia-smi -q`."""
        fabric = self.lab.profile["fabric"]
        nvlink = self.model["nvlink"]
        # A100 and older do not register with a fabric; the block says N/A there, as for PCIe cards.
        if not fabric["manager"] or nvlink is None or nvlink["generation"] < 4:
            return "N/A", "N/A"
        return ("Completed", "Success") if fabric_ready(self.lab, self.position) else ("In Progress", "N/A")


LATCH = "state/boot/fabric.json"
"""What fabric manager left with the driver: the driver's version, and the GPUs that it has configured."""


def fabric_ready(lab: Lab, position: int | None = None) -> bool:
    """Whether fabric manager has configured the GPU (or all) since the driver was loaded and the GPU was reset.

    The state is latched, as on real boards: it stays when the manager dies.
    """
    latched = lab.read(LATCH, {})
    if not latched or latched["version"] != lab.module_version():
        return False
    return position in latched["gpus"] if position is not None else len(latched["gpus"]) == len(lab.profile["gpus"])


def forget_fabric(lab: Lab, positions: list[int] | None = None) -> None:
    """Let GPUs (all of them, when the driver is unloaded) lose what fabric manager had configured."""
    latched = lab.read(LATCH, {})
    if latched:
        kept = [n for n in latched["gpus"] if positions is not None and n not in positions]
        lab.write(LATCH, {**latched, "gpus": kept})


def gpus(lab: Lab) -> list[Gpu]:
    """All GPUs that are enumerated on PCI, lost ones included, numbered as nvidia-smi numbers them."""
    found = [gpu for gpu in (Gpu(lab, n) for n in range(len(lab.profile["gpus"]))) if not gpu.absent]
    for index, gpu in enumerate(found):
        gpu.index = index
    return found


def distance(one: dict[str, object], other: dict[str, object]) -> str:
    """PCIe distance of two functions, in the words of `topo -m`."""
    if one["numa"] != other["numa"]:
        return "SYS"
    if one["root"] != other["root"]:
        return "NODE"
    return "PIX" if one["switch"] is not None and one["switch"] == other["switch"] else "PHB"
