"""Manifests of directories, HTTP mirrors, S3-compatible storage and OCI artifacts."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metalserve.weights.manifest import ManifestError, ManifestFile, content_revision, load_manifest
from metalserve.weights.sources.http_mirror import read_sums
from metalserve.weights.sources.origin import Found
from metalserve.weights.sources.selection import Selection, choose
from tests.weights.manifests import Run
from tests.weights.standins.mirror import Mirror, serving_mirror, sums_of
from tests.weights.standins.registry import TITLE, Registry, digest_of, serving_registry
from tests.weights.standins.s3 import Storage, serving_storage

REVISION = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"a": 1}',
    "model.safetensors": os.urandom(6 << 20),
    "sub dir/ü & #?%.json": b"odd name",
    "empty.txt": b"",
}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5\n"


def same(target: Path, files: dict[str, bytes] = FILES) -> None:
    """The manifest has just these files, and their hashes; its revision is made of them."""
    manifest = load_manifest(target)
    found = {file.path: (file.size, file.sha256) for file in manifest.files}
    assert found == {path: (len(body), hashlib.sha256(body).hexdigest()) for path, body in files.items()}
    assert manifest.revision == content_revision(manifest.files)


def write(root: Path, files: dict[str, bytes] = FILES) -> Path:
    for path, body in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(body)
    return root


def make(cli: Run, target: Path, *arguments: object) -> tuple[int, str, str]:
    return cli(*arguments, "--repository", "org/model", "--output", target)


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


# HTTP mirrors


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


# S3


def stored(**changes: Any) -> Storage:
    objects = {f"llm/m/{path}": body for path, body in FILES.items()}
    return Storage({**objects, "llm/m/": b"", "llm/m2/other.json": b"{}"}, **changes)


def keys(monkeypatch: pytest.MonkeyPatch, storage: Storage, secret: str = "") -> None:
    monkeypatch.setenv("KEYS", ":".join(filter(None, (storage.access, secret or storage.secret, storage.token))))


def test_storage_page_by_page(cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "m.yaml"
    storage = stored(
        page=2, token="session/token+", checksums={"llm/m/model.safetensors"}, composite={"llm/m/config.json"}
    )
    keys(monkeypatch, storage)
    with serving_storage(storage):
        base = ("--s3", f"{storage.web.url}/models/llm/m/", "--region", storage.region, "--token-env", "KEYS")
        status, out, err = make(cli, target, *base)
        assert (status, err) == (0, "")
        assert "3 of 4 files were read and hashed here" in out
        same(target)
        assert "/models/llm/m/model.safetensors" not in storage.web.paths(), "the storage had its SHA-256"
        assert cli("--check", target, "--token-env", "KEYS")[0] == 0
        storage.objects["llm/m/config.json"] = b"{}"
        status, out, _ = cli("--check", target, "--token-env", "KEYS")
        assert status == 3
        assert "config.json has 2 bytes" in out
    assert storage.secret not in out + err + target.read_text()


def test_a_thousand_objects(cli: Run, tmp_path: Path) -> None:
    objects = {f"m/{i:04}.json": b"%d" % i for i in range(1000)}
    with serving_storage(Storage(objects, access="", page=300, checksums=set(objects))) as storage:
        status, out, _ = make(cli, tmp_path / "m.yaml", "--s3", f"{storage.web.url}/models/m", "--json")
        assert status == 0
        assert json.loads(out)["files"] == 1000
        assert json.loads(out)["hashed_here"] == 0


def test_storage_that_refuses(cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = stored()
    keys(monkeypatch, storage, "not-the-secret")
    with serving_storage(storage):
        base = ("--s3", f"{storage.web.url}/models/llm/m")
        status, _, err = make(cli, tmp_path / "m.yaml", *base, "--region", storage.region, "--token-env", "KEYS")
        assert status == 1
        assert "refused (HTTP 403) SignatureDoesNotMatch -> export the token as KEYS (it holds what was refused)" in err
        assert "not-the-secret" not in err
        status, _, err = make(cli, tmp_path / "m.yaml", *base, "--token-env", "KEYS")
        assert status == 1
        assert "another region, eu-central-1" in err
        status, _, err = make(cli, tmp_path / "m.yaml", *base)
        assert status == 1
        assert "AccessDenied -> name the environment variable" in err
    monkeypatch.setenv("KEYS", "no-colon")
    status, _, err = make(cli, tmp_path / "m.yaml", "--s3", "https://s3.example/b/p", "--token-env", "KEYS")
    assert status == 1
    assert "must be ACCESS:SECRET" in err
    status, _, err = make(cli, tmp_path / "m.yaml", "--s3", "https://s3.example")
    assert status == 1
    assert "must be ENDPOINT/BUCKET/PREFIX" in err


def test_an_object_that_changed_after_it_was_listed(cli: Run, tmp_path: Path) -> None:
    with serving_storage(stored(access="", sizes={"llm/m/config.json": 7})) as storage:
        status, _, err = make(cli, tmp_path / "m.yaml", "--s3", f"{storage.web.url}/models/llm/m")
    assert status == 1
    assert "config.json: has 8 bytes now and had 7 when it was listed" in err


def test_a_prefix_with_nothing_below_it_and_keys_that_leave_it(cli: Run, tmp_path: Path) -> None:
    with serving_storage(Storage({"a/../../x": b"1", "a//y": b"2"}, access="")) as storage:
        status, _, err = make(cli, tmp_path / "m.yaml", "--s3", f"{storage.web.url}/models/none")
        assert status == 1
        assert "holds no objects" in err
        status, _, err = make(cli, tmp_path / "m.yaml", "--s3", f"{storage.web.url}/models/a", "--include", "*")
        assert status == 1
        assert "must be a path inside the model's directory" in err


# OCI


def test_an_artifact_needs_no_byte_of_its_files(cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "m.yaml"
    monkeypatch.setenv("LOGIN", "robot:secret")
    with serving_registry(Registry()) as registry:
        digest = registry.push("v1", FILES)
        reference = f"http://{registry.host}/org/model"
        status, out, err = make(cli, target, "--oci", f"{reference}:v1", "--token-env", "LOGIN")
        assert (status, err) == (0, "")
        assert f"org/model: v1 is {digest}" in out
        same(target)
        made_from = load_manifest(target).made_from
        assert made_from is not None
        assert (made_from.source, made_from.asked) == (f"{reference}@{digest}", "v1")
        assert all("/blobs/" not in path for path in registry.web.paths())
        assert cli("--check", target, "--token-env", "LOGIN")[0] == 0
        later = registry.push("v1", {**FILES, "config.json": b"{}"})
        status, out, _ = cli("--check", target, "--token-env", "LOGIN")
        assert status == 0, "the digest is what is pinned"
        assert f"note: v1 stands for {later} now" in out
        del registry.manifests["v1"]
        assert "v1 stands for nothing, it is gone now" in cli("--check", target, "--token-env", "LOGIN")[1]
        registry.manifests[digest] += b" "
        status, _, err = cli("--check", target, "--token-env", "LOGIN")
        assert status == 1
        assert "the registry's manifest hashes to" in err
        assert make(cli, tmp_path / "n.yaml", "--oci", f"{reference}@{later}", "--token-env", "LOGIN")[0] == 0


def layer(content: bytes = b"x", **changes: Any) -> dict[str, Any]:
    annotations = changes.pop("annotations", {TITLE: "model.safetensors"})
    return {"digest": digest_of(content), "size": len(content), "annotations": annotations, **changes}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers": []}, "has no layers"),
        ({"layers": [layer(annotations={})]}, f"layer 1: has no annotation {TITLE} -> push the files one by one"),
        ({"layers": [layer(mediaType="application/vnd.oci.image.layer.v1.tar+gzip")]}, "is a packed directory"),
        ({"layers": [layer(digest="sha512:" + "0" * 128)]}, "its digest is no SHA-256"),
        ({"layers": [layer(size="1")]}, "layer 1: is no layer"),
        ({"layers": [layer(), layer(b"y")]}, "'model.safetensors' is there twice"),
        ({"layers": [layer(annotations={TITLE: "../x.safetensors"})]}, "must be a path inside"),
        ({"layers": [layer(size=2**64)]}, "size: must be at most"),
        ({"manifests": [{}, {}]}, "is an index of 2 artifacts"),
    ],
)
def test_artifacts_that_are_no_model(cli: Run, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with serving_registry(Registry(login="")) as registry:
        registry.push("v1", {}, **changes)
        status, _, err = make(cli, tmp_path / "m.yaml", "--oci", f"http://{registry.host}/org/model:v1")
    assert status == 1
    assert words in err
    assert len(err.splitlines()) == 1


def test_an_index_of_one_artifact_and_the_annotation_of_the_model_format(cli: Run, tmp_path: Path) -> None:
    with serving_registry(Registry(login="")) as registry:
        named = {"org.cncf.model.filepath": "sub/model.safetensors"}
        digest = registry.push("inner", {}, layers=[layer(b"weights", annotations=named)])
        registry.push("v1", {}, manifests=[{"digest": digest}])
        status, _, err = make(cli, tmp_path / "m.yaml", "--oci", f"http://{registry.host}/org/model:v1")
    assert status == 0, err
    same(tmp_path / "m.yaml", {"sub/model.safetensors": b"weights"})


@pytest.mark.parametrize("reference", ["host/name", "host/Name:v1", "name:v1", "host/name@sha256:12", "host/a b:v1"])
def test_references_that_pin_nothing(cli: Run, tmp_path: Path, reference: str) -> None:
    status, _, err = make(cli, tmp_path / "m.yaml", "--oci", reference)
    assert status == 1
    assert "must be REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:DIGEST" in err


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
