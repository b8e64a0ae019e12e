"""Names of packages, repositories and how containers get GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from metalserve.desired.observed import Observation, ObservedPackage
from metalserve.driver import docker_version, gpu_access, platform_of, repository_wish
from metalserve.driver.packages import header_packages, toolkit_package
from metalserve.errors import MetalserveError
from metalserve.releases import load_release
from metalserve.settings import ContainerSettings, KeySettings, RepositoriesSettings, RepositorySettings

RELEASE = load_release("2026.11-lts")


@pytest.mark.parametrize(
    ("os_id", "kernel", "names"),
    [
        ("debian-12", "6.1.0-44-amd64", ["linux-headers-6.1.0-44-amd64", "linux-headers-amd64"]),
        ("debian-12", "6.1.0-44-cloud-amd64", ["linux-headers-6.1.0-44-cloud-amd64", "linux-headers-cloud-amd64"]),
        ("debian-13", "6.12.5-rt-amd64", ["linux-headers-6.12.5-rt-amd64", "linux-headers-rt-amd64"]),
        ("ubuntu-24.04", "6.8.0-90-generic", ["linux-headers-6.8.0-90-generic"]),
        ("debian-12", "6.18.44-custom", []),
    ],
)
def test_headers_are_named_after_the_kernel(os_id: str, kernel: str, names: list[str]) -> None:
    assert [p.name for p in header_packages(platform_of(os_id), kernel)] == names


def test_toolkit_is_never_a_package_that_brings_a_driver() -> None:
    assert toolkit_package("13.0").name == "cuda-toolkit-13-0"


def test_nvidia_repository_is_bound_to_the_key_of_its_distribution() -> None:
    settings = RepositoriesSettings().nvidia
    bookworm = repository_wish("nvidia", settings, platform_of("debian-12"), "# x\n")
    trixie = repository_wish("nvidia", settings, platform_of("debian-13"), "# x\n")
    assert bookworm.files[0].content == (
        "# x\nTypes: deb\n"
        "URIs: https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64\n"
        "Suites: /\nSigned-By: /etc/apt/keyrings/metalserve-nvidia.asc\n"
    )
    assert bookworm.keys[0].fingerprint != trixie.keys[0].fingerprint
    assert trixie.keys[0].url is not None and "/debian13/" in trixie.keys[0].url


def test_repository_with_components_and_a_key_from_the_controller(tmp_path: Path) -> None:
    key = tmp_path / "key.asc"
    key.write_text("-----BEGIN PGP PUBLIC KEY BLOCK-----\n")
    settings = RepositorySettings(
        url="https://mirror.example/linux/{family}",
        suite="{codename}",
        components=["stable"],
        key=KeySettings(file=str(key), fingerprint="A" * 40),
    )
    wish = repository_wish("docker", settings, platform_of("ubuntu-24.04"), "# x\n")
    assert wish.files[0].content is not None
    assert "URIs: https://mirror.example/linux/ubuntu\nSuites: noble\nComponents: stable\n" in wish.files[0].content
    assert wish.keys[0].content == key.read_text()
    key.unlink()
    with pytest.raises(MetalserveError, match="cannot be read") as error:
        repository_wish("docker", settings, platform_of("ubuntu-24.04"), "# x\n")
    assert "repositories.docker.key.file" in str(error.value)


@pytest.mark.parametrize(
    ("package", "version", "found"),
    [
        ("docker.io", "20.10.24+dfsg1-1+deb12u1+b2", "20.10.24"),
        ("docker.io", "26.1.5+dfsg1-9+b9", "26.1.5"),
        ("docker-ce", "5:28.1.1-1~debian.12~bookworm", "28.1.1"),
    ],
)
def test_docker_version(package: str, version: str, found: str) -> None:
    observed = Observation(packages={package: ObservedPackage(package, version, "ii ")})
    assert docker_version(observed) == found
    assert docker_version(Observation(packages={package: ObservedPackage(package, version, "iU ")})) is None


@pytest.mark.parametrize(
    ("setting", "docker", "access"),
    [
        ("auto", "20.10.24", "runtime"),
        ("auto", "26.0.9", "runtime"),
        ("auto", "26.1.0", "cdi"),
        ("auto", "28.1.1", "cdi"),
        ("runtime", "28.1.1", "runtime"),
        ("cdi", "26.1.5", "cdi"),
    ],
)
def test_containers_get_gpus_by_cdi_where_docker_can(setting: str, docker: str, access: str) -> None:
    assert gpu_access(ContainerSettings(gpu_access=setting), docker, RELEASE) == access  # type: ignore[arg-type]


def test_cdi_is_refused_where_docker_cannot() -> None:
    with pytest.raises(MetalserveError, match=r"Docker 20\.10\.24 cannot read"):
        gpu_access(ContainerSettings(gpu_access="cdi"), "20.10.24", RELEASE)
