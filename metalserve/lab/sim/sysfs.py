"""The stand-in for the PCI part of sysfs and for its NUMA nodes: files in state/boot that the boot unit binds over it.

Where a profile says how its functions hang together (`root`, `switch`), bridges are made up to match: a root port for
each function, or a PCIe switch with a port each where several share one. Their numbers are invented, their links not.
"""

from __future__ import annotations

import os
import shutil

from .lspci import Function, functions
from .state import Lab

TYPE_CHECKING = False
if TYPE_CHECKING:
    from metalserve.lab.profiles import Nic

RATES = {1: "2.5", 2: "5.0", 3: "8.0", 4: "16.0", 5: "32.0", 6: "64.0"}
"""Transfer rate by PCIe generation, as sysfs writes it."""
NODE_KIB = 263998500
"""Memory of a simulated NUMA node."""
_NET_UP = {"operstate": "up", "speed": "100000"}


def bus_of(address: str) -> int:
    """Bus number of an address."""
    return int(address.split(":")[1], 16)


def bridges(lab: Lab) -> list[Function]:
    """The bridges above the GPUs, NICs, NVSwitches and drives of the profile; `above` of each function is set."""
    return _hang(lab, functions(lab))


def _groups(lab: Lab, found: list[Function]) -> list[tuple[bool, list[Function]]]:
    """Functions that share a root complex, each group with whether a PCIe switch joins them."""
    profile = lab.profile
    place = {slot["bus"]: (slot["root"], slot["switch"]) for slot in [*profile["gpus"], *profile["nics"]]}
    by_root: dict[str, list[Function]] = {}
    switched: set[str] = set()
    for function in found:
        if function.pci_class == "0600":
            continue
        root, switch = place.get(function.bus, ("", None))
        if function.pci_class == "0680":
            root = "nvswitch"
        key = root or f"drive {function.bus}"
        by_root.setdefault(key, []).append(function)
        if switch is not None:
            switched.add(key)
    return [(key in switched, members) for key, members in by_root.items()]


def _hang(lab: Lab, found: list[Function]) -> list[Function]:
    made: list[Function] = []
    taken = {bus_of(function.bus) for function in found}
    narrow = {
        lab.profile["gpus"][int(fault["gpu"])]["bus"]: fault
        for fault in lab.faults()
        if fault["kind"] == "pcie-bridge-downgraded"
    }
    for switched, members in _groups(lab, found):
        first = min(bus_of(function.bus) for function in members)
        root_bus = _free(first - (3 if switched else 1), taken)
        root = f"pci0000:{root_bus:02x}"
        numa = next((f.numa for f in members if f.numa is not None), 0)
        upstream = root
        bad = next((narrow[f.bus] for f in members if f.bus in narrow), None)
        if switched:
            port = _bridge(f"0000:{root_bus:02x}:01.0", root, numa, _widest(members), "root port")
            top = _bridge(
                f"0000:{_free(first - 2, taken):02x}:00.0", port.bus, numa, _widest(members), "switch, upstream port"
            )
            if bad:
                for end in (port, top):
                    end.link = (*_widest(members), int(bad.get("gen", 5)), int(bad.get("width", 8)))
            made += [port, top]
            upstream = top.bus
        port_bus = _free(first - 1, taken) if switched else root_bus
        ports: dict[str, Function] = {}
        for function in members:
            card = function.bus.rsplit(".", 1)[0]  # functions of one card share a port
            if card not in ports:
                gen, width, gen_now, width_now = function.link or (4, 4, 4, 4)
                number = len(ports) + (0 if switched else 1)
                link = (gen, width, gen_now, width_now)
                words = "switch, downstream port" if switched else "root port"
                port = _bridge(f"0000:{port_bus:02x}:{number:02x}.0", upstream, numa, (gen, width), words)
                port.link = link
                port.acs = lab.fault("acs-on") is not None and switched
                ports[card] = port
                made.append(port)
            function.above = ports[card].bus
    return made


def _widest(members: list[Function]) -> tuple[int, int]:
    links = [function.link or (4, 4, 4, 4) for function in members]
    return max(link[0] for link in links), max(link[1] for link in links)


def _free(bus: int, taken: set[int]) -> int:
    while bus in taken or bus < 0:
        bus = bus - 1 if bus > 0 else 0xE0
    taken.add(bus)
    return bus


def _bridge(address: str, above: str, numa: int | None, best: tuple[int, int], words: str) -> Function:
    made = Function(address, "0604", "1000:c030", f"simulated {words}", "b0")
    made.above, made.numa, made.driver = above, numa, "pcieport"
    made.link = (*best, *best)
    return made


