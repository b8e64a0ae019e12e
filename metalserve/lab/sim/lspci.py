"""The simulated lspci: the functions of the machine profile, in the options that scripts use."""

from __future__ import annotations

import fnmatch
import os
import subprocess
import sys

from .state import Lab
from .view import gpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Out = Callable[[str], None]

CLASSES = {
    "0108": "Non-Volatile memory controller",
    "0200": "Ethernet controller",
    "0207": "Infiniband controller",
    "0300": "VGA compatible controller",
    "0302": "3D controller",
    "0600": "Host bridge",
    "0604": "PCI bridge",
    "0680": "Bridge",
}
REAL_LSPCI = "/usr/metalserve-lab/lspci"
SPEEDS = {1: "2.5GT/s", 2: "5GT/s", 3: "8GT/s", 4: "16GT/s", 5: "32GT/s", 6: "64GT/s"}
"""Transfer rate by PCIe generation, as lspci writes it."""


class Function:
    """One PCI function."""

    def __init__(self, bus: str, pci_class: str, pci_id: str, name: str, revision: str = "") -> None:
        self.bus = bus
        self.pci_class = pci_class
        self.vendor, self.device = pci_id.split(":")
        self.name = name
        self.revision = revision
        self.numa: int | None = None
        self.link: tuple[int, int, int, int] | None = None  # generation and width it can do, and has
        self.driver = ""
        self.modules = ""
        self.extra: list[str] = []
        self.above = ""  # the bridge or root that it hangs below
        self.acs: bool | None = None  # a port that redirects peer-to-peer traffic


def functions(lab: Lab) -> list[Function]:
    """All PCI functions of the machine, in the order of their addresses."""
    profile, loaded = lab.profile, lab.modules()
    bridge = Function("0000:00:00.0", "0600", "8086:09a2", "Intel Corporation Ice Lake Memory Map/VT-d", "04")
    found = [] if lab.only_gpus else [bridge]
    for gpu in gpus(lab):
        model = gpu.model
        name = f"NVIDIA Corporation {model['pci_name']}"
        card = Function(
            gpu.slot["bus"], model["pci_class"], f"10de:{model['pci_device']}", name, "ff" if gpu.lost else "a1"
        )
        card.numa = gpu.slot["numa"]
        card.link = (model["pcie_gen"], model["pcie_width"], gpu.pcie_gen, gpu.pcie_width)
        card.driver = "nvidia" if "nvidia" in loaded else "nouveau" if "nouveau" in loaded else ""
        card.modules = "nouveau" + (", nvidia_drm, nvidia" if lab.stand_in("nvidia-kernel-dkms") else "")
        found.append(card)
    for switch in profile["nvswitches"]:
        bridge = Function(switch["bus"], "0680", switch["pci_id"], switch["pci_name"], "a1")
        bridge.driver = "nvidia-nvswitch" if "nvidia" in loaded else ""
        bridge.link = (4, 2, 4, 2)
        found.append(bridge)
    for nic in profile["nics"]:
        port = Function(nic["bus"], nic["pci_class"], nic["pci_id"], nic["pci_name"])
        port.numa, port.driver, port.modules, port.link = nic["numa"], "mlx5_core", "mlx5_core", (5, 16, 5, 16)
        if nic["switch_management"]:
            # What marks the functions that manage NVLink5 switches (the start script of fabric manager looks for it).
            port.extra = [
                "\tCapabilities: [48] Vital Product Data",
                "\t\tProduct Name: metalserve lab: simulated NVLink bridge",
                "\t\tRead-only fields:",
                "\t\t\t[V3] Vendor specific: SMDL=SW_MNG",
                "\t\tEnd",
            ]
        found.append(port)
    downgraded = lab.fault("nvme-downgraded")
    for number, drive in enumerate(profile["nvme"]):
        disk = Function(drive["bus"], "0108", drive["pci_id"], drive["pci_name"])
        gen, width = drive["pcie_gen"], drive["pcie_width"]
        bad = downgraded is not None and int(downgraded.get("drive", 0)) == number
        disk.link = (gen, width, int(downgraded.get("gen", 1)) if bad and downgraded else gen, 1 if bad else width)
        disk.driver = disk.modules = "nvme"
        found.append(disk)
    return sorted(found, key=lambda each: each.bus)


def main(lab: Lab, args: list[str], out: Out, err: Out) -> int:
    """Run `lspci ARGS`."""
    flags, device, slot, problem = _options(args)
    if problem:
        err(f"lspci: {problem} is not simulated in the metalserve lab")
        return 1
    if "V" in flags:
        out("lspci version 3.9.0 (simulated in the metalserve lab)")
        return 0
    if lab.only_gpus and lab.system == "/":
        _machine_s_own(args)
    from .sysfs import bridges  # here, not above: it stands on this module

    for function in sorted([*functions(lab), *bridges(lab)], key=lambda each: each.bus):
        if not _matches(function, device, slot):
            continue
        _print(function, flags, out)
    return 0


