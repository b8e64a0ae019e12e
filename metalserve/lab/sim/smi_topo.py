"""`nvidia-smi topo` and `nvidia-smi nvlink`."""

from __future__ import annotations

from .view import Gpu, distance

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .state import Lab

    Out = Callable[[str], None]

_MATRIX_LEGEND = """
Legend:

  X    = Self
  SYS  = Connection traversing PCIe as well as the SMP interconnect between NUMA nodes (e.g., QPI/UPI)
  NODE = Connection traversing PCIe as well as the interconnect between PCIe Host Bridges within a NUMA node
  PHB  = Connection traversing PCIe as well as a PCIe Host Bridge (typically the CPU)
  PXB  = Connection traversing multiple PCIe bridges (without traversing the PCIe Host Bridge)
  PIX  = Connection traversing at most a single PCIe bridge
  NV#  = Connection traversing a bonded set of # NVLinks"""

_P2P_LEGEND = """
Legend:

  X    = Self
  OK   = Status Ok
  CNS  = Chipset not supported
  GNS  = GPU not supported
  TNS  = Topology not supported
  NS   = Not supported
  U    = Unknown"""


def topo(lab: Lab, gpus: list[Gpu], args: list[str], out: Out) -> int:
    """`nvidia-smi topo -m | -p2p r`."""
    if args[:1] in (["-m"], ["--matrix"]):
        _matrix(lab, gpus, out)
        return 0
    if args[:1] in (["-p2p"], ["--p2pstatus"]) and args[1:2] and args[1] in "rwnapm":
        _p2p(gpus, args[1], out)
        return 0
    if not args or args[0] in ("-h", "--help"):
        out("topo -- Display topological information about the system.\n\n    -m  matrix\n    -p2p r|w|n|a|p")
        return 0
    out(f'Invalid combination of input arguments. Option "{args[0]}" is not simulated in the metalserve lab.')
    return 2


def _link(one: Gpu, other: Gpu) -> str:
    if one is other:
        return " X "
    links = one.links_to(other)
    return f"NV{links}" if links else distance(dict(one.slot), dict(other.slot))


def _matrix(lab: Lab, gpus: list[Gpu], out: Out) -> None:
    nics = lab.profile["nics"]
    names = [f"GPU{gpu.index}" for gpu in gpus] + [f"NIC{n}" for n in range(len(nics))]
    # The real tool underlines the header even when it writes to a pipe; parsers must cope, so we do the same.
    out("\t\x1b[4m" + "\t".join([*names, "CPU Affinity", "NUMA Affinity", "GPU NUMA ID"]) + "\x1b[0m")
    for gpu in gpus:
        cells = [_link(gpu, other) for other in gpus]
        cells += [distance(dict(gpu.slot), dict(nic)) for nic in nics]
        out("\t".join([f"GPU{gpu.index}", *cells, gpu.slot["cpus"], str(gpu.slot["numa"]), "", "N/A"]))
    for number, nic in enumerate(nics):
        cells = [distance(dict(nic), dict(gpu.slot)) for gpu in gpus]
        cells += [" X " if nic is other else distance(dict(nic), dict(other)) for other in nics]
        out("\t".join([f"NIC{number}", *cells]) + "\t\t\t\t")
    out(_MATRIX_LEGEND)
    if nics:
        out("\nNIC Legend:\n")
        for number, nic in enumerate(nics):
            out(f"  NIC{number}: {nic['name']}")
    out("")


def _p2p(gpus: list[Gpu], kind: str, out: Out) -> None:
    out(" \t" + "\t".join(f"GPU{gpu.index}" for gpu in gpus) + "\t")
    for gpu in gpus:
        cells = []
        for other in gpus:
            if gpu is other:
                cells.append("X")
            elif kind in "na":
                cells.append("OK" if gpu.links_to(other) else "NS")
            else:
                cells.append("OK" if gpu.model["p2p"] else "CNS")
        out(f" GPU{gpu.index}\t" + "\t".join(cells) + "\t")
    out(_P2P_LEGEND)


def nvlink(gpus: list[Gpu], args: list[str], out: Out) -> int:
    """`nvidia-smi nvlink -s | -c | -e [-i GPU]`."""
    for gpu in gpus:
        out(f"GPU {gpu.index}: {gpu.model['name']} (UUID: {gpu.uuid})")
        links = gpu.links()
        if not links:
            out("Device does not have or support Nvlink")
            continue
        if not any(links):
            out("NVML: Unable to retrieve NVLink information as all links are inActive")
            continue
        if args[:1] in (["-s"], ["--status"]):
            rate = gpu.model["nvlink"]["rate"] if gpu.model["nvlink"] else ""
            for number, active in enumerate(links):
                out(f"\t Link {number}: {rate if active else '<inactive>'}")
        elif args[:1] in (["-c"], ["--capabilities"]):
            for number in (n for n, active in enumerate(links) if active):
                for words in (
                    "P2P is supported",
                    "Access to system memory supported",
                    "P2P atomics supported",
                    "System memory atomics supported",
                    "SLI is supported",
                    "Link is supported",
                ):
                    out(f"\t Link {number}, {words}: true")
        elif args[:1] in (["-e"], ["--errorcounters"]):
            for number in (n for n, active in enumerate(links) if active):
                for words in ("Replay", "Recovery", "CRC"):
                    out(f"\t Link {number}: {words} Errors: 0")
        else:
            out(f"Option {args[0] if args else '(none)'} of nvlink is not simulated in the metalserve lab.")
            return 2
    return 0
