"""Small texts in the form of measuring tools, storage tools and logs, made for these tests; names are invented."""

from __future__ import annotations

import json

DCGM_4_TABLE = """Successfully ran diagnostic for group.
+---------------------------+------------------------------------------------+
| Diagnostic                | Result                                         |
+===========================+================================================+
|-----  Metadata  ----------+------------------------------------------------|
| DCGM Version              | 4.4.1                                          |
| Driver Version Detected   | 580.178.04                                     |
| GPU Device IDs Detected   | 2330, 2330                                     |
|-----  Deployment  --------+------------------------------------------------|
| software                  | Pass                                           |
|                           | GPU0: Pass                                     |
|                           | GPU1: Pass                                     |
+-----  Hardware  ----------+------------------------------------------------+
| memory                    | Skip                                           |
|                           | GPU0: Skip                                     |
|                           | GPU1: Skip                                     |
+-----  Integration  -------+------------------------------------------------+
| pcie                      | Fail                                           |
| Warning                   | GPU 1 Detected 3 replays, and the text goes o  |
|                           | n in the next row.                             |
|                           | GPU0: Pass                                     |
|                           | GPU1: Fail                                     |
+---------------------------+------------------------------------------------+
"""

DCGM_3_TABLE = """Successfully ran diagnostic for group.
+---------------------------+------------------------------------------------+
| Diagnostic                | Result                                         |
+===========================+================================================+
|-----  Deployment  --------+------------------------------------------------|
| Denylist                  | Pass                                           |
| Persistence Mode          | Warn                                           |
+-----  Integration  -------+------------------------------------------------+
| PCIe                      | Pass - All                                     |
| Info                      | GPU 0 GPU to Host bandwidth:  13.14 GB/s, GPU  |
|                           |  0 Host to GPU bandwidth:  12.37 GB/s          |
+-----  Stress  ------------+------------------------------------------------+
| Targeted Power            | Fail - GPU: 1                                  |
+---------------------------+------------------------------------------------+
"""

DCGM_3_JSON = json.dumps(
    {
        "DCGM GPU Diagnostic": {
            "test_categories": [
                {
                    "category": "Deployment",
                    "tests": [{"name": "Inforom", "results": [{"gpu_ids": "0,1", "status": "PASS"}]}],
                },
                {
                    "category": "Stress",
                    "tests": [
                        {
                            "name": "sm_stress",
                            "results": [
                                {
                                    "gpu_id": "0",
                                    "status": "FAIL",
                                    "warnings": [{"warning": "too slow", "error_id": 50}],
                                },
                                {"gpu_id": "1", "status": "PASS", "info": "577"},
                            ],
                        }
                    ],
                },
            ]
        },
        "metadata": {"DCGM Version": "3.3.9", "Driver Version Detected": "570.172.08"},
    }
)

DCGM_4_JSON = "a warning of the host engine\n" + json.dumps(
    {
        "DCGM Diagnostic": {
            "test_categories": [
                {
                    "category": "Hardware",
                    "tests": [
                        {
                            "name": "memory",
                            "results": [
                                {"entity_group": "GPU", "entity_group_id": 1, "entity_id": 0, "status": "Pass"},
                                {"entity_group": "CPU", "entity_group_id": 7, "entity_id": 3, "status": "Skip"},
                            ],
                            "test_summary": {"status": "Fail", "warnings": [{"warning": "the summary decides"}]},
                        }
                    ],
                }
            ]
        },
        "entity_groups": [{"entity_group": "GPU", "entities": [{"device_id": "2330", "entity_id": 0}]}],
        "metadata": {"Driver Version Detected": "580.178.04", "version": "4.4.1"},
    },
    indent=2,
)

DCGM_NVLINK = """+----------------------+
|  NvLink Link Status  |
+----------------------+
GPUs:
    gpuId 0:
        U U D _
    gpuId 1:
        U U U _
NvSwitches:
    physicalId 8:
        U X U U

Key: Up=U, Down=D, Disabled=X, Not Supported=_
"""

