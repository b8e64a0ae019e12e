"""Small texts of the commands of `machine_commands`, made for these tests."""

from __future__ import annotations

PCIE_TREE = """/sys/devices/pci0000:00/0000:00:1f.0
/sys/devices/pci0000:17/0000:17:01.0
/sys/devices/pci0000:17/0000:17:01.0/0000:3b:00.0
/sys/devices/pci0000:5d/0000:5d:02.0/0000:5e:00.0
/sys/devices/pci0000:5d/0000:5d:02.0/0000:5e:00.1
/sys/devices/pci0000:e0/0000:e0:00.5/pci10000:e1/10000:e1:00.0/10000:e2:00.0
0000:00:1f.0/class:0x060100
0000:17:01.0/class:0x060400
0000:3b:00.0/class:0x030200
0000:5d:02.0/class:0x060400
0000:5e:00.0/class:0x020000
0000:5e:00.1/class:0x020000
0000:e0:00.5/class:0x010400
10000:e1:00.0/class:0x060400
10000:e2:00.0/class:0x010802
0000:3b:00.0/vendor:0x10de
0000:5e:00.0/vendor:0x15b3
0000:5e:00.1/vendor:0x15b3
0000:3b:00.0/device:0x26b9
0000:5e:00.0/device:0x1021
0000:5e:00.1/device:0x101e
0000:3b:00.0/numa_node:0
0000:5e:00.0/numa_node:-1
0000:17:01.0/current_link_speed:2.5 GT/s PCIe
0000:3b:00.0/current_link_speed:2.5 GT/s PCIe
0000:17:01.0/current_link_width:16
0000:3b:00.0/current_link_width:16
0000:17:01.0/max_link_speed:32.0 GT/s PCIe
0000:3b:00.0/max_link_speed:16.0 GT/s PCIe
0000:17:01.0/max_link_width:16
0000:3b:00.0/max_link_width:16
0000:3b:00.0/iommu_group/type:DMA-FQ
0000:5e:00.1/physfn/class:0x020000
0000:5e:00.0/net/enp94s0np0/operstate:up
0000:5e:00.0/net/enp94s0np0/speed:200000
0000:5e:00.0/infiniband/mlx5_0/ports/1/state:4: ACTIVE
0000:5e:00.0/infiniband/mlx5_0/ports/1/rate:200 Gb/sec (4X HDR)
0000:5e:00.0/infiniband/mlx5_0/ports/1/link_layer:Ethernet
0000:3b:00.0/uevent:DRIVER=nvidia
0000:5e:00.0/uevent:DRIVER=mlx5_core
"""

ACS = """0000:17:01.0 PCI bridge: Root port
\t\tACSCtl:\tSrcValid+ TransBlk- ReqRedir+ CmpltRedir+ UpstreamFwd+ EgressCtrl- DirectTrans-
0000:5d:02.0 PCI bridge: Switch
\t\tACSCtl:\tSrcValid- TransBlk- ReqRedir- CmpltRedir- UpstreamFwd- EgressCtrl- DirectTrans-
"""

NUMA = """node0/cpulist:0-31,64-95
node1/cpulist:32-63,96-127
node0/meminfo:Node 0 MemTotal:       528157420 kB
node1/meminfo:Node 1 MemTotal:       528434152 kB
"""

HOST_STATE = """kernel=6.8.0-88-generic
cmdline=BOOT_IMAGE=/vmlinuz ro iommu=pt
virt=none
hypervisor=0
product=Supermicro SYS-821GE-TNHR
cpus=128
governors=performance schedutil
memory_kib=1056591572
hugepages_total=16
hugepages_free=16
hugepage_kib=1048576
thp=always [madvise] never
docker_memlock=8388608
docker_nofile=infinity
iommu_units=8
secure_boot=1
clock=Leap status     : Not synchronised
"""

MDSTAT = """Personalities : [raid1] [raid0]
md127 : active raid1 nvme1n1p2[1] nvme0n1p2[0]
      937428992 blocks super 1.2 [2/2] [UU]
      bitmap: 2/7 pages [8KB], 65536KB chunk

md1 : active raid1 nvme3n1[1](F) nvme2n1[0]
      3750607872 blocks super 1.2 [2/1] [U_]

md0 : active raid0 nvme4n1[0] nvme5n1[1]
      7501212672 blocks super 1.2 512k chunks

unused devices: <none>
"""

DRIVE_HEALTH = """drive\t/dev/nvme0
{
  "critical_warning":0,
  "temperature":310,
  "avail_spare":100,
  "spare_thresh":10,
  "percent_used":1,
  "media_errors":0
}

drive\t/dev/nvme1
{"critical_warning":{"value":5,"available_spare":1},"percent_used":104,"avail_spare":3,"media_errors":"12"}

drive\t/dev/nvme2
NVMe status: Invalid Command Opcode(0x1)
"""

XID_HISTORY = """\
2026-11-02T08:00:01+00:00 node1 kernel: NVRM: Xid (PCI:0000:3b:00): 79, pid=1, GPU has fallen off the bus.
2026-11-19T10:12:44+00:00 node1 kernel: NVRM: Xid (PCI:0000:3b:00): 79, pid=1, GPU has fallen off the bus.
2026-11-19T10:12:45+00:00 node1 kernel: NVRM: Xid (PCI:0000:5d:00): 31, pid=7, name=python, MMU Fault
"""
