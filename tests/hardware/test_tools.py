"""What the parsers of measuring tools, storage tools and logs read from samples, and what damage they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from metalserve.hardware.parsers.smi_q import parse_smi_q
from metalserve.hardware.parsers.smi_xml import parse_smi_xml
from metalserve.hardware.parsers.text import ParseError, absent, decode
from metalserve.hardware.readable import KINDS

from . import samples
from . import samples_tools as tools
from .kinds import fixture


def read(kind: str, text: str) -> dict[str, Any]:
    return KINDS[kind].read(text)


def refused(kind: str, text: str, words: str) -> None:
    with pytest.raises(ParseError, match=words):
        read(kind, text)


def test_text_and_xml_of_one_machine_tell_the_same() -> None:
    text, xml = parse_smi_q(fixture("smi-q.txt")), parse_smi_xml(fixture("smi-xml.xml"))
    assert (text.driver, text.cuda, text.attached) == (xml.driver, xml.cuda, xml.attached) == ("580.159.04", "13.0", 2)
    assert text.gpus == xml.gpus, "measured a second apart, but nothing in it changed"
    assert text.gpus[0].event_reasons == ("gpu_idle",)
    changing = {"power_draw_w", "memory_temperature_c"}
    for a, b in zip(text.details, xml.details, strict=True):
        names = [n for n in a.__dataclass_fields__ if n not in changing]
        assert [getattr(a, n) for n in names] == [getattr(b, n) for n in names]
        assert None not in (a.power_draw_w, b.power_draw_w, a.memory_temperature_c, b.memory_temperature_c)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("</nvidia_smi_log>", "", "closing tag"),
        ("</serial>", "", "damaged"),
        ('<gpu id="00000000:00:07.0">', '<gpu id="00000000:00:06.0">', "twice"),
        ("<timestamp>", "<!-- --><timestamp>", "declares"),
        ("<nvidia_smi_log>", "<other>", "no XML report"),
    ],
)
def test_xml_damage_is_refused(old: str, new: str, words: str) -> None:
    refused("smi-xml", fixture("smi-xml.xml").replace(old, new, 1), words)


def test_xml_of_old_drivers_and_with_text_around_it() -> None:
    old = (
        "<nvidia_smi_log><driver_version>418.43</driver_version><gpu id='0000:0A:00.0'>"
        "<clocks_throttle_reasons><clocks_throttle_reason_hw_thermal_slowdown>Active"
        "</clocks_throttle_reason_hw_thermal_slowdown></clocks_throttle_reasons>"
        "<power_readings><power_limit>130.00 W</power_limit></power_readings>"
        "<remapped_rows>N/A</remapped_rows>"
        "<ecc_errors><volatile><double_bit><total>3</total></double_bit></volatile></ecc_errors>"
        "<retired_pages><double_bit_retirement><retired_count>61</retired_count></double_bit_retirement>"
        "<pending_retirement>Yes</pending_retirement></retired_pages>"
        "</gpu></nvidia_smi_log>"
    )
    (gpu,) = read("smi-xml", f"$ nvidia-smi -q -x\n{old}\nroot@host:~#")["gpus"]
    assert (gpu["pci"], gpu["power_limit_w"], gpu["event_reasons"]) == ("0000:0a:00.0", 130.0, ["hw_thermal_slowdown"])
    assert (gpu["remapped_pending"], gpu["ecc_uncorrectable_volatile"]) == (None, 3)
    assert (gpu["retired_double_bit"], gpu["retired_pending"], gpu["fabric_state"]) == (61, True, None)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("    Persistence Mode", "Persistence Mode", "indentation is lost"),
        ("Enabled\n    MIG Mode", "Enabled    Addressing Mode   : ATS\n    MIG Mode", "run together"),
        (": NVIDIA H100 80GB HBM3\n", ":\nNVIDIA H100 80GB HBM3\n", "wrapped"),
    ],
)
def test_q_damage_is_refused(old: str, new: str, words: str) -> None:
    damaged = samples.SMI_Q.replace(old, new, 1)
    assert damaged != samples.SMI_Q
    refused("smi-q", damaged, words)


def test_q_that_stops_inside_its_last_gpu_is_refused() -> None:
    whole = fixture("smi-q.txt")
    refused("smi-q", whole[: whole.rindex("    Temperature")], "cut inside GPU")
    refused("smi-q", whole.replace("00000000:00:07.0\n    Product", "00000000:00:06.0\n    Product"), "comes twice")


def test_tables_of_new_and_old_drivers() -> None:
    new = read("smi-table", tools.SMI_TABLE_MIG)
    assert (new["smi"], new["driver"], new["cuda"]) == ("610.57.04", "610.57.04", "13.3")
    first, second = new["gpus"]
    assert (first["pci"], first["mig"], first["memory_used_mib"], first["power_w"]) == (
        "0000:83:00.0",
        "Enabled",
        16959,
        295.0,
    )
    assert (second["index"], second["ecc_uncorrectable"], second["memory_mib"]) == (2, 7, None)
    assert (second["compute_mode"], second["performance_state"], second["fan_percent"]) == ("E. Process", None, None)
    assert new["mig_devices"][0]["memory_mib"] == 71424
    assert [(p["pid"], p["gi"], p["memory_mib"]) for p in new["processes"]] == [(12249, 2, 2194), (2056, None, None)]
    old = read("smi-table", tools.SMI_TABLE_OLD)
    assert (old["driver"], old["cuda"], old["gpus"][0]["memory_mib"]) == ("352.59", None, 11519)
    assert old["processes"] == [
        {"gpu": 0, "gi": None, "ci": None, "pid": 4001, "type": "C", "name": "python", "memory_mib": 44}
    ]


def test_a_table_with_a_lost_gpu_names_it() -> None:
    lost = "Unable to determine the device handle for GPU1: 0000:34:00.0: Unknown Error\n" + tools.SMI_TABLE_MIG
    table = read("smi-table", lost)
    assert ([g["index"] for g in table["gpus"]], table["unreachable"]) == ([0, 2], ["0000:34:00.0"])
    assert table["timestamp"] == "Thu Jan  1 00:00:00 2026"


def test_a_gpu_in_error_keeps_what_the_table_still_tells() -> None:
    text = tools.SMI_TABLE_OLD.replace("|   0  Tesla K80           On ", "|   0  ERR!                On ").replace(
        "| N/A   27C    P8    27W / 149W |", "|ERR!   29C ERR!    ERR! / 250W |"
    )
    (gpu,) = read("smi-table", text)["gpus"]
    assert (gpu["name"], gpu["power_w"], gpu["power_limit_w"], gpu["temperature_c"]) == (None, None, 250.0, 29.0)
    assert (gpu["performance_state"], gpu["memory_mib"], gpu["pci"]) == (None, 11519, "0000:03:00.0")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("295W /  700W |", "295W /\n  700W |", "wrapped or cut"),
        ("N/A   36C", "N/A36C", "understood|measure"),
        ("16959MiB / 143771MiB", "16959MiB143771MiB", "pair of measures"),
        ("|   2  NVIDIA", "|   0  NVIDIA", "comes twice"),
        ("On  |   00000000:83:00.0", "On  | 00000000:83:00.0 |", "cells instead of 3"),
        ("|     N/A      Default |\n", "|     N/A      De1ault |\n", "compute mode"),
    ],
)
def test_table_damage_is_refused(old: str, new: str, words: str) -> None:
    damaged = tools.SMI_TABLE_MIG.replace(old, new, 1)
    assert damaged != tools.SMI_TABLE_MIG
    refused("smi-table", damaged, words)


def test_nvlink_counters_of_both_generations() -> None:
    new = read("nvlink-errors", tools.NVLINK5_ERRORS)
    assert new["faults"] == [{"gpu": 0, "link": 0, "counter": "symbol_errors", "count": 4}]
    link = new["gpus"][0]["links"]["0"]
    assert (link["fec_errors_0"], link["raw_ber_total"], link["effective_ber"]) == (36140749276, None, 15e-255)
    assert new["gpus"][1]["note"] == "Device does not have or support Nvlink"
    old = read("nvlink-errors", "\t Link 0: Replay Errors: 2353\n\t Link 0: CRC Errors: 0\n")
    assert (old["gpus"][0]["index"], old["faults"][0]["counter"]) == (None, "replay_errors")
    caps = read("nvlink-caps", fixture("nvlink-caps.txt"))
    assert caps["gpus"][1]["links"]["17"] == dict.fromkeys(
        ("p2p", "access_to_system_memory", "p2p_atomics", "system_memory_atomics", "sli", "link"), True
    )


@pytest.mark.parametrize(
    "text",
    [
        "GPU 0: X\n\t Link 0: Replay Errors: 0\t Link 0: CRC Errors: 0\n",
        "GPU 0: X\n\t Link 0: Replay Errors: 0\n\t Link 0: Replay Errors: 0\n",
        "GPU 0: X\n\t Link 0: Replay Errors: many\n",
        "GPU 0: X\n",
    ],
)
def test_nvlink_counter_damage_is_refused(text: str) -> None:
    with pytest.raises(ParseError):
        read("nvlink-errors", text)


def test_p2p_pairs_directions_and_elided_rows() -> None:
    mixed = read("p2p", tools.P2P_MIXED)
    assert mixed["links"] == {"GPU0,GPU1": "OK", "GPU0,GPU2": "CNS", "GPU1,GPU2": "NS/CNS"}
    cut = read("p2p", "GPU0 GPU1 GPU2\nGPU0 X NS NS\n...\nGPU2 NS NS X\n")
    assert cut["links"] == {"GPU0,GPU1": "NS", "GPU0,GPU2": "NS", "GPU1,GPU2": "NS"}
    assert cut["notes"] == ["rows left out of the text: GPU1"]
    refused("p2p", "GPU0 GPU1\nGPU0 X NS\n", "is cut")
    refused("p2p", tools.P2P_MIXED.replace("OK\tCNS", "OKCNS"), "cells|run together")
    refused("p2p", tools.P2P_MIXED.replace("X\tOK", "OK\tX"), "diagonal")


def test_dcgm_tables() -> None:
    four = read("dcgm", tools.DCGM_4_TABLE)
    assert (four["version"], four["status"], four["failed"]) == ("4.4.1", "Fail", ["pcie"])
    assert [t["status"] for t in four["tests"]] == ["Pass", "Skip", "Fail"]
    assert four["tests"][2]["gpus"] == {"0": "Pass", "1": "Fail"}
    assert four["tests"][2]["warnings"] == ["GPU 1 Detected 3 replays, and the text goes on in the next row."]
    three = read("dcgm", tools.DCGM_3_TABLE)
    assert [t["status"] for t in three["tests"]] == ["Pass", "Warn", "Pass", "Fail"]
    assert three["tests"][3]["gpus"] == {"1": "Fail"}
    assert "GPU 0 Host to GPU bandwidth: 12.37 GB/s" in three["tests"][2]["info"][0]


def test_dcgm_rows_about_one_gpu_and_long_lists_of_devices() -> None:
    text = tools.DCGM_4_TABLE.replace("| Warning                   |", "| Warning: GPU1             |").replace(
        "| 2330, 2330                                     |\n",
        "| 2330, 2330                                     |\n"
        "|                           | 2330                                           |\n",
    )
    run = read("dcgm", text)
    assert (run["device_ids"], len(run["tests"][2]["warnings"])) == (["2330"] * 3, 1)


def test_dcgm_json_of_both_layouts() -> None:
    three = read("dcgm", tools.DCGM_3_JSON)
    assert (three["version"], three["status"]) == ("3.3.9", "Fail")
    assert three["tests"][0]["gpus"] == {"0": "Pass", "1": "Pass"}
    assert (three["tests"][1]["warnings"], three["tests"][1]["info"]) == (["too slow"], ["577"])
    four = read("dcgm", tools.DCGM_4_JSON)
    (memory,) = four["tests"]
    assert (memory["status"], memory["gpus"]) == ("Fail", {"0": "Pass"}), "the summary decides, CPUs are no GPUs"
    assert four["device_ids"] == ["2330"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (tools.DCGM_4_TABLE.replace("| Fail                                           |", "| Fail\n |"), "wrapped"),
        (tools.DCGM_4_TABLE.replace("| Skip  ", "| Sk1p  "), "not understood"),
        (tools.DCGM_4_TABLE + tools.DCGM_3_TABLE, "several runs"),
        (tools.DCGM_4_JSON[:400], "cut or damaged"),
        (tools.DCGM_4_JSON.replace('"Skip"', '"Sk1p"'), "status"),
        ("Error: unable to establish a connection to the specified host: localhost", "did not run"),
    ],
)
def test_dcgm_damage_is_refused(text: str, words: str) -> None:
    refused("dcgm", text, words)


def test_dcgm_nvlink() -> None:
    links = read("dcgm-nvlink", tools.DCGM_NVLINK)
    assert [(g["index"], g["states"], g["up"], g["down"]) for g in links["gpus"]] == [
        (0, "UUD_", 2, 1),
        (1, "UUU_", 3, 0),
    ]
    assert links["switches"][0]["disabled"] == 1
    refused("dcgm-nvlink", tools.DCGM_NVLINK.replace("U U D _", "UUD_"), "expected")
    refused("dcgm-nvlink", tools.DCGM_NVLINK.replace("U U U _\nNvSwitches:\n", ""), "no link states")


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
