"""For each kind of `metalserve read`, texts that it must read: the samples and the real machine's outputs."""

from __future__ import annotations

from pathlib import Path

from . import samples, samples_tools

FIXTURES = Path(__file__).with_name("fixtures") / "h100x2"


def fixture(name: str) -> str:
    return (FIXTURES / name).read_text(encoding="utf-8")


SAMPLES: dict[str, tuple[str, ...]] = {
    "topo": (samples.TOPO_2_BRIDGED, fixture("topo.txt")),
    "smi-q": (samples.SMI_Q, fixture("smi-q.txt")),
    "smi-xml": (fixture("smi-xml.xml"),),
    "smi-table": (fixture("smi-table.txt"), samples_tools.SMI_TABLE_MIG, samples_tools.SMI_TABLE_OLD),
    "smi-list": (samples.SMI_LIST, fixture("smi-list.txt")),
    "smi-csv": (samples.SMI_CSV, samples_tools.SMI_APPS, fixture("smi-csv.txt")),
    "smi-version": (fixture("smi-version.txt"),),
    "smi-fields": (fixture("smi-fields.txt"),),
    "nvlink-status": (samples.NVLINK_PAIR, fixture("nvlink-status.txt")),
    "nvlink-errors": (samples_tools.NVLINK5_ERRORS, fixture("nvlink-errors.txt")),
    "nvlink-caps": (fixture("nvlink-caps.txt"),),
    "p2p": (samples_tools.P2P_MIXED, fixture("p2p.txt")),
    "lspci": (
        samples.LSPCI,
        samples.LSPCI_LINKS,
        samples_tools.LSPCI_RECORDS,
        samples_tools.LSPCI_TREE,
        samples_tools.LSPCI_DETAILS,
    ),
    "sysfs-links": (samples_tools.SYSFS_LINKS,),
    "nvme-list": (samples.NVME_V1, samples.NVME_V2, samples.NVME_TABLE),
    "nvme-smart": (samples_tools.SMART_1, samples_tools.SMART_2, samples_tools.SMART_JSON),
    "nvme-id-ctrl": (samples_tools.ID_CTRL, samples_tools.ID_CTRL_JSON),
    "lsblk": (samples_tools.LSBLK, samples_tools.LSBLK_JSON, samples_tools.LSBLK_PAIRS, fixture("lsblk.txt")),
    "findmnt": (samples_tools.FINDMNT, samples_tools.FINDMNT_JSON),
    "mdadm": (samples_tools.MDADM, samples_tools.MDADM_EXAMINE),
    "dcgm": (
        samples_tools.DCGM_4_TABLE,
        samples_tools.DCGM_3_TABLE,
        samples_tools.DCGM_3_JSON,
        samples_tools.DCGM_4_JSON,
    ),
    "dcgm-nvlink": (samples_tools.DCGM_NVLINK,),
    "nccl": (samples_tools.NCCL_2_17, samples_tools.NCCL_OLD_CUT),
    "fio": (samples_tools.FIO_3, samples_tools.FIO_2),
    "kernel-log": (samples.KERNEL_LOG, fixture("kernel-log.txt")),
    "fabric-log": (samples_tools.FABRIC_LOG,),
    "vllm-log": (samples_tools.VLLM_LOG, samples_tools.VLLM_FAILED),
    "vllm-metrics": (samples_tools.VLLM_METRICS,),
}
