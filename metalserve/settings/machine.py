"""Settings of the machine: what was bought, base system, driver, CUDA, containers, storage."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from metalserve.settings.common import AbsolutePath, Positive, Section, problem


class ExpectSettings(Section):
    """What was bought. The topology check fails a host that is less; None takes what the PCI ids imply."""

    gpu: str | None = Field(None, description="GPU model, an id of the catalogue such as 'h100-sxm'")
    count: int | None = Field(None, ge=0, description="number of GPUs")
    links: Literal["nvswitch", "bridge", "direct", "pcie"] | None = Field(
        None, description="how the GPUs are joined: by NVSwitch, NVLink bridge, direct NVLink, or PCIe alone"
    )
    nvlinks_per_gpu: int | None = Field(None, ge=0, description="active NVLinks of each GPU")
    nvme_count: int | None = Field(None, ge=0, description="number of NVMe drives")

    @field_validator("gpu")
    @classmethod
    def _gpu(cls, value: str | None) -> str | None:
        # Held to a form before the catalogue's message may quote it.
        if value is not None and not re.fullmatch(r"[a-z0-9-]{1,40}", value):
            raise problem("must be a GPU's id in the catalogue, in small letters, such as 'h100-sxm'")
        return value


class HostBaseSettings(Section):
    """The base system."""

    timezone: str = Field("Etc/UTC", description="time zone of the host, a name such as 'Europe/Rome'")
    ntp: bool = Field(True, description="keep the clock by NTP")
    packages: list[str] = Field(default_factory=list, description="packages installed besides those roles need")
    sysctl: dict[str, str] = Field(default_factory=dict, description="kernel parameters, merged over the role's own")
    nofile: int = Field(1048576, ge=1024, description="open files a process may have")
    memlock: str = Field("unlimited", description="memory a process may lock: 'unlimited' or KiB")

    @field_validator("timezone")
    @classmethod
    def _timezone(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*", value):
            raise problem("must be the name of a time zone such as 'Etc/UTC'")
        return value

    @field_validator("packages")
    @classmethod
    def _packages(cls, value: list[str]) -> list[str]:
        if not all(re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", name) for name in value):
            raise problem("must be names of Debian packages (small letters, digits, + - .)")
        return value

    @field_validator("sysctl")
    @classmethod
    def _sysctl(cls, value: dict[str, str]) -> dict[str, str]:
        if not all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_./-]*", name) for name in value):
            raise problem("must map names such as 'vm.swappiness' to values")
        if any("\n" in text or not text for text in value.values()):
            raise problem("values must be one line of text")
        return value

    @field_validator("memlock")
    @classmethod
    def _memlock(cls, value: str) -> str:
        if value != "unlimited" and not re.fullmatch(r"[1-9][0-9]*", value):
            raise problem("must be 'unlimited' or a number of KiB as text")
        return value


class DriverSettings(Section):
    """The NVIDIA driver; its version comes from the release, or from the distribution where `source` says so."""

    source: Literal["nvidia", "distro"] = Field(
        "nvidia",
        description="whose packages: 'nvidia' takes the release's version from NVIDIA's CUDA repository, 'distro' what "
        "the distribution's own archive has",
    )
    modules: Literal["auto", "open", "proprietary"] = Field(
        "auto", description="kernel modules: 'auto' takes what the GPUs need, open where both work"
    )
    reboot: Literal["auto", "never"] = Field(
        "auto", description="'auto' reboots when the driver cannot be loaded otherwise; 'never' fails instead"
    )
    reboot_timeout_s: Positive = Field(
        1800, description="seconds a reboot may take; GPU servers need many minutes of self-test"
    )
    persistence: bool = Field(True, description="run nvidia-persistenced, so that the driver stays loaded")


class CudaSettings(Section):
    """CUDA on the host itself; containers bring their own."""

    toolkit: bool = Field(False, description="install the CUDA toolkit; serving from containers needs none")


class ContainerSettings(Section):
    """Docker and the NVIDIA container toolkit."""

    gpu_access: Literal["auto", "cdi", "runtime"] = Field(
        "auto",
        description="how containers get GPUs: CDI devices or the nvidia runtime; 'auto' takes CDI where it works",
    )
    data_root: AbsolutePath = Field("/var/lib/docker", description="directory of images and containers")
    live_restore: bool = Field(
        True,
        description="containers go on while Docker restarts (not engines: their units end with it); "
        "must be off in a swarm",
    )
    log_max_size: str = Field("50m", description="size at which a container's log is rotated, k, m or g")
    log_max_files: Positive = Field(5, description="logs kept of each container")

    @field_validator("log_max_size")
    @classmethod
    def _size(cls, value: str) -> str:
        if not re.fullmatch(r"[1-9][0-9]*[kmg]", value):
            raise problem("must be a number with k, m or g, such as '50m'")
        return value


_SERIAL = r"[A-Za-z0-9_.-]+"


class StorageSettings(Section):
    """The file system that holds the models."""

    mount: AbsolutePath = Field("/srv/models", description="where it is mounted")
    device: str = Field(
        "auto",
        description="'auto': the one empty NVMe drive (of several the fastest), or the one metalserve formatted; "
        "'serial:XYZ': that drive; 'raid0': all empty drives as one array, 'raid0:XYZ,ABC': those; "
        "'none': a directory of the existing file system",
    )
    erase: list[str] = Field(
        default_factory=list,
        description="serial numbers of drives whose CONTENT IS LOST when `device` takes them; remove it afterwards",
    )
    filesystem: Literal["xfs", "ext4"] = Field("xfs", description="file system made on an empty drive")
    read_ahead_kib: int = Field(
        4096, ge=128, le=65536, description="KiB that the kernel reads ahead from each drive of the models"
    )
    min_free_gib: float = Field(0.0, ge=0, allow_inf_nan=False, description="GiB that must stay free after staging")

    @field_validator("device")
    @classmethod
    def _device(cls, value: str) -> str:
        if value in ("auto", "none", "raid0") or re.fullmatch(f"serial:{_SERIAL}", value):
            return value
        if not re.fullmatch(rf"raid0:{_SERIAL}(,{_SERIAL})+", value):
            raise problem(
                "must be 'auto', 'none', 'raid0', 'raid0:SERIAL,SERIAL...' or 'serial:...' "
                "(device names such as nvme0n1 change between boots)"
            )
        serials = value.removeprefix("raid0:").split(",")
        if len(set(serials)) < len(serials):
            raise problem("names a drive twice")
        return value

    @field_validator("erase")
    @classmethod
    def _erase(cls, value: list[str]) -> list[str]:
        if not all(re.fullmatch(_SERIAL, serial) for serial in value):
            raise problem("must be a list of serial numbers, as `nvme list` prints them")
        return value

    @property
    def raid(self) -> bool:
        """Whether several drives are to be one array."""
        return self.device.partition(":")[0] == "raid0"

    @property
    def serials(self) -> tuple[str, ...]:
        """Serial numbers that `device` names; empty where the drives are found."""
        return tuple(filter(None, self.device.partition(":")[2].split(",")))

    @field_validator("mount")
    @classmethod
    def _mount(cls, value: str) -> str:
        top = value.split("/")[1]
        if value == "/" or top in ("bin", "boot", "dev", "etc", "lib", "lib64", "proc", "run", "sbin", "sys", "usr"):
            raise problem("must not be a directory of the system; take one such as '/srv/models'")
        return value
