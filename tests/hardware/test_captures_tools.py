"""Real captures of measuring tools, logs and lspci, field by field, held against the answers of their index."""

from __future__ import annotations

import re

import pytest

from tests.hardware.captures import (
    INDEX,
    answer_of,
    files_of,
    number_in,
    read_by_name,
    text_of,
)

pytestmark = pytest.mark.skipif(not INDEX, reason="the captures are not here (METALSERVE_CAPTURES)")


@pytest.mark.parametrize("name", files_of("dcgmi-diag"))
def test_diagnostics_read_as_the_index_says(name: str) -> None:
    answer, run = answer_of(name), read_by_name(name)
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


@pytest.mark.parametrize("name", files_of("dcgmi-nvlink"))
def test_dcgm_links_read_as_the_index_says(name: str) -> None:
    read = read_by_name(name)
    assert [(g["down"], g["up"]) for g in read["gpus"]] == [(18, 0)] * 2
    assert read["switches"] == []


@pytest.mark.parametrize("name", files_of("nccl-tests"))
def test_nccl_tables_read_as_the_index_says(name: str) -> None:
    answer, run = answer_of(name), read_by_name(name)
    assert run["ranks"] == number_in(r"ranks=(\d+)", answer)
    assert run["rows"] == number_in(r"data rows=(\d+)", answer)
    assert run["largest_size_bytes"] == number_in(r"largest size=(\d+)B", answer)
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


@pytest.mark.parametrize("name", files_of("fio-json"))
def test_fio_reads_as_the_index_says(name: str) -> None:
    (job,) = read_by_name(name)["jobs"]
    assert (job["rw"], job["block_size"], job["depth"], job["error"], job["read"]) == (
        "randwrite",
        "4096B",
        "8",
        0,
        None,
    )
    assert (round(job["write"]["iops"], 2), job["write"]["bytes_per_s"]) == (3201.66, 13116864)
    assert job["write"]["runtime_ms"] == 10002


@pytest.mark.parametrize("name", files_of("fabricmanager-log"))
def test_fabric_logs_read_as_the_index_says(name: str) -> None:
    events = read_by_name(name)["events"]
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


@pytest.mark.parametrize("name", files_of("vllm-log"))
def test_vllm_logs_read_as_the_index_says(name: str) -> None:
    answer, log = answer_of(name), read_by_name(name)
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


@pytest.mark.parametrize("name", files_of("vllm-metrics"))
def test_metrics_read_as_the_index_says(name: str) -> None:
    answer, metrics = answer_of(name), read_by_name(name)
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


@pytest.mark.parametrize("name", files_of("lspci"))
def test_lspci_forms_read_as_the_index_says(name: str) -> None:
    answer, read = answer_of(name), read_by_name(name)
    devices = read["devices"]
    if nvidia := re.match(r"NVIDIA lines=(\d+); Mellanox lines=(\d+); roots=(.*)", answer):
        assert read["form"] == "tree"
        for words, count in (("NVIDIA", nvidia[1]), ("Mellanox", nvidia[2])):
            assert sum(words in d["description"] for d in devices) == int(count)
        assert {d["address"][:4] for d in devices} == {"0000"}, "no bus was left unknown"
    elif "Slot records" in answer:  # the index counted `PhySlot:`, too
        physical = text_of(name).count("PhySlot:")
        assert (read["form"], len(devices) + physical) == ("records", number_in(r"(\d+) Slot records", answer))
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
