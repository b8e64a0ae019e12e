"""Releases: the shipped ones fit together, and broken ones are refused with the right words."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
import yaml

from metalserve.catalogue.loader import load_cuda_drivers
from metalserve.paths import FILES
from metalserve.releases import (
    Release,
    ReleaseError,
    check_release,
    load_release,
    read_release,
    release_names,
    release_warnings,
    version_key,
)
from metalserve.releases.check import last_day

DATA = Path(__file__).parent / "data"


def changed(**sections: object) -> Release:
    """Return the long-term release with some of its sections changed."""
    data = yaml.safe_load((FILES / "releases" / "2026.11-lts.yaml").read_text(encoding="utf-8"))
    for name, value in sections.items():
        data[name] = {**data[name], **value} if isinstance(value, dict) else value
    return Release.model_validate(data)


@pytest.mark.parametrize("name", release_names())
def test_every_shipped_release_fits_together_and_names_its_sources(name: str) -> None:
    release = load_release(name)
    assert check_release(release, load_cuda_drivers()) == []
    assert release.sources
    assert release.vllm.tag == f"v{release.vllm.version}"


def test_the_releases_of_the_month_and_one_to_go_back_to_are_there() -> None:
    assert {"2026.10-lts", "2026.11-lts", "2026.11-production"} <= set(release_names())


def test_image_carries_tag_and_digest() -> None:
    digest = "sha256:" + "ab" * 32
    assert load_release("2026.11-lts").image == "vllm/vllm-openai:v0.33.0"
    assert changed(vllm={"digest": digest}).image == f"vllm/vllm-openai:v0.33.0@{digest}"


REFUSED_BY_SCHEMA = {
    "broken-latest": "tag 'latest' pins nothing",
    "broken-branch": "driver: version 580.178.04 is not of branch 595",
    "broken-key": "fabricmanager: unknown setting (did you mean 'fabric_manager'?)",
}

REFUSED_BY_CHECK = {
    "broken-fabric-manager": ["fabric_manager.version: 580.95.05 is not the driver's 580.178.04"],
    "broken-driver": ["driver.version: 570.211.01 cannot run the CUDA 13.0", "needs 580.65.06 or newer"],
    "broken-toolkit": [
        "1.17.7-1 is open to CVE-2025-23266, CVE-2025-23267 (fixed 2025-05-30), CVE-2026-24260 (fixed 2026-05-21)",
        "take 1.19.1 or newer",
    ],
    "broken-docker": ["docker.minimum: 20.10.9 is below 20.10.10", "docker.cdi_minimum: 25.0 cannot read the CDI"],
    "broken-cuda": ["vllm.cuda: v0.33.0 carries CUDA 13.0, not 12.9"],
    "broken-everything": ["fabric_manager.version: 580.178.04 is not the driver's 570.211.01"],
}


def test_every_broken_release_is_expected_somewhere() -> None:
    assert {path.stem for path in DATA.glob("*.yaml")} == set(REFUSED_BY_SCHEMA) | set(REFUSED_BY_CHECK)


@pytest.mark.parametrize(("name", "words"), REFUSED_BY_SCHEMA.items())
def test_schema_refuses(name: str, words: str) -> None:
    with pytest.raises(ReleaseError) as caught:
        read_release(DATA / f"{name}.yaml")
    assert words in str(caught.value)
    assert f"{name}.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "words"), REFUSED_BY_CHECK.items())
def test_check_refuses(name: str, words: list[str]) -> None:
    problems = check_release(read_release(DATA / f"{name}.yaml"), load_cuda_drivers())
    for part in words:
        assert any(part in problem for problem in problems), problems


def test_only_the_broken_part_is_named() -> None:
    problems = check_release(read_release(DATA / "broken-toolkit.yaml"), load_cuda_drivers())
    assert len(problems) == 1


def test_unknown_release_names_the_nearest() -> None:
    with pytest.raises(ReleaseError, match=r"no release '2026.11-lst' \(did you mean '2026.11-lts'\?\)"):
        load_release("2026.11-lst")


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "a/b", ".."])
def test_a_name_never_leaves_the_directory(name: str) -> None:
    with pytest.raises(ReleaseError, match="no release"):
        load_release(name)


def test_directory_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (FILES / "releases" / "2026.11-lts.yaml").read_text(encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(text.replace("name: 2026.11-lts", "name: mine"), encoding="utf-8")
    monkeypatch.setenv("METALSERVE_RELEASES_DIR", str(tmp_path))
    assert release_names() == ["mine"]
    assert load_release("mine").driver.branch == 580
    (tmp_path / "other.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ReleaseError, match=r"name: is '2026.11-lts', but the file is called 'other.yaml'"):
        load_release("other")


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: [", "name: x\n", "\x00"])
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ReleaseError) as caught:
        read_release(path)
    assert "\n" not in str(caught.value)


def test_warns_of_the_end_of_life() -> None:
    release, catalogue = load_release("2026.11-lts"), load_cuda_drivers()

    def words(day: date) -> str:
        return " ".join(release_warnings(release, catalogue, today=day))

    assert "end of life" not in words(date(2026, 11, 23))
    assert "end of life on 2028-06-30, in 29 days" in words(date(2028, 6, 1))
    assert "had its end of life on 2028-06-30" in words(date(2028, 7, 1))


def test_warns_of_a_dead_branch_without_a_date_in_the_release() -> None:
    release = changed(
        driver={"branch": 570, "version": "570.211.01"}, fabric_manager={"version": "570.211.01"}, end_of_life=None
    )
    warnings = release_warnings(release, load_cuda_drivers(), today=date(2026, 11, 23))
    assert any("570 had its end of life on 2026-02-28" in warning for warning in warnings)


def test_end_of_life_of_a_release_is_its_branch_s() -> None:
    for name in release_names():
        release = load_release(name)
        branch = load_cuda_drivers().branch(release.driver.branch)
        assert branch is not None
        assert branch.eol is not None
        assert release.end_of_life == last_day(branch.eol)


def test_warns_while_no_digest_is_recorded() -> None:
    catalogue = load_cuda_drivers()
    day = date(2026, 11, 23)
    assert any("digest" in warning for warning in release_warnings(changed(), catalogue, today=day))
    with_digest = changed(vllm={"digest": "sha256:" + "0f" * 32})
    assert not any("digest" in warning for warning in release_warnings(with_digest, catalogue, today=day))


@pytest.mark.parametrize(
    ("text", "day"), [("2028-06", (2028, 6, 30)), ("2025", (2025, 12, 31)), ("2024-12", (2024, 12, 31))]
)
def test_last_day(text: str, day: tuple[int, int, int]) -> None:
    assert last_day(text) == date(*day)


def test_versions_compare_as_numbers() -> None:
    assert version_key("580.65.06") < version_key("580.178.04")
    assert version_key("1.9.0-1") < version_key("1.19.1-1")
    assert version_key("1:4.6.0-1") == (4, 6, 0)


def test_an_image_variant_has_its_own_cuda() -> None:
    cu129 = {"version": "0.32.0", "tag": "v0.32.0-cu129", "cuda": "12.9"}
    assert check_release(changed(vllm=cu129), load_cuda_drivers()) == []
    wrong = {**cu129, "cuda": "13.0"}
    assert any("carries CUDA 12.9" in problem for problem in check_release(changed(vllm=wrong), load_cuda_drivers()))
