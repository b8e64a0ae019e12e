"""Where the agent and what it is told lie on a host, and how it is called there. Pure."""

from __future__ import annotations

import shlex
from pathlib import Path

from metalserve.settings import HostSettings, ModelSettings
from metalserve.weights.agent.config import Job, SwarmConfig, WantedFile
from metalserve.weights.manifest import Manifest
from metalserve.weights.sourcing import source_config
from metalserve.weights.store import AGENT_LIBRARY, place_of

PACKAGE = f"{AGENT_LIBRARY}/msweights"
CONFIGS = "/etc/metalserve/weights"
RUN = "/run/metalserve/weights"
"""In memory: how far a job is (KEY.json), and the secret of a source for as long as a job runs (KEY.secret)."""

AGENT = f"PYTHONPATH={AGENT_LIBRARY} python3 -B -m msweights"


def key_of(model: ModelSettings) -> str:
    """Return the name of the model's job on a host: ORGANISATION--NAME-REVISION12."""
    return f"{model.name.replace('/', '--')}-{model.revision[:12]}"


def config_path(key: str) -> str:
    """Return the path of what the agent is told of a model."""
    return f"{CONFIGS}/{key}.json"


def secret_path(key: str) -> str:
    """Return the path of the source's secret, which lies there only while a job runs."""
    return f"{RUN}/{key}.secret"


def agent_files() -> dict[str, str]:
    """Return the agent as it lies on the host: path -> text."""
    own = Path(__file__).parent / "agent"
    return {f"{PACKAGE}/{path.name}": path.read_text(encoding="utf-8") for path in sorted(own.glob("*.py"))}


def call(*words: str) -> str:
    """Return the shell command that runs the agent."""
    return f"{AGENT} {shlex.join(words)}"


def job_of(settings: HostSettings, model: ModelSettings, manifest: Manifest, swarm: SwarmConfig | None = None) -> Job:
    """Return what the agent of a host is told of its model; no secret is in it."""
    key, staging = key_of(model), settings.staging
    return Job(
        key=key,
        repository=model.name,
        revision=model.revision,
        store=place_of(settings.storage.mount, model).store,
        files=tuple(WantedFile(file.path, file.size, file.sha256) for file in manifest.files),
        source=source_config(model, settings.staging),
        authorisation=secret_path(key) if model.hf_token is not None else "",
        reserve_bytes=int(settings.storage.min_free_gib * 2**30),
        jobs=staging.jobs,
        rate_bytes_s=int(staging.rate_mib_s * 2**20),
        swarm=swarm,
    )
