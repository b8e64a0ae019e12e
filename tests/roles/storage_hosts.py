"""Hosts with NVMe drives as the tests of the storage role need them: what the probe prints, `nvme list`, sysfs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from metalserve.desired.node import Node
from tests.roles.helpers import make_node

UUID = "11111111-2222-3333-4444-555555555555"
ARRAY = "7e81a856-abb9-c1c2-4b71-237a9778cc66"
EMPTY = ["blkid=2", "zero=1"]
OURS = ["LABEL=metalserve", f"UUID={UUID}", "TYPE=xfs", "blkid=0", "zero=0"]
MEMBER = [
    "TYPE=linux_raid_member", "LABEL=node:metalserve", f"UUID={ARRAY}", "blkid=0", "zero=0", "MD_LEVEL=raid0",
    "MD_DEVICES=2",
]  # fmt: skip
"""What blkid and `mdadm --examine --export` print of one of two members."""

EXT4 = ["TYPE=ext4", "LABEL=data", "blkid=0", "zero=0"]
GPU_BUS = ("0000:19:00.0", "0000:3b:00.0")


def probe(drives: Mapping[str, list[str]], arrays: Mapping[str, list[str]] | None = None) -> str:
    groups = {f"drive=/dev/{name}": lines for name, lines in drives.items()}
    groups |= {f"array=/dev/{name}": lines for name, lines in (arrays or {}).items()}
    return "".join(f"{head}\n" + "".join(f"{line}\n" for line in lines) for head, lines in groups.items())


def nvme_list(*names: str, sizes: Mapping[str, int] | None = None, models: Mapping[str, str] | None = None) -> str:
    devices = [
        {
            "DevicePath": f"/dev/{name}",
            "SerialNumber": f"S-{name}",
            "ModelNumber": (models or {}).get(name, "M"),
            "PhysicalSize": (sizes or {}).get(name, 3_840_000_000_000),
        }
        for name in names
    ]
    return json.dumps({"Devices": devices})


def links(*told: tuple[str, int, int, int, int]) -> dict[str, str]:
    """Sections of drives nvme0, nvme1 ...: (bus, generation now, lanes now, generation at most, lanes at most)."""
    speeds = {1: "2.5", 3: "8.0", 4: "16.0", 5: "32.0"}
    return {
        "nvme-links": "".join(
            f"link\t{bus}\t{speeds[gen]} GT/s PCIe\t{width}\t{speeds[top]} GT/s PCIe\t{lanes}\n"
            for bus, gen, width, top, lanes in told
        ),
        "nvme-controllers": "".join(f"nvme{i}\t{one[0]}\n" for i, one in enumerate(told)),
    }


def tree(*drives: tuple[str, int, int, int, int, int, int], gpus: tuple[int, ...] = ()) -> str:
    """Sysfs of drives below a port each: (bus, gen now, width now, gen of the drive, gen of the port, width of the
    port, NUMA node); and of GPUs on NUMA nodes."""
    lines = []
    for i, (bus, gen, width, top, port_top, port_width, numa) in enumerate(drives):
        port = f"0000:{0x40 + i:02x}:01.0"
        lines += [
            f"/sys/devices/pci0000:{0x40 + i:02x}/{port}/{bus}",
            *_values(port, "0x060400", gen, width, port_top, port_width, numa),
            *_values(bus, "0x010802", gen, width, top, 4, numa),
        ]
    for i, numa in enumerate(gpus):
        bus = GPU_BUS[i]
        lines += [f"/sys/devices/pci0000:{0x18 + i:02x}/{bus}", *_values(bus, "0x030200", 5, 16, 5, 16, numa)]
        lines += [f"{bus}/vendor:0x10de"]
    return "\n".join(lines) + "\n"


def _values(bus: str, code: str, gen: int, width: int, gen_max: int, width_max: int, numa: int) -> list[str]:
    speeds = {1: "2.5", 3: "8.0", 4: "16.0", 5: "32.0"}
    return [
        f"{bus}/class:{code}",
        f"{bus}/numa_node:{numa}",
        f"{bus}/current_link_speed:{speeds[gen]} GT/s PCIe",
        f"{bus}/max_link_speed:{speeds[gen_max]} GT/s PCIe",
        f"{bus}/current_link_width:{width}",
        f"{bus}/max_link_width:{width_max}",
    ]


def smart(**logs: dict[str, Any]) -> str:
    """Section `drive-health`: controller -> what differs from a healthy drive."""
    healthy = {"critical_warning": 0, "temperature": 310, "avail_spare": 100, "spare_thresh": 10, "percent_used": 1}
    return "".join(
        f"drive\t/dev/{name}\n{json.dumps({**healthy, 'media_errors': 0, **log})}\n\n" for name, log in logs.items()
    )


def findmnt(target: str = "/srv/models", fstype: str = "xfs") -> str:
    row = {"target": target, "source": "/dev/nvme0n1", "fstype": fstype, "options": "rw,noatime"}
    return json.dumps({"filesystems": [row]})


DF = "Filesystem 1-blocks Used Available Capacity Mounted on\n/dev/nvme0n1 1000000000000 1 {} 1% /srv/models\n"


def storage_host(
    storage: Mapping[str, Any] | None = None,
    *,
    drives: Mapping[str, list[str]],
    arrays: Mapping[str, list[str]] | None = None,
    listed: str = "",
    sections: Mapping[str, str] | None = None,
    facts: Mapping[str, str] | None = None,
) -> Node:
    return make_node(
        settings={"storage": dict(storage or {})},
        facts=facts,
        sections={
            "nvme-list": listed or nvme_list(*drives),
            "storage-drives": probe(drives, arrays),
            "storage-mount": findmnt("/", "ext4"),
            "storage-space": DF.format(900_000_000_000) + "writable\n",
            **(sections or {}),
        },
    )
