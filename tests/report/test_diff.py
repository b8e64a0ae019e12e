from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from metalserve.report.diff import Difference, compare
from metalserve.report.reading import report_from
from tests.report.samples import finding, host, report

Spoil = Callable[[dict[str, Any]], Any]


def difference(spoil: Spoil, *, base: dict[str, Any] | None = None, **tolerances: float) -> Difference:
    old = base or host("a", soak_s=60)
    new = copy.deepcopy(old)
    spoil(new)
    given = {"bandwidth": 5.0, "storage": 10.0, "throughput": 3.0, "seconds": 10.0, "temperature": 5.0} | tolerances
    return compare(report_from(report([old])), report_from(report([new])), given)


def told(changes: list[Any]) -> list[tuple[str, str, str]]:
    return [(c.what, c.before, c.after) for c in changes]


def gpu(new: dict[str, Any], index: int) -> dict[str, Any]:
    found: dict[str, Any] = new["hardware"]["gpus"][index]
    return found


def scale(new: dict[str, Any], *path: Any, by: float) -> None:
    inner = new["measurements"]
    for key in path[:-1]:
        inner = inner[key]
    value = inner[path[-1]]
    inner[path[-1]] = [round(v * by, 2) for v in value] if isinstance(value, list) else round(value * by, 2)


def test_nothing_changed() -> None:
    found = difference(lambda new: None)
    assert found.changes == () and found.notes == ()


def lose_gpu(new: dict[str, Any]) -> None:
    del new["hardware"]["gpus"][7]


def lose_link(new: dict[str, Any]) -> None:
    new["hardware"]["nvlinks"][2]["link_gb_per_s"]["4"] = None


def pair(kind: str) -> Spoil:
    return lambda new: new["hardware"]["links"].update({"GPU0,GPU1": kind, "GPU0,GPU2": kind})


def slow_pair(new: dict[str, Any]) -> None:
    for row in new["measurements"]["nvlink"]["pairs"]:
        if 3 in (row["a"], row["b"]):
            row["gb_s"] /= 2


WORSE: list[tuple[str, Spoil, str, str]] = [
    (
        "finding",
        lambda n: n["findings"].append(finding("heat", "fail", "GPU 1")),
        "heat: GPU 1",
        "fail: something else",
    ),
    ("warn", lambda n: n["findings"][0].update(status="warn"), "gpu-count: host", "warn: 8 GPU(s) on the PCI bus"),
    ("unknown", lambda n: n["findings"][0].update(status="unknown"), "gpu-count: host", "unknown: 8 GPU(s)"),
    ("gpu", lose_gpu, "GPU 7 (0000:ce:00.0)", "gone"),
    ("links", lose_link, "GPU 2: NVLinks up", "17"),
    ("pair", pair("NV16"), "link between GPUs 0-1, 0-2", "NV16"),
    ("pair-pcie", pair("SYS"), "link between GPUs 0-1, 0-2", "SYS"),
    ("drive", lambda n: n["hardware"].update(nvme=[]), "drive /dev/nvme0n1", "gone"),
    ("nvme-link", lambda n: n["hardware"]["nvme"][0]["link"].update(gen_current=3), "PCIe link", "Gen3 x4"),
    ("width", lambda n: gpu(n, 0).update(pcie_width_max=8), "GPU 0 (0000:1b:00.0): PCIe width", "x8"),
    ("remap", lambda n: gpu(n, 0).update(remapped_correctable=2), "memory rows remapped, correctable", "2"),
    ("remap-failed", lambda n: gpu(n, 0).update(remapped_failure=True), "row remap failed", "yes"),
    ("power", lambda n: gpu(n, 0).update(power_limit_w=500.0), "power limit, W", "500"),
    ("switch", lambda n: n["hardware"].update(nvswitch_count=3), "NVSwitches", "3"),
    ("no hardware", lambda n: n.update(hardware={}), "hardware", "not read"),
    ("no matrix", lambda n: n["hardware"].update(links={}), "links between GPUs", "not read"),
    ("busbw", lambda n: scale(n, "nvlink", "all_reduce", -1, "busbw_gb_s", by=0.9), "all-reduce, 8 GPUs", "GB/s"),
    ("slow pair", slow_pair, "to 3, and 6 more of 28 pairs", "GB/s"),
    ("read", lambda n: scale(n, "storage", "read_gb_s", by=0.8), "drive, sequential read", "GB/s"),
    ("load", lambda n: scale(n, "storage", "model_load_s", by=1.2), "loading the model from it", "25.68 s"),
    ("throughput", lambda n: scale(n, "soak", "gpus", 2, "tflops", by=0.95), "GPU 2, throughput at the end", "TFLOPS"),
    ("heat", lambda n: scale(n, "soak", "gpus", 2, "temperature_c", by=1.2), "GPU 2, hottest in the soak", "°C"),
    ("unreachable", lambda n: n.update(connected=False, findings=[]), "run", "no connection"),
    ("failed", lambda n: n.update(failure={"role": "r", "what": "broke"}, status="failed"), "run", "broke"),
]


