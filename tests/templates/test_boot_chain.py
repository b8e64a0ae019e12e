"""What firmware starts: the distribution's signed programs and where they lie, and what Secure Boot would refuse."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from metalserve.errors import MetalserveError
from metalserve.hardware.parsers.boot_menu import grub_menu as read_menu
from metalserve.templates.boot_chain import (
    boot_words,
    chain_problems,
    esp_files,
    foreign_modules,
    grub_defaults,
    grub_menu,
    grub_stub,
    is_signed,
    unsigned,
)
from metalserve.templates.machine import furnish
from metalserve.templates.spec import TemplateSpec, known_specs, load_spec
from tests.templates.trees import IDENTITY, KERNEL, SIGNED, efi_program, small_tree

DKMS = "updates/dkms/nvidia.ko.xz"


def spec(base: str = "debian-13-base", **boot: str) -> TemplateSpec:
    return TemplateSpec.model_validate({**load_spec(base).model_dump(mode="json"), "boot": boot})


def signer(answer: str) -> Any:
    def run(words: Sequence[str]) -> str:
        assert words[:3] == ["modinfo", "-F", "signer"], words
        return f"{answer}\n" if answer else ""

    return run


def with_modules(root: Path) -> Path:
    small_tree(root)
    with (root / "lib/modules" / KERNEL / "modules.dep").open("a") as stream:
        stream.write(f"{DKMS}: kernel/drivers/x.ko.xz\n")
    return root


@pytest.mark.parametrize("name", known_specs())
def test_what_a_distribution_signs_is_what_its_images_boot_by(name: str) -> None:
    found = load_spec(name)
    assert found.chain == ("uki" if found.os.distribution == "rocky" else "distribution")


@pytest.mark.parametrize(
    ("base", "changed", "words"),
    [
        ("rocky-9", {"boot": {"chain": "distribution"}}, "cannot have the distribution's yet"),
        ("debian-13-base", {"boot": {"chain": "uki", "secure_boot": "required"}}, "nobody signs"),
        ("rocky-9", {"boot": {"secure_boot": "required"}}, "nobody signs"),
        ("debian-13-base", {"kernel": {"package": "linux-image-amd64", "command_line": "a=$x"}}, "GRUB"),
        ("debian-13-base", {"kernel": {"package": "linux-image-amd64", "command_line": "a; reboot"}}, "GRUB"),
    ],
)
def test_what_cannot_boot_so_is_refused(base: str, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TemplateSpec.model_validate({**load_spec(base).model_dump(mode="json"), **changed})


def test_a_unified_image_takes_any_command_line() -> None:
    value = load_spec("debian-13-base").model_dump(mode="json")
    kernel = {"package": "linux-image-amd64", "command_line": "memmap=2G$4G"}
    assert TemplateSpec.model_validate({**value, "boot": {"chain": "uki"}, "kernel": kernel}).chain == "uki"


def test_firmware_gets_shim_and_nothing_that_makes_boot_entries(tmp_path: Path) -> None:
    root = small_tree(tmp_path / "root")
    files = {each.target: each.source for each in esp_files(spec(), root, tmp_path / "stub")}
    assert files["EFI/BOOT/BOOTX64.EFI"] == root / "usr/lib/shim/shimx64.efi.signed"
    assert files["EFI/BOOT/grubx64.efi"] == root / SIGNED[3]
    assert "EFI/BOOT/fbx64.efi" not in files
    assert files["EFI/debian/grub.cfg"] == tmp_path / "stub"
    programs = [source for target, source in files.items() if target.lower().endswith(".efi")]
    assert len(programs) == 7 and all(map(is_signed, programs))


def test_a_tree_without_the_packages_is_refused_by_name(tmp_path: Path) -> None:
    root = small_tree(tmp_path)
    (root / SIGNED[0]).unlink()
    (root / SIGNED[0]).symlink_to("/etc/alternatives/shim")  # leads out of the tree
    with pytest.raises(MetalserveError, match="shimx64") as caught:
        esp_files(spec(), root, tmp_path / "stub")
    assert "grub-efi-amd64-signed" in str(caught.value)
    assert any("shimx64" in line for line in chain_problems(spec(), root, signer("")))
    (root / f"{SIGNED[0]}.latest").write_bytes(efi_program())  # as Ubuntu has it beside the link
    assert esp_files(spec(), root, tmp_path / "stub")[0].source.name == "shimx64.efi.signed.latest"


def test_the_menu_names_every_kernel_and_is_one_that_we_can_read(tmp_path: Path) -> None:
    root = small_tree(tmp_path)
    (root / "boot/vmlinuz-6.12.9-amd64").touch()
    found = read_menu("/boot/grub/grub.cfg", grub_menu(spec(), root, IDENTITY.file_system), "", "", {})
    assert [entry.image for entry in found.entries] == [f"/boot/vmlinuz-{KERNEL}", "/boot/vmlinuz-6.12.9-amd64"]
    assert found.default == "0"
    assert found.entries[0].arguments.split() == [
        f"root=UUID={IDENTITY.file_system}", "ro", *spec().kernel.command_line.split()
    ]  # fmt: skip
    assert f"search.fs_uuid {IDENTITY.file_system} root\n" in grub_stub(IDENTITY.file_system)


def test_a_kernel_that_comes_later_gets_the_same_command_line() -> None:
    assert f'GRUB_CMDLINE_LINUX="{spec().kernel.command_line}"\n' in grub_defaults(spec())


def test_an_update_of_grub_finds_that_it_is_installed(tmp_path: Path) -> None:
    """Debian 13's postinst runs grub-install only where an earlier grub-install has left its file."""
    furnish(spec(), small_tree(tmp_path / "one"), IDENTITY, "0" * 64, 1)
    mark = tmp_path / "one/boot/grub/x86_64-efi/core.efi"
    assert mark.is_file() and not is_signed(mark)
    furnish(spec(chain="uki"), small_tree(tmp_path / "two"), IDENTITY, "0" * 64, 1)
    assert not (tmp_path / "two/boot/grub").exists()


