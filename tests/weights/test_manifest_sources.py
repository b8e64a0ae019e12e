"""Manifests of directories, what of them is chosen, and how the command is used."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalserve.weights.manifest import ManifestFile, content_revision, load_manifest
from metalserve.weights.sources.origin import Found
from metalserve.weights.sources.selection import Selection, choose
from tests.weights.manifest_files import FILES, make, same
from tests.weights.manifests import Run

REVISION = "0123456789abcdef0123456789abcdef01234567"

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5\n"


def write(root: Path, files: dict[str, bytes] = FILES) -> Path:
    for path, body in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(body)
    return root


# directories


def test_a_directory(cli: Run, tmp_path: Path) -> None:
    root, target = write(tmp_path / "model"), tmp_path / "m.yaml"
    write(root, {".cache/huggingface/x.metadata": b"left by a download", ".gitattributes": b"x"})
    (tmp_path / "blob").write_bytes(b"linked")
    (root / "tokenizer.json").symlink_to(tmp_path / "blob")
    status, out, err = make(cli, target, "--from", root)
    assert (status, err) == (0, "")
    assert "5 of 5 files were read and hashed here" in out
    assert "the source has no commits: revision" in out
    same(target, {**FILES, "tokenizer.json": b"linked"})
    assert cli("--check", target)[0] == 0
    (root / "config.json").write_bytes(b'{"a": 2}')
    (root / "empty.txt").unlink()
    status, out, _ = cli("--check", target)
    assert status == 3
    assert "config.json hashes to " in out
    assert "empty.txt is gone from the source" in out
    assert f"{target}: 2 files differ from the source" in out
    other = write(tmp_path / "other", {**FILES, "tokenizer.json": b"linked"})
    assert cli("--check", target, "--from", other)[0] == 0, "another place may be named"


def test_a_given_commit_is_kept_and_a_branch_refused(cli: Run, tmp_path: Path) -> None:
    root, target = write(tmp_path / "model"), tmp_path / "m.yaml"
    status, out, _ = make(cli, target, "--from", root, "--revision", REVISION)
    assert status == 0
    assert "has no commits" not in out
    assert load_manifest(target).revision == REVISION
    status, _, err = make(cli, target, "--from", root, "--revision", "main")
    assert status == 1
    assert "revision: does not have the form" in err


def test_directories_that_cannot_be_hashed_are_refused(cli: Run, tmp_path: Path) -> None:
    target = tmp_path / "m.yaml"

    def refused(root: Path, words: str) -> None:
        status, _, err = make(cli, target, "--from", root)
        assert status == 1
        assert words in err
        assert len(err.splitlines()) == 1

    refused(tmp_path / "none", "none: is not a directory")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no files")
    root = write(tmp_path / "model")
    os.mkfifo(root / "pipe")
    refused(root, "pipe: is not a plain file")
    (root / "pipe").unlink()
    (root / "dangling").symlink_to(tmp_path / "nowhere")
    refused(root, "dangling: cannot be read")
    (root / "dangling").unlink()
    (root / "loop").symlink_to(root)
    refused(root, "loop: is a link to a directory")
    (root / "loop").unlink()
    (root / "model-2.safetensors").write_bytes(POINTER)
    refused(root, "model-2.safetensors: is a Git LFS pointer")
    (root / "model-2.safetensors").unlink()
    (root / "a\nb").write_bytes(b"")
    refused(root, r"the file 'a\nb' must be printable")
    assert not target.exists()


def test_a_file_that_changes_while_it_is_hashed(cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from metalserve.weights.sources import hashing

    root = write(tmp_path / "model")
    real = hashlib.sha256

    class Meddling:
        def __init__(self) -> None:
            self._real = real()

        def update(self, chunk: bytes) -> None:
            self._real.update(chunk)
            with (root / "model.safetensors").open("ab") as file:
                file.write(b"more")

        def hexdigest(self) -> str:
            return self._real.hexdigest()

    monkeypatch.setattr(hashing.hashlib, "sha256", Meddling)
    status, _, err = make(cli, tmp_path / "m.yaml", "--from", root)
    assert status == 1
    assert "model.safetensors: was changed while it was hashed" in err


# what is chosen, what a revision is made of, how the command is used


def chosen(paths: list[str], **selection: list[str]) -> list[str]:
    return [found.path for found in choose([Found(path) for path in paths], Selection(**selection)).files]


def test_other_forms_are_left_out_where_safetensors_are_there() -> None:
    assert chosen(["b.bin", "a.gguf", "c.json"]) == ["a.gguf", "b.bin", "c.json"]
    assert chosen(["b.bin", "a.gguf", "c.json", "m.safetensors"]) == ["c.json", "m.safetensors"]
    assert chosen(["original", "sub/original/x", "original/x"]) == ["original", "sub/original/x"]
    notes = choose([Found("consolidated.safetensors"), Found("model-1.safetensors")], Selection()).notes
    assert len(notes) == 1
    assert "twice" in notes[0]
    assert choose([Found("config.json")], Selection()).notes == ["no file looks like weights"]


@given(st.permutations([("a", 1, "1" * 64), ("b", 2, "2" * 64), ("c/d", 3, "3" * 64)]))
def test_the_revision_of_files_does_not_depend_on_their_order(rows: list[tuple[str, int, str]]) -> None:
    files = [ManifestFile(path=path, size=size, sha256=sha256) for path, size, sha256 in rows]
    # printf '%s 1 a\n%s 2 b\n%s 3 c/d\n' 111... 222... 333... | sha256sum
    lines = "".join(f"{str(n) * 64} {n} {path}\n" for n, path in ((1, "a"), (2, "b"), (3, "c/d")))
    assert content_revision(files) == hashlib.sha256(lines.encode()).hexdigest()[:40]
    assert content_revision(files[:2]) != content_revision(files)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give --output FILE, or --check FILE"),
        (["--output", "x"], "give one of --hub"),
        (["--output", "x", "--hub", "a/b", "--from", "d"], "give one of --hub"),
        (["--output", "x", "--from", "d"], "give --repository"),
        (["--output", "x", "--from", "d", "--repository", "a/b", "--index"], "--index goes with --url"),
        (["--output", "x", "--hub", "a/b", "--region", "r"], "--region goes with --s3"),
        (["--output", "x", "--check", "y", "--from", "d"], "give --output FILE, or --check FILE"),
    ],
)
def test_wrong_usage(cli: Run, arguments: list[str], words: str) -> None:
    status, _, err = cli(*arguments)
    assert status == 2
    assert words in err


def test_a_manifest_that_does_not_say_where_it_is_from(cli: Run, tmp_path: Path) -> None:
    root, target = write(tmp_path / "model"), tmp_path / "m.yaml"
    make(cli, target, "--from", root)
    text = target.read_text()
    before, _, after = text.partition("made_from:\n")
    target.write_text(before + after[after.index("files:") :])
    status, _, err = cli("--check", target)
    assert status == 1
    assert "does not say what it was made from" in err
    assert cli("--check", target, "--from", root)[0] == 0


def test_a_target_that_cannot_be_written(cli: Run, tmp_path: Path) -> None:
    root = write(tmp_path / "model")
    (tmp_path / "file").write_text("x")
    status, _, err = make(cli, tmp_path / "file" / "m.yaml", "--from", root)
    assert status == 1
    assert "cannot be written" in err
