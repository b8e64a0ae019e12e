"""What the parsers of measuring tools, storage tools and logs read from samples, and what damage they refuse."""

from __future__ import annotations

import pytest

from metalserve.hardware.parsers.text import absent, decode
from tests.hardware.tool_output import read, refused

from . import samples
from . import samples_tools as tools


def test_nccl_tables() -> None:
    run = read("nccl", tools.NCCL_2_17)
    assert (run["ranks"], run["rows"], run["largest_size_bytes"], run["program"]) == (2, 2, 2097152, "all_reduce")
    assert (run["busbw_out_of_place"], run["busbw_in_place"], run["avg_busbw"]) == (69.44, 69.91, 55.81)
    assert (run["wrong"], run["out_of_bounds"], run["nccl"], run["complete"]) == (0, 0, "2.27.3", True)
    cut = read("nccl", tools.NCCL_OLD_CUT)
    assert (cut["busbw_out_of_place"], cut["busbw_in_place"], cut["wrong"]) == (0.03, 0.04, 2e-07)
    assert (cut["avg_busbw"], cut["complete"], cut["wrong_column"]) == (None, False, "error")


def test_nccl_reads_timestamps_and_columns_by_iteration() -> None:
    stamped = tools.NCCL_2_17.replace("42.11      0\n", "42.11      0  2026-01-01 10:00:00\n")
    assert read("nccl", stamped)["rows"] == 2
    wide = "\n".join(
        line
        if not line.strip().startswith(("1048576", "2097152"))
        else line.replace("      0 ", "      0  20 30 29 1.5 ")
        for line in tools.NCCL_2_17.replace("      0\n", "      0 \n").replace("    N/A\n", "      0 \n").splitlines()
    )
    read_wide = read("nccl", "# Per-Iteration Report: CUDA event timing\n" + wide)
    assert (read_wide["busbw_out_of_place"], read_wide["busbw_in_place"]) == (69.44, 69.91)


@pytest.mark.parametrize("label", ["[1,0]<stdout>:", "   [1,0]<stdout>: ", "0: "])
def test_nccl_lines_may_bear_the_launchers_label(label: str) -> None:
    labelled = "".join(label + line for line in tools.NCCL_2_17.splitlines(keepends=True))
    assert read("nccl", labelled) == read("nccl", tools.NCCL_2_17)


def test_a_torn_row_is_reported_and_refused_at_the_largest_size() -> None:
    small = tools.NCCL_2_17.replace("   25.10   41.78", "node1:42:42 [0] NCCL INFO torn\n   25.10   41.78")
    assert "row not understood" in read("nccl", small)["notes"][0]
    refused("nccl", tools.NCCL_2_17.replace("   30.20   69.44", "node1:42:42 [0] NCCL INFO\n   30.20   69.44"), "torn")
    refused("nccl", tools.NCCL_2_17.replace("69.44   69.44", "69.4469.44"), "torn")
    refused("nccl", tools.NCCL_2_17 + tools.NCCL_2_17.replace("55.81", "11.00"), "several runs")


def test_fio_of_both_generations() -> None:
    (job,) = read("fio", tools.FIO_3)["jobs"]
    assert (job["rw"], job["depth"], job["read"]["bytes_per_s"], job["write"]) == ("read", "32", 7086696038, None)
    assert (job["read"]["latency_mean_us"], job["read"]["latency_p99_us"]) == (4700.001, 9240.576)
    (old,) = read("fio", tools.FIO_2)["jobs"]
    assert (old["error"], old["read"]["bytes_per_s"], old["read"]["io_bytes"]) == (5, 2048 * 1024, 1024 * 1024)
    assert old["read"]["latency_mean_us"] == 80.25
    refused("fio", tools.FIO_3[:700], "cut or damaged")
    refused("fio", '{"fio version": "fio-3.1", "jobs": []}', "no job")