@pytest.mark.parametrize(("spoil", "what", "after"), [row[1:] for row in WORSE], ids=[row[0] for row in WORSE])
def test_what_got_worse_is_told_and_its_reverse_is_better(spoil: Spoil, what: str, after: str) -> None:
    old = host("a", soak_s=60)
    found = difference(spoil, base=old)
    assert any(what in c.what and after in c.after for c in found.of("worse")), found
    new = copy.deepcopy(old)
    spoil(new)
    back = compare(report_from(report([new])), report_from(report([old])))
    assert back.of("worse") == []


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (("nvlink", "all_reduce", -1, "busbw_gb_s"), "bandwidth"),
        (("storage", "read_gb_s"), "storage"),
        (("soak", "gpus", 2, "tflops"), "throughput"),
    ],
)
def test_the_tolerance_is_where_it_says_and_is_shown(path: tuple[Any, ...], kind: str) -> None:
    inside = difference(lambda n: scale(n, *path, by=0.93), **{kind: 8.0})
    outside = difference(lambda n: scale(n, *path, by=0.91), **{kind: 8.0})
    assert inside.of("worse") == []
    assert [c.note.split(", ")[1] for c in outside.of("worse")] == ["tolerance 8 %"]
    assert outside.of("worse")[0].note.startswith("-9")


def test_a_check_that_now_names_the_gpu_is_one_change() -> None:
    old, new = host("a"), host("a", fault="nvlink-degraded", gpu=4)
    found = compare(report_from(report([old])), report_from(report([new])))
    assert told(found.of("worse"))[:2] == [
        (
            "pair-links: GPU 4 (0000:9b:00.0)",
            "ok",
            "fail: " + ", ".join(f"NV16 to GPU {i}" for i in (0, 1, 2, 3, 5, 6, 7)),
        ),
        ("nvlink-count: GPU 4 (0000:9b:00.0)", "ok: 18 active, 0 inactive", "fail: 16 active, 2 inactive"),
    ]
    assert {c.what for c in found.of("worse")[2:]} == {
        "GPU 4: NVLinks up",
        "link between GPUs 0-4, 1-4, 2-4, 3-4, 4-5, 4-6, 4-7",
        "xid: GPU 4 (0000:9b:00.0)",
    }
    assert found.of("better") == [] and found.of("other") == []


def test_a_gpu_is_known_by_its_address_when_it_is_renumbered() -> None:
    old, new = host("a"), copy.deepcopy(host("a"))
    for entry in new["findings"]:
        entry["subject"] = entry["subject"].replace("GPU 7 (", "GPU 6 (")
    assert compare(report_from(report([old])), report_from(report([new]))).changes == ()


def test_a_swapped_gpu_and_a_new_drive_are_neither_better_nor_worse() -> None:
    found = difference(lambda n: gpu(n, 3).update(uuid="GPU-new"))
    assert [(c.way, c.after) for c in found.changes] == [("other", "replaced by GPU-new")]
    more = difference(lambda n: n["hardware"]["nvme"].append({"device": "/dev/nvme9n1", "serial": "S", "model": "M"}))
    assert [(c.way, c.what) for c in more.changes] == [("other", "drive /dev/nvme9n1 (S)")]


def test_a_check_that_is_gone_is_told_but_not_called_better() -> None:
    base = host("a")
    base["findings"].append(finding("heat", "fail"))
    found = difference(lambda n: n["findings"].pop(), base=base)
    assert [(c.way, c.after) for c in found.changes] == [("other", "no longer checked")]


def test_hosts_that_come_and_go() -> None:
    one, two = report_from(report([host("a"), host("b")])), report_from(report([host("b"), host("c")]))
    assert [(c.host, c.way, c.after) for c in compare(one, two).changes] == [
        ("a", "worse", "not in the new report"),
        ("c", "other", "ok"),
    ]
    assert compare(one, report_from(report([host("x")]))).notes == (("", "the reports have no host in common"),)


def test_what_cannot_be_compared_is_said_and_left_out() -> None:
    def other_backend(new: dict[str, Any]) -> None:
        new["measurements"]["nvlink"]["backend"] = "gloo"
        scale(new, "nvlink", "all_reduce", -1, "busbw_gb_s", by=0.01)
        slow_pair(new)

    found = difference(other_backend)
    assert found.changes == () and "gloo" in found.notes[0][1]

    def longer(new: dict[str, Any]) -> None:
        new["measurements"]["soak"]["seconds"] = 3600
        scale(new, "soak", "gpus", 2, "temperature_c", by=1.3)

    found = difference(longer)
    assert found.changes == () and "3600 s" in found.notes[0][1]

    def real(new: dict[str, Any]) -> None:
        new["simulated"] = new["measurements"]["simulated"] = False
        lose_gpu(new)

    found = difference(real)
    assert found.changes == () and "simulated" in found.notes[0][1]


def test_measurements_that_were_not_repeated_are_no_worsening() -> None:
    found = difference(lambda n: n.update(measurements={}))
    assert [(c.way, c.after) for c in found.changes] == [("other", "not measured")]


@pytest.mark.parametrize("uuid", ["", "GPU-all-the-same"])
def test_gpus_that_their_uuids_do_not_tell_apart_are_told_apart_by_address(uuid: str) -> None:
    base = host("a")
    for row in base["hardware"]["gpus"]:
        row["uuid"] = uuid
    found = difference(lose_gpu, base=base)
    assert [(c.way, c.what, c.after) for c in found.changes] == [("worse", "GPU 7 (0000:ce:00.0)", "gone")]
