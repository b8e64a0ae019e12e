"""Settings of what is served: the model and the vLLM engine."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from metalserve.settings.common import Positive, Section, Url, problem
from metalserve.settings.secret import SecretRef

REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*")
"""A model repository's id, ORGANISATION/NAME."""

REVISION = re.compile(r"[0-9a-f]{40}")
"""A commit of a model repository: a branch name such as 'main' can change under a fleet."""


class ModelSettings(Section):
    """The model to stage and serve."""

    name: str = Field(description="repository id, e.g. 'meta-llama/Llama-3.3-70B-Instruct'")
    revision: str = Field(description="commit of the repository, 40 hexadecimal digits; no branch names")
    served_name: str | None = Field(None, description="name clients ask for; None serves it under `name`")
    manifest: str = Field(
        description="YAML manifest of the files with sizes and SHA-256, on the controller, relative to the checkout"
    )
    source: Url = Field(
        "https://huggingface.co", description="base URL; files are fetched from SOURCE/NAME/resolve/REVISION/FILE"
    )
    hf_token: SecretRef | None = Field(None, description="token for gated repositories, sent to `source` only")

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not REPOSITORY.fullmatch(value) or ".." in value:
            raise problem("must be a repository id such as 'organisation/model'")
        return value

    @field_validator("revision")
    @classmethod
    def _revision(cls, value: str) -> str:
        if not REVISION.fullmatch(value):
            raise problem("must be a commit of 40 hexadecimal digits; branch names such as 'main' change under you")
        return value

    @field_validator("served_name")
    @classmethod
    def _served_name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_./:-]*", value):
            raise problem("must be letters, digits and _ . / : -")
        return value

    @property
    def served_as(self) -> str:
        """The name clients ask for."""
        return self.served_name or self.name


class EngineSettings(Section):
    """The vLLM engine; its version comes from the release. None lets the planner decide."""

    host: str = Field("0.0.0.0", description="address the API listens on")  # noqa: S104 - the fleet's clients are remote
    port: int = Field(
        8000, ge=1, le=65535, description="port of the first replica; further replicas take the next ones"
    )
    api_key: SecretRef | None = Field(None, description="key clients must send; None leaves the API open")
    tensor_parallel: Positive | None = Field(None, description="GPUs that share each layer; None: planned")
    pipeline_parallel: Positive | None = Field(None, description="groups of GPUs that share the layers; None: planned")
    replicas: Positive | None = Field(None, description="engines on the host; None: planned")
    max_model_len: Positive | None = Field(None, description="tokens of prompt and answer together; None: planned")
    gpu_memory_utilization: float | None = Field(
        None, gt=0, le=1, description="share of GPU memory the engine may use, 0 to 1; None: planned"
    )
    extra_args: list[str] = Field(default_factory=list, description="further vLLM flags, checked for the release")
    image_archive: Url | None = Field(
        None, description="URL of a `docker save` archive of the image, for sites without a registry"
    )
    image_archive_sha256: str | None = Field(None, description="SHA-256 of that archive, 64 hexadecimal digits")
    start_timeout_s: Positive = Field(1800, description="seconds from start to healthy; large models load for minutes")
    stop_timeout_s: Positive = Field(150, description="seconds running requests get to finish when the engine stops")
    intent: Literal["latency", "throughput", "balanced"] = Field("balanced", description="what the planner favours")
    profile: Literal["default", "interactive"] = Field(
        "default",
        description="vLLM flags for a purpose; 'interactive': agents that answer people at once (docs/low-latency.md)",
    )

    @field_validator("host")
    @classmethod
    def _host(cls, value: str) -> str:
        if not re.fullmatch(r"[0-9A-Za-z:.%_-]+", value):
            raise problem("must be an address or a host name")
        return value

    @field_validator("image_archive_sha256")
    @classmethod
    def _sha256(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[0-9a-f]{64}", value):
            raise problem("must be 64 hexadecimal digits in small letters")
        return value

    @field_validator("extra_args")
    @classmethod
    def _extra_args(cls, value: list[str]) -> list[str]:
        if any("\0" in argument or "\n" in argument or not argument for argument in value):
            raise problem("must be a list of flags and values, each one line and not empty")
        return value
