"""All real captures of the kinds that are parsed, held against the answers of their index.

The captures are not part of the repository: METALSERVE_CAPTURES names their directory, or they lie in
../shared/captures beside it. Without them these tests are skipped.
"""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from metalserve.hardware.parsers.kernel_log import parse_kernel_log
from metalserve.hardware.parsers.lspci import parse_lspci, parse_pcie_links
from metalserve.hardware.parsers.nvlink import parse_nvlink_status
from metalserve.hardware.parsers.nvme import parse_nvme_list
from metalserve.hardware.parsers.smi import parse_smi_csv, parse_smi_list, smi_failure
from metalserve.hardware.parsers.smi_q import parse_smi_q
from metalserve.hardware.parsers.text import ParseError
from metalserve.hardware.parsers.topo import parse_topo
from metalserve.hardware.readable import KINDS, read_any

from .test_schema import check_types, rows_of

ROOT = Path(os.environ.get("METALSERVE_CAPTURES") or Path(__file__).resolve().parents[3] / "shared" / "captures")


def _index() -> dict[str, dict[str, str]]:
    if not (ROOT / "INDEX.tsv").is_file():
        return {}
    with open(ROOT / "INDEX.tsv", encoding="utf-8", newline="") as stream:
        return {row["file"]: row for row in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)}


INDEX = _index()
pytestmark = pytest.mark.skipif(not INDEX, reason="the captures are not here (METALSERVE_CAPTURES)")


def _files(kind: str, *, mangled: bool | None = None) -> list[str]:
    names = [n for n, row in INDEX.items() if row["kind"] == kind]
    if mangled is not None:
        names = [n for n in names if ("MANGLED" in n) == mangled]
    return sorted(names)


def _text(name: str) -> str:
    return (ROOT / name).read_bytes().decode("utf-8", errors="replace")


def _answer(name: str) -> str:
    return INDEX[name]["ANSWER"]


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found, (pattern, text)
    return int(found.group(1))


@pytest.mark.parametrize("name", _files("topo-m", mangled=True))
def test_damaged_matrices_are_refused(name: str) -> None:
    with pytest.raises(ParseError):
        parse_topo(_text(name))


@pytest.mark.parametrize("name", _files("topo-m", mangled=False))
def test_matrices_read_as_the_index_says(name: str) -> None:
    answer = _answer(name)
    gpus = _number(r"gpus=(\d+)", answer)
    if gpus == 0:
        with pytest.raises(ParseError):
            parse_topo(_text(name))
        return
    topology = parse_topo(_text(name))
    assert len(topology.gpus) == gpus
    assert len(topology.links) == gpus * (gpus - 1) // 2, "a square matrix"
    same = re.search(r"all \d+ pairs (\w+)", answer)
    mixed = re.search(r"pairs ((?:\d+x\w+(?:, )?)+)", answer)
    if same:
        assert set(topology.links.values()) == {same.group(1)}
    elif mixed:
        wanted = {k: int(n) for n, k in re.findall(r"(\d+)x(\w+)", mixed.group(1))}
        assert topology.classes == wanted
    if nics := re.search(r"nics=(\d+)", answer):
        assert len(topology.nics) == int(nics.group(1))
    affinity = re.search(r"numa_affinity=([\d|,-]+);", answer)
    if affinity and len(topology.numa_nodes) == gpus:
        assert list(dict.fromkeys(topology.numa_nodes.values())) == affinity.group(1).split("|")
    elif affinity and not topology.notes:
        raise AssertionError("affinities neither read nor reported")


@pytest.mark.parametrize("name", _files("nvlink-s"))
def test_nvlinks_read_as_the_index_says(name: str) -> None:
    answer = _answer(name)
    gpus = parse_nvlink_status(_text(name))
    for index, active, inactive in re.findall(r"GPU(\d): (\d+) active, (\d+) inactive", answer):
        assert (gpus[int(index)].active, gpus[int(index)].inactive) == (int(active), int(inactive))
    if links := re.search(r"^links=(\d+)", answer):
        assert sum(g.active + g.inactive for g in gpus) == int(links.group(1))
    if lines := re.search(r"link lines=(\d+)", answer):
        assert sum(g.active + g.inactive for g in gpus) == int(lines.group(1))
    if active_only := re.search(r"(\d+) lines: (\d+) active 26.562 GB/s, (\d+) <inactive>", answer):
        assert (gpus[0].active, gpus[0].inactive) == (int(active_only.group(2)), int(active_only.group(3)))
    rates = {r for g in gpus for r in g.link_gb_per_s.values() if r is not None}
    assert len(rates) <= 1
    if rates and "GB/s" in answer:
        assert f"{rates.pop():g}" in answer


