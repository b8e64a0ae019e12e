"""Role vllm: what is said of the engines' starts, the load format that follows from them, and the read-ahead."""

from __future__ import annotations

import json
from typing import Any

import pytest

from metalserve.desired.node import Node
from metalserve.errors import MetalserveError
from metalserve.hardware.section import Section
from metalserve.settings import HostSettings
from metalserve.verify.finding import worst
from roles.vllm import desired as role
from roles.vllm import image, loading
from roles.vllm.launch import planned
from tests.roles.engines import UUID, host, serving
from tests.roles.helpers import changes
from tests.roles.models import REVISION

ONE = {"replicas": 1}


def started(node: Node, seconds: float, weights: float, load_format: str = "auto", **more: Any) -> str:
    record = {
        "schema": 1, "replica": 0, "model": "org/model", "revision": REVISION, "format": load_format,
        "image": image.reference(node.settings, node.release), "gpus": UUID.format(0),
        "at": "2026-11-25T18:00:00Z", "ready_after_s": seconds, "weights_bytes": 16_000_000_000,
        "lines": [f"Loading weights took {weights:.2f} seconds"], **more,
    }  # fmt: skip
    return json.dumps(record) + "\n"


def text_of(node: Node) -> str:
    return role.serve(node).files[0].content or ""


def test_the_weights_are_read_ahead_beside_the_container_and_before_the_probe(manifest: str) -> None:
    lines = text_of(host(manifest)).splitlines()
    after_start = [line for line in lines if line.startswith("ExecStartPost=")]
    assert after_start == [
        "ExecStartPost=-/usr/local/lib/metalserve/engine-warm 0",
        "ExecStartPost=/usr/local/lib/metalserve/engine-probe --wait 1800 8000",
        "ExecStartPost=-/usr/local/lib/metalserve/engine-record 0",
    ]
    assert f"Environment=MS_MODELS=/srv/models/org--model/{REVISION}" in lines
    assert "Environment=MS_CACHE=auto" in lines
    assert "Environment=MS_CACHE=off" in text_of(host(manifest, engine={"page_cache": "off"}))


def test_the_report_says_where_the_time_went(manifest: str) -> None:
    node = host(manifest, engine=ONE)
    told = serving(node, range(8000, 8001), **{loading.SECTION: started(node, 60, 8) + started(node, 74, 10)})
    model = told.settings.model
    assert model is not None
    words = loading.in_words(told, planned(told, model))
    assert words.startswith("engine 0 ready in 74 s: weights 10 s (1.6 GB/s")
    assert words.endswith("rest 64 s")
    findings = {f.check: f for f in role.check(told)}
    assert (findings["load-time"].status, worst(role.check(told))) == ("ok", "ok")
    assert [load.ready_s for load in loading.loads(told)] == [60, 74]


def test_a_start_that_became_slow_is_a_warning(manifest: str) -> None:
    node = host(manifest, engine=ONE)
    told = serving(node, range(8000, 8001), **{loading.SECTION: started(node, 60, 8) + started(node, 200, 140)})
    (finding,) = (f for f in role.check(told) if f.check == "load-time")
    assert finding.status == "warn"
    assert finding.observed == "200 s; most of it in weights (+132 s)"


def test_no_record_says_nothing(manifest: str) -> None:
    told = serving(host(manifest, engine=ONE), range(8000, 8001))
    model = told.settings.model
    assert model is not None
    assert loading.in_words(told, planned(told, model)) == ""
    assert [f.check for f in role.check(told)] == ["answers"]


def test_auto_is_the_default_loader_until_another_was_measured_to_be_faster(manifest: str) -> None:
    node = host(manifest, engine=ONE)
    assert "--load-format" not in text_of(node)
    history = started(node, 60, 30) + started(node, 40, 8, "fastsafetensors")
    faster = host(manifest, engine=ONE, sections={loading.SECTION: history})
    assert "    --load-format fastsafetensors\n" in text_of(faster)
    assert "Environment=MS_FORMAT=fastsafetensors\n" in text_of(faster)
    # followed, and asked again: nothing changes
    done = serving(faster, range(8000, 8001))
    assert changes(role.serve(done), done) == []
    other = started(node, 60, 30) + started(node, 40, 8, "fastsafetensors", image="another")
    assert "--load-format" not in text_of(host(manifest, engine=ONE, sections={loading.SECTION: other}))
    own = {**ONE, "extra_args": ["--load-format", "dummy"]}
    assert "fastsafetensors" not in text_of(host(manifest, engine=own, sections={loading.SECTION: history}))


def test_a_named_loader_is_taken_and_the_image_is_asked_for_it(manifest: str) -> None:
    engine = {**ONE, "load_format": "runai_streamer"}
    node = host(manifest, engine=engine)
    assert "    --load-format runai_streamer\n" in text_of(node)
    command = role.watch(node.settings, node.release).commands[loading.PACKAGES_SECTION]
    assert "docker run --rm --pull never --network none --entrypoint python3" in command
    assert "runai_model_streamer" in command
    there = host(manifest, engine=engine, sections={loading.PACKAGES_SECTION: "there\n"})
    assert "runai_streamer" in text_of(there)
    broken = host(manifest, engine=engine, sections={loading.PACKAGES_SECTION: Section("no such image", 125)})
    assert "runai_streamer" in text_of(broken)  # it could not be asked: vLLM itself will tell
    lacking = host(manifest, engine=engine, sections={loading.PACKAGES_SECTION: "lacking\n"})
    with pytest.raises(MetalserveError, match="needs the Python package runai_model_streamer"):
        role.serve(lacking)
    plain = host(manifest)
    assert loading.PACKAGES_SECTION not in role.watch(plain.settings, plain.release).commands


def test_a_loader_twice_is_a_contradiction(manifest: str) -> None:
    with pytest.raises(MetalserveError, match=r"contradicts --load-format in engine\.extra_args"):
        host(manifest, engine={"load_format": "fastsafetensors", "extra_args": ["--load-format=dummy"]})
    with pytest.raises(MetalserveError, match=r"engine\.load_format"):
        HostSettings.from_data({"release": "2026.11-lts", "engine": {"load_format": "gguf"}}, host="h", source="t")
