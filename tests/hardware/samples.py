"""Small texts in the form of the real tools, made for these tests; serials and the like are invented."""

from __future__ import annotations

TOPO_2_BRIDGED = (
    "\t\x1b[4mGPU0\tGPU1\tNIC0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m\n"
    "GPU0\t X \tNV12\tSYS\t0-31\t0\t\tN/A\n"
    "GPU1\tNV12\t X \tPIX\t32-63\t1\t\tN/A\n"
    "NIC0\tSYS\tPIX\t X \t\t\t\t\n"
    "\nLegend:\n\n  X    = Self\n  NV#  = Connection traversing a bonded set of # NVLinks\n"
    "\nNIC Legend:\n\n  NIC0: mlx5_0\n\n"
)

NVLINK_PAIR = "".join(
    f"GPU {gpu}: NVIDIA H100 NVL (UUID: GPU-0000000{gpu})\n"
    + "".join(f"\t Link {n}: {'<inactive>' if n in (4, 5, 10, 11, 16, 17) else '26.562 GB/s'}\n" for n in range(18))
    for gpu in (0, 1)
)

SMI_LIST = (
    "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaa)\n"
    "  MIG 3g.40gb     Device  0: (UUID: MIG-bbbb)\n"
    "GPU 1: NVIDIA L4 (UUID: GPU-cccc)\n"
)

SMI_CSV = (
    "index, name, uuid, pci.bus_id, pci.device_id, driver_version, memory.total [MiB], power.limit [W], "
    "pcie.link.width.current, pcie.link.width.max\n"
    "0, NVIDIA L40S, GPU-a, 00000000:3B:00.0, 0x26B910DE, 580.178.04, 46068 MiB, 350.00 W, 16, 16\n"
    "2, NVIDIA L40S, GPU-c, 00000000:AF:00.0, 0x26B910DE, 580.178.04, 46068 MiB, [N/A], 8, 16\n"
)

SMI_Q = """
==============NVSMI LOG==============

Timestamp                                 : Mon Nov 23 10:00:00 2026
Driver Version                            : 580.178.04
CUDA Version                              : 13.0

Attached GPUs                             : 1
GPU 00000000:3B:00.0
    Product Name                          : NVIDIA H100 80GB HBM3
    Persistence Mode                      : Enabled
    MIG Mode
        Current                           : Disabled
        Pending                           : Disabled
    GPU UUID                              : GPU-a
    GPU Recovery Action                   : None
    PCI
        Device Id                         : 0x233010DE
        Bus Id                            : 00000000:3B:00.0
        GPU Link Info
            PCIe Generation
                Max                       : 5
                Current                   : 1
            Link Width
                Max                       : 16x
                Current                   : 16x
    Clocks Event Reasons
        Idle                              : Not Active
        SW Power Cap                      : Active
        HW Slowdown                       : Not Active
            HW Thermal Slowdown           : Not Active
            HW Power Brake Slowdown       : Active
        SW Thermal Slowdown               : Not Active
    FB Memory Usage
        Total                             : 81559 MiB
    ECC Errors
        Volatile
            SRAM Correctable              : 3
            SRAM Uncorrectable Parity     : 1
            DRAM Uncorrectable            : 2
        Aggregate
            SRAM Threshold Exceeded       : Yes
    Remapped Rows
        Correctable Error                 : 4
        Uncorrectable Error               : 1
        Pending                           : Yes
        Remapping Failure Occurred        : No
    Temperature
        GPU Current Temp                  : 61 C
    GPU Power Readings
        Current Power Limit               : 700.00 W
    Fabric
        State                             : In Progress
        Status                            : N/A
        Health
            Summary                       : N/A
"""

LSPCI = (
    "0000:00:00.0 Host bridge [0600]: Intel Corporation Device [8086:09a2] (rev 04)\n"
    "0000:07:00.0 Bridge [0680]: NVIDIA Corporation GH100 [H100 NVSwitch] [10de:22a3] (rev a1)\n"
    "0000:3b:00.0 3D controller [0302]: NVIDIA Corporation GH100 [H100 SXM5 80GB] [10de:2330] (rev a1)\n"
    "10000:e1:00.0 Non-Volatile memory controller [0108]: Vendor NVMe [1344:51c3] (rev 02) (prog-if 02 [NVM Express])\n"
)

LSPCI_LINKS = (
    "0000:57:00.0 Non-Volatile memory controller: Vendor NVMe (prog-if 02 [NVM Express])\n"
    "\t\tLnkCap:\tPort #0, Speed 16GT/s, Width x4, ASPM not supported\n"
    "\t\tLnkSta:\tSpeed 8GT/s (downgraded), Width x4 (ok)\n"
    "\t\tLnkCap2: Supported Link Speeds: 2.5-16GT/s\n"
    "0000:58:00.0 Non-Volatile memory controller: Vendor NVMe\n"
    "\t\tLnkCap:\tPort #0, Speed 32GT/s, Width x4, ASPM L1\n"
    "\t\tLnkSta:\tSpeed 32GT/s, Width x2\n"
)

NVME_V1 = (
    '{"Devices":[{"NameSpace":1,"DevicePath":"/dev/nvme0n1","Firmware":"F1","ModelNumber":"Drive 1 ",'
    '"SerialNumber":" S1","UsedBytes":1000,"PhysicalSize":960197124096,"SectorSize":512}]}'
)

NVME_V2 = (
    '{"Devices":[{"HostNQN":"nqn","Subsystems":[{"Subsystem":"nvme-subsys0","Controllers":[{"Controller":"nvme0",'
    '"SerialNumber":"S1","ModelNumber":"Drive 1","Firmware":"F1","Transport":"pcie","Address":"0000:57:00.0",'
    '"Namespaces":[{"NameSpace":"nvme0n1","NSID":1,"UsedBytes":1000,"PhysicalSize":960197124096}]}],'
    '"Namespaces":[]}]}]}'
)

NVME_TABLE = (
    "Node                  SN                   Model                Namespace Usage                      FW Rev  \n"
    "--------------------- -------------------- -------------------- --------- -------------------------- --------\n"
    "/dev/nvme0n1          S1                   Drive 1              1          22.08  GB / 960.20  GB    F1\n"
)

KERNEL_LOG = (
    "[    8.1] NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.178.04\n"
    "[  100.0] NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.\n"
    "[  100.1] NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus.\n"
    "2026-11-23T10:00:00-05:00 host kernel: NVRM: The NVIDIA GPU 0000:5e:00.0\n"
    "2026-11-23T10:00:00-05:00 host kernel: NVRM: (PCI ID: 10de:2330) installed in this system has\n"
    "2026-11-23T10:00:00-05:00 host kernel: NVRM: fallen off the bus and is not responding to commands.\n"
    "NVRM: Xid (PCI:0009:01:00): 149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 01 (0x021425c6 0x00000000)\n"
    "NVRM: Xid (PCI:0009:01:00): 154, GPU recovery action changed from 0x0 (None) to 0x4 (Drain and Reset)\n"
    "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 28006, Non-fatal, Link 46 MC TS crumbstore MCTO (First)\n"
    "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 28006, Severity 0 Engine instance 46 Sub-engine instance 00\n"
    "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 28006, Data {0x00040004, 0x00040004}\n"
)
