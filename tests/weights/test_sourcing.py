"""From settings to what the agent is told of the source, and settings that do not fit together."""

from __future__ import annotations

from typing import Any

import pytest

from metalserve.settings import HostSettings, ModelSettings, SettingsError
from metalserve.settings.staging import StagingSettings
from metalserve.weights.agent.config import SourceConfig
from metalserve.weights.sourcing import source_config
from tests.settings.samples import REVISION, host_data


@pytest.mark.parametrize(
    ("kind", "source", "expected"),
    [
        ("hub", None, SourceConfig("hub", f"https://huggingface.co/org/model/resolve/{REVISION}")),
        ("hub", "http://mirror:8080/", SourceConfig("hub", f"http://mirror:8080/org/model/resolve/{REVISION}")),
        ("http", "https://mirror/models/m", SourceConfig("http", "https://mirror/models/m")),
        ("s3", "https://s3.eu.example/bucket/m/", SourceConfig("s3", "https://s3.eu.example/bucket/m", "eu-1")),
        ("oci", "https://registry.example/v2/org/m", SourceConfig("oci", "https://registry.example/v2/org/m")),
        ("directory", "file:///srv/models/m/", SourceConfig("directory", "/srv/models/m")),
    ],
)
def test_each_kind(kind: Any, source: str | None, expected: SourceConfig) -> None:
    given = {"source": source} if source else {}
    model = ModelSettings(name="org/model", revision=REVISION, manifest="m.yaml", **given)
    assert source_config(model, StagingSettings(kind=kind, region="eu-1")) == expected


@pytest.mark.parametrize(
    ("kind", "source", "words"),
    [
        ("hub", "file:///srv/m", "model.source: is a directory, but staging.kind is 'hub'"),
        ("directory", "https://mirror", "model.source: is a URL, but staging.kind is 'directory'"),
        ("s3", None, "model.source: is the hub, but staging.kind is 's3'"),
        ("s3", "https://s3.example/", "model.source: names no bucket"),
        ("oci", "https://registry.example/org/m", "model.source: must be https://REGISTRY/v2/NAME"),
        ("directory", "file://srv/m", "model.source: must be file:///PATH"),
        ("directory", "file:///", "model.source: must be file:///PATH"),
        ("directory", "file:///a/../b", "model.source: must be an absolute path without"),
        ("directory", "file:///a%20b", "model.source: must be file:///PATH"),
        ("http", "ftp://mirror/m", "model.source: must begin with http"),
    ],
)
def test_what_does_not_fit_together_is_refused(kind: str, source: str | None, words: str) -> None:
    model = {**host_data()["model"], **({"source": source} if source else {})}
    with pytest.raises(SettingsError) as caught:
        HostSettings.from_data(host_data(model=model, staging={"kind": kind}), host="h", source="s")
    assert words in str(caught.value)


def test_keys_that_sign_are_not_sent_over_plain_http() -> None:
    model = {**host_data()["model"], "source": "http://storage/bucket", "hf_token": {"env": "KEYS"}}
    for kind, warned in (("s3", False), ("http", True)):
        settings = HostSettings.from_data(host_data(model=model, staging={"kind": kind}), host="h", source="s")
        assert any("plain http" in line for line in settings.warnings()) is warned
