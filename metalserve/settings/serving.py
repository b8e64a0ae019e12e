"""Settings of what is served: the model and the vLLM engine."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Literal

from pydantic import Field, field_validator

from metalserve.settings.common import Positive, Section, SourceUrl, Url, problem
from metalserve.settings.secret import SecretRef
from metalserve.settings.workload import WorkloadSettings

REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*")
"""A model repository's id, ORGANISATION/NAME."""

REVISION = re.compile(r"[0-9a-f]{40}")
"""A commit of a model repository: a branch name such as 'main' can change under a fleet."""

HUB = "https://huggingface.co"
"""The hub that models come from where nothing else is said."""


class ModelSettings(Section):
    """The model to stage and serve."""

    name: str = Field(description="repository id, e.g. 'meta-llama/Llama-3.3-70B-Instruct'")
    revision: str = Field(description="commit of the repository, 40 hexadecimal digits; no branch names")
    served_name: str | None = Field(None, description="name clients ask for; None serves it under `name`")
    manifest: str = Field(
        description="YAML manifest of the files with sizes and SHA-256, on the controller, relative to the checkout"
    )
    source: SourceUrl = Field(
        HUB, description="where the files are fetched from; staging.kind says what it is and how they lie there"
    )
    hf_token: SecretRef | None = Field(
        None,
        description="token for gated repositories, sent to `source` only; S3: ACCESS:SECRET[:TOKEN]; registries: "
        "user:password or a token",
    )

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


class GroupSettings(Section):
    """Several hosts that run one engine together; the same on each of them."""

    hosts: dict[str, str] = Field(
        description="inventory name -> address in the network between the hosts; the first is the head, which serves"
    )
    master_port: int = Field(
        29501, ge=1024, le=65534,
        description="port at which the engines meet; at the next one each host tells the others its state",
    )  # fmt: skip

    @field_validator("hosts")
    @classmethod
    def _hosts(cls, value: dict[str, str]) -> dict[str, str]:
        if len(value) < 2:
            raise problem("must name two hosts or more")
        for address in value.values():
            try:
                ip_address(address)
            except ValueError:
                raise problem("must give each host an IP address, not a name") from None
        if len(set(value.values())) < len(value):
            raise problem("gives two hosts the same address")
        return value

    @property
    def head(self) -> str:
        """Name of the host that serves."""
        return next(iter(self.hosts))

    @property
    def head_address(self) -> str:
        """Its address in the network between the hosts."""
        return self.hosts[self.head]

    @property
    def state_port(self) -> int:
        """Port at which each host tells the others the state of its part."""
        return self.master_port + 1

    def rank(self, host: str) -> int:
        """Return the place of a host in the group, 0 for the head; raises KeyError when it is not in it."""
        if host not in self.hosts:
            raise KeyError(host)
        return list(self.hosts).index(host)


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
    runtime: Literal["docker", "podman"] = Field(
        "docker", description="what runs the container: Docker, or Podman with a Quadlet unit"
    )
    memory_limit: str | None = Field(None, description="memory of the host that a container may use, such as '256g'")
    pids_limit: Positive = Field(32768, description="processes and threads that a container may have")
    start_attempts: Positive = Field(5, description="failed starts in a row after which an engine stays stopped")
    restart_delay_s: Positive = Field(5, description="seconds before a failed engine is started again, at first")
    restart_delay_max_s: Positive = Field(120, description="seconds to which that delay grows (systemd 254 or newer)")
    stall_timeout_s: Positive = Field(
        120, description="seconds with requests running and no step made after which an engine counts as stalled"
    )
    stall_restarts: int = Field(3, ge=0, description="restarts of a stalled engine within an hour; 0: only tell")
    group: GroupSettings | None = Field(None, description="hosts that run one engine together; None: each its own")
    workload: WorkloadSettings = Field(default_factory=WorkloadSettings, description="requests that the plan is for")

    @field_validator("host")
    @classmethod
    def _host(cls, value: str) -> str:
        if not re.fullmatch(r"[0-9A-Za-z:.%_-]+", value):
            raise problem("must be an address or a host name")
        return value

    @field_validator("memory_limit")
    @classmethod
    def _memory_limit(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[1-9][0-9]*[mg]", value):
            raise problem("must be a number with m or g, such as '256g'")
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