@pytest.mark.parametrize("name", _files("nvidia-smi-q"))
def test_reports_read_as_the_index_says(name: str) -> None:
    answer, report = _answer(name), parse_smi_q(_text(name))
    if "sbe=" in answer:
        pages = [tree.at("Retired Pages") for tree in report.trees]
        read = [f"sbe={p.text('Single Bit ECC')} dbe={p.text('Double Bit ECC')}" for p in pages if p]
        assert read == re.findall(r"sbe=\d+ dbe=\d+", answer)
        return
    assert report.driver == re.search(r"driver=(\S+?)(?:;| \[)", answer).group(1)  # type: ignore[union-attr]
    assert report.attached == _number(r"attached=(\d+)", answer)
    assert len(report.gpus) == _number(r"gpu_blocks=(\d+)", answer)
    for gpu in report.gpus:
        if memory := re.search(r"mem=(\d+) MiB", answer):
            if not gpu.mig_enabled:  # there the index quotes the size of the last MIG device, not the GPU's
                assert gpu.memory_mib == int(memory.group(1))
            assert gpu.name is not None
            assert gpu.name in answer
        if fabric := re.search(r"fabric\[State=([^,]+), Status=([^,]+),", answer):
            assert (gpu.fabric_state, gpu.fabric_status) == fabric.groups()
        if "Event-reasons active=[none]" in answer:
            assert gpu.event_reasons == ()
        if "Event-reasons active=[Idle]" in answer:
            assert gpu.event_reasons == ("gpu_idle",)
        if "remapped[N/A]" in answer:
            assert gpu.remapped_pending is None
        if "Remapping Failure Occurred=No" in answer:
            assert (gpu.remapped_pending, gpu.remapped_failure) == (False, False)
        if "recovery_action=None" in answer:
            assert gpu.recovery_action == "None"
        if lanes := re.search(r"pcie_gen max/cur=(\d)/(\d) width=(\d+)x/(\d+)x", answer):
            seen = (gpu.pcie_gen_max, gpu.pcie_gen_current, gpu.pcie_width_max, gpu.pcie_width_current)
            assert seen == tuple(map(int, lanes.groups()))


@pytest.mark.parametrize("name", _files("query-gpu-csv"))
def test_csv_reads_as_the_index_says(name: str) -> None:
    answer, table = _answer(name), parse_smi_csv(_text(name))
    assert len(table.rows) == _number(r"rows=(\d+)", answer)
    assert len(table.fields) == _number(r"fields=(\d+)", answer)
    assert f"name={table.rows[0]['name']};" in answer
    assert f"clocks_event_reasons.active={table.rows[0]['clocks_event_reasons.active']};" in answer
    assert sum(cell == "[N/A]" for cell in table.rows[0].values()) == _number(r"'\[N/A\]': (\d+)", answer)


@pytest.mark.parametrize("name", _files("nvidia-smi-L"))
def test_lists_read_as_the_index_says(name: str) -> None:
    gpus = parse_smi_list(_text(name))
    assert len(gpus) == 1
    assert f"GPU 0: {gpus[0].name} (UUID: {gpus[0].uuid})" in _answer(name)
    assert len(gpus[0].mig) == (4 if "mig" in name else 0)


@pytest.mark.parametrize("name", _files("nvidia-smi-fail"))
def test_failures_are_recognised(name: str) -> None:
    failure = smi_failure(_text(name), 0)
    assert failure is not None
    assert failure.state == ("mismatch" if "mismatch" in _answer(name) else "error")


@pytest.mark.parametrize("name", _files("kernel-log"))
def test_kernel_logs_read_as_the_index_says(name: str) -> None:
    answer, log = _answer(name), parse_kernel_log(_text(name))
    codes = [e.xid for e in log.events if e.kind != "sxid"]
    if "Xid codes=[]" in answer:
        assert log.events == ()
    elif "line1=" in answer:
        assert codes == [int(c) for c in re.findall(r"line\d+=Xid (\d+)", answer)]
    else:
        wanted = {int(c) for c in re.findall(r"\b(\d{5}) (?:Fatal|Non-fatal)", answer)}
        named = {e.xid for e in log.events if e.severity}
        assert wanted <= named
        for code, severity in re.findall(r"\b(\d{5}) (Fatal|Non-fatal)", answer):
            assert {e.severity for e in log.events if e.xid == int(code) and e.severity} == {severity}
    assert log.notes == ()


