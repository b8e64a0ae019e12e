"""Manifests of HTTP mirrors: by lists of sums, by index pages, by a list of names."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalserve.weights.manifest import ManifestError
from metalserve.weights.sources.http_mirror import read_sums
from tests.weights.manifest_files import FILES, make, same
from tests.weights.manifests import Run
from tests.weights.standins.mirror import Mirror, serving_mirror, sums_of


def test_a_mirror_with_sums(cli: Run, tmp_path: Path) -> None:
    target = tmp_path / "m.yaml"
    mirror = Mirror({**FILES, "SHA256SUMS": sums_of(FILES)})
    with serving_mirror(mirror):
        status, out, err = make(cli, target, "--url", f"{mirror.base}/")
        assert (status, err) == (0, "")
        assert "were read and hashed" not in out
        same(target)
        assert mirror.web.paths() == ["/models/m/SHA256SUMS"], "sizes come from HEAD"
        assert cli("--check", target)[0] == 0
        del mirror.files["config.json"]
        status, out, _ = cli("--check", target)
        assert status == 3
        assert "config.json is gone from the source" in out


def test_a_mirror_whose_sums_are_of_other_bytes(cli: Run, tmp_path: Path) -> None:
    mirror = Mirror({**FILES, "SHA256SUMS": sums_of({**FILES, "config.json": b"others"})}, silent=True)
    with serving_mirror(mirror):  # without Content-Length the bytes have to be read, and are held against the sums
        status, _, err = make(cli, tmp_path / "m.yaml", "--url", mirror.base)
    assert status == 1
    assert "config.json: hashes to " in err
    assert "but the source says" in err


def test_a_mirror_with_index_pages(cli: Run, tmp_path: Path) -> None:
    target = tmp_path / "m.yaml"
    extra = ("https://elsewhere.example/x", "/models/other/y", "?C=M;O=A", "#top", "mailto:a@b")
    with serving_mirror(Mirror(dict(FILES), extra=extra)) as mirror:
        status, out, _ = make(cli, target, "--url", mirror.base, "--index")
        assert status == 0
        assert "4 of 4 files were read and hashed here" in out
        same(target)
        mirror.files["config.json"] = b"{}"
        mirror.files["new.json"] = b"{}"
        status, out, _ = cli("--check", target)
        assert status == 3
        assert "new.json is new at the source" in out
        assert "config.json has 2 bytes at the source instead of 8" in out


@pytest.mark.parametrize("link", ["%2e%2e/%2e%2e/etc/passwd", "a/..%2f..%2fx", "%2Fetc%2Fpasswd", "a%5Cb", "a%0Ab"])
def test_links_that_leave_the_directory_are_refused(cli: Run, tmp_path: Path, link: str) -> None:
    with serving_mirror(Mirror(dict(FILES), extra=(link,))) as mirror:
        status, _, err = make(cli, tmp_path / "m.yaml", "--url", mirror.base, "--index")
        assert status == 1
        assert "the file " in err
        assert " must be " in err
        assert all("config.json" not in path for path in mirror.web.paths())


def test_a_mirror_with_a_list_of_names(cli: Run, tmp_path: Path) -> None:
    target, names = tmp_path / "m.yaml", tmp_path / "names"
    names.write_text("config.json\n\nmodel.safetensors\n")
    mirror = Mirror({**FILES, "SHA256SUMS": sums_of({"config.json": FILES["config.json"]})})
    mirror.cut["model.safetensors"] = [3_000_000]
    with serving_mirror(mirror):
        status, out, err = make(cli, target, "--url", mirror.base, "--files", names)
        assert (status, err) == (0, "")
        assert "1 of 2 files were read and hashed here" in out
        same(target, {name: FILES[name] for name in ("config.json", "model.safetensors")})
        assert mirror.web.paths().count("/models/m/model.safetensors") == 2, "a broken connection is tried again"
        assert cli("--check", target)[0] == 0
        names.write_text("config.json\nconfig.json\n")
        status, _, err = make(cli, target, "--url", mirror.base, "--files", names)
        assert status == 1
        assert "'config.json' is there twice" in err
        names.write_text("gone.json\n")
        status, _, err = make(cli, target, "--url", mirror.base, "--files", names)
        assert status == 1
        assert "gone.json: does not exist (HTTP 404)" in err


def test_a_mirror_that_keeps_breaking_is_given_up(cli: Run, tmp_path: Path) -> None:
    mirror = Mirror(dict(FILES), cut={"model.safetensors": [1000] * 9})
    with serving_mirror(mirror):
        status, _, err = make(cli, tmp_path / "m.yaml", "--url", mirror.base, "--index")
    assert status == 1
    assert f"model.safetensors: gave 1000 bytes instead of {6 << 20}" in err


def test_a_mirror_without_anything_to_go_by(cli: Run, tmp_path: Path) -> None:
    with serving_mirror(Mirror(dict(FILES))) as mirror:
        status, _, err = make(cli, tmp_path / "m.yaml", "--url", mirror.base)
    assert status == 1
    assert "has no SHA256SUMS -> --index reads" in err


def test_a_mirror_with_a_secret(cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = Mirror({**FILES, "SHA256SUMS": sums_of(FILES)}, secret="Basic dXNlcjpwYXNz")
    monkeypatch.setenv("HF_TOKEN", "hf_of_another_place")
    monkeypatch.setenv("MIRROR", "user:pass")
    with serving_mirror(mirror):
        status, _, err = make(cli, tmp_path / "m.yaml", "--url", mirror.base)
        assert status == 1
        assert "refused (HTTP 401) -> name the environment variable with the credentials with --token-env" in err
        assert not mirror.web.asked[0].header("authorization"), "the hub's token is for the hub"
        assert make(cli, tmp_path / "m.yaml", "--url", mirror.base, "--token-env", "MIRROR")[0] == 0


def test_what_sha256sum_writes(tmp_path: Path) -> None:
    sha = "ab" * 32
    text = f"{sha}  a b\n{sha.upper()} *./c\n# comment\n\nSHA256 (d (1)) = {sha}\n\\{sha}  e\\\\f\\ng\n"
    assert read_sums(text, "x") == {"a b": sha, "c": sha, "d (1)": sha, "e\\f\ng": sha}
    for wrong, words in (
        ("", "lists no files"),
        (f"{sha}  a\n{sha}  ./a\n", ":2: a is listed twice"),
        ("x", "x:1: is"),
    ):
        with pytest.raises(ManifestError, match=words):
            read_sums(wrong, "x")


@given(st.text(max_size=300))
def test_sums_are_read_or_refused(text: str) -> None:
    try:
        sums = read_sums(text, "x")
    except ManifestError:
        return
    assert all(len(sha256) == 64 for sha256 in sums.values())