def test_smart_logs_of_several_versions() -> None:
    one, two, three = (read("nvme-smart", t) for t in (tools.SMART_1, tools.SMART_2, tools.SMART_JSON))
    assert (one["device"], one["critical_warning"], one["temperature_c"], one["media_errors"]) == ("nvme0", 4, 38, 7)
    assert (one["data_units_read"], one["warning_temperature_minutes"], one["sensors_c"]) == (1127748199, 12, {"1": 40})
    assert (two["temperature_c"], two["data_units_read"], two["sensors_c"]) == (31, 1189327430, {"1": 42})
    assert (three["critical_warning"], three["temperature_c"], three["power_on_hours"]) == (1, 37, 4974)
    assert (three["available_spare_percent"], three["sensors_c"]) == (100, {"1": 39})
    assert read("nvme-smart", tools.SMART_1.replace("38 C", "311 K"))["temperature_c"] == 38


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("100%\navailable", "100% available", "run together"),
        (": 7\n", ": seven\n", "no number"),
        ("temperature                         : 38 C\n", "", "cut"),
        ("power_cycles                        : 20\n", "power_cycles : 20\npower_cycles : 21\n", "twice"),
    ],
)
def test_smart_damage_is_refused(old: str, new: str, words: str) -> None:
    damaged = tools.SMART_1.replace(old, new, 1)
    assert damaged != tools.SMART_1
    refused("nvme-smart", damaged, words)


def test_controllers() -> None:
    one, two = read("nvme-id-ctrl", tools.ID_CTRL), read("nvme-id-ctrl", tools.ID_CTRL_JSON)
    assert (one["model"], one["version"], one["vendor_id"]) == ("EXAMPLE MZQL21T9HCJR-00A07", "1.4.0", "144d")
    assert (one["total_bytes"], one["warning_temperature_c"], one["sanitize"]) == (1920383410176, 80, True)
    assert (two["serial"], two["version"], two["critical_temperature_c"]) == ("SERIAL0002", "1.3.0", 88)


def test_block_devices_and_mounts() -> None:
    tree = read("lsblk", tools.LSBLK)["devices"]
    assert [(d["name"], d["parent"], d["type"]) for d in tree] == [
        ("nvme0n1", None, "disk"),
        ("nvme0n1p1", "nvme0n1", "part"),
        ("nvme0n1p2", "nvme0n1", "part"),
        ("md0", "nvme0n1p2", "raid1"),
        ("sr0", None, "rom"),
    ]
    assert (tree[3]["mountpoints"], tree[0]["size_bytes"]) == (["/"], round(894.3 * 1024**3))
    disk, part = read("lsblk", tools.LSBLK_JSON)["devices"]
    assert (disk["size_bytes"], part["size_bytes"], part["mountpoints"]) == (960197124096, 1024**3, ["/boot"])
    whole, boot = read("lsblk", tools.LSBLK_PAIRS)["devices"]
    assert (whole["children"], boot["parent"], boot["size_bytes"]) == (1, "/dev/sda", 209715200)
    assert [m["target"] for m in read("findmnt", tools.FINDMNT)["mounts"]] == ["/", "/dev", "/dev/shm", "/srv/models"]
    assert read("findmnt", tools.FINDMNT_JSON)["mounts"][1]["more"] == {"size": "7T"}
    refused("findmnt", tools.FINDMNT.replace("ext4   rw,relatime\n", "ext4\nrw,relatime\n"), "cells|not understood")
    refused("lsblk", tools.LSBLK.replace("0 disk", "0disk"), "type")


def test_arrays() -> None:
    (array,) = read("mdadm", tools.MDADM)["arrays"]
    assert (array["level"], array["state"]) == ("raid1", ["clean", "degraded", "recovering"])
    assert (array["active"], array["missing"], array["progress"]) == (1, 1, "24% complete")
    assert array["members"] == {"/dev/nvme0n1p2": "active sync", "/dev/nvme1n1p2": "spare rebuilding"}
    (member,) = read("mdadm", tools.MDADM_EXAMINE)["arrays"]
    assert (member["form"], member["array_state"], member["uuid"]) == (
        "examine",
        "AA",
        "7e81a856:abb9c1c2:4b71237a:00000000",
    )
    refused("mdadm", tools.MDADM.replace("        Raid Level : raid1\n", ""), "no RAID level")