NCCL_2_17 = """# nccl-tests version 2.17.1 nccl-headers=22703 nccl-library=22703
# Collective test starting: all_reduce_perf
# nThread 1 nGpus 2 minBytes 1048576 maxBytes 2097152 step: 2(factor) warmup iters: 1 iters: 20 validation: 1
#
# Using devices
#  Rank  0 Group  0 Pid   4242 on     node1 device  0 [0000:18:00] NVIDIA H100 80GB HBM3
#  Rank  1 Group  0 Pid   4242 on     node1 device  1 [0000:2a:00] NVIDIA H100 80GB HBM3
node1:4242:4242 [0] NCCL INFO Bootstrap : Using eth0:10.0.0.1<0>
NCCL version 2.27.3+cuda12.9
#
#                                                              out-of-place                       in-place
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
     1048576        262144     float     sum      -1    25.10   41.78   41.78      0    24.90   42.11   42.11      0
node1:4242:4250 [1] NCCL INFO a line between the rows
     2097152        524288     float     sum      -1    30.20   69.44   69.44      0    30.00   69.91   69.91    N/A
# Out of bounds values : 0 OK
# Avg bus bandwidth    : 55.81
#
# Collective test concluded: all_reduce_perf
"""

NCCL_OLD_CUT = """# nThread 1 nGpus 2 minBytes 8 maxBytes 16 step: 2(factor) warmup iters: 5 iters: 20 validation: 1
#
# Using devices
#   Rank  0 Pid   9119 on w-system device  0 [0x01] GeForce RTX 2080 Ti
#   Rank  1 Pid   9119 on w-system device  1 [0x02] GeForce RTX 2080 Ti
#
#                                             out-of-place                       in-place
#       size         count    type     time   algbw   busbw  error     time   algbw   busbw  error
#        (B)    (elements)             (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
           8             1   float     7.14    0.01    0.01  0e+00     7.06    0.01    0.01  0e+00
          16             2   float     7.03    0.02    0.03  2e-07     7.00    0.02    0.04  0e+00
"""

FIO_3 = (
    "/dev/nvme0n1: (g=0): rw=read, bs=(R) 1024KiB-1024KiB, ioengine=libaio, iodepth=32\nfio-3.36\nStarting 1 process\n"
    + json.dumps(
        {
            "fio version": "fio-3.36",
            "global options": {"rw": "read", "bs": "1M", "ioengine": "libaio", "direct": "1"},
            "jobs": [
                {
                    "jobname": "seq",
                    "error": 0,
                    "job options": {"name": "seq", "iodepth": "32"},
                    "read": {
                        "io_bytes": 70866960384,
                        "bw_bytes": 7086696038,
                        "bw": 6920601,
                        "iops": 6758.4,
                        "runtime": 10000,
                        "lat_ns": {"mean": 4700000.5},
                        "clat_ns": {"mean": 4690000.0, "percentile": {"99.000000": 9240576}},
                    },
                    "write": {"io_bytes": 0, "bw_bytes": 0, "iops": 0.0, "runtime": 0},
                }
            ],
        },
        indent=2,
    )
    + "\nseq: (groupid=0, jobs=1): err= 0: pid=1: Mon Nov 23\n"
)

FIO_2 = json.dumps(
    {
        "fio version": "fio-2.19",
        "jobs": [
            {
                "jobname": "mix",
                "error": 5,
                "read": {"io_bytes": 1024, "bw": 2048, "iops": 2.0, "runtime": 500, "lat": {"mean": 80.25}},
                "write": {"io_bytes": 512, "bw": 1024, "iops": 1.0, "runtime": 500},
                "trim": {"io_bytes": 1, "bw": 1, "iops": 1.0, "runtime": 500},
            }
        ],
    }
)

