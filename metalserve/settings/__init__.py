"""The one typed schema of all host data; every other part receives its section of it."""

from __future__ import annotations

from metalserve.settings.common import Section
from metalserve.settings.errors import SettingsError
from metalserve.settings.host import HostSettings
from metalserve.settings.machine import (
    ContainerSettings,
    CudaSettings,
    DriverSettings,
    ExpectSettings,
    HostBaseSettings,
    StorageSettings,
)
from metalserve.settings.monitoring import MonitoringServerSettings, MonitoringSettings
from metalserve.settings.repositories import KeySettings, RepositoriesSettings, RepositorySettings
from metalserve.settings.router import RouterSettings
from metalserve.settings.secret import SecretRef
from metalserve.settings.serving import EngineSettings, GroupSettings, ModelSettings
from metalserve.settings.verification import VerifySettings

__all__ = [
    "ContainerSettings",
    "CudaSettings",
    "DriverSettings",
    "EngineSettings",
    "ExpectSettings",
    "GroupSettings",
    "HostBaseSettings",
    "HostSettings",
    "KeySettings",
    "ModelSettings",
    "MonitoringServerSettings",
    "MonitoringSettings",
    "RepositoriesSettings",
    "RepositorySettings",
    "RouterSettings",
    "SecretRef",
    "Section",
    "SettingsError",
    "StorageSettings",
    "VerifySettings",
]
