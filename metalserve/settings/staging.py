"""Settings of how models come onto hosts: where from, how fast, shared by whom, checked how often."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from metalserve.settings.common import Section, problem
from metalserve.settings.secret import SecretRef
from metalserve.settings.serving import HUB

if TYPE_CHECKING:
    from metalserve.settings.host import HostSettings


class StagingSettings(Section):
    """How models come onto the host and are kept right."""

    kind: Literal["hub", "http", "s3", "oci", "directory"] = Field(
        "hub",
        description="what `model.source` is: 'hub' (SOURCE/NAME/resolve/REVISION/FILE), 'http' (SOURCE/FILE), 's3' "
        "(ENDPOINT/BUCKET/PREFIX), 'oci' (https://REGISTRY/v2/NAME), 'directory' (file:///PATH on the host)",
    )
    region: str = Field("", description="region of S3, for signing")
    jobs: int = Field(4, ge=1, le=32, description="files fetched at a time")
    rate_mib_s: float = Field(0, ge=0, description="limit of the direct download in MiB/s, 0 for none")
    distribution: Literal["direct", "swarm"] = Field(
        "direct",
        description="'direct': each host fetches all from the source; 'swarm': the hosts share what they have",
    )
    address: str | None = Field(
        None, description="this host's address in the private network that the swarm uses; None: where SSH reaches it"
    )
    port: int = Field(6881, ge=1024, le=65520, description="first of the 16 TCP ports of the swarm; a model has one")
    upload_mib_s: float = Field(0, ge=0, description="limit of what the host gives to others in MiB/s, 0 for none")
    download_mib_s: float = Field(0, ge=0, description="limit of what it takes from others in MiB/s, 0 for none")
    seed_minutes: int = Field(60, ge=0, description="minutes that a host goes on giving after it has all")
    swarm_secret: SecretRef | None = Field(
        None,
        description="secret of the fleet, at least 32 characters, of which the swarm's certificates are made: "
        "`openssl rand -hex 32`; the same for all hosts that share",
    )
    full_check: Literal["daily", "weekly", "monthly", "never"] = Field(
        "weekly", description="how often every byte of the models is read and hashed again"
    )
    keep_previous: int = Field(1, ge=0, le=10, description="models no longer referenced that garbage collection keeps")

    @field_validator("address")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                ip_address(value)
            except ValueError:
                raise problem("must be an IP address") from None
        return value


def staging_contradictions(settings: HostSettings) -> list[tuple[str, str]]:
    """Return where `model.source` and `staging.kind` do not fit together, as (key, what)."""
    model, kind = settings.model, settings.staging.kind
    if settings.staging.distribution == "swarm" and settings.staging.swarm_secret is None:
        return [("staging.swarm_secret", "is missing, but staging.distribution is 'swarm': hosts would trust anybody")]
    if model is None:
        return []
    parts = urlsplit(model.source)
    if (parts.scheme == "file") != (kind == "directory"):
        words = "is a directory" if parts.scheme == "file" else "is a URL"
        return [("model.source", f"{words}, but staging.kind is {kind!r}: file:///PATH goes with 'directory' alone")]
    if kind != "hub" and model.source == HUB:
        return [("model.source", f"is the hub, but staging.kind is {kind!r}")]
    if kind == "s3" and not parts.path.strip("/"):
        return [("model.source", "names no bucket: staging.kind 's3' needs ENDPOINT/BUCKET or ENDPOINT/BUCKET/PREFIX")]
    if kind == "oci" and not parts.path.startswith("/v2/"):
        return [("model.source", "must be https://REGISTRY/v2/NAME, since staging.kind is 'oci'")]
    return []