@pytest.mark.parametrize("name", _files("lspci"))
def test_lspci_reads_as_the_index_says(name: str) -> None:
    answer, text = _answer(name), _text(name)
    if "3D controllers=" in answer:
        devices = parse_lspci(text).devices
        assert sum(d.class_code == "0302" for d in devices) == _number(r"3D controllers=(\d+)", answer)
        switches = sum(d.class_code == "0680" and d.vendor_id == "10de" for d in devices)
        assert switches == _number(r"\(NVSwitch 0680\)=(\d+)", answer)
        assert sum(d.class_code == "0108" for d in devices) == _number(r"nvme=(\d+)", answer)
        return
    wanted = re.findall(
        r"((?:[0-9a-f]{4}:)?[0-9a-f]{2}:[0-9a-f]{2}\.\d) [^|]*?: "
        r"cap ([\d.]+)GT/s x(\d+), sta ([\d.]+)GT/s[^|]*? x(\d+)",
        answer,
    )
    if not wanted:
        return
    generation = {"2.5": 1, "5": 2, "8": 3, "16": 4, "32": 5}
    links = {link.address: link for link in parse_pcie_links(text)}
    for address, cap, cap_width, sta, sta_width in wanted:
        link = links[address if address.count(":") == 2 else f"0000:{address}"]
        assert (link.gen_max, link.width_max) == (generation[cap], int(cap_width))
        assert (link.gen_current, link.width_current) == (generation[sta], int(sta_width))


@pytest.mark.parametrize("name", [n for n in _files("nvme") if "list" in n])
def test_nvme_lists_read_as_the_index_says(name: str) -> None:
    answer = _answer(name)
    if "MANGLED" in name:
        with pytest.raises(ParseError):
            parse_nvme_list(_text(name))
        return
    drives = parse_nvme_list(_text(name))
    if counted := re.match(r"(\d+) drives?\b", answer):
        assert len(drives) == int(counted.group(1))
        sizes = re.findall(r"(\d+\.\d\d)(?: (TB|GB))?", answer)
        unit = {"TB": 10**12, "GB": 10**9}
        for (size, name_of_unit), drive in zip(sizes, drives, strict=False):
            if name_of_unit:
                assert drive.size_bytes == round(float(size) * unit[name_of_unit])
    if serial := re.search(r"serial (\S+)", answer):
        assert drives[0].serial == serial.group(1)
    if "empty" in name:
        assert drives == ()
    if "v2.11" in name:
        assert [d.pci for d in drives] == ["0000:01:00.0", "0000:81:00.0", "0000:61:00.0"]


KIND_OF = {
    "dcgmi-diag": "dcgm",
    "dcgmi-nvlink": "dcgm-nvlink",
    "fabricmanager-log": "fabric-log",
    "findmnt-json": "findmnt",
    "findmnt-text": "findmnt",
    "fio-json": "fio",
    "nccl-tests": "nccl",
    "nvidia-smi-L": "smi-list",
    "nvidia-smi-q": "smi-q",
    "nvidia-smi-q-x": "smi-xml",
    "nvidia-smi-table": "smi-table",
    "nvidia-smi-version": "smi-version",
    "nvlink-c": "nvlink-caps",
    "nvlink-e": "nvlink-errors",
    "nvlink-s": "nvlink-status",
    "query-apps-csv": "smi-csv",
    "query-gpu-csv": "smi-csv",
    "topo-m": "topo",
    "topo-p2p": "p2p",
}
"""Kind of the index -> kind of `metalserve read`, where the names differ."""


def _kind(name: str) -> str:
    kind = INDEX[name]["kind"]
    if kind == "nvme":
        return "nvme-smart" if "smart" in name else "nvme-id-ctrl" if "id-ctrl" in name else "nvme-list"
    if "capabilities" in name:  # `--help-query-compute-apps`, kept under the name of the query
        return "smi-fields"
    return KIND_OF.get(kind, kind)