def _machine_s_own(args: list[str]) -> None:
    """Print what the real tool says of the machine's own functions, which it sees where the stand-ins are not."""
    sys.stdout.flush()
    script = 'umount --lazy /sys/bus/pci; exec "$0" "$@"'
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, REAL_LSPCI, *args]
    if os.geteuid() == 0 and os.path.exists(REAL_LSPCI):
        subprocess.run(command, check=False)


def _options(args: list[str]) -> tuple[str, str, str, str]:
    flags, device, slot = "", "", ""
    words = list(args)
    while words:
        word = words.pop(0)
        if word == "--version":
            flags += "V"
        elif not word.startswith("-") or word.startswith("--"):
            return flags, device, slot, f"argument {word}"
        else:
            letters = word[1:]
            while letters:
                letter, letters = letters[0], letters[1:]
                if letter in "ds":
                    value = letters or (words.pop(0) if words else "")
                    device, slot = (value, slot) if letter == "d" else (device, value)
                    letters = ""
                elif letter in "Dnkvmqb":
                    flags += letter
                else:
                    return flags, device, slot, f"option -{letter}"
    return flags, device, slot, ""


def _matches(function: Function, device: str, slot: str) -> bool:
    vendor, _, rest = device.partition(":")
    ident, _, pci_class = rest.partition(":")
    wanted = ((vendor, function.vendor), (ident, function.device), (pci_class, function.pci_class))
    if any(want and want != "*" and not fnmatch.fnmatch(have, want.lower()) for want, have in wanted):
        return False
    return not slot or slot.lower() in (function.bus, function.bus.split(":", 1)[1], function.bus.rsplit(".", 1)[0])


def _print(function: Function, flags: str, out: Out) -> None:
    place = function.bus if "D" in flags else function.bus.split(":", 1)[1]
    words = CLASSES.get(function.pci_class, "Unassigned class")
    numbers = flags.count("n")
    ident = f"{function.vendor}:{function.device}"
    if "m" in flags:
        cells = [words, function.name.split(" Corporation ")[0], function.name]
        out(" ".join([place, *(f'"{cell}"' for cell in cells)]))
        return
    if numbers == 1:
        line = f"{place} {function.pci_class}: {ident}"
    elif numbers > 1:
        line = f"{place} {words} [{function.pci_class}]: {function.name} [{ident}]"
    else:
        line = f"{place} {words}: {function.name}"
    if function.revision:
        line += f" (rev {function.revision})"
    if function.revision == "ff" and ("v" in flags or "k" in flags):
        line += " (prog-if ff)"
    out(line)
    if "v" in flags:
        _verbose(function, flags.count("v"), out)
    if "v" in flags or "k" in flags:
        if function.driver:
            out(f"\tKernel driver in use: {function.driver}")
        if function.modules:
            out(f"\tKernel modules: {function.modules}")
    if "v" in flags:
        out("")


def _verbose(function: Function, level: int, out: Out) -> None:
    if function.revision == "ff":
        out("\t!!! Unknown header type 7f")
        return
    if function.numa is not None:
        out(f"\tNUMA node: {function.numa}")
    for line in function.extra:
        out(line)
    if function.link is None or level < 2:
        return
    gen, width, gen_now, width_now = function.link
    speed_word = "ok" if gen_now == gen else "downgraded"
    width_word = "ok" if width_now == width else "downgraded"
    if function.acs is not None:
        sign = "+" if function.acs else "-"
        out("\tCapabilities: [148 v1] Access Control Services")
        out("\t\tACSCap:\tSrcValid+ TransBlk+ ReqRedir+ CmpltRedir+ UpstreamFwd+ EgressCtrl- DirectTrans+")
        control = f"SrcValid{sign} TransBlk- ReqRedir{sign} CmpltRedir{sign} UpstreamFwd{sign}"
        out(f"\t\tACSCtl:\t{control} EgressCtrl- DirectTrans-")
    kind = "Endpoint" if function.pci_class != "0604" else "Downstream Port (Slot+)"
    out(f"\tCapabilities: [60] Express (v2) {kind}, MSI 00")
    out(f"\t\tLnkCap:\tPort #0, Speed {SPEEDS[gen]}, Width x{width}, ASPM L1, Exit Latency L1 <4us")
    out(f"\t\tLnkSta:\tSpeed {SPEEDS[gen_now]} ({speed_word}), Width x{width_now} ({width_word})")