SMART_1 = """Smart Log for NVME device:nvme0 namespace-id:ffffffff
critical_warning                    : 0x4
temperature                         : 38 C
available_spare                     : 100%
available_spare_threshold           : 10%
percentage_used                     : 1%
data_units_read                     : 1,127,748,199
data_units_written                  : 2,821,015,917
host_read_commands                  : 104,667,029,322
power_cycles                        : 20
power_on_hours                      : 24,532
unsafe_shutdowns                    : 1
media_errors                        : 7
num_err_log_entries                 : 3
Warning Temperature Time            : 12
Critical Composite Temperature Time : 1
Temperature Sensor 1                : 40 C
Thermal Management T1 Trans Count   : 2
"""

SMART_2 = """Smart Log for NVME device:nvme0n1 namespace-id:ffffffff
critical_warning\t\t\t: 0
temperature\t\t\t\t: 31 °C (304 K)
available_spare\t\t\t\t: 100%
available_spare_threshold\t\t: 10%
percentage_used\t\t\t\t: 3%
endurance group critical warning summary: 0
Data Units Read\t\t\t\t: 1189327430 (608.94 TB)
Data Units Written\t\t\t: 238585446 (122.16 TB)
power_cycles\t\t\t\t: 56
power_on_hours\t\t\t\t: 2158
unsafe_shutdowns\t\t\t: 52
media_errors\t\t\t\t: 0
num_err_log_entries\t\t\t: 0
Temperature Sensor 1           : 42 °C (315 K, 108 °F)
"""

SMART_JSON = json.dumps(
    {
        "critical_warning": {"value": 1, "available_spare": 1},
        "temperature": 310,
        "avail_spare": 100.0,
        "spare_thresh": 5,
        "percent_used": 2,
        "data_units_read": 9898518,
        "power_on_hours": "4974",
        "media_errors": 0,
        "temperature_sensor_1": 312,
        "controller_busy_time": 8284,
    },
    indent=2,
)

ID_CTRL = """NVME Identify Controller:
vid       : 0x144d
ssvid     : 0x144d
sn        : SERIAL0001
mn        : EXAMPLE MZQL21T9HCJR-00A07
fr        : GDC5602Q
mdts      : 9
cntlid    : 0x6
ver       : 0x10400
wctemp    : 353
cctemp    : 356
tnvmcap   : 1920383410176
unvmcap   : 0
sanicap   : 0x3
nn        : 32
npss      : 0
subnqn    : nqn.1994-11.com.example:nvme:SERIAL0001
ps    0 : mp:25.00W operational enlat:70 exlat:70 rrt:0 rrl:0
"""

ID_CTRL_JSON = json.dumps(
    {
        "vid": 5559,
        "sn": "SERIAL0002          ",
        "mn": "EXAMPLE SN730 ",
        "fr": "11170101",
        "ver": 66304,
        "wctemp": 357,
        "cctemp": 361,
        "tnvmcap": 256060514304,
        "nn": 1,
        "subnqn": "nqn.2018-01.com.example:guid",
        "psds": [{"max_power": 500}],
    },
    indent=2,
)

LSBLK = """NAME        MAJ:MIN RM   SIZE RO TYPE  MOUNTPOINTS
nvme0n1     259:0    0 894.3G  0 disk
├─nvme0n1p1 259:1    0     1G  0 part  /boot/efi
└─nvme0n1p2 259:2    0 893.3G  0 part
  └─md0       9:0    0 893.1G  0 raid1 /
sr0          11:0    1  1024M  0 rom
"""

LSBLK_JSON = json.dumps(
    {
        "blockdevices": [
            {
                "name": "nvme0n1",
                "type": "disk",
                "size": 960197124096,
                "model": "EXAMPLE",
                "mountpoint": None,
                "children": [{"name": "nvme0n1p1", "type": "part", "size": "1G", "mountpoints": ["/boot", None]}],
            }
        ]
    },
    indent=2,
)

LSBLK_PAIRS = """NAME="/dev/sda" TYPE="disk" SIZE="959656755200" ROTA="0" MODEL="EXAMPLE   " MOUNTPOINT="" PKNAME=""
NAME="/dev/sda1" TYPE="part" SIZE="209715200" ROTA="0" MODEL="" MOUNTPOINT="/boot/efi" PKNAME="/dev/sda"
"""

