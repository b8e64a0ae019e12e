"""All real captures of the kinds that are parsed, held against the answers of their index."""

from __future__ import annotations

import json
import re

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
from tests.hardware.captures import (
    INDEX,
    answer_of,
    files_of,
    kind_of,
    number_in,
    text_of,
)

from .test_schema import check_types, rows_of

pytestmark = pytest.mark.skipif(not INDEX, reason="the captures are not here (METALSERVE_CAPTURES)")


@pytest.mark.parametrize("name", files_of("topo-m", mangled=True))
def test_damaged_matrices_are_refused(name: str) -> None:
    with pytest.raises(ParseError):
        parse_topo(text_of(name))


@pytest.mark.parametrize("name", files_of("topo-m", mangled=False))
def test_matrices_read_as_the_index_says(name: str) -> None:
    answer = answer_of(name)
    gpus = number_in(r"gpus=(\d+)", answer)
    if gpus == 0:
        with pytest.raises(ParseError):
            parse_topo(text_of(name))
        return
    topology = parse_topo(text_of(name))
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


@pytest.mark.parametrize("name", files_of("nvlink-s"))
def test_nvlinks_read_as_the_index_says(name: str) -> None:
    answer = answer_of(name)
    gpus = parse_nvlink_status(text_of(name))
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


@pytest.mark.parametrize("name", files_of("nvidia-smi-q"))
def test_reports_read_as_the_index_says(name: str) -> None:
    answer, report = answer_of(name), parse_smi_q(text_of(name))
    if "sbe=" in answer:
        pages = [tree.at("Retired Pages") for tree in report.trees]
        read = [f"sbe={p.text('Single Bit ECC')} dbe={p.text('Double Bit ECC')}" for p in pages if p]
        assert read == re.findall(r"sbe=\d+ dbe=\d+", answer)
        return
    assert report.driver == re.search(r"driver=(\S+?)(?:;| \[)", answer).group(1)  # type: ignore[union-attr]
    assert report.attached == number_in(r"attached=(\d+)", answer)
    assert len(report.gpus) == number_in(r"gpu_blocks=(\d+)", answer)
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


@pytest.mark.parametrize("name", files_of("query-gpu-csv"))
def test_csv_reads_as_the_index_says(name: str) -> None:
    answer, table = answer_of(name), parse_smi_csv(text_of(name))
    assert len(table.rows) == number_in(r"rows=(\d+)", answer)
    assert len(table.fields) == number_in(r"fields=(\d+)", answer)
    assert f"name={table.rows[0]['name']};" in answer
    assert f"clocks_event_reasons.active={table.rows[0]['clocks_event_reasons.active']};" in answer
    assert sum(cell == "[N/A]" for cell in table.rows[0].values()) == number_in(r"'\[N/A\]': (\d+)", answer)


@pytest.mark.parametrize("name", files_of("nvidia-smi-L"))
def test_lists_read_as_the_index_says(name: str) -> None:
    gpus = parse_smi_list(text_of(name))
    assert len(gpus) == 1
    assert f"GPU 0: {gpus[0].name} (UUID: {gpus[0].uuid})" in answer_of(name)
    assert len(gpus[0].mig) == (4 if "mig" in name else 0)


@pytest.mark.parametrize("name", files_of("nvidia-smi-fail"))
def test_failures_are_recognised(name: str) -> None:
    failure = smi_failure(text_of(name), 0)
    assert failure is not None
    assert failure.state == ("mismatch" if "mismatch" in answer_of(name) else "error")


@pytest.mark.parametrize("name", files_of("kernel-log"))
def test_kernel_logs_read_as_the_index_says(name: str) -> None:
    answer, log = answer_of(name), parse_kernel_log(text_of(name))
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


@pytest.mark.parametrize("name", files_of("lspci"))
def test_lspci_reads_as_the_index_says(name: str) -> None:
    answer, text = answer_of(name), text_of(name)
    if "3D controllers=" in answer:
        devices = parse_lspci(text).devices
        assert sum(d.class_code == "0302" for d in devices) == number_in(r"3D controllers=(\d+)", answer)
        switches = sum(d.class_code == "0680" and d.vendor_id == "10de" for d in devices)
        assert switches == number_in(r"\(NVSwitch 0680\)=(\d+)", answer)
        assert sum(d.class_code == "0108" for d in devices) == number_in(r"nvme=(\d+)", answer)
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


@pytest.mark.parametrize("name", [n for n in files_of("nvme") if "list" in n])
def test_nvme_lists_read_as_the_index_says(name: str) -> None:
    answer = answer_of(name)
    if "MANGLED" in name:
        with pytest.raises(ParseError):
            parse_nvme_list(text_of(name))
        return
    drives = parse_nvme_list(text_of(name))
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


def _unreadable(name: str) -> bool:
    """Damaged copies, and outputs that hold nothing but the tool's own error."""
    answer = answer_of(name)
    return "MANGLED" in name or answer.startswith("gpus=0;") or INDEX[name]["kind"] == "nvidia-smi-fail"


@pytest.mark.parametrize("name", sorted(n for n in INDEX if not _unreadable(n)))
def test_every_capture_is_recognised_and_typed_as_the_page_says(name: str) -> None:
    kind, read = read_any(text_of(name))
    assert kind.name == kind_of(name)
    check_types(read, rows_of(kind.name))
    assert json.loads(json.dumps(read, allow_nan=False)) == read


@pytest.mark.parametrize("name", sorted(n for n in INDEX if _unreadable(n)))
def test_what_cannot_be_read_is_an_error_that_says_why(name: str) -> None:
    if "gpu1-lost" in name:  # an error line, then a good table
        assert [g["index"] for g in KINDS["smi-table"].read(text_of(name))["gpus"]] == [0, 2, 3]
        return
    with pytest.raises(ParseError) as caught:
        read_any(text_of(name))
    if INDEX[name]["kind"] == "nvidia-smi-fail":
        assert str(caught.value).startswith("nvidia-smi failed (")
