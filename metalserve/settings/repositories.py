"""Package sources of a host: NVIDIA's repository, the container toolkit's, Docker's, or mirrors of them."""

from __future__ import annotations

import re
from typing import Self

from pydantic import Field, field_validator, model_validator

from metalserve.settings.common import Section, Url, problem

NVIDIA_CUDA_REPOSITORY = "https://developer.download.nvidia.com/compute/cuda/repos/{distro}/{arch}"
"""Source: NVIDIA driver installation guide, network repositories."""

NVIDIA_CUDA_KEY = "EB693B3035CD5710E231E123A4B469963BF863CC"
"""Fingerprint of 3bf863cc.pub, the key of NVIDIA's apt repositories. Source: the cuda-keyring package."""

NVIDIA_CUDA_KEY_DEBIAN13 = "02182E60104FCDC26EAE1B8597A5D4CB8793F200"
"""Fingerprint of 8793F200.pub, which signs the debian13 repository in place of the older key.

Source: the repository directory of debian13 (8793F200.pub stands there, 3bf863cc.pub does not) and reviews of it.
"""


class KeySettings(Section):
    """The key that signs a repository: where to get it and what it must be."""

    url: Url | None = Field(None, description="URL of the key; {distro} and {arch} are filled in")
    file: str | None = Field(None, description="path of the key on the controller, in place of a URL")
    fingerprint: str = Field(description="fingerprint the fetched key must have, 40 hexadecimal digits")

    @field_validator("fingerprint")
    @classmethod
    def _fingerprint(cls, value: str) -> str:
        digits = value.replace(" ", "").upper()
        if not re.fullmatch(r"[0-9A-F]{40}", digits):
            raise problem("must be a full fingerprint of 40 hexadecimal digits (a short key id can be forged)")
        return digits

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.url is None) == (self.file is None):
            raise problem("must have exactly one of url, file")
        return self


class RepositorySettings(Section):
    """One apt repository."""

    url: Url = Field(description="base URL; {distro} becomes debian12, ubuntu2404 ..., {arch} becomes x86_64")
    suite: str = Field("/", description="suite; '/' means a flat repository")
    components: list[str] = Field(default_factory=list, description="components; none for a flat repository")
    key: KeySettings = Field(description="the key that signs it")
    keys_by_distro: dict[str, KeySettings] = Field(
        default_factory=dict, description="keys for distributions signed by another one, e.g. {'debian13': {...}}"
    )

    @model_validator(mode="after")
    def _flat_has_no_components(self) -> Self:
        if self.suite.endswith("/") and self.components:
            raise problem("components must be empty for a flat repository (suite '/')")
        if not self.suite.endswith("/") and not self.components:
            raise problem("components must be given unless the repository is flat (suite '/')")
        return self

    def key_for(self, distro: str) -> KeySettings:
        """Return the key that signs this repository for `distro` (debian12, ubuntu2404 ...)."""
        return self.keys_by_distro.get(distro, self.key)


def _nvidia() -> RepositorySettings:
    return RepositorySettings(
        url=NVIDIA_CUDA_REPOSITORY,
        key=KeySettings(url=f"{NVIDIA_CUDA_REPOSITORY}/3bf863cc.pub", fingerprint=NVIDIA_CUDA_KEY),
        keys_by_distro={
            "debian13": KeySettings(url=f"{NVIDIA_CUDA_REPOSITORY}/8793F200.pub", fingerprint=NVIDIA_CUDA_KEY_DEBIAN13)
        },
    )


class RepositoriesSettings(Section):
    """Where packages come from."""

    nvidia: RepositorySettings = Field(
        default_factory=_nvidia, description="driver, fabric manager, CUDA, DCGM: NVIDIA's CUDA repository or a mirror"
    )
    container_toolkit: RepositorySettings | None = Field(
        None, description="NVIDIA container toolkit; None takes the same packages from `nvidia`"
    )
    docker: RepositorySettings | None = Field(
        None, description="Docker Engine (docker-ce); None takes the distribution's docker.io"
    )
