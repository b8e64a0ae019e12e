"""The difference between two releases: what changes, what stops for it, which GPUs and options come and go."""

from __future__ import annotations

import json
from datetime import date
from itertools import permutations
from typing import Any

import pytest

from metalserve.releases import Release, load_release, release_names
from metalserve.releases.diff import diff_releases
from metalserve.releases.flags import RemovedFlag, flag_changes
from tests.releases.test_rules import OF_CUDA_12, changed, driver, vllm

LTS, OLD, PRODUCTION = (load_release(f"2026.{name}") for name in ("11-lts", "10-lts", "11-production"))


def effects(before: Release, after: Release) -> str:
    return "\n".join(f"{e.about}: {e.what} [{e.stops}, {e.where}]" for e in diff_releases(before, after).effects)


def test_a_release_differs_from_itself_in_nothing() -> None:
    for name in release_names():
        found = diff_releases(load_release(name), load_release(name))
        assert found.as_dict() == {
            "before": name,
            "after": name,
            "stops": "none",
            "parts": [],
            "effects": [],
            "gpus_gained": [],
            "gpus_lost": [],
            "flags": None,
        }


@pytest.mark.parametrize(
    ("before", "after"), list(permutations(["2026.10-lts", "2026.11-lts", "2026.11-production"], 2))
)
def test_the_way_back_is_the_way_there_the_other_way_round(before: str, after: str) -> None:
    there, back = (diff_releases(*map(load_release, pair)) for pair in ((before, after), (after, before)))
    turned = {"up": "down", "down": "up", "other": "other"}
    assert [(p.part, p.after, p.before, turned[p.direction]) for p in there.parts] == [
        (p.part, p.before, p.after, p.direction) for p in back.parts
    ]
    assert there.stops == back.stops == "driver"
    json.dumps(there.as_dict())


def test_a_patch_level_of_the_driver() -> None:
    found = diff_releases(OLD, LTS)
    assert [(p.part, p.before, p.after, p.direction) for p in found.parts] == [
        ("driver", "580.173.02", "580.178.04", "up"),
        ("fabric manager", "580.173.02", "580.178.04", "up"),
        ("vLLM", "0.32.0", "0.33.0", "up"),
        ("image", "vllm/vllm-openai:v0.32.0", "vllm/vllm-openai:v0.33.0", "other"),
    ]
    words = effects(OLD, LTS)
    assert "host reboots where that is not possible [driver, all hosts]" in words
    assert "fabric manager is replaced and started anew" in words and "[driver, hosts with NVSwitches]" in words
    assert "the image vllm/vllm-openai:v0.33.0 is fetched" in words
    assert "branch" not in words and "goes back" not in words
    assert "it goes back from 580.178.04 to 580.173.02" in effects(LTS, OLD)


def test_another_branch_replaces_packages_and_cuda() -> None:
    words = effects(LTS, PRODUCTION)
    assert "packages of branch 580 are replaced, and so is the package that pins them" in words
    assert "the driver's own CUDA goes from 13.0 to 13.2" in words
    assert "package cuda-toolkit-13-2 is installed [none, hosts with cuda.toolkit set]" in words
    assert "vLLM:" not in words and diff_releases(LTS, PRODUCTION).flags is None
    end = next(part for part in diff_releases(LTS, PRODUCTION).parts if part.part == "supported until")
    assert (end.before, end.after, end.direction) == ("2028-06-30", "2027-03-31", "down")


def test_a_family_of_cuda_changes_the_parts_of_dcgm_and_the_gpus() -> None:
    before = changed({**OF_CUDA_12, **driver("560.35.05"), "name": "before"})
    found = diff_releases(before, LTS)
    assert {"b200", "b300", "rtx-5090", "gb200"} <= {gpu.gpu for gpu in found.gained}
    assert "h100-sxm" not in {gpu.gpu for gpu in found.gained} and found.lost == ()
    assert found.gained[0].why == ("Blackwell needs driver branch 570 or newer, not 560",)
    back = diff_releases(LTS, before)
    assert {gpu.gpu for gpu in back.lost} == {gpu.gpu for gpu in found.gained} and back.gained == ()
    words = effects(before, LTS)
    assert "DCGM needs datacenter-gpu-manager-4-cuda13 in place of datacenter-gpu-manager-4-cuda12" in words
    assert "the image's CUDA goes from 12.9 to 13.0, which needs driver 580.65.06 or newer" in words


def test_security_fixes_that_come_or_go_are_named() -> None:
    open_to = changed(driver("580.142.01"))
    assert "it closes CVE-2025-33221" in effects(open_to, LTS) and "CVE-2026-24187" in effects(open_to, LTS)
    assert "it opens what 580.178.04 had closed: CVE-2025-33221" in effects(LTS, open_to)


def test_open_modules_only_is_told_where_it_begins() -> None:
    newer = changed(driver("615.78.08"))
    assert "there are open kernel modules only" in effects(LTS, newer)
    assert "there are open kernel modules only" not in effects(LTS, PRODUCTION)


@pytest.mark.parametrize(
    ("changes", "stops", "words"),
    [
        ({"container_toolkit.version": "1.19.1-1"}, "none", "those that run keep theirs"),
        ({"dcgm.version": "1:4.7.0-1"}, "none", "dcgmi and its host engine are replaced"),
        ({"docker.minimum": "24.0.0"}, "none", "a Docker older than 24.0.0 are refused"),
        ({"docker.cdi_minimum": "28.0"}, "containers", "by the nvidia runtime, not by CDI"),
        ({"vllm.digest": "sha256:" + "0f" * 32}, "containers", "every engine is started anew"),
        ({"end_of_life": date(2027, 1, 1)}, "none", ""),
    ],
)
def test_what_has_to_stop_for_a_part(changes: dict[str, Any], stops: str, words: str) -> None:
    after = changed(changes)
    found = diff_releases(LTS, after)
    assert len(found.parts) == 1 and found.stops == stops
    assert words in effects(LTS, after)


def test_options_that_go_come_and_change() -> None:
    found = flag_changes("0.19.0", "0.33.0")
    assert RemovedFlag("--calculate-kv-scales", "drop it") in found.removed
    assert "--no-calculate-kv-scales" not in {each.flag for each in found.removed}, "its inverse is not told twice"
    assert ("--gpu-memory-utilization", "0.9", "0.92") in {(d.flag, d.before, d.after) for d in found.defaults}
    assert "--watchdog-config" in found.added
    assert ("--all2all-backend", ("mori",)) in {(v.flag, v.values) for v in found.values}


def test_a_spelling_is_no_option_that_went() -> None:
    back = {each.flag: each for each in flag_changes("0.33.0", "0.32.0").removed}
    assert back["--disable-sleep-mode"] == RemovedFlag("--disable-sleep-mode", "leave out --enable-sleep-mode", True)
    assert back["--enable-uvicorn-access-log"].remedy == "write --disable-uvicorn-access-log"
    assert back["--monokernel"] == RemovedFlag("--monokernel", "drop it, or pin vLLM 0.33.0 or newer")


def test_a_replaced_option_names_what_took_its_place() -> None:
    found = {each.flag: each.remedy for each in flag_changes("0.11.0", "0.33.0").removed}
    assert found["--task"] == "use --runner and --convert"


def test_versions_that_the_catalogue_does_not_have_are_unknown_not_equal() -> None:
    found = flag_changes("0.90.0", "0.33.0")
    assert found.unknown == ("0.90.0",) and found.removed == found.added == found.defaults == ()
    told = diff_releases(changed(vllm("0.90.0", "13.0")), LTS).flags
    assert told is not None and told.unknown == ("0.90.0",)