FINDMNT = """TARGET          SOURCE         FSTYPE OPTIONS
/               /dev/md0       ext4   rw,relatime
├─/dev          udev           devtmpfs rw,nosuid
│ └─/dev/shm    tmpfs          tmpfs  rw,nosuid,nodev
└─/srv/models   /dev/nvme1n1   xfs    rw,noatime
"""

FINDMNT_JSON = json.dumps(
    {
        "filesystems": [
            {
                "target": "/",
                "source": "/dev/md0",
                "fstype": "ext4",
                "options": "rw",
                "children": [{"target": "/srv", "source": "/dev/md1", "fstype": "xfs", "size": "7T"}],
            }
        ]
    },
    indent=2,
)

MDADM = """/dev/md127:
           Version : 1.2
        Raid Level : raid1
      Raid Devices : 2
     Total Devices : 2

             State : clean, degraded, recovering
    Active Devices : 1
   Working Devices : 2
    Failed Devices : 0
     Spare Devices : 1

    Rebuild Status : 24% complete

              UUID : e054553a:fbccdcfe:0ae80bc8:00000000

    Number   Major   Minor   RaidDevice State
       0     259        1        0      active sync   /dev/nvme0n1p2
       2     259        4        1      spare rebuilding   /dev/nvme1n1p2
       -       0        0        2      removed
"""

MDADM_EXAMINE = """/dev/vda1:
          Magic : a92b4efc
        Version : 1.2
     Array UUID : 7e81a856:abb9c1c2:4b71237a:00000000
     Raid Level : raid0
   Raid Devices : 2
          State : clean
    Device Role : Active device 0
    Array State : AA ('A' == active, '.' == missing, 'R' == replacing)
"""

SYSFS_LINKS = """/sys/bus/pci/devices/0000:19:00.0/current_link_speed:32.0 GT/s PCIe
/sys/bus/pci/devices/0000:19:00.0/current_link_width:16
/sys/bus/pci/devices/0000:19:00.0/max_link_speed:32.0 GT/s PCIe
/sys/bus/pci/devices/0000:19:00.0/max_link_width:16
/sys/bus/pci/devices/0000:3b:00.0/current_link_speed:Unknown
/sys/bus/pci/devices/0000:3b:00.0/current_link_width:255
"""

LSPCI_RECORDS = """Slot:\t3b:00.0
Class:\t3D controller [0302]
Vendor:\tNVIDIA Corporation [10de]
Device:\tGH100 [H100 SXM5 80GB] [2330]
SVendor:\tNVIDIA Corporation [10de]
Rev:\ta1
Driver:\tnvidia
NUMANode:\t1

Slot:\t5d:00.0
Class:\tBridge [0680]
Vendor:\tNVIDIA Corporation [10de]
Device:\tGH100 [H100 NVSwitch] [22a3]
Rev:\tff
"""

LSPCI_TREE = """-+-[0000:d0]-+-00.0-[d1]--+-01.0  NVIDIA Corporation GA100 [A100 SXM4 80GB]
 |           |            \\-02.0  NVIDIA Corporation GA100 [A100 NVSwitch]
 |           \\-01.0-[d2-d3]----00.0-[d3]----00.0  Mellanox Technologies MT28908
 \\-[0000:00]-+-00.0  Intel Corporation Device 09a2
             \\-1f.0  Intel Corporation Device a1cb
"""

LSPCI_DETAILS = """3b:00.0 3D controller: NVIDIA Corporation Device 2330 (rev a1)
\tNUMA node: 1
\t\tLnkCap:\tPort #0, Speed 32GT/s, Width x16, ASPM not supported
\t\tLnkSta:\tSpeed 16GT/s (downgraded), Width x8 (downgraded)
\tKernel driver in use: nvidia
5d:00.0 3D controller: NVIDIA Corporation Device 2330 (rev ff) (prog-if ff)
\t!!! Unknown header type 7f
"""