def _unreadable(name: str) -> bool:
    """Damaged copies, and outputs that hold nothing but the tool's own error."""
    answer = _answer(name)
    return "MANGLED" in name or answer.startswith("gpus=0;") or INDEX[name]["kind"] == "nvidia-smi-fail"


def _read(name: str) -> dict[str, Any]:
    return KINDS[_kind(name)].read(_text(name))


@pytest.mark.parametrize("name", sorted(n for n in INDEX if not _unreadable(n)))
def test_every_capture_is_recognised_and_typed_as_the_page_says(name: str) -> None:
    kind, read = read_any(_text(name))
    assert kind.name == _kind(name)
    check_types(read, rows_of(kind.name))
    assert json.loads(json.dumps(read, allow_nan=False)) == read


@pytest.mark.parametrize("name", sorted(n for n in INDEX if _unreadable(n)))
def test_what_cannot_be_read_is_an_error_that_says_why(name: str) -> None:
    if "gpu1-lost" in name:  # an error line, then a good table
        assert [g["index"] for g in KINDS["smi-table"].read(_text(name))["gpus"]] == [0, 2, 3]
        return
    with pytest.raises(ParseError) as caught:
        read_any(_text(name))
    if INDEX[name]["kind"] == "nvidia-smi-fail":
        assert str(caught.value).startswith("nvidia-smi failed (")


@pytest.mark.parametrize("name", _files("nvidia-smi-q-x"))
def test_xml_reports_read_as_the_index_says(name: str) -> None:
    answer, report = _answer(name), _read(name)
    assert (report["driver"] or "") == re.match(r"driver=([^;]*);", answer).group(1)  # type: ignore[union-attr]
    assert len(report["gpus"]) == _number(r"gpus=(\d+)", answer)
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


@pytest.mark.parametrize("name", _files("nvidia-smi-table"))
def test_tables_read_as_the_index_says(name: str) -> None:
    answer, table = _answer(name), _read(name)
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


@pytest.mark.parametrize("name", _files("nvidia-smi-version"))
def test_versions_read_as_the_index_says(name: str) -> None:
    found = re.findall(r": (\S+)", _answer(name))
    assert [_read(name)[key] for key in ("smi", "nvml", "driver", "cuda")] == found


@pytest.mark.parametrize("name", _files("query-apps-csv"))
def test_queries_of_processes_and_pages_read_as_the_index_says(name: str) -> None:
    answer, read = _answer(name), _read(name)
    if "capabilities" in name:  # the index counted lines there
        assert (read["switch"], read["fields"][0], len(read["fields"])) == ("--query-compute-apps", "timestamp", 8)
        assert read["aliases"]["process_name"] == ["name"]
        return
    assert len(read["rows"]) == _number(r"rows=(\d+)", answer)
    assert read["notes"] == []


@pytest.mark.parametrize("name", [*_files("nvlink-c"), *_files("nvlink-e"), *_files("topo-p2p")])
def test_links_and_p2p_read_as_the_index_says(name: str) -> None:
    read = _read(name)
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


@pytest.mark.parametrize("name", [n for n in _files("nvme") if "list" not in n])
def test_drives_read_as_the_index_says(name: str) -> None:
    answer, read = _answer(name), _read(name)
    if "id-ctrl" in name:
        assert (read["model"], read["serial"], read["firmware"], str(read["total_bytes"])) == tuple(
            re.findall(r"(?:mn='|sn='|fr='|tnvmcap=)([^'\s]+(?: [^'\s]+)*)", answer.split(" fna=")[0])
        )
        return
    assert (read["temperature_c"], read["percentage_used"], read["data_units_written"]) == (37, 2, 136157684)
    assert (read["available_spare_percent"], read["media_errors"], read["error_log_entries"]) == (100, 0, 110)


@pytest.mark.parametrize("name", _files("lsblk"))
def test_block_devices_read_as_the_index_says(name: str) -> None:
    answer, devices = _answer(name), _read(name)["devices"]
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


@pytest.mark.parametrize("name", [*_files("findmnt-json"), *_files("findmnt-text")])
def test_mounts_read_as_the_index_says(name: str) -> None:
    answer, mounts = _answer(name), _read(name)["mounts"]
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


@pytest.mark.parametrize("name", _files("mdadm"))
def test_arrays_read_as_the_index_says(name: str) -> None:
    answer, (array,) = _answer(name), _read(name)["arrays"]
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


