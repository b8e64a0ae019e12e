"""What a build is told to run, and the state of the archive that it runs on: nothing is run here."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from metalserve.errors import MetalserveError
from metalserve.templates.archive import Archive, check_unchanged, mirrors_for, read_archive
from metalserve.templates.rootfs import apt_recipe, dnf_command, dnf_repositories, fetch_pool_file, packages_of
from metalserve.templates.spec import PoolFile, TemplateSpec, load_spec
from metalserve.trees.mirrors import Mirrors

MIRRORS = Mirrors("http://near.invalid/os", "http://near.invalid/os-security")


@pytest.mark.parametrize(
    ("name", "suite", "components", "kernel"),
    [
        ("debian-12", "bookworm", "main contrib non-free-firmware", "linux-image-amd64"),
        ("debian-12-l40s", "bookworm", "main", "linux-image-amd64/bookworm"),
        ("debian-13-base", "trixie", "main", "linux-image-amd64"),
        ("ubuntu-22.04", "jammy", "main restricted universe", "linux-image-generic"),
        ("ubuntu-24.04", "noble", "main restricted universe", "linux-image-generic"),
    ],
)
def test_mmdebstrap_is_told_everything(name: str, suite: str, components: str, kernel: str) -> None:
    spec = load_spec(name)
    words = apt_recipe(
        spec, MIRRORS, Path("/keys/of.gpg"), cache=Path("/c a"), options=('Acquire::Retries "3"',)
    ).command(Path("/build/root"))
    assert words[0] == "mmdebstrap"
    rest = words[words.index(suite) :]
    assert rest == [
        suite,
        "/build/root",
        f"deb [signed-by=/keys/of.gpg] http://near.invalid/os {suite} {components}",
        f"deb [signed-by=/keys/of.gpg] http://near.invalid/os {suite}-updates {components}",
        f"deb [signed-by=/keys/of.gpg] http://near.invalid/os-security {suite}-security {components}",
    ]
    included = next(word for word in words if word.startswith("--include=")).removeprefix("--include=").split(",")
    assert {
        kernel,
        "shim-signed",
        "grub-efi-amd64-signed",
        "systemd",
        "openssh-server",
        "cloud-init",
        *spec.packages,
    } <= set(included)
    assert len(included) == len(set(included))
    assert "--dpkgopt=path-include=/usr/share/doc/*/copyright" in words, "an image is handed on: licences stay"
    assert '--aptopt=Acquire::Retries "3"' in words
    assert any("'/c a'/*.deb" in word for word in words)
    answers = next(word for word in words if word.startswith("--essential-hook="))
    assert "grub2/update_nvram boolean false' | chroot" in answers and r"'%s\n'" in answers


def test_mmdebstrap_gets_no_boot_loader_for_a_unified_image() -> None:
    value = load_spec("debian-13-base").model_dump(mode="json")
    spec = TemplateSpec.model_validate({**value, "boot": {"chain": "uki"}})
    words = apt_recipe(spec, MIRRORS, Path("/keys/of.gpg"), cache=None).command(Path("/build/root"))
    assert not any("grub" in word for word in words)


def test_a_release_without_resolved_as_a_package_does_not_ask_for_it() -> None:
    assert "systemd-resolved" not in packages_of(load_spec("ubuntu-22.04"))
    assert "systemd-resolved" in packages_of(load_spec("ubuntu-24.04"))


@pytest.mark.parametrize("release", ["9", "10"])
def test_dnf_is_told_everything(release: str) -> None:
    spec = load_spec(f"rocky-{release}")
    words = dnf_command(spec, Path("/build/root"), Path("/build/repositories"), Path("/cache"))
    assert words[0] == "dnf"
    assert "--installroot=/build/root" in words
    assert f"--releasever={release}" in words
    assert "--setopt=reposdir=/build/repositories" in words, "the builder's own repositories are not read"
    asked = words[words.index("install") + 1 :]
    assert {"kernel", "systemd", "openssh-server", "cloud-init", *spec.packages} <= set(asked)
    text = dnf_repositories(spec, Mirrors("https://near.invalid/rocky"))
    assert text.count("gpgcheck=1") == text.count("[") == 3
    assert f"baseurl=https://near.invalid/rocky/{release}/AppStream/x86_64/os/\n" in text


def index(date: str) -> bytes:
    return f"Origin: Debian\nDate: {date}\nSHA256:\n".encode()


def test_the_archive_is_known_by_its_indexes_and_dated_by_the_newest() -> None:
    spec = load_spec("debian-13")
    contents = {
        "http://near.invalid/os/dists/trixie/InRelease": index("Sat, 21 Nov 2026 09:15:44 UTC"),
        "http://near.invalid/os/dists/trixie-updates/InRelease": index("Tue, 24 Nov 2026 02:12:15 UTC"),
        "http://near.invalid/os-security/dists/trixie-security/InRelease": index("Mon, 23 Nov 2026 10:00:00 UTC"),
    }
    archive = read_archive(spec.os, MIRRORS, contents.__getitem__)
    assert archive.epoch == 1795486335
    assert archive.suites == {
        url.split("/")[-2]: hashlib.sha256(content).hexdigest() for url, content in contents.items()
    }


def test_repositories_of_the_rhel_family_are_dated_too() -> None:
    spec = load_spec("rocky-9")
    archive = read_archive(spec.os, Mirrors("http://r.invalid"), lambda url: b"<repomd><revision>1795000000</revision>")
    assert archive.epoch == 1795000000
    assert set(archive.suites) == {"BaseOS", "AppStream", "CRB"}


def test_what_is_no_index_is_not_taken_for_one() -> None:
    with pytest.raises(MetalserveError, match="not the index of an archive"):
        read_archive(load_spec("debian-13").os, MIRRORS, lambda url: b"<html>proxy error</html>")


def test_a_mirror_out_of_reach_is_one_line_that_says_what_to_do() -> None:
    spec = load_spec("ubuntu-24.04")
    mirrors = mirrors_for(spec.os, {"METALSERVE_TEMPLATE_MIRROR": "http://127.0.0.1:9/ubuntu"})
    assert mirrors == Mirrors("http://127.0.0.1:9/ubuntu", None)
    with pytest.raises(MetalserveError) as caught:
        read_archive(spec.os, mirrors)
    assert "http://127.0.0.1:9/ubuntu/dists/noble/InRelease: the mirror is not in reach" in str(caught.value)
    assert "METALSERVE_TEMPLATE_MIRROR" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_nearer_mirror_the_specifications_is_taken() -> None:
    spec = load_spec("rocky-10")
    assert mirrors_for(spec.os, {}) == Mirrors(spec.os.mirror, None)


def test_an_archive_renewed_meanwhile_is_noticed(tmp_path: Path) -> None:
    lists = tmp_path / "var/lib/apt/lists"
    lists.mkdir(parents=True)
    (lists / "near_os_dists_trixie_InRelease").write_bytes(b"old")
    (lists / "vendor_repo_dists_x_InRelease").write_bytes(b"of another archive")
    archive = Archive(MIRRORS, {"trixie": hashlib.sha256(b"old").hexdigest()}, 0)
    check_unchanged(tmp_path, archive)
    (lists / "near_os_dists_trixie_InRelease").write_bytes(b"new")
    with pytest.raises(MetalserveError, match="renewed while the template was built"):
        check_unchanged(tmp_path, archive)


def test_a_kernel_by_file_is_taken_only_as_the_specification_has_it(tmp_path: Path) -> None:
    pool, cache = tmp_path / "pool/main", tmp_path / "cache"
    pool.mkdir(parents=True)
    (pool / "k_1.deb").write_bytes(b"kernel")
    mirrors = Mirrors(tmp_path.as_uri())
    right = PoolFile(path="pool/main/k_1.deb", sha256=hashlib.sha256(b"kernel").hexdigest())
    assert fetch_pool_file(mirrors, right, cache).read_bytes() == b"kernel"
    (pool / "k_1.deb").unlink()
    assert fetch_pool_file(mirrors, right, cache).read_bytes() == b"kernel", "kept"
    (cache / "k_1.deb").write_bytes(b"broken")
    with pytest.raises(MetalserveError, match="cannot be fetched"):
        fetch_pool_file(mirrors, right, cache)
    (pool / "k_1.deb").write_bytes(b"another")
    with pytest.raises(MetalserveError, match="not the file of the specification"):
        fetch_pool_file(mirrors, right, cache)
    assert (cache / "k_1.deb").read_bytes() == b"broken", "nothing wrong was put in its place"
