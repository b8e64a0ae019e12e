"""What the parsers of nvidia-smi's and DCGM's outputs read from samples, and what damage they refuse."""

from __future__ import annotations

import pytest

from metalserve.hardware.parsers.smi_q import parse_smi_q
from metalserve.hardware.parsers.smi_xml import parse_smi_xml
from metalserve.hardware.parsers.text import ParseError
from tests.hardware.tool_output import read, refused

from . import samples
from . import samples_tools as tools
from .kinds import fixture


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
