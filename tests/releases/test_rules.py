"""The rules: each refuses what breaks it and nothing else, and says why and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from metalserve.catalogue.loader import load_cuda_drivers, load_gpus
from metalserve.catalogue.vllm_flags import known_releases
from metalserve.paths import FILES
from metalserve.releases import Release, judge_release, load_release, read_release, version_key
from metalserve.releases.check import dcgm_package
from metalserve.releases.gpus import served_gpus
from metalserve.releases.rules import load_rules, load_vulnerabilities

DATA = Path(__file__).parent / "data"
TODAY = date(2026, 11, 25)
BASE = yaml.safe_load((FILES / "releases" / "2026.11-lts.yaml").read_text(encoding="utf-8"))


def changed(changes: Mapping[str, Any]) -> Release:
    """Return the long-term release with keys such as "driver.version" changed."""
    data = {key: dict(value) if isinstance(value, dict) else value for key, value in BASE.items()}
    for key, value in changes.items():
        section, _, name = key.partition(".")
        if name:
            data[section][name] = value
        else:
            data[section] = value
    return Release.model_validate(data)


def broken_rules(changes: Mapping[str, Any], today: date = TODAY) -> tuple[set[str], set[str]]:
    """Return the rules that refuse the changed release, and those that warn of it beyond the missing digest."""
    verdict = judge_release(changed(changes), today=today)
    warned = {warning.rule for warning in verdict.warnings} - {"image-has-digest"}
    return {problem.rule for problem in verdict.problems}, warned


def driver(version: str) -> dict[str, Any]:
    """Return the changes of a driver with all that goes with it: fabric manager, the host's CUDA, the end of life."""
    branch = load_cuda_drivers().branch(version_key(version)[0])
    cuda = branch.cuda if branch is not None and branch.cuda is not None else "11.8"
    return {
        "driver.branch": version_key(version)[0],
        "driver.version": version,
        "fabric_manager.version": version,
        "cuda.toolkit": cuda,
        "end_of_life": None,
    }


def vllm(version: str, cuda: str) -> dict[str, Any]:
    return {"vllm.version": version, "vllm.tag": f"v{version}", "vllm.cuda": cuda}


def number(least: int, most: int) -> st.SearchStrategy[int]:
    return st.integers(least, most)


OLD_BRANCHES = st.sampled_from([525, 530, 535, 545, 550, 555, 560, 570, 575])  # of 565 no toolkit was published

# Branch 570 has DCGM's parts for CUDA 12; the image is built for ARM too, where GB200 stands.
OF_CUDA_12 = {**driver("570.211.01"), **vllm("0.32.0", "12.9"), "vllm.tag": "v0.32.0-cu129"}

MUTATIONS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "driver-branch-known": st.builds(lambda n: driver(f"{n}.10.01"), number(700, 999)),
    "fabric-manager-is-driver": st.builds(
        lambda a, b: {"fabric_manager.version": f"580.{a}.{b:02d}"}, number(1, 177), number(0, 99)
    ),
    "driver-runs-image": st.one_of(
        st.builds(lambda n, m: driver(f"{n}.{m}.01"), OLD_BRANCHES, number(10, 300)),
        st.builds(lambda m: driver(f"580.{m}.05"), number(10, 64)),
    ),
    "image-tag-is-version": st.builds(lambda n: {"vllm.tag": f"v0.{n}.0"}, number(0, 32)),
    "image-cuda-is-built": st.builds(lambda n: {"vllm.cuda": f"13.{n}"}, number(1, 9)),
    "host-cuda-in-branch": st.sampled_from(["13.1", "13.2", "13.3", "13.4"]).map(lambda v: {"cuda.toolkit": v}),
    "host-cuda-exists": st.builds(lambda a, b: {"cuda.toolkit": f"{a}.{b}"}, number(1, 10), number(0, 9)),
    "toolkit-is-safe": st.builds(
        lambda a, b: {"container_toolkit.version": f"1.{a}.{b}-1"}, number(0, 18), number(0, 9)
    ),
    "docker-starts-image": st.builds(lambda n: {"docker.minimum": f"20.10.{n}"}, number(0, 9)),
    "docker-reads-cdi": st.builds(lambda a, b: {"docker.cdi_minimum": f"{a}.{b}"}, number(20, 25), number(0, 9)),
    "dcgm-knows-cuda": st.builds(lambda a, b: {"dcgm.version": f"1:4.{a}.{b}-1"}, number(0, 3), number(0, 9)),
    "dcgm-knows-gpus": st.builds(
        lambda a, b: {**OF_CUDA_12, "dcgm.version": f"1:4.{a}.{b}-1"}, number(0, 1), number(0, 9)
    ),
    "end-of-life-is-branch": st.dates(date(2028, 7, 1), date(2090, 1, 1)).map(lambda day: {"end_of_life": day}),
}

