"""All settings of one host, and the way from inventory data to them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from metalserve.settings.bmc import BmcSettings
from metalserve.settings.common import Section, problem
from metalserve.settings.fabric import FabricSettings
from metalserve.settings.machine import (
    ContainerSettings,
    CudaSettings,
    DriverSettings,
    ExpectSettings,
    HostBaseSettings,
    StorageSettings,
)
from metalserve.settings.monitoring import MonitoringSettings
from metalserve.settings.repositories import RepositoriesSettings
from metalserve.settings.router import RouterSettings
from metalserve.settings.serving import EngineSettings, ModelSettings
from metalserve.settings.staging import StagingSettings
from metalserve.settings.verification import VerifySettings, with_verify


class HostSettings(Section):
    """All settings of one host."""

    release: str = Field(description="name of the pinned set of versions, a file of files/releases")
    expect: ExpectSettings = Field(default_factory=ExpectSettings, description="what was bought")
    repositories: RepositoriesSettings = Field(default_factory=RepositoriesSettings, description="package sources")
    base: HostBaseSettings = Field(default_factory=HostBaseSettings, description="base system")
    driver: DriverSettings = Field(default_factory=DriverSettings, description="NVIDIA driver")
    cuda: CudaSettings = Field(default_factory=CudaSettings, description="CUDA on the host")
    container: ContainerSettings = Field(default_factory=ContainerSettings, description="Docker and its GPU access")
    fabric: FabricSettings = Field(default_factory=FabricSettings, description="NVLink fabric across hosts")
    storage: StorageSettings = Field(default_factory=StorageSettings, description="file system of the models")
    model: ModelSettings | None = Field(None, description="model to serve; None brings the host up without serving")
    staging: StagingSettings = Field(default_factory=StagingSettings, description="how models come onto the host")
    engine: EngineSettings = Field(default_factory=EngineSettings, description="vLLM engine")
    verify: VerifySettings = Field(default_factory=VerifySettings, description="what deploys/verify.py measures")
    router: RouterSettings | None = Field(None, description="router of the fleet on this host; None: it is none")
    monitoring: MonitoringSettings | None = Field(None, description="metrics of this host; None: it is not watched")
    bmc: BmcSettings | None = Field(None, description="the host's BMC; None: nothing is done out of band")
    simulated: bool = Field(False, description="the GPUs of this host are simulated (the built-in lab)")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: Any) -> Any:
        return with_verify(data)

    @field_validator("release")
    @classmethod
    def _release(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", value):
            raise problem("must be the name of a release (letters, digits, . _ -)")
        return value

    @classmethod
    def from_data(cls, data: Mapping[str, Any], *, host: str, source: str) -> Self:
        """Read a host's inventory data.

        Keys of pyinfra itself (`ssh_user`, `_sudo`, ...) are left out of account.

        Args:
            data: the host's data as pyinfra merged it from groups and host.
            host: the host's name, for messages.
            source: the inventory file, for messages.

        Raises:
            SettingsError: with every problem of the host, one a line.
        """
        from metalserve.settings.reading import read_settings

        return read_settings(cls, data, host=host, source=source)

    def warnings(self) -> list[str]:
        """Return what is allowed but should be known, each `key: what`."""
        from metalserve.settings.consistency import warnings

        return warnings(self)