@pytest.mark.parametrize("name", _files("dcgmi-diag"))
def test_diagnostics_read_as_the_index_says(name: str) -> None:
    answer, run = _answer(name), _read(name)
    status = {t["name"]: t["status"] for t in run["tests"]}
    if "root key" in answer:
        for test, words in re.findall(
            r"([A-Z][\w /-]+|\w+):((?:(?:Pass|PASS|Fail|FAIL|Warn|Skip|SKIP)x\d+/?)+)", answer
        ):
            counts = {k.capitalize(): int(n) for k, n in re.findall(r"([A-Za-z]+)x(\d+)", words)}
            read = next(t for t in run["tests"] if t["name"] == test)
            assert read["status"] in counts
            if sum(counts.values()) > 1:
                assert {s: list(read["gpus"].values()).count(s) for s in set(read["gpus"].values())} == counts
    elif "not-Pass rows" in answer:
        assert [n for n, s in status.items() if s != "Pass"] == answer.partition(": ")[2].split(", ")
    elif "all rows Pass" in answer or "all Pass" in answer:
        assert set(status.values()) == {"Pass"}
    elif "pcie FAIL" in answer:
        assert (status["pcie"], run["status"], set(run["tests"][2]["gpus"].values())) == ("Fail", "Fail", {"Pass"})
        assert "Reset GPU. Restart DCGM." in run["tests"][2]["warnings"][0]
    else:
        assert status == {"software": "Pass", "memory": "Skip", "diagnostic": "Skip", "nvbandwidth": "Skip"}


@pytest.mark.parametrize("name", _files("dcgmi-nvlink"))
def test_dcgm_links_read_as_the_index_says(name: str) -> None:
    read = _read(name)
    assert [(g["down"], g["up"]) for g in read["gpus"]] == [(18, 0)] * 2
    assert read["switches"] == []


@pytest.mark.parametrize("name", _files("nccl-tests"))
def test_nccl_tables_read_as_the_index_says(name: str) -> None:
    answer, run = _answer(name), _read(name)
    assert run["ranks"] == _number(r"ranks=(\d+)", answer)
    assert run["rows"] == _number(r"data rows=(\d+)", answer)
    assert run["largest_size_bytes"] == _number(r"largest size=(\d+)B", answer)
    assert f"dtype={run['type']}:" in answer
    halves = re.findall(r"time=(\S+)us algbw=(\S+) busbw=(\S+) #wrong=([^\s;]+)", answer)
    for half, (spent, algorithm, bus, _) in zip(("out_of_place", "in_place"), halves, strict=True):
        seen = (run[f"time_us_{half}"], run[f"algbw_{half}"], run[f"busbw_{half}"])
        assert seen == (float(spent), float(algorithm), float(bus))
    wrong = [float(w) for *_, w in halves if w != "N/A"]
    assert run["wrong"] == (max(wrong) if wrong else None)
    average = re.search(r"avg_busbw=(\S+)", answer)
    bounds = re.search(r"out_of_bounds=(\d+)", answer)
    assert run["avg_busbw"] == (float(average[1]) if average and average[1] != "MISSING" else None)
    assert run["out_of_bounds"] == (int(bounds[1]) if bounds else None)
    assert run["notes"] == []


@pytest.mark.parametrize("name", _files("fio-json"))
def test_fio_reads_as_the_index_says(name: str) -> None:
    (job,) = _read(name)["jobs"]
    assert (job["rw"], job["block_size"], job["depth"], job["error"], job["read"]) == (
        "randwrite",
        "4096B",
        "8",
        0,
        None,
    )
    assert (round(job["write"]["iops"], 2), job["write"]["bytes_per_s"]) == (3201.66, 13116864)
    assert job["write"]["runtime_ms"] == 10002


@pytest.mark.parametrize("name", _files("fabricmanager-log"))
def test_fabric_logs_read_as_the_index_says(name: str) -> None:
    events = _read(name)["events"]
    kinds = [e["kind"] for e in events]
    assert (kinds.count("gpu-handle-not-found"), kinds.count("query-failed"), kinds.count("topology-mismatch")) == (
        2,
        2,
        1,
    )
    assert {(e["kind"], e["sxid"]) for e in events if e["sxid"]} == {
        ("nvswitch-non-fatal", 12028),
        ("nvswitch-fatal", 20034),
    }