FABRIC_LOG = """[Feb 25 2025 13:59:45] [INFO] [tid 1803] Received an inband message:  Message header details: type:4
Message payload details:Team release request: Flags:0

[Jul 09 2024 18:14:07] [ERROR] [tid 127] detected NVSwitch non-fatal error 12028 on fid 0 on NVSwitch pci bus id \
00000000:86:00.0 physical id 3 port 61
[Jul 23 2024 07:53:55] [ERROR] [tid 841] detected NVSwitch fatal error 20034 on fid 0 on NVSwitch pci bus id \
00000000:86:00.0 physical id 3 port 33
[Jul 23 2024 07:53:56] [WARNING] [tid 841] words that nobody has listed yet
nv-fabricmanager[192]: detected number of NVSwitches don't match with any supported system topology, aborting fabric \
manager
nv-fabricmanager[192]: Successfully configured all the available GPUs and NVSwitches to route NVLink traffic.
"""

VLLM_LOG = """INFO 11-20 10:00:00 [api_server.py:977] vLLM API server version 0.11.0
INFO 11-20 10:00:05 [core.py:58] Initializing a V1 LLM engine (v0.11.0) with config: model='example/model-70b', tp=2
(Worker_TP0 pid=101) INFO 11-20 10:00:06 [pynccl.py:69] vLLM is using nccl==2.27.3
(Worker_TP0 pid=101) INFO 11-20 10:00:07 [cuda.py:300] Using Flash Attention backend on V1 engine.
(Worker_TP0 pid=101) WARNING 11-20 10:00:07 [custom_all_reduce.py:174] Custom allreduce is disabled because it's not \
supported on more than two PCIe-only GPUs. To silence this warning, specify disable_custom_all_reduce=True explicitly.
(Worker_TP1 pid=102) INFO 11-20 10:00:07 [cuda_communicator.py:311] Using ['PYNCCL'] all-reduce backends (in dispatch \
order) for group 'tp:0' out of potential backends: ['CUSTOM', 'PYNCCL'].
(Worker_TP0 pid=101) INFO 11-20 10:01:00 [gpu_model_runner.py:1140] Model loading took 65.50 GiB and 52.5 seconds
(Worker_TP1 pid=102) INFO 11-20 10:01:01 [gpu_model_runner.py:1140] Model loading took 65.49 GiB and 53.5 seconds
(Worker_TP0 pid=101) INFO 11-20 10:01:20 [gpu_worker.py:349] Available KV cache memory: 4.81 GiB
(EngineCore pid=100) INFO 11-20 10:01:21 [kv_cache_utils.py:1229] GPU KV cache size: 31,488 tokens
(EngineCore pid=9) INFO 11-20 10:01:21 [kv.py:1234] Maximum concurrency for 8,192 tokens per request: 3.84x
(Worker_TP0 pid=101) INFO 11-20 10:01:40 [gpu_model_runner.py:1800] Graph capturing finished in 18 secs, took 0.52 GiB
INFO 11-20 10:01:41 [core.py:160] init engine (profile, create kv cache, warmup model) took 40.10 seconds
INFO:     Application startup complete.
"""

VLLM_FAILED = """INFO 11-20 10:00:00 [executor.py:90] # GPU blocks: 7281, # CPU blocks: 2048
ValueError: Free memory on device cuda:0 (27.28/31.86 GiB) on startup is less than desired GPU memory utilization \
(0.9, 28.67 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.
ValueError: To serve at least one request with the models's max seq len (131072), (4.00 GiB KV cache is needed, which \
is larger than the available KV cache memory (0.65 GiB). Based on the available memory, the estimated maximum model \
length is 21440. Try increasing `gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine.
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB
RuntimeError: Engine core initialization failed. See root cause above.
"""

VLLM_METRICS = """# HELP vllm:num_requests_running Number of requests
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a \\"b\\""} 3.0
vllm:num_requests_running{engine="1",model_name="a"} 2.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0"} 0.5
vllm:kv_cache_usage_perc{engine="1"} NaN
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{le="+Inf"} 4
vllm:time_to_first_token_seconds_sum 1.5e+00
vllm:time_to_first_token_seconds_count 4
"""