def tree(lab: Lab) -> dict[str, dict[str, str]]:
    """All functions as sysfs shows them: path below `pci/` -> file -> text."""
    found = functions(lab)
    everything = {function.bus: function for function in [*found, *_hang(lab, found)]}
    numbers = {nic["bus"]: nic for nic in lab.profile["nics"]}
    translating = lab.fault("iommu-translating") is not None
    out: dict[str, dict[str, str]] = {}
    for function in everything.values():
        path, above = function.bus, function.above or "pci0000:00"
        while above in everything:
            path, above = f"{above}/{path}", everything[above].above or "pci0000:00"
        out[f"{above}/{path}"] = _files(lab, function, numbers.get(function.bus), translating)
    return out


def _files(lab: Lab, function: Function, nic: Nic | None, translating: bool) -> dict[str, str]:
    files = {
        "class": f"0x{function.pci_class}00",
        "vendor": f"0x{function.vendor}",
        "device": f"0x{function.device}",
        "revision": f"0x{function.revision or '00'}",
        "numa_node": str(function.numa if function.numa is not None else -1),
        "uevent": f"DRIVER={function.driver}" if function.driver else "PCI_CLASS=0",
    }
    if function.link:
        gen, width, gen_now, width_now = function.link
        gone = function.revision == "ff"
        files["max_link_speed"] = "Unknown" if gone else f"{RATES[gen]} GT/s PCIe"
        files["max_link_width"] = "63" if gone else str(width)
        files["current_link_speed"] = "Unknown" if gone else f"{RATES[gen_now]} GT/s PCIe"
        files["current_link_width"] = "63" if gone else str(width_now)
    if function.pci_class in ("0300", "0302", "0108") or function.pci_class.startswith("02"):
        files["iommu_group/type"] = "DMA-FQ" if translating else "identity"
    if nic is not None and function.driver == "mlx5_core":
        _ports(lab, function, nic, files)
    return files


def _ports(lab: Lab, function: Function, nic: Nic, files: dict[str, str]) -> None:
    if nic["switch_management"]:
        return  # joins the GPU board, no network
    down = lab.fault("nic-down")
    mine = down is not None and lab.profile["nics"][int(down.get("nic", 0))]["bus"] == function.bus
    layer, port = "InfiniBand", f"infiniband/{nic['name']}/ports/1"
    if function.pci_class == "0200":
        layer = "Ethernet"
        device = f"enp{bus_of(function.bus)}s0np0"
        files[f"net/{device}/operstate"] = "down" if mine else _NET_UP["operstate"]
        files[f"net/{device}/speed"] = "-1" if mine else _NET_UP["speed"]
    files[f"{port}/state"] = "1: DOWN" if mine else "4: ACTIVE"
    files[f"{port}/rate"] = "2.5 Gb/sec (1X SDR)" if mine else "400 Gb/sec (4X NDR)"
    files[f"{port}/link_layer"] = layer


def nodes(lab: Lab) -> dict[str, dict[str, str]]:
    """NUMA nodes of the machine: name -> file -> text."""
    cpus: dict[int, str] = {}
    for slot in lab.profile["gpus"]:
        cpus.setdefault(slot["numa"], slot["cpus"])
    cpus = cpus or {0: f"0-{(os.cpu_count() or 1) - 1}"}
    return {
        f"node{n}": {"cpulist": text, "meminfo": f"Node {n} MemTotal:       {NODE_KIB} kB"}
        for n, text in sorted(cpus.items())
    }


def refresh(lab: Lab) -> None:
    """Bring the stand-ins in line with profile, modules and faults; the directories that are bound stay the same."""
    wanted = {"pci": tree(lab), "node": nodes(lab), "real": lab.read("state/boot/pci-real.json", {})}
    if lab.read("state/boot/sysfs.json", None) == wanted:
        return
    top = lab.boot("sys")
    _clear(os.path.join(top, "bus", "pci", "tree"))
    _clear(os.path.join(top, "bus", "pci", "devices"))
    for path, files in wanted["pci"].items():
        _write(os.path.join(top, "bus", "pci", "tree", path), files)
        os.symlink(f"../tree/{path}", os.path.join(top, "bus", "pci", "devices", path.rsplit("/", 1)[1]))
    for name, target in wanted["real"].items():
        os.symlink(target, os.path.join(top, "bus", "pci", "devices", name))
    _clear(os.path.join(top, "node"))
    for name, files in wanted["node"].items():
        _write(os.path.join(top, "node", name), files)
    lab.write("state/boot/sysfs.json", wanted)


def _clear(directory: str) -> None:
    os.makedirs(directory, exist_ok=True)
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def _write(directory: str, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = os.path.join(directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(f"{text}\n")
