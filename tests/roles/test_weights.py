"""Role weights: what is staged, when nothing is, and what is refused before a byte is fetched."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from metalserve.desired.diff import difference
from metalserve.desired.model import Desired, NotYetKnown
from metalserve.desired.node import Node
from metalserve.desired.render import render
from metalserve.errors import MetalserveError
from metalserve.verify.finding import worst
from metalserve.weights.manifest import Manifest
from metalserve.weights.store import file_list, inspect
from roles.weights import desired as role
from tests.roles.helpers import after, changes, make_node

REVISION = "ab" * 20
FILES = [
    {"path": "config.json", "size": 10, "sha256": "a" * 64},
    {"path": "model 1.safetensors", "size": 5 * 2**30, "sha256": "b" * 64},
]
MANIFEST = Manifest.model_validate({"repository": "org/model", "revision": REVISION, "files": FILES})
DIGEST = hashlib.sha256(file_list(MANIFEST).encode()).hexdigest()
LISTING = f"10\t100.5\tconfig.json\n{5 * 2**30}\t101.5\tmodel 1.safetensors\n"
PROVED = f"metalserve-manifest 1\nlist {DIGEST}\n{LISTING}@@listing\n"
PUBLISHED = f"{PROVED}{LISTING}"
MOUNTED = json.dumps({"filesystems": [{"target": "/srv/models", "source": "/dev/nvme0n1", "fstype": "xfs"}]})
SPACE = "Filesystem 1-blocks Used Available Capacity Mounted on\n/dev/nvme0n1 {0} 1 {0} 1% /srv/models\nwritable\n"


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    path = tmp_path / "manifest.yaml"
    path.write_text(yaml.safe_dump(MANIFEST.model_dump()))
    return str(path)


def host(
    manifest: str,
    store: str = "absent",
    mounted: str = MOUNTED,
    size: int = 10**12,
    storage: dict[str, Any] | None = None,
    **model: Any,
) -> Node:
    return make_node(
        settings={
            "model": {"name": "org/model", "revision": REVISION, "manifest": manifest, **model},
            "storage": storage or {},
        },
        sections={"weights-store": store, "storage-mount": mounted, "storage-space": SPACE.format(size)},
    )


def test_stages_once(manifest: str) -> None:
    node = host(manifest)
    assert changes(role.stage_model(node), node) == [f"stage org/model@{REVISION[:12]}, 5.00 GiB (not there)"]
    done = after(node, role.configure(node), sections={"weights-store": PUBLISHED})
    assert [changes(stage(done), done) for stage in (role.configure, role.stage_model)] == [[], []]
    assert changes(role.stage_model(node), done) == []  # the action of before sees that it is done
    assert worst(role.check(done)) == "ok"
    assert worst(role.check(node)) == "fail"
    assert role.in_words(done) == f"org/model@{REVISION[:12]}, 5.00 GiB proved"


def test_everything_it_writes_is_watched(manifest: str) -> None:
    node = host(manifest)
    wish = role.configure(node)
    watched = set(role.watch(node.settings, node.release).paths)
    assert {f.path for f in wish.files} | {d.path for d in wish.directories} <= watched


def test_the_script_runs_after_its_files_are_written(manifest: str) -> None:
    node = host(manifest)
    wish = role.configure(node) + role.stage_model(node)
    text = render(difference(wish, node.observed))
    assert text.index(f"ms_put {role.STAGE}") < text.index(f"sh {role.STAGE}")
    assert f"MS_SOURCE=https://huggingface.co/org/model/resolve/{REVISION}\n" in text
    assert "MS_STORE=/srv/models/org--model\n" in text


@pytest.mark.parametrize(
    ("store", "state", "why"),
    [
        ("partial 1073741824\n", "partial", "1.00 of 5.00 GiB there"),
        (f"no marker\n@@listing\n{LISTING}", "changed", "no marker"),
        (PUBLISHED.replace(DIGEST, "0" * 64), "changed", "another manifest"),
        (PUBLISHED + "7\t1.0\textra.safetensors\n", "changed", "extra.safetensors is not in the manifest"),
        (PUBLISHED.rsplit(str(5 * 2**30), 1)[0], "changed", "model 1.safetensors is missing"),
        (
            f"{PUBLISHED.partition('@@listing')[0]}@@listing\n{LISTING.replace('10	100.5', '11	100.5')}",
            "changed",
            "11 bytes",
        ),
        (
            f"{PUBLISHED.partition('@@listing')[0]}@@listing\n{LISTING.replace('100.5', '100.6')}",
            "changed",
            "after its bytes",
        ),
        ("", "absent", "not there"),
    ],
)
def test_what_lies_there_is_judged_without_reading_it(manifest: str, store: str, state: str, why: str) -> None:
    node = host(manifest, store)
    assert inspect(store, MANIFEST).state == state
    assert why in changes(role.stage_model(node), node)[0]
    assert worst(role.check(node)) == "fail"


@given(st.text(alphabet="\t\n0123456789.abc @-:lisngmtfe", max_size=300))
def test_no_output_is_taken_for_a_published_model(text: str) -> None:
    assert inspect(text, MANIFEST).state != "published"


def test_a_model_of_another_revision_is_refused(manifest: str) -> None:
    with pytest.raises(MetalserveError, match="is of revision"):
        role.stage_model(host(manifest, revision="cd" * 20))
    with pytest.raises(MetalserveError, match="is of repository org/model, but the inventory names org/other"):
        role.configure(host(manifest, name="org/other"))


def test_a_model_that_can_never_fit_is_refused_before_the_first_byte(manifest: str) -> None:
    with pytest.raises(MetalserveError, match=r"has 5.0 GiB, /srv/models only 4.0 GiB"):
        role.stage_model(host(manifest, size=4 * 2**30))
    with pytest.raises(MetalserveError, match="with 10 GiB to stay free"):
        role.stage_model(host(manifest, size=8 * 2**30, storage={"min_free_gib": 10.0}))


def test_nothing_is_staged_onto_the_system_disk(manifest: str) -> None:
    root = json.dumps({"filesystems": [{"target": "/", "source": "/dev/sda1", "fstype": "ext4"}]})
    with pytest.raises(NotYetKnown, match="after /srv/models is mounted"):
        role.stage_model(host(manifest, mounted=root))
    node = host(manifest, mounted=root, storage={"device": "none"})
    assert changes(role.stage_model(node), node)


def test_the_token_is_in_no_file_argument_or_word(manifest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN_TEST", "hf_verysecret")
    node = host(manifest, hf_token={"env": "HF_TOKEN_TEST"})
    wish = role.stage_model(node)
    found = difference(role.configure(node) + wish, node.observed)
    assert not any("hf_verysecret" in c.summary for c in found)
    text = render(found)
    assert "hf_verysecret" not in text  # only as base64, on standard input of ms_put, into a file of mode 0600
    assert f"ms_put {role.AUTHORISATION} 0600 root root" in text
    assert f"trap 'rm -f {role.AUTHORISATION}' EXIT" in text
    monkeypatch.delenv("HF_TOKEN_TEST")
    with pytest.raises(MetalserveError, match="HF_TOKEN_TEST"):
        role.stage_model(node)
    # With everything in place nobody asks for the token.
    assert role.stage_model(host(manifest, PUBLISHED, hf_token={"env": "HF_TOKEN_TEST"})) == Desired()


def test_a_host_without_a_model(manifest: str) -> None:
    node = make_node()
    assert role.configure(node) == role.stage_model(node) == Desired()
    assert role.check(node) == ()
    assert role.watch(node.settings, node.release).commands == {}