def test_versions_of_610_are_those_of_the_new_names() -> None:
    text = (
        "NVIDIA-SMI version  : 610.57.04\nNVML version        : 610.57\n"
        'DRIVER version      : Deprecated, see "KMD version" instead\n'
        'CUDA version        : Deprecated, see "CUDA UMD version" instead\n'
        "KMD version         : 610.57.04\nCUDA UMD version    : 13.3\n"
    )
    assert read("smi-version", text) == {"smi": "610.57.04", "nvml": "610.57", "driver": "610.57.04", "cuda": "13.3"}
    refused("smi-version", text + "KMD version : 580.1\n", "twice")


def test_members_of_a_container_tell_of_its_arrays() -> None:
    text = "/dev/vda:\n          Magic : de11de11\n        state[0] : Optimal, Consistent\n   Raid Level[0] : RAID1\n"
    (array,) = read("mdadm", text)["arrays"]
    assert (array["form"], array["level"], array["state"]) == ("examine", "raid1", ["optimal", "consistent"])


@pytest.mark.parametrize("prompt", ["root@host:~# ", "[user@node-1 ~]$ nvidia-smi", "(base) root@c0ffee:/work# exit"])
def test_prompts_around_an_output_do_no_harm(prompt: str) -> None:
    text = f"{prompt}\n{samples.NVLINK_PAIR}{prompt}\n"
    assert read("nvlink-status", text) == read("nvlink-status", samples.NVLINK_PAIR)
    assert len(read("smi-list", f"{prompt}\n{samples.SMI_LIST}{prompt}\n")["gpus"]) == 2


def test_lspci_in_all_forms() -> None:
    first, second = read("lspci", tools.LSPCI_RECORDS)["devices"]
    assert (first["address"], first["class_code"], first["device_id"]) == ("0000:3b:00.0", "0302", "2330")
    assert (first["driver"], first["numa_node"], second["answers"]) == ("nvidia", 1, False)
    tree = read("lspci", tools.LSPCI_TREE)
    assert [d["address"] for d in tree["devices"]] == [
        "0000:d1:01.0",
        "0000:d1:02.0",
        "0000:d3:00.0",
        "0000:00:00.0",
        "0000:00:1f.0",
    ]
    details = read("lspci", tools.LSPCI_DETAILS)
    assert details["links"][0] | {"address": ""} == {
        "address": "",
        "gen_current": 4,
        "gen_max": 5,
        "width_current": 8,
        "width_max": 16,
        "speed_note": "downgraded",
        "width_note": "downgraded",
        "downgraded": True,
    }
    assert [(d["driver"], d["answers"]) for d in details["devices"]] == [("nvidia", True), (None, False)]
    quoted = '3b:00.0 "3D controller [0302]" "NVIDIA Corporation [10de]" "GH100 [2330]" -ra1 "x" "y"\n'
    assert read("lspci", quoted)["devices"][0]["device_id"] == "2330"
    alone = read(
        "lspci", "LnkCap: Port #0, Speed 16GT/s, Width x4, ASPM L1\nLnkSta: Speed 8GT/s (downgraded), Width x4\n"
    )
    assert (alone["form"], alone["devices"], alone["links"][0]["address"]) == ("links", [], None)
    filtered = tools.LSPCI_TREE.split("\n", 1)[1]
    assert {d["address"] for d in read("lspci", filtered)["devices"][:2]} == {None}, "a bus that no line tells"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (samples.LSPCI.replace(" (rev 04)\n", " (rev 04)", 1), "run together"),
        (samples.LSPCI + samples.LSPCI, "twice"),
        (tools.LSPCI_RECORDS.replace("\n\nSlot:\t5d:00.0", ""), "run together"),
        (tools.LSPCI_DETAILS.replace("16GT/s (downgraded), Width x8", "16GT/s, Width x8") * 2, "twice"),
        ("words\n", "no device"),
    ],
)
def test_lspci_damage_is_refused(text: str, words: str) -> None:
    refused("lspci", text, words)


