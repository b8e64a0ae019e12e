"""Real captures of reports, tables and queries of nvidia-smi and of drives, field by field, against the index."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.hardware.captures import (
    INDEX,
    answer_of,
    files_of,
    number_in,
    read_by_name,
)

pytestmark = pytest.mark.skipif(not INDEX, reason="the captures are not here (METALSERVE_CAPTURES)")


@pytest.mark.parametrize("name", files_of("nvidia-smi-q-x"))
def test_xml_reports_read_as_the_index_says(name: str) -> None:
    answer, report = answer_of(name), read_by_name(name)
    assert (report["driver"] or "") == re.match(r"driver=([^;]*);", answer).group(1)  # type: ignore[union-attr]
    assert len(report["gpus"]) == number_in(r"gpus=(\d+)", answer)
    active = re.findall(r"'clocks_(?:event|throttle)_reason_(\w+)'", answer)
    for gpu in report["gpus"]:
        assert f"x {gpu['name']};" in answer
        if memory := re.search(r"mem_total=(\d+) MiB", answer):
            assert gpu["memory_mib"] == int(memory.group(1))
        assert gpu["event_reasons"] == (None if "; None active" in answer else active)
        if fabric := re.search(r"fabric=state=([^,;]+),status=([^,;]+)", answer):
            assert (gpu["fabric_state"], gpu["fabric_status"]) == fabric.groups()
        if rows := re.search(r"remapped=corr=(\d+),unc=(\d+),pending=(\w+),failure=(\w+)", answer):
            assert (gpu["remapped_correctable"], gpu["remapped_uncorrectable"]) == (int(rows[1]), int(rows[2]))
            assert (gpu["remapped_pending"], gpu["remapped_failure"]) == (rows[3] == "Yes", rows[4] == "Yes")
        elif "remapped=N/A" in answer:
            assert gpu["remapped_pending"] is None
        assert gpu["recovery_action"] == ("None" if "recovery=None" in answer else None)
        assert gpu["mig_enabled"] == {"Enabled": True, "Disabled": False}.get(
            re.search(r"mig=([^;]+)", answer).group(1)  # type: ignore[union-attr]
        )
        if lanes := re.search(r"max/cur gen=(\d)/(\d) width=(\d+)x/(\d+)x", answer):
            seen = ("pcie_gen_max", "pcie_gen_current", "pcie_width_max", "pcie_width_current")
            assert tuple(gpu[key] for key in seen) == tuple(map(int, lanes.groups()))


@pytest.mark.parametrize("name", files_of("nvidia-smi-table"))
def test_tables_read_as_the_index_says(name: str) -> None:
    answer, table = answer_of(name), read_by_name(name)
    found = re.match(
        r"smi=(\S+) driver=(\S+) cuda=(.*?); gpus=(\d+) (\{.*\}); bus ids (\S+?)\.\.(\S+?); ecc column=\[(.*)\]; "
        r"mem used/total=(.*?); process rows=(\d+)",
        answer,
    )
    assert found
    gpus = table["gpus"]
    assert (table["smi"], table["driver"], table["cuda"] or "none printed") == found.groups()[:3]
    assert len(gpus) == int(found[4])
    assert {g["name"] for g in gpus} == set(re.findall(r"'([^']+)': \d", found[5]))
    for gpu, address in ((gpus[0], found[6]), (gpus[-1], found[7])):
        assert address.lower().endswith(str(gpu["pci"]).lower().removeprefix("0000:"))
    if "MiB" in found[8]:  # the author of that one left out the column's neighbours
        assert all(gpu["memory_mib"] is None for gpu in gpus)
        assert len(table["notes"]) == len(gpus)
    else:
        assert {f"'{g['ecc']}'" for g in gpus} == set(found[8].split(", "))
        assert "|".join(f"{g['memory_used_mib']}MiB/{g['memory_mib']}MiB" for g in gpus) == found[9]
        assert table["notes"] == []
    assert len(table["processes"]) == int(found[10])
    if "MIG devices table" in answer:
        assert len(table["mig_devices"]) == 5


@pytest.mark.parametrize("name", files_of("nvidia-smi-version"))
def test_versions_read_as_the_index_says(name: str) -> None:
    found = re.findall(r": (\S+)", answer_of(name))
    assert [read_by_name(name)[key] for key in ("smi", "nvml", "driver", "cuda")] == found


@pytest.mark.parametrize("name", files_of("query-apps-csv"))
def test_queries_of_processes_and_pages_read_as_the_index_says(name: str) -> None:
    answer, read = answer_of(name), read_by_name(name)
    if "capabilities" in name:  # the index counted lines there
        assert (read["switch"], read["fields"][0], len(read["fields"])) == ("--query-compute-apps", "timestamp", 8)
        assert read["aliases"]["process_name"] == ["name"]
        return
    assert len(read["rows"]) == number_in(r"rows=(\d+)", answer)
    assert read["notes"] == []


@pytest.mark.parametrize("name", [*files_of("nvlink-c"), *files_of("nvlink-e"), *files_of("topo-p2p")])
def test_links_and_p2p_read_as_the_index_says(name: str) -> None:
    read = read_by_name(name)
    if "ampere-bridge" in name:
        values = read["gpus"][0]["links"]
        assert len(values) == 4
        assert {tuple(v.values()) for v in values.values()} == {(True, True, True, False, False, False)}
    elif "all-true" in name:
        assert [len(v) for v in read["gpus"][0]["links"].values()] == [6] * 18
        assert all(v for link in read["gpus"][0]["links"].values() for v in link.values())
    elif "a6000" in name:
        assert read["gpus"][0]["links"] == {"0": {"replay_errors": 0, "recovery_errors": 0, "crc_errors": 0}}
    elif "v100" in name:
        found = {(f["gpu"], f["link"], f["counter"]): f["count"] for f in read["faults"]}
        assert found == {(0, 3, "replay_errors"): 2353, (2, 0, "replay_errors"): 148, (2, 0, "crc_errors"): 65535}
    else:
        status = "OK" if "all-ok" in name else "CNS" if "cns" in name else "NS"
        pairs = {"p2p-n-4xa100-all-ok.txt": 6, "p2p-r-2gpu-cns-stas00.txt": 1}.get(Path(name).name, 13)
        assert (set(read["links"].values()), len(read["links"])) == ({status}, pairs)


@pytest.mark.parametrize("name", [n for n in files_of("nvme") if "list" not in n])
def test_drives_read_as_the_index_says(name: str) -> None:
    answer, read = answer_of(name), read_by_name(name)
    if "id-ctrl" in name:
        assert (read["model"], read["serial"], read["firmware"], str(read["total_bytes"])) == tuple(
            re.findall(r"(?:mn='|sn='|fr='|tnvmcap=)([^'\s]+(?: [^'\s]+)*)", answer.split(" fna=")[0])
        )
        return
    assert (read["temperature_c"], read["percentage_used"], read["data_units_written"]) == (37, 2, 136157684)
    assert (read["available_spare_percent"], read["media_errors"], read["error_log_entries"]) == (100, 0, 110)


@pytest.mark.parametrize("name", files_of("lsblk"))
def test_block_devices_read_as_the_index_says(name: str) -> None:
    answer, devices = answer_of(name), read_by_name(name)["devices"]
    top = [d for d in devices if d["parent"] is None]
    for device, kind, size, children in re.findall(r"([\w/-]+)\((\w+),([\d.]+[KMGT]?),children=(\d+)\)", answer):
        found = next(d for d in top if d["name"] == device)
        assert (found["type"], found["size"], found["children"]) == (kind, size, int(children))
    for device, kind, size in re.findall(r"([\w/-]+)\((\w+),(\d+)\)", answer):
        assert next(d["size_bytes"] for d in devices if d["name"] == device and d["type"] == kind) == int(size)
    if total := re.search(r"total (\d+)", answer):
        assert len(top) == int(total.group(1))
    if tree := re.search(r"(\d+) rows, top-level devices=(\S+)", answer):
        assert len(devices) == int(tree.group(1))
        assert [d["name"] for d in top] == tree.group(2).split(",")


@pytest.mark.parametrize("name", [*files_of("findmnt-json"), *files_of("findmnt-text")])
def test_mounts_read_as_the_index_says(name: str) -> None:
    answer, mounts = answer_of(name), read_by_name(name)["mounts"]
    if counted := re.search(r"(\d+) mounts", answer):
        assert len(mounts) == int(counted.group(1))
    else:
        (wanted,) = json.loads(answer)["filesystems"]
        (mount,) = mounts
        assert {
            "target": mount["target"],
            "source": mount["source"],
            "fstype": mount["fstype"],
            **mount["more"],
        } == wanted


@pytest.mark.parametrize("name", files_of("mdadm"))
def test_arrays_read_as_the_index_says(name: str) -> None:
    answer, (array,) = answer_of(name), read_by_name(name)["arrays"]
    level = re.search(r"(?:level=|Raid Level : )(\w+)", answer)
    state = re.search(r"(?:; state=|; State : )([^;]*)", answer)
    assert level and state
    assert (array["level"], ", ".join(array["state"])) == (level.group(1), state.group(1).strip())
    for key in ("active", "working", "failed", "spare"):
        if count := re.search(rf"\b{key}=(\d*)", answer):
            assert array[key] == (int(count.group(1)) if count.group(1) else None)
    if members := re.search(r"members=\[(.*)\]", answer):
        assert list(array["members"]) == re.findall(r"'([^']+)'", members.group(1))
    if rebuild := re.search(r"rebuild=(.*)$", answer):
        assert (array["progress"] or "") == rebuild.group(1)
    if role := re.search(r"Device Role : ([^;]+)", answer):
        assert array["device_role"] == role.group(1)
    if slots := re.search(r"Array State : (\S+)", answer):
        assert array["array_state"] == slots.group(1)