WARNED: dict[str, tuple[dict[str, Any], date]] = {
    "branch-lives": ({}, date(2028, 6, 1)),
    "driver-has-fixes": (driver("580.142.01"), TODAY),
    "driver-was-seen": (driver("580.200.01"), TODAY),
    "image-is-known": (vllm("0.90.0", "13.0"), TODAY),
}


@pytest.mark.parametrize("rule", MUTATIONS)
@given(data=st.data())
def test_a_release_that_breaks_one_rule_is_refused_by_that_rule_alone(rule: str, data: st.DataObject) -> None:
    changes = data.draw(MUTATIONS[rule])
    refused, _ = broken_rules(changes)
    assert refused == {rule}, changes


@given(
    patch=number(159, 178),
    toolkit=st.sampled_from(["1.19.1-1", "1.19.2-1", "1.20.0-1", "2.0.0-1"]),
    docker=st.sampled_from(["20.10.10", "24.0.0", "29.4.3"]),
    dcgm=st.sampled_from(["1:4.4.0-1", "1:4.6.0-1", "1:5.0.0-1"]),
    cuda=st.sampled_from(["12.9", "13.0"]),
    image=st.sampled_from(["0.32.0", "0.33.0"]),
)
def test_what_breaks_no_rule_is_refused_by_none(
    patch: int, toolkit: str, docker: str, dcgm: str, cuda: str, image: str
) -> None:
    changes = {
        **driver(f"580.{patch}.03"),
        "container_toolkit.version": toolkit,
        "docker.minimum": docker,
        "dcgm.version": dcgm,
        "cuda.toolkit": cuda,
        **vllm(image, "13.0"),
    }
    assert broken_rules(changes) == (set(), set())


@pytest.mark.parametrize(("rule", "case"), WARNED.items())
def test_a_warning_refuses_nothing(rule: str, case: tuple[dict[str, Any], date]) -> None:
    changes, today = case
    refused, warned = broken_rules(changes, today)
    assert refused == set() and rule in warned


def test_dcgm_of_the_same_release_is_new_enough_from_one_version_on() -> None:
    assert broken_rules({**OF_CUDA_12, "dcgm.version": "1:4.2.0-1"})[0] == set()


def test_options_that_the_catalogue_does_not_have_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metalserve.releases.check.known_releases", lambda: ["0.32.0"])
    assert broken_rules({}) == (set(), {"image-flags-known"})
    assert broken_rules(vllm("0.32.0", "13.0")) == (set(), set())


def test_a_release_that_serves_no_gpu_is_refused() -> None:
    only = load_gpus().model_copy(update={"gpus": tuple(g for g in load_gpus().gpus if g.id in ("b200", "l4"))})
    assert judge_release(changed({}), today=TODAY, gpus=only).fits
    blackwell = only.model_copy(update={"gpus": only.gpus[:1]})
    old = changed({**OF_CUDA_12, **driver("560.35.05")})
    (problem,) = judge_release(old, today=TODAY, gpus=blackwell).problems
    assert problem.rule == "serves-a-gpu"
    assert "Blackwell needs driver branch 570 or newer, not 560" in problem.what


def test_every_rule_is_broken_by_a_test_and_names_its_source() -> None:
    rules = load_rules()
    tested = {*MUTATIONS, *WARNED, "image-flags-known", "serves-a-gpu", "readable", "image-has-digest"}
    assert {rule.id for rule in rules.rules} == tested
    used = {rule.source for rule in rules.rules} | {row.source for row in rules.vllm_images}
    used |= {rules.container_toolkit.source, rules.docker.minimum.source, rules.docker.cdi.source}
    used |= {row.source for row in (*rules.dcgm.cuda, *rules.dcgm.gpus, *rules.compiled_for.values())}
    assert used | {rules.open_modules_only.source} <= set(rules.sources)
    assert all(row.compiled in rules.compiled_for for row in rules.vllm_images)
    assert all(gpu in load_gpus().ids for row in rules.dcgm.gpus for gpu in row.gpus)


def test_the_safe_toolkit_is_the_last_one_that_closed_something() -> None:
    known = load_vulnerabilities()
    assert {row.source for row in (*known.container_toolkit, *known.driver)} <= set(known.sources)
    fixes = [row.fixed for row in known.container_toolkit if isinstance(row.fixed, str)]
    assert len(fixes) == len(known.container_toolkit)
    assert fixes == sorted(fixes, key=version_key)
    assert fixes[-1] == load_rules().container_toolkit.minimum_safe
    assert not any(row.opens(fixes[-1]) for row in known.container_toolkit)