@pytest.mark.parametrize("name", _files("vllm-log"))
def test_vllm_logs_read_as_the_index_says(name: str) -> None:
    answer, log = _answer(name), _read(name)
    if tokens := re.search(r"([\d,]+) tokens(?: after|;|$| \|\|)", answer):
        assert log["kv_cache_tokens"] == int(tokens.group(1).replace(",", ""))
    if concurrency := re.search(r"([\d.]+)x(?: \|\||$)", answer):
        assert log["max_concurrency"] == float(concurrency.group(1))
    if size := re.match(r"([\d.]+) GiB;", answer):
        assert (log["kv_cache"], log["kv_cache_unit"]) == (float(size.group(1)), "GiB")
    if weights := re.search(r"(?:weights|loading took) ([\d.]+) GB", answer):
        assert (log["weights"], log["weights_unit"]) == (float(weights.group(1)), "GB")
    if failed := re.match(r"needs ([\d.]+) (G\w+).*?, has ([\d.]+)", answer):
        (failure,) = log["failures"]
        seen = (failure["kind"], failure["needed"], failure["unit"], failure["available"])
        assert seen == ("kv-too-small", float(failed[1]), failed[2], float(failed[3]))
    if free := re.match(r"free ([\d.]+) of ([\d.]+), wanted ([\d.]+)", answer):
        (failure,) = log["failures"]
        assert (failure["available"], failure["total"], failure["needed"]) == tuple(map(float, free.groups()))
    if "custom allreduce disabled" in answer:
        assert (log["custom_all_reduce"], log["all_reduce_backends"], log["workers"]) == (False, ["PYNCCL"], 4)


@pytest.mark.parametrize("name", _files("vllm-metrics"))
def test_metrics_read_as_the_index_says(name: str) -> None:
    answer, metrics = _answer(name), _read(name)
    figures = metrics["figures"]
    if counted := re.match(r"(\d+) samples, (\d+) families; first: (.*)", answer):
        assert (len(metrics["samples"]), metrics["names"]) == (int(counted[1]), int(counted[2]))
        first = [f"{s['name']}={s['value']}" for s in metrics["samples"][:3]]
        assert ", ".join(first) == counted[3]
    elif "part1" in name:
        seen = (figures["running"], figures["waiting"], figures["kv_cache_usage"], figures["prompt_tokens"])
        assert seen == (0, 0, 0, 5)
        assert (figures["generation_tokens"], figures["ttft_count"]) == (7, 1)
        assert round(figures["ttft_sum_seconds"], 4) == 0.3133
    else:
        assert (figures["kv_cache_usage"], figures["prefix_cache_queries"], figures["prefix_cache_hits"]) == (
            0,
            117,
            64,
        )


@pytest.mark.parametrize("name", _files("lspci"))
def test_lspci_forms_read_as_the_index_says(name: str) -> None:
    answer, read = _answer(name), _read(name)
    devices = read["devices"]
    if nvidia := re.match(r"NVIDIA lines=(\d+); Mellanox lines=(\d+); roots=(.*)", answer):
        assert read["form"] == "tree"
        for words, count in (("NVIDIA", nvidia[1]), ("Mellanox", nvidia[2])):
            assert sum(words in d["description"] for d in devices) == int(count)
        assert {d["address"][:4] for d in devices} == {"0000"}, "no bus was left unknown"
    elif "Slot records" in answer:  # the index counted `PhySlot:`, too
        physical = _text(name).count("PhySlot:")
        assert (read["form"], len(devices) + physical) == ("records", _number(r"(\d+) Slot records", answer))
    elif cap := re.match(r"LnkCap ([\d.]+)GT/s x(\d+), LnkSta ([\d.]+)GT/s.*? x(\d+)", answer):
        generation = {"8": 3, "16": 4, "32": 5}
        (link,) = read["links"]
        assert (link["gen_max"], link["width_max"]) == (generation[cap[1]], int(cap[2]))
        assert (link["gen_current"], link["width_current"]) == (generation[cap[3]], int(cap[4]))
        assert link["downgraded"] == ("downgraded" in answer)
    else:
        assert read["form"] == "list"
        wanted = re.findall(r"((?:[0-9a-f]{4}:)?[0-9a-f]{2}:[0-9a-f]{2}\.\d) [^|]*?: cap [\d.]+GT", answer)
        assert {a if a.count(":") == 2 else f"0000:{a}" for a in wanted} <= {d["address"] for d in devices}