def test_a_signature_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "program.efi"
    for content, told in (
        (efi_program(), True),
        (efi_program(signed=False), False),
        (efi_program()[:900], False),  # its signature is cut off
        (b"\x7fELF" + bytes(5000), False),
        (b"MZ", False),
        (b"", False),
    ):
        path.write_bytes(content)
        assert is_signed(path) is told, content[:4]
    assert not is_signed(tmp_path / "nothing")


@pytest.mark.parametrize("name", [SIGNED[0], SIGNED[3], f"boot/vmlinuz-{KERNEL}"])
def test_a_part_that_nobody_signed_is_a_problem(tmp_path: Path, name: str) -> None:
    root = small_tree(tmp_path)
    assert list(chain_problems(spec(), root, signer(""))) == []
    (root / name).write_bytes(efi_program(signed=False))
    assert [line.split(":")[0] for line in chain_problems(spec(), root, signer(""))] == [f"/{name}"]
    assert list(chain_problems(spec(chain="uki"), root, signer(""))) == []


def test_modules_of_dkms_are_refused_only_where_secure_boot_is_required(tmp_path: Path) -> None:
    root = with_modules(tmp_path)
    assert foreign_modules(root, signer("")) == {DKMS: ""}
    assert unsigned(foreign_modules(root, signer(""))) == ["nvidia"]
    assert list(chain_problems(spec(), root, signer(""))) == []
    wanted = spec(secure_boot="required")
    assert [line.split(":")[0] for line in chain_problems(wanted, root, signer(""))] == [DKMS]
    assert list(chain_problems(wanted, root, signer("the site's key"))) == []


def test_a_build_says_what_secure_boot_makes_of_it() -> None:
    assert boot_words("debian", "uki", []).startswith("warning: ")
    assert boot_words("debian", "distribution", ["nvidia"]).startswith("warning: ")
    assert "(nvidia)" in boot_words("debian", "distribution", ["nvidia"])
    assert "signed for Debian" in boot_words("debian", "distribution", [])
    assert not boot_words("debian", "distribution", []).startswith("warning")
