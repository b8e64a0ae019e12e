"""The stand-in packages: real .deb files, and apt's own decisions over a repository of them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from metalserve.lab.packages import MARK, build_packages, build_repository, deb_architecture
from metalserve.lab.packages.driver import DRIVERS
from metalserve.lab.packages.model import LAB_BIN
from metalserve.lab.packages.table import all_packages
from metalserve.lab.repository import SigningKey, signing_key
from metalserve.lab.sim_setup import TOOLS

needs_dpkg = pytest.mark.skipif(
    not (shutil.which("dpkg-deb") and shutil.which("apt-ftparchive") and shutil.which("apt-get")),
    reason="needs dpkg, apt and apt-utils",
)


def test_every_relation_can_be_met() -> None:
    packages = all_packages("6.1.0-test")
    known = {(package.name, package.version) for package in packages}
    names = {package.name for package in packages}
    provided = {
        word.strip().split(" ")[0] for package in packages for word in package.relations.get("Provides", "").split(",")
    }
    real = {"kmod", "init-system-helpers"}  # of the distribution itself
    for package in packages:
        for clause in package.relations.get("Depends", "").split(","):
            if not clause.strip():
                continue
            met = False
            for alternative in clause.split("|"):
                found = re.fullmatch(r"(\S+)(?: \(= (\S+)\))?", alternative.strip())
                assert found, alternative
                name, version = found.groups()
                met |= (name, version) in known if version else name in names | provided | real
            assert met, f"{package.name} {package.version}: {clause}"


def test_tools_that_packages_call_exist() -> None:
    called = {
        word.rsplit("/", 1)[1]
        for package in all_packages("6.1.0-test")
        for file in package.files.values()
        for word in re.findall(rf"{LAB_BIN}/[\w-]+", file.text)
    }
    assert called
    assert called <= set(TOOLS)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SigningKey]:
    place = tmp_path_factory.mktemp("repository")
    key = signing_key(place / "keys")
    build_repository(place / "www", key)
    return place / "www/nvidia/debian12", key


Apt = Callable[..., str]


@pytest.fixture
def apt(tmp_path: Path, repository: tuple[Path, SigningKey]) -> Apt:
    """apt-get over the repository alone, with a package database of its own; it only simulates."""
    tree, key = repository
    directory = next(tree.iterdir())
    for name in ("etc/preferences.d", "state/lists/partial", "cache/archives/partial", "log"):
        (tmp_path / name).mkdir(parents=True)
    status = "".join(
        f"Package: {name}\nStatus: install ok installed\nVersion: 99\nArchitecture: {deb_architecture()}\n"
        "Maintainer: x\nDescription: x\n\n"
        for name in ("kmod", "init-system-helpers")
    )
    (tmp_path / "status").write_text(status)
    (tmp_path / "etc/sources.list").write_text(f"deb [signed-by={key.public}] file:{directory} ./\n")
    options = {
        "Dir::Etc": tmp_path / "etc",
        "Dir::Etc::sourcelist": tmp_path / "etc/sources.list",
        "Dir::Etc::preferencesparts": tmp_path / "etc/preferences.d",
        "Dir::State": tmp_path / "state",
        "Dir::State::status": tmp_path / "status",
        "Dir::Cache": tmp_path / "cache",
        "Dir::Log": tmp_path / "log",
        "APT::Sandbox::User": "root" if os.geteuid() == 0 else "",
        "APT::Architecture": deb_architecture(),
    }
    config = tmp_path / "apt.conf"
    config.write_text("".join(f'{name} "{value}";\n' for name, value in options.items()))
    environment = {**os.environ, "APT_CONFIG": str(config), "LC_ALL": "C"}

    def run(*args: str) -> str:
        done = subprocess.run(
            ["apt-get", *args], capture_output=True, text=True, env=environment, check=False, timeout=60
        )
        return done.stdout + done.stderr + f"\nrc={done.returncode}"

    assert "rc=0" in run("update")
    return run


def pin(apt_place: Path, name: str) -> None:
    """Put the preferences of a pinning package in place, under the name that the package gives the file."""
    package = next(each for each in all_packages("x") if each.name == f"nvidia-driver-pinning-{name}")
    (path, file), *_ = package.files.items()
    (apt_place / "etc/preferences.d" / Path(path).name).write_text(file.text)


@needs_dpkg
def test_unpinned_fabric_manager_takes_the_newest_branch(apt: Apt) -> None:
    """The trap that the pinning packages exist for."""
    assert "Inst nvidia-fabricmanager (595.91.07-1" in apt("install", "-s", "nvidia-fabricmanager")


@needs_dpkg
@pytest.mark.parametrize(
    ("name", "version"),
    [("580", "580.178.04"), ("580.178.04", "580.178.04"), ("580.159.03", "580.159.03"), ("595", "595.91.07")],
)
def test_pinned_family_agrees(apt: Apt, tmp_path: Path, name: str, version: str) -> None:
    pin(tmp_path, name)
    said = apt("install", "-s", "nvidia-kernel-open-dkms", "nvidia-driver-cuda", "nvidia-fabricmanager", "nvlink5")
    assert said.endswith("rc=0"), said
    installed = dict(re.findall(r"^Inst (\S+) \((\S+)", said, re.MULTILINE))
    family = {each for package, each in installed.items() if package not in ("dkms", "nvlsm")}
    assert family == {f"{version}-1"}
    assert {"nvidia-smi", "nvidia-persistenced", "libnvidia-ml1", "dkms", "libnvidia-nscq"} <= set(installed)


@needs_dpkg
def test_open_and_proprietary_modules_exclude_each_other(apt: Apt) -> None:
    said = apt("install", "-s", "nvidia-kernel-open-dkms", "nvidia-kernel-dkms")
    assert "rc=100" in said
    assert "Conflicts" in said


@needs_dpkg
def test_only_one_pinning_package(apt: Apt) -> None:
    assert "rc=100" in apt("install", "-s", "nvidia-driver-pinning-580", "nvidia-driver-pinning-595")


@needs_dpkg
def test_container_toolkit_versions_are_tied(apt: Apt) -> None:
    said = apt("install", "-s", "nvidia-container-toolkit=1.19.1-1")
    assert "rc=100" in said, "an older version needs all four packages named, as NVIDIA's page says"
    four = ("nvidia-container-toolkit", "nvidia-container-toolkit-base", "libnvidia-container-tools")
    said = apt("install", "-s", *(f"{name}=1.19.1-1" for name in (*four, "libnvidia-container1")))
    assert said.endswith("rc=0")


@needs_dpkg
def test_descriptions_say_what_they_are(tmp_path: Path) -> None:
    chosen = [each for each in all_packages("x") if each.name in ("nvidia-smi", "dkms", "nvidia-fabricmanager")]
    for deb in build_packages(chosen, tmp_path, deb_architecture()):
        said = subprocess.run(["dpkg-deb", "-f", deb, "Description"], capture_output=True, text=True, check=True).stdout
        assert said.startswith(MARK)
        listing = subprocess.run(["dpkg-deb", "-c", deb], capture_output=True, text=True, check=True).stdout
        assert "root/root" in listing
    assert len(chosen) == 2 * len(DRIVERS) + 1


@needs_dpkg
def test_building_again_does_nothing(repository: tuple[Path, SigningKey]) -> None:
    tree, key = repository
    release = next(tree.iterdir()) / "Release"
    before = release.stat().st_mtime_ns
    build_repository(tree.parent.parent, key)
    assert release.stat().st_mtime_ns == before
