"""Manifests of a hub: the real `huggingface_hub` against a stand-in of the hub."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import pytest

from metalserve.weights.manifest import load_manifest
from tests.weights.manifests import Run
from tests.weights.standins.hub import Hub, serving_hub

OLD = "0123456789abcdef0123456789abcdef01234567"
NEW = "89abcdef0123456789abcdef0123456789abcdef"
WEIGHTS = os.urandom(50_000)
FILES = {
    "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
    "tokenizer.json": b"{}",
    "model-00001-of-00001.safetensors": WEIGHTS,
    "sub/adapter.safetensors": b"adapter",
    ".gitattributes": b"*.bin filter=lfs",
    "pytorch_model.bin": b"the same once more",
    "original/consolidated.00.pth": b"and once more",
    "model.gguf": b"and again",
    "LICENSE": b"terms",
    "README.md": b"# card",
}
TAKEN = [
    "LICENSE",
    "README.md",
    "config.json",
    "model-00001-of-00001.safetensors",
    "sub/adapter.safetensors",
    "tokenizer.json",
]


def hub_of(**changes: object) -> Hub:
    return Hub("org/model", {OLD: FILES, NEW: {**FILES, "config.json": b"{}"}}, {"main": OLD}, **changes)  # type: ignore[arg-type]


def arguments(hub: Hub, target: Path, *more: object) -> tuple[object, ...]:
    return ("--hub", "org/model", "--endpoint", hub.url, "--output", target, *more)


def test_huggingface_hub_is_in_the_development_environment() -> None:
    import huggingface_hub  # what fails here is missing from requirements.lock: pip install 'metalserve[hub]'

    assert huggingface_hub.HfApi


def test_a_branch_becomes_its_commit_and_small_files_are_hashed(cli: Run, tmp_path: Path) -> None:
    target = tmp_path / "m.yaml"
    with serving_hub(hub_of()) as hub:
        status, out, err = cli(*arguments(hub, target))
        assert (status, err) == (0, "")
        assert f"org/model: main is commit {OLD}" in out
        assert "left out (safetensors are there): model.gguf, pytorch_model.bin" in out
        assert "left out (hidden): .gitattributes" in out
        assert "left out (for other engines, or logs): original/consolidated.00.pth" in out
        assert "4 of 6 files were read and hashed here" in out
        manifest = load_manifest(target)
        assert (manifest.repository, manifest.revision) == ("org/model", OLD)
        assert [file.path for file in manifest.files] == TAKEN
        for file in manifest.files:
            content = FILES[file.path]
            assert (file.size, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert manifest.made_from is not None
        assert (manifest.made_from.kind, manifest.made_from.source, manifest.made_from.asked) == (
            "hub",
            hub.url,
            "main",
        )
        assert hub.cdn.asked == [], "weights are not fetched for their hashes"
        assert all("/resolve/main/" not in path for path in hub.web.paths())


def test_a_commit_is_taken_as_it_is(cli: Run, tmp_path: Path) -> None:
    target = tmp_path / "m.yaml"
    with serving_hub(hub_of()) as hub:
        assert cli(*arguments(hub, target, "--revision", NEW))[0] == 0
    manifest = load_manifest(target)
    assert manifest.revision == NEW
    assert manifest.made_from is not None
    assert manifest.made_from.asked == ""


def test_a_branch_that_moves_meanwhile_changes_nothing(cli: Run, tmp_path: Path) -> None:
    hub = hub_of()
    hub.after_resolve = lambda: hub.branches.update(main=NEW)
    with serving_hub(hub):
        assert cli(*arguments(hub, tmp_path / "m.yaml"))[0] == 0
    manifest = load_manifest(tmp_path / "m.yaml")
    assert manifest.revision == OLD
    config = next(file for file in manifest.files if file.path == "config.json")
    assert config.sha256 == hashlib.sha256(FILES["config.json"]).hexdigest()


def test_a_thousand_files_on_many_pages(cli: Run, tmp_path: Path) -> None:
    files = {f"part/{i:04}.safetensors": b"%d" % i for i in range(990)} | {f"{i}.json": b"{}" for i in range(10)}
    with serving_hub(Hub("org/model", {OLD: files}, {"main": OLD}, page=70)) as hub:
        status, out, _ = cli(*arguments(hub, tmp_path / "m.yaml", "--json"))
    assert status == 0
    assert json.loads(out)["files"] == 1000
    assert {file.path for file in load_manifest(tmp_path / "m.yaml").files} == set(files)


def test_json_says_all(cli: Run, tmp_path: Path) -> None:
    target = tmp_path / "m.json"
    with serving_hub(hub_of()) as hub:
        status, out, _ = cli(*arguments(hub, target, "--json", "--exclude", "README*", "--exclude", "LICENSE"))
        assert status == 0
        said = json.loads(out)
        assert said["revision"] == OLD
        assert said["revision_from"] == "hub"
        assert said["left_out"]["--exclude"] == ["LICENSE", "README.md"]
        assert said["made_from"] == {
            "kind": "hub", "source": hub.url, "asked": "main", "exclude": ["README*", "LICENSE"]
        }  # fmt: skip
    assert json.loads(target.read_text())["revision"] == OLD
    assert load_manifest(target).total == said["bytes"]


def test_include_takes_what_is_left_out_otherwise(cli: Run, tmp_path: Path) -> None:
    with serving_hub(hub_of()) as hub:
        more = ("--include", "*.bin", "--include", "config.json", "--include", "original/*")
        assert cli(*arguments(hub, tmp_path / "m.yaml", *more))[0] == 0
    taken = [file.path for file in load_manifest(tmp_path / "m.yaml").files]
    assert taken == ["config.json", "original/consolidated.00.pth", "pytorch_model.bin"]


def test_files_in_xet_storage_without_a_hash_are_fetched(cli: Run, tmp_path: Path) -> None:
    with serving_hub(hub_of(xet={"sub/adapter.safetensors"})) as hub:
        assert cli(*arguments(hub, tmp_path / "m.yaml"))[0] == 0
        assert len(hub.cdn.asked) == 1
    adapter = next(f for f in load_manifest(tmp_path / "m.yaml").files if f.path.startswith("sub/"))
    assert adapter.sha256 == hashlib.sha256(b"adapter").hexdigest()


# tokens


@pytest.mark.parametrize(("token", "state"), [(None, "is not set"), ("hf_wrong", "holds what was refused")])
def test_a_gated_model_asks_for_the_token_by_name(
    cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str | None, state: str
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with serving_hub(hub_of(token="hf_right")) as hub:
        status, out, err = cli(*arguments(hub, tmp_path / "m.yaml"))
    assert (status, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert "is gated (HTTP 40" in err
    assert f"export the token as HF_TOKEN (it {state})" in err
    assert "--token-env" in err
    assert "model.hf_token" in err
    assert "hf_" not in err.replace("model.hf_token", "")
    assert not (tmp_path / "m.yaml").exists()


def test_the_token_is_found_by_the_name_that_is_given(
    cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUR_TOKEN", "hf_right")
    with serving_hub(hub_of(token="hf_right")) as hub:
        status, out, err = cli(*arguments(hub, tmp_path / "m.yaml", "--token-env", "OUR_TOKEN"))
        assert status == 0, err
        assert all(each.header("authorization") == "Bearer hf_right" for each in hub.web.asked)
    assert "hf_right" not in out + err + (tmp_path / "m.yaml").read_text()


def test_a_variable_that_is_not_set_and_a_token_in_place_of_its_name(cli: Run, tmp_path: Path) -> None:
    with serving_hub(hub_of()) as hub:
        status, _, err = cli(*arguments(hub, tmp_path / "m.yaml", "--token-env", "OUR_TOKEN"))
        assert status == 1
        assert "environment variable OUR_TOKEN: is not set" in err
        status, _, err = cli(*arguments(hub, tmp_path / "m.yaml", "--token-env", "hf_abcdef"))
        assert status == 2
        assert "hf_abcdef" not in err
        assert hub.web.asked == []


# what goes wrong


def test_what_does_not_exist(cli: Run, tmp_path: Path) -> None:
    with serving_hub(hub_of()) as hub:
        status, _, err = cli(*arguments(hub, tmp_path / "m.yaml", "--revision", "v9"))
        assert status == 1
        assert "org/model@v9" in err
        assert "has no such revision" in err
        status, _, err = cli("--hub", "org/other", "--endpoint", hub.url, "--output", tmp_path / "m.yaml")
        assert status == 1
        assert "does not exist, or is not shown without a token" in err
        status, _, err = cli("--hub", "just-a-name", "--endpoint", hub.url, "--output", tmp_path / "m.yaml")
        assert status == 1
        assert "must be ORGANISATION/NAME" in err


def test_a_hub_that_is_not_there(cli: Run, tmp_path: Path) -> None:
    arguments_ = ("--hub", "org/model", "--endpoint", "http://127.0.0.1:1", "--output", tmp_path / "m.yaml")
    status, _, err = cli(*arguments_)
    assert status == 1
    assert "org/model@main at http://127.0.0.1:1: cannot be listed" in err
    assert len(err.splitlines()) == 1


def test_without_the_library_there_is_one_clear_line(cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    status, _, err = cli("--hub", "org/model", "--output", tmp_path / "m.yaml")
    assert status == 1
    assert "pip install 'metalserve[hub]'" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "name",
    ["../../etc/cron.d/x.json", "a/../../x.json", "/etc/x.json", "a\\b.json", "a\nb.json", ".metalserve-manifest"],
)
def test_names_that_leave_the_directory_are_refused(cli: Run, tmp_path: Path, name: str) -> None:
    with serving_hub(Hub("org/model", {OLD: {**FILES, name: b"{}"}}, {"main": OLD})) as hub:
        status, _, err = cli(*arguments(hub, tmp_path / "m.yaml", "--include", "*"))
        assert status == 1
        assert repr(name) in err
        assert "must" in err
        assert all("/resolve/" not in path for path in hub.web.paths()), "refused before a byte is fetched"
    assert not (tmp_path / "m.yaml").exists()


def test_bytes_that_are_not_those_of_the_blob_are_refused(cli: Run, tmp_path: Path) -> None:
    with serving_hub(hub_of(corrupt={"config.json"})) as hub:
        status, _, err = cli(*arguments(hub, tmp_path / "m.yaml"))
    assert status == 1
    assert "config.json: its bytes are not those of git blob" in err


def test_a_pointer_in_place_of_the_file_is_refused(cli: Run, tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5\n"
    with serving_hub(Hub("org/model", {OLD: {**FILES, "extra.json": pointer}}, {"main": OLD})) as hub:
        status, _, err = cli(*arguments(hub, tmp_path / "m.yaml"))
    assert status == 1
    assert "extra.json: is a Git LFS pointer, not the file itself -> `git lfs pull`" in err


@pytest.mark.parametrize(("size", "fine"), [(2**62, True), (2**64, False), (-1, False)])
def test_sizes_beyond_all_measure(cli: Run, tmp_path: Path, size: int, fine: bool) -> None:
    with serving_hub(hub_of(sizes={"model-00001-of-00001.safetensors": size})) as hub:
        status, _, err = cli(*arguments(hub, tmp_path / "m.yaml"))
    assert status == (0 if fine else 1), err
    if not fine:
        assert ".size: must be at " in err


# --check


def test_a_manifest_is_held_against_its_hub_again(cli: Run, tmp_path: Path) -> None:
    target = tmp_path / "m.yaml"
    hub = hub_of()
    with serving_hub(hub):
        assert cli(*arguments(hub, target))[0] == 0
        status, out, _ = cli("--check", target)
        assert (status, out) == (0, f"{target}: as at the source, hub {hub.url}\n")
        hub.branches["main"] = NEW
        status, out, _ = cli("--check", target)
        assert status == 0, "the commit that is pinned has not changed"
        assert f"note: main stands for {NEW} now; the manifest pins {OLD}" in out
        del hub.commits[OLD]["tokenizer.json"]
        hub.commits[OLD]["config.json"] = b"rewritten"
        hub.commits[OLD]["extra.json"] = b"{}"
        try:
            status, out, _ = cli("--check", target, "--json")
        finally:
            FILES.update({"tokenizer.json": b"{}", "config.json": b'{"architectures": ["LlamaForCausalLM"]}'})
            del FILES["extra.json"]
        assert status == 3
        said = json.loads(out)
        assert said["moved_to"] == NEW
        assert said["files"] == {
            "config.json": "has 9 bytes at the source instead of 39",
            "extra.json": "is new at the source",
            "tokenizer.json": "is gone from the source",
        }
        del hub.commits[OLD]
        status, _, err = cli("--check", target)
        assert status == 1
        assert "has no such revision" in err
