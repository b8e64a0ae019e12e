"""All outputs of one made-up host with 8 H100, 4 NVSwitches, 8 drives: for the bench, and to read it as a whole."""

from __future__ import annotations

import json

from . import samples, samples_tools
from .kinds import fixture

BUSES = ("19", "3b", "4c", "5d", "9b", "bb", "cb", "db")


def _smi_q() -> str:
    text = fixture("smi-q.txt")
    start = text.index("GPU 00000000:00:06.0")
    block = text[start : text.index("GPU 00000000:00:07.0")]
    head = text[:start].replace(": 2\n", ": 8\n")
    return head + "".join(block.replace("00000000:00:06.0", f"00000000:{bus.upper()}:00.0") for bus in BUSES)


def _smi_xml() -> str:
    text = fixture("smi-xml.xml")
    start, end = text.index("\t<gpu id="), text.index("</gpu>") + len("</gpu>\n")
    block = text[start:end]
    blocks = "".join(block.replace("00000000:00:06.0", f"00000000:{bus.upper()}:00.0") for bus in BUSES)
    return text[:start].replace(">2<", ">8<") + blocks + "</nvidia_smi_log>\n"


def _topo() -> str:
    names = [f"GPU{n}" for n in range(8)] + [f"NIC{n}" for n in range(8)]
    head = "\t\x1b[4m" + "\t".join(names) + "\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m\n"
    rows = ""
    for a, name in enumerate(names):
        cells = [" X " if a == b else "NV18" if a < 8 and b < 8 else "SYS" for b in range(16)]
        rows += "\t".join([name, *cells]) + (
            f"\t{a // 4 * 48}-{a // 4 * 48 + 47}\t{a // 4}\t\tN/A\n" if a < 8 else "\n"
        )
    return head + rows


def _nvlink(line: str) -> str:
    return "".join(
        f"GPU {n}: NVIDIA H100 80GB HBM3 (UUID: GPU-0000000{n})\n" + "".join(line.format(link=k) for k in range(18))
        for n in range(8)
    )


def _csv() -> str:
    head, first, _ = fixture("smi-csv.txt").splitlines()
    rows = [first.replace("00:06.0", f"{bus.upper()}:00.0").replace("0, ", f"{n}, ", 1) for n, bus in enumerate(BUSES)]
    return "\n".join([head, *rows]) + "\n"


def _lspci() -> str:
    lines = [f"0000:{n:02x}:01.0 PCI bridge [0604]: Vendor Bridge [1000:c030] (rev b0)" for n in range(120)]
    lines += [f"0000:{b}:00.0 3D controller [0302]: NVIDIA Corporation GH100 [10de:2330] (rev a1)" for b in BUSES]
    lines += [f"0000:{n}:00.0 Bridge [0680]: NVIDIA Corporation GH100 [10de:22a3] (rev a1)" for n in range(83, 87)]
    lines += [f"0000:e{n}:00.0 Non-Volatile memory controller [0108]: Vendor NVMe [144d:a80a]" for n in range(8)]
    return "\n".join(lines) + "\n"


def _details() -> str:
    body = "\n".join(f"\tCapabilities: [{n}] words of a capability" for n in range(40))
    links = "\t\tLnkCap:\tPort #0, Speed 16GT/s, Width x4, ASPM L1\n\t\tLnkSta:\tSpeed 16GT/s, Width x4\n"
    return "".join(f"0000:e{n}:00.0 Non-Volatile memory controller: Vendor NVMe\n{body}\n{links}" for n in range(8))


def _nvme_list() -> str:
    def drive(n: int) -> dict[str, object]:
        return {
            "Subsystem": f"nvme-subsys{n}",
            "Controllers": [
                {
                    "Controller": f"nvme{n}",
                    "SerialNumber": f"S{n}",
                    "ModelNumber": "Drive",
                    "Firmware": "F1",
                    "Address": f"0000:e{n}:00.0",
                    "Namespaces": [{"NameSpace": f"nvme{n}n1", "UsedBytes": 1, "PhysicalSize": 3840755982336}],
                }
            ],
            "Namespaces": [],
        }

    return json.dumps({"Devices": [{"HostNQN": "nqn", "Subsystems": [drive(n) for n in range(8)]}]}, indent=2)


def _kernel_log() -> str:
    quiet = "".join(f"[{n:5d}.000001] nvidia-nvlink: a quiet line of the driver\n" for n in range(1000))
    return quiet + samples.KERNEL_LOG


def outputs() -> dict[str, str]:
    """Kind -> text, all that `deploys/verify.py` and people read of such a host."""
    return {
        "smi-q": _smi_q(),
        "smi-csv": _csv(),
        "topo": _topo(),
        "nvlink-status": _nvlink("\t Link {link}: 26.562 GB/s\n"),
        "nvlink-errors": _nvlink("\t Link {link}: Replay Errors: 0\n\t Link {link}: CRC Errors: 0\n"),
        "p2p": "\t"
        + "\t".join(f"GPU{n}" for n in range(8))
        + "\n"
        + "".join("\t".join([f" GPU{a}", *("X" if a == b else "OK" for b in range(8))]) + "\n" for a in range(8)),
        "lspci": _lspci(),
        "nvme-list": _nvme_list(),
        "nvme-smart": samples_tools.SMART_1,
        "lsblk": samples_tools.LSBLK,
        "findmnt": samples_tools.FINDMNT,
        "mdadm": samples_tools.MDADM,
        "kernel-log": _kernel_log(),
        "fabric-log": samples_tools.FABRIC_LOG * 50,
        "dcgm": samples_tools.DCGM_4_TABLE,
        "nccl": samples_tools.NCCL_2_17,
        "fio": samples_tools.FIO_3,
    }


def sections() -> dict[str, str]:
    """Section of the observation -> text."""
    texts = outputs()
    return {
        "lspci": texts["lspci"],
        "nvme-links": _details(),
        "nvme-controllers": "".join(f"nvme{n}\t0000:e{n}:00.0\n" for n in range(8)),
        "nvme-list": texts["nvme-list"],
        "nvlink5-bridges": "",
        "modules": "nvidia\nnvidia_uvm\n",
        "driver-module": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build\n",
        "driver-disk": "580.159.04\n",
        "fm-version": "Fabric Manager version is : 580.159.04\n",
        "smi-csv": texts["smi-csv"],
        "smi-q": texts["smi-q"],
        "topo": texts["topo"],
        "nvlink-status": texts["nvlink-status"],
        "kernel-log": texts["kernel-log"],
    }


def xml() -> str:
    """`nvidia-smi -q -x` of the same host."""
    return _smi_xml()
