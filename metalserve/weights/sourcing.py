"""Where a host fetches a model from, as its agent is told. Pure."""

from __future__ import annotations

from urllib.parse import quote

from metalserve.settings import ModelSettings
from metalserve.settings.staging import StagingSettings
from metalserve.weights.agent.config import SourceConfig


def source_config(model: ModelSettings, staging: StagingSettings) -> SourceConfig:
    """Return the source of a model's files.

    Args:
        model: its `source`, and for a hub its name and revision, which say where the files lie there.
        staging: what kind of source that is, and the region of S3.
    """
    base = model.source
    if staging.kind == "hub":
        base = f"{model.source}/{quote(model.name)}/resolve/{model.revision}"
    elif staging.kind == "directory":
        base = model.source.removeprefix("file://")
    return SourceConfig(kind=staging.kind, base=base, region=staging.region if staging.kind == "s3" else "")