NVLINK5_ERRORS = """GPU 0: NVIDIA B300 SXM6 AC (UUID: GPU-00000000)
\t Link 0: Tx packets: 1234567
\t Link 0: Malformed packet Errors: 0
\t Link 0: Symbol Errors: 4
\t Link 0: Effective BER: 15e-255
\t Link 0: FEC Errors - 0: 36140749276
\t Link 0: Raw Errors Lane 0: 82
\t Link 0: Raw BER Total: N/A
GPU 1: NVIDIA L4 (UUID: GPU-00000001)
Device does not have or support Nvlink
"""

P2P_MIXED = "\tGPU0\tGPU1\tGPU2\n GPU0\tX\tOK\tCNS\n GPU1\tOK\tX\tNS\n GPU2\tCNS\tCNS\tX\n"

SMI_TABLE_MIG = """Thu Jan  1 00:00:00 2026
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 610.57.04              KMD Version: 610.57.04     CUDA UMD Version: 13.3     |
+-----------------------------------------+------------------------+----------------------+
| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |
| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |
|                                         |                        |               MIG M. |
|=========================================+========================+======================|
|   0  NVIDIA H200                    On  |   00000000:83:00.0 Off |                   On |
| N/A   36C    P0            295W /  700W |   16959MiB / 143771MiB |     N/A      Default |
|                                         |                        |              Enabled |
+-----------------------------------------+------------------------+----------------------+
|   2  NVIDIA RTX PRO 6000 Blac...   Off  |   00000000:AC:00.0 Off |                    7 |
|ERR!   N/A   ERR!          N/A  /  N/A   |     Not Supported      |    100%   E. Process |
|                                         |                        |                  N/A |
+-----------------------------------------+------------------------+----------------------+

+-----------------------------------------------------------------------------------------+
| MIG devices:                                                                            |
+------------------+----------------------------------+-----------+-----------------------+
| GPU  GI  CI  MIG |              Shared Memory-Usage |        Vol|        Shared         |
|      ID  ID  Dev |                Shared BAR1-Usage | SM     Unc| CE ENC  DEC  OFA  JPG |
|                  |                                  |        ECC|                       |
|==================+==================================+===========+=======================|
|  0    2   0   0  |           16925MiB / 71424MiB    | 16      0 |  3   0    3    0    3 |
|                  |               0MiB / 59237MiB    |           |                       |
+------------------+----------------------------------+-----------+-----------------------+

+-----------------------------------------------------------------------------------------+
| Processes:                                                                              |
|  GPU   GI   CI              PID   Type   Process name                        GPU Memory |
|        ID   ID                                                               Usage      |
|=========================================================================================|
|    0    2    1            12249      C   /opt/tools/burn                        2194MiB |
|    2   N/A  N/A            2056    C+G   C:\\Windows\\System32\\dwm.exe           N/A      |
+-----------------------------------------------------------------------------------------+
"""

SMI_TABLE_OLD = """+------------------------------------------------------+
| NVIDIA-SMI 352.59     Driver Version: 352.59         |
|-------------------------------+----------------------+----------------------+
| GPU  Name        Persistence-M| Bus-Id        Disp.A | Volatile Uncorr. ECC |
| Fan  Temp  Perf  Pwr:Usage/Cap|         Memory-Usage | GPU-Util  Compute M. |
|===============================+======================+======================|
|   0  Tesla K80           On   | 0000:03:00.0     Off |                    0 |
| N/A   27C    P8    27W / 149W |     55MiB / 11519MiB |      0%      Default |
+-------------------------------+----------------------+----------------------+

+-----------------------------------------------------------------------------+
| Processes:                                                       GPU Memory |
|  GPU       PID  Type  Process name                               Usage      |
|=============================================================================|
|    0      4001    C   python                                         44MiB |
+-----------------------------------------------------------------------------+
"""

SMI_APPS = (
    "pid, process_name, used_gpu_memory [MiB]\n5268, /usr/bin/render --layers 1, 2, 370 MiB\n5267, ffmpeg, [N/A]\n"
)