def test_sysfs_links() -> None:
    good, dead = read("sysfs-links", tools.SYSFS_LINKS)["links"]
    assert (good["gen_current"], good["width_max"], dead["gen_current"], dead["width_current"]) == (5, 16, None, None)
    headed = "==> /sys/bus/pci/devices/0000:19:00.0/max_link_speed <==\n16.0 GT/s PCIe\n"
    assert read("sysfs-links", headed)["links"][0]["gen_max"] == 4
    refused("sysfs-links", tools.SYSFS_LINKS.replace("32.0 GT/s PCIe", "32.0 GT/s PCIe16", 1), "no link speed")


def test_fabric_log() -> None:
    log = read("fabric-log", tools.FABRIC_LOG)
    assert [e["kind"] for e in log["events"]] == ["nvswitch-non-fatal", "nvswitch-fatal", "other", "topology-mismatch"]
    fatal = log["events"][1]
    assert (fatal["sxid"], fatal["pci"], fatal["port"], fatal["physical_id"]) == (20034, "0000:86:00.0", 33, 3)
    assert (log["events"][3]["aborts"], log["lines"]) == (True, 6)


def test_vllm_logs() -> None:
    log = read("vllm-log", tools.VLLM_LOG)
    assert (log["version"], log["model"], log["nccl"]) == ("0.11.0", "example/model-70b", "2.27.3")
    assert (log["workers"], log["weights"], log["weights_unit"], log["load_seconds"]) == (2, 65.5, "GiB", 53.5)
    assert (log["kv_cache"], log["kv_cache_tokens"], log["max_concurrency"]) == (4.81, 31488, 3.84)
    assert (log["max_concurrency_tokens"], log["graph_capture_seconds"]) == (8192, 18.0)
    assert (log["attention_backend"], log["all_reduce_backends"]) == ("Flash Attention", ["PYNCCL"])
    assert (log["custom_all_reduce"], log["ready"], log["failures"]) == (False, True, [])
    failed = read("vllm-log", tools.VLLM_FAILED)["failures"]
    assert [f["kind"] for f in failed] == ["free-memory", "kv-too-small", "out-of-memory", "engine-failed"]
    assert (failed[0]["available"], failed[0]["total"], failed[0]["needed"]) == (27.28, 31.86, 28.67)
    assert (failed[1]["needed"], failed[1]["estimated_max_model_len"]) == (4.0, 21440)
    assert read("vllm-log", tools.VLLM_FAILED)["gpu_blocks"] == 7281
    short = tools.VLLM_LOG.replace("KV cache memory: 4.81", "KV cache memory: -2.28")
    assert read("vllm-log", short)["kv_cache"] == -2.28


def test_metrics() -> None:
    metrics = read("vllm-metrics", tools.VLLM_METRICS)
    assert (metrics["figures"]["running"], metrics["figures"]["kv_cache_usage"]) == (5.0, 0.5)
    assert (metrics["figures"]["ttft_sum_seconds"], metrics["figures"]["waiting"]) == (1.5, None)
    assert metrics["families"]["vllm:time_to_first_token_seconds"] == "histogram"
    refused("vllm-metrics", tools.VLLM_METRICS.replace('"} 0.5', '"} 0.5 vllm:x 1'), "run together")


def test_process_names_may_hold_commas() -> None:
    rows = read("smi-csv", tools.SMI_APPS)["rows"]
    assert rows[0] == {"pid": "5268", "process_name": "/usr/bin/render --layers 1, 2", "used_gpu_memory": "370 MiB"}


def test_kernel_lines_run_together_are_two_events() -> None:
    glued = (
        "[  100.000001] NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus."
        "[  100.000002] NVRM: Xid (PCI:0000:5d:00): 48, DBE\n"
    )
    assert [(e["xid"], e["pci"]) for e in read("kernel-log", glued)["events"]] == [
        (79, "0000:3b:00.0"),
        (48, "0000:5d:00.0"),
    ]


@pytest.mark.parametrize(
    "cell", ["[N/A]", "ERR!", "[Unknown Error]", "[GPU requires reset]", "[GPU is lost]", "[Function Not Found]"]
)
def test_cells_without_a_value(cell: str) -> None:
    assert absent(cell)
    assert not absent("0")


def test_files_of_other_systems_are_decoded() -> None:
    assert decode("GPU 0".encode("utf-16")) == "GPU 0"
    assert decode(b"\xff\x00") == "\ufffd\x00"