@pytest.mark.parametrize(
    ("version", "closed_by"),
    [
        ("580.159.02", "580.159.03"),
        ("580.159.03", None),
        ("595.58.03", "595.71.05"),
        ("570.211.01", ""),
        ("615.1.1", None),
    ],
)
def test_driver_fixes_by_branch(version: str, closed_by: str | None) -> None:
    (row,) = load_vulnerabilities().driver
    assert row.opens(version) == closed_by
    verdict = judge_release(changed(driver(version)), today=TODAY)
    told = [w for w in verdict.warnings if w.rule == "driver-has-fixes"]
    assert bool(told) == (closed_by is not None)
    assert not told or (closed_by or "branch 570 never got it") in told[0].fix


def test_all_problems_are_shown_not_the_first_alone() -> None:
    verdict = judge_release(read_release(DATA / "broken-everything.yaml"), today=TODAY)
    assert {problem.rule for problem in verdict.problems} == {
        "fabric-manager-is-driver",
        "driver-runs-image",
        "image-tag-is-version",
        "image-cuda-is-built",
        "host-cuda-in-branch",
        "docker-starts-image",
        "docker-reads-cdi",
        "dcgm-knows-cuda",
        "end-of-life-is-branch",
    }
    assert {warning.rule for warning in verdict.warnings} >= {"branch-lives", "driver-has-fixes"}
    for each in (*verdict.problems, *verdict.warnings):
        assert each.fix and each.source and "\n" not in str(each)
        assert f"(rule {each.rule}: {each.source}) -> {each.fix}" in str(each)


def test_compatibility_packages_are_named_as_not_used() -> None:
    verdict = judge_release(changed(driver("570.211.01")), today=TODAY)
    (problem,) = verdict.problems
    assert "cuda-compat-*" in problem.fix and "are not used" in problem.fix


@pytest.mark.parametrize(
    ("changes", "gpu", "words"),
    [
        ({}, "b300", None),
        ({}, "gb200", None),
        ({}, "t4", None),
        (vllm("0.11.0", "12.8"), "b300", "Blackwell Ultra needs CUDA 12.9, the image has 12.8"),
        (vllm("0.19.0", "12.9"), "gh200", "unknown"),
        (driver("560.35.05"), "rtx-5090", "Blackwell needs driver branch 570 or newer, not 560"),
        (driver("560.35.05"), "h100-sxm", None),
        (driver("560.35.05"), "b300", "unknown"),
        (vllm("0.90.0", "13.0"), "h100-sxm", "unknown"),
    ],
)
def test_which_gpus_are_served(changes: dict[str, Any], gpu: str, words: str | None) -> None:
    found = {each.gpu: each for each in served_gpus(changed(changes), load_gpus(), load_cuda_drivers())}[gpu]
    if words is None:
        assert (found.status, found.why) == ("served", ())
    elif words == "unknown":
        assert found.status == "unknown" and "not in the catalogue" in found.why[0]
    else:
        assert found.status == "not served" and words in found.why and found.sources


def test_gpus_before_turing_are_told_why_not() -> None:
    volta = (
        load_gpus()
        .by_id("t4")
        .model_copy(
            update={
                "id": "v100",
                "architecture": "Volta",
                "compute_capability": "7.0",
                "kernel_modules": "proprietary-only",
            }
        )
    )
    gpus = load_gpus().model_copy(update={"gpus": (volta,)})
    (lts,) = served_gpus(changed({}), gpus, load_cuda_drivers())
    assert lts.why[0] == "CUDA 12.x was the last for Volta, the image has 13.0"
    assert lts.why[1].startswith("the x86_64 image of vLLM 0.33.0 is compiled for 7.5, 8.0,")
    (production,) = served_gpus(load_release("2026.11-production"), gpus, load_cuda_drivers())
    assert production.why[0] == "driver branch 580 was the last for Volta"
    (old,) = served_gpus(changed({**driver("570.211.01"), **vllm("0.19.0", "12.9")}), gpus, load_cuda_drivers())
    assert old.status == "served"


@pytest.mark.parametrize(
    ("version", "package"), [("580.178.04", "cuda13"), ("570.211.01", "cuda12"), ("700.1.1", None)]
)
def test_the_variant_of_dcgm_follows_the_driver(version: str, package: str | None) -> None:
    found = dcgm_package(changed(driver(version)))
    assert found == (f"datacenter-gpu-manager-4-{package}" if package else None)


def test_shipped_releases_warn_of_nothing_but_the_digest() -> None:
    for name in ("2026.10-lts", "2026.11-lts", "2026.11-production"):
        verdict = judge_release(load_release(name), today=TODAY)
        assert {warning.rule for warning in verdict.warnings} == {"image-has-digest"}
        assert all(gpu.status == "served" for gpu in verdict.gpus)
        assert verdict.release.vllm.version in known_releases()
