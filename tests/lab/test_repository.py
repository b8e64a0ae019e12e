from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from metalserve.errors import MetalserveError
from metalserve.lab.repository import SigningKey, make_flat_repository, signing_key


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return signing_key(tmp_path_factory.mktemp("keys"))


def package(directory: Path, name: str, version: str) -> None:
    tree = directory.parent / f"{name}-{version}"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: lab <lab@metalserve.invalid>\n"
        "Description: a package of a test\n"
    )
    subprocess.run(["dpkg-deb", "--build", str(tree), str(directory)], check=True, capture_output=True)


class Apt:
    """Real apt, with everything of its own below one directory."""

    def __init__(self, directory: Path, repository: Path, key: SigningKey) -> None:
        self.directory = directory
        for name in ("lists/partial", "cache/archives/partial", "etc"):
            (directory / name).mkdir(parents=True)
        (directory / "status").touch()
        (directory / "sources.list").write_text(f"deb [signed-by={key.public}] copy:{repository} ./\n")

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        at = self.directory
        options = {
            "Dir::State": at, "Dir::State::lists": at / "lists", "Dir::State::status": at / "status",
            "Dir::Cache": at / "cache", "Dir::Etc::sourcelist": at / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null", "Dir::Etc::preferencesparts": "/dev/null",
            "APT::Sandbox::User": "root",
        }  # fmt: skip
        line = [words[0], *(f"-o{key}={value}" for key, value in options.items()), *words[1:]]
        return subprocess.run(line, capture_output=True, text=True, check=False)


@pytest.fixture
def repository(tmp_path: Path, key: SigningKey) -> Path:
    place = tmp_path / "repository"
    place.mkdir()
    for version in ("580.95.05-1", "580.178.04-1"):
        package(place, "nvidia-x", version)
    make_flat_repository(place, key=key, origin="lab", label="test")
    return place


def test_apt_trusts_it_and_sees_every_version(tmp_path: Path, repository: Path, key: SigningKey) -> None:
    apt = Apt(tmp_path / "apt", repository, key)
    updated = apt("apt-get", "update")
    assert updated.returncode == 0, updated.stderr
    assert "W:" not in updated.stderr
    madison = apt("apt-cache", "madison", "nvidia-x").stdout
    assert [line.split("|")[1].strip() for line in madison.splitlines()] == ["580.178.04-1", "580.95.05-1"]


def test_a_changed_index_is_refused_until_signed_again(tmp_path: Path, repository: Path, key: SigningKey) -> None:
    text = (repository / "InRelease").read_text()
    (repository / "InRelease").write_text(text.replace("Origin: lab", "Origin: lob"))
    (repository / "Release.gpg").unlink()
    apt = Apt(tmp_path / "apt", repository, key)
    assert apt("apt-get", "update").returncode != 0
    package(repository, "nvidia-y", "1")
    make_flat_repository(repository, key=key, origin="lab", label="test")
    assert apt("apt-get", "update").returncode == 0
    assert "nvidia-y" in apt("apt-cache", "madison", "nvidia-y").stdout


def test_another_key_is_refused(tmp_path: Path, repository: Path) -> None:
    stranger = signing_key(tmp_path / "stranger")
    refused = Apt(tmp_path / "apt", repository, stranger)("apt-get", "update")
    assert refused.returncode != 0
    assert "NO_PUBKEY" in refused.stderr or "not signed" in refused.stderr


def test_the_key_is_made_once_and_private(tmp_path: Path) -> None:
    first, second = signing_key(tmp_path / "k"), signing_key(tmp_path / "k")
    assert first == second
    assert len(first.fingerprint) == 40
    assert first.secret.stat().st_mode & 0o077 == 0


def test_a_broken_key_file_is_said_so(tmp_path: Path) -> None:
    key = signing_key(tmp_path / "k")
    key.public.write_text("nonsense")
    with pytest.raises(MetalserveError, match=r"lab-signing\.asc"):
        signing_key(tmp_path / "k")
