"""What an image must not carry: planted, found by the checks, taken away, and not found again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from metalserve.errors import MetalserveError
from metalserve.templates.checks import problems
from metalserve.templates.clean import apt_sources, clean, inside, settle_times, write
from metalserve.templates.spec import load_spec
from metalserve.trees.mirrors import Mirrors
from tests.templates.trees import IDENTITY, KERNEL, listed, small_tree

SPEC = load_spec("debian-13-base")
MIRRORS = Mirrors("http://near.invalid/debian", "http://near.invalid/debian-security")


def wrong(root: Path, *strangers: str) -> list[str]:
    return problems(SPEC, root, IDENTITY, listed, strangers=strangers)


PLANTED = [
    "etc/ssh/ssh_host_ed25519_key",
    "etc/nvme/hostnqn",
    "etc/nvme/hostid",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "var/lib/chrony/chrony.keys",
    "var/lib/cloud/instance/user-data.txt",
    "var/lib/dkms/mok.key",
    "var/log/dpkg.log",
    "var/log/apt/history.log",
    "var/log/journal/abc/system.journal",
    "var/lib/apt/lists/near.invalid_debian_dists_trixie_InRelease",
    "var/cache/apt/archives/bash_5_amd64.deb",
    "etc/passwd-",
    "etc/apt/apt.conf.d/99mmdebstrap",
    "root/.bash_history",
    "tmp/left",
    "usr/sbin/policy-rc.d",
    "usr/local/sbin/uname",
    "var/lib/dkms/nvidia/550.163.01/6.12.94/x86_64/log/make.log",
]


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found_and_taken_away(tmp_path: Path, name: str) -> None:
    root = small_tree(tmp_path / "root")
    assert wrong(root) == []
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("planted")
    found = wrong(root)
    assert len(found) == 1, found
    assert found[0].startswith("/" + name.split("/")[0])
    clean(root, SPEC.os, MIRRORS)
    assert not path.exists()
    assert wrong(root) == []


def test_what_the_machine_is_called_is_not_in_its_image(tmp_path: Path) -> None:
    root = small_tree(tmp_path / "root")
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (root / "etc/hostname").write_text("builder\n")
    assert any("machine-id" in line for line in wrong(root))
    clean(root, SPEC.os, MIRRORS)
    assert (root / "etc/machine-id").read_bytes() == b""
    assert (root / "etc/hostname").read_text() == "localhost\n"


def test_a_node_asks_its_own_mirror_not_the_builds(tmp_path: Path) -> None:
    root = small_tree(tmp_path / "root")
    sources = root / "etc/apt/sources.list.d"
    sources.mkdir(parents=True)
    (root / "etc/apt/sources.list").write_text("deb http://near.invalid/debian trixie main\n")
    more = sources / "metalserve-distribution.sources"
    more.write_text("URIs: http://near.invalid/debian\n\nURIs: http://near.invalid/debian-security\n")
    assert any("http://near.invalid/debian" in line for line in wrong(root, "http://near.invalid/debian"))
    clean(root, SPEC.os, MIRRORS)
    assert not (root / "etc/apt/sources.list").exists()
    assert more.read_text() == f"URIs: {SPEC.os.mirror}\n\nURIs: {SPEC.os.security}\n"
    assert (sources / "debian.sources").read_text() == apt_sources(SPEC.os)
    assert "Suites: trixie trixie-updates\n" in apt_sources(SPEC.os)
    assert wrong(root, "near.invalid") == []


def test_no_link_leads_out_of_the_tree(tmp_path: Path) -> None:
    root, outside = small_tree(tmp_path / "root"), tmp_path / "outside"
    outside.mkdir()
    (outside / "ssh_host_rsa_key").write_text("the builder's")
    (root / "etc/ssh").symlink_to(outside)
    clean(root, SPEC.os, MIRRORS)
    assert (outside / "ssh_host_rsa_key").read_text() == "the builder's"
    with pytest.raises(MetalserveError, match="is a link"):
        write(root, "etc/ssh/sshd_config", "x")
    with pytest.raises(MetalserveError, match="is a link"):
        inside(root, "etc/ssh/x")
    (root / "etc/target").symlink_to(outside / "ssh_host_rsa_key")
    write(root, "etc/target", "in the tree")
    assert (outside / "ssh_host_rsa_key").read_text() == "the builder's"
    assert not (root / "etc/target").is_symlink()


@pytest.mark.parametrize("word", ["$y$j9T$abc$def", ""])
def test_a_password_or_none_at_all_is_refused(tmp_path: Path, word: str) -> None:
    root = small_tree(tmp_path / "root")
    (root / "etc/shadow").write_text(f"root:{word}:20000::::::\nsshd:!:20000::::::\n")
    assert [line.split(":")[0] for line in wrong(root)] == ["/etc/shadow"]


def test_a_private_key_is_refused_a_public_one_is_not(tmp_path: Path) -> None:
    root = small_tree(tmp_path / "root")
    (root / "etc/ssl").mkdir()
    (root / "etc/ssl/all.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    assert wrong(root) == []
    (root / "etc/ssl/own.key").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert wrong(root) == ["/etc/ssl/own.key: a private key, which every node would share"]


def test_a_node_that_would_not_find_its_root_is_refused(tmp_path: Path) -> None:
    root = small_tree(tmp_path / "root")
    (root / "etc/fstab").write_text("/dev/vda1 / ext4 defaults 0 1\n")
    assert any("/etc/fstab" in line for line in wrong(root))
    small_tree(root)

    def without_nvme(words: Sequence[str]) -> str:
        return "\n".join(line for line in listed(words).splitlines() if "nvme" not in line)

    found = problems(SPEC, root, IDENTITY, without_nvme)
    assert found == [f"/boot/initrd.img-{KERNEL}: has no module nvme, and the kernel has not got it built in"]
    assert problems(SPEC, root, IDENTITY, lambda words: "") == [f"/boot/initrd.img-{KERNEL}: cannot be read"]
    (root / f"lib/modules/{KERNEL}/modules.dep").write_text("kernel/drivers/net/igb.ko:\n")
    assert sum("for the network" in line for line in wrong(root)) == 6


def test_a_driver_for_another_kernel_is_refused(tmp_path: Path) -> None:
    root, spec = small_tree(tmp_path / "root"), load_spec("debian-13-l40s")
    table = root / f"lib/modules/{KERNEL}/modules.dep"
    assert [line for line in problems(spec, root, IDENTITY, listed) if "no nvidia module" in line]
    table.write_text(table.read_text() + "updates/dkms/nvidia-current-open.ko.xz: x\n")

    def of(kernel: str) -> list[str]:
        return problems(spec, root, IDENTITY, lambda words: f"{kernel} SMP" if words[0] == "modinfo" else listed(words))

    assert of(KERNEL) == []

    def with_nouveau(words: Sequence[str]) -> str:
        return f"{KERNEL} SMP" if words[0] == "modinfo" else listed(words) + "\nkernel/drivers/gpu/nouveau.ko.xz"

    assert [line.split(":")[1] for line in problems(spec, root, IDENTITY, with_nouveau)] == [
        " has nouveau, which would take the GPUs first"
    ]
    assert [line for line in of("6.18.0-builder") if "is for kernel 6.18.0-builder" in line]


def test_nothing_is_younger_than_the_build_says(tmp_path: Path) -> None:
    root = small_tree(tmp_path / "root")
    (root / "etc/link").symlink_to("/nowhere")
    settle_times(root, 1_000_000)
    assert {path.lstat().st_mtime for path in (root, *root.rglob("*"))} == {1_000_000.0}
