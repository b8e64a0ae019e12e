"""How containers reach the GPUs: CDI devices where Docker can, the nvidia runtime where it cannot."""

from __future__ import annotations

from typing import Literal

from metalserve.desired.observed import Observation
from metalserve.errors import MetalserveError
from metalserve.releases import Release, version_key
from metalserve.settings import ContainerSettings

GpuAccess = Literal["cdi", "runtime"]

DOCKER_PACKAGES = ("docker-ce", "docker.io")


def docker_version(observed: Observation) -> str | None:
    """Return the upstream version of the installed Docker Engine ("26.1.5"), or None when there is none."""
    for package in DOCKER_PACKAGES:
        version = observed.version_of(package)
        if version is not None:
            return ".".join(str(n) for n in version_key(version)[:3])
    return None


def gpu_access(settings: ContainerSettings, docker: str, release: Release) -> GpuAccess:
    """Return how containers get GPUs on a host with Docker version `docker`.

    Raises:
        MetalserveError: CDI was asked for and this Docker cannot read the toolkit's CDI specifications.
    """
    can = version_key(docker) >= version_key(release.docker.cdi_minimum)
    if settings.gpu_access == "cdi" and not can:
        raise MetalserveError(
            f"container.gpu_access is 'cdi', but Docker {docker} cannot read the CDI specifications of toolkit "
            f"{release.container_toolkit.version} (it takes Docker {release.docker.cdi_minimum})",
            remedy="set container.gpu_access to 'auto' or repositories.docker to Docker's own repository",
        )
    if settings.gpu_access == "runtime":
        return "runtime"
    return "cdi" if can else "runtime"
