"""Manifests of S3-compatible storage and of OCI artifacts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from metalserve.weights.manifest import load_manifest
from tests.weights.manifest_files import FILES, make, same
from tests.weights.manifests import Run
from tests.weights.standins.registry import TITLE, Registry, digest_of, serving_registry
from tests.weights.standins.s3 import Storage, serving_storage

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
