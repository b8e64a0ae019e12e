"""What the command `next-boot` prints, and what is read of it: formats of GRUB, systemd-boot, dkms, modinfo, apt."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalserve.hardware.boot import BootState, DkmsEntry
from metalserve.hardware.boot_commands import NEXT_BOOT
from metalserve.hardware.parsers.boot_menu import grub_menu, oldest_first, snippet_entries, systemd_menu
from metalserve.hardware.parsers.dkms import parse_dkms, parse_modinfo
from metalserve.hardware.parsers.next_boot import parse_next_boot
from metalserve.hardware.parsers.text import ParseError
from metalserve.verify.next_kernel import next_kernel
from tests.verify.boots import APT_ON, CANDIDATES, NEW, OLD, POLICY, Boot, Kernel

DKMS: list[tuple[str, DkmsEntry]] = [
    (
        "nvidia, 396.44, 3.10.0-862.3.2.el7.x86_64, x86_64: installed"
        " (WARNING! Diff between built and installed module!) (WARNING! Diff between built and installed module!)",
        DkmsEntry(
            "nvidia",
            "396.44",
            "3.10.0-862.3.2.el7.x86_64",
            "x86_64",
            "installed",
            "WARNING! Diff between built and installed module!",
        ),
    ),
    (
        "nvidia/580.178.04, 6.8.0-88-generic, x86_64: installed",
        DkmsEntry("nvidia", "580.178.04", "6.8.0-88-generic", "x86_64", "installed"),
    ),
    ("nvidia/580.178.04: added", DkmsEntry("nvidia", "580.178.04", "", "", "added")),
    ("nvidia, 440.31: added", DkmsEntry("nvidia", "440.31", "", "", "added")),
    ("nvidia-current/535.261.03: broken", DkmsEntry("nvidia-current", "535.261.03", "", "", "broken")),
    (
        "nvidia/580.178.04, 6.1.0-28-amd64, x86_64: built",
        DkmsEntry("nvidia", "580.178.04", "6.1.0-28-amd64", "x86_64", "built"),
    ),
    (
        "virtualbox-guest/7.0.4, 6.1.0-28-amd64, x86_64: installed (original_module exists)",
        DkmsEntry("virtualbox-guest", "7.0.4", "6.1.0-28-amd64", "x86_64", "installed", "original_module exists"),
    ),
    (
        "mlnx-ofed-kernel/24.10.OFED.24.10.2.1.8.1, 6.8.0-88-generic, x86_64: installed",
        DkmsEntry("mlnx-ofed-kernel", "24.10.OFED.24.10.2.1.8.1", "6.8.0-88-generic", "x86_64", "installed"),
    ),
    (
        "nvidia, 580.178.04, 5.14.0-570.el9.x86_64, x86_64: installed-weak from 5.14.0-503.el9.x86_64",
        DkmsEntry(
            "nvidia",
            "580.178.04",
            "5.14.0-570.el9.x86_64",
            "x86_64",
            "installed-weak",
            "from 5.14.0-503.el9.x86_64",
        ),
    ),
]


@pytest.mark.parametrize(("line", "entry"), DKMS)
def test_a_line_of_dkms_status(line: str, entry: DkmsEntry) -> None:
    assert parse_dkms(f"{line}\n") == ((entry,), "")


def test_what_dkms_says_beside_its_status_is_kept() -> None:
    text = (
        "Deprecated feature: REMAKE_INITRD (/var/lib/dkms/nvidia/580.178.04/source/dkms.conf)\n"
        "Error! nvidia/580.178.04: Missing the module source directory or the symbolic link pointing to it.\n"
        "Manually delete /var/lib/dkms/nvidia/580.178.04 to suppress this error.\n"
        "nvidia-fs/2.26.6, 6.8.0-88-generic, x86_64: installed\n"
    )
    entries, said = parse_dkms(text)
    assert [e.module for e in entries] == ["nvidia-fs"]
    assert said.startswith("Error! nvidia/580.178.04: Missing") and "Deprecated" not in said


def test_modinfo_of_a_signed_module() -> None:
    module = parse_modinfo(
        "filename:       /lib/modules/6.8.0-88-generic/updates/dkms/nvidia.ko.zst\n"
        "version:        580.178.04\nlicense:        Dual MIT/GPL\n"
        "vermagic:       6.8.0-88-generic SMP preempt mod_unload modversions \n"
        "sig_id:         PKCS#7\nsigner:         node17 Secure Boot Module Signature key\n"
    )
    assert module is not None and module.open is True
    assert (module.version, module.signer) == ("580.178.04", "node17 Secure Boot Module Signature key")
    assert module.vermagic.split()[0] == "6.8.0-88-generic" and module.signature == "PKCS#7"
    assert parse_modinfo("modinfo: ERROR: Module nvidia not found.\n") is None


UBUNTU = """\
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
else
   set default="0"
fi
function recordfail {
}
menuentry 'Ubuntu' --class ubuntu --class gnu-linux --class gnu --class os $menuentry_id_option 'gnulinux-simple-1' {
	linux	/vmlinuz-6.8.0-88-generic root=/dev/mapper/vg-root ro  iommu=pt
}
submenu 'Advanced options for Ubuntu' $menuentry_id_option 'gnulinux-advanced-1' {
	menuentry 'Ubuntu, with Linux 6.8.0-88-generic' --class ubuntu $menuentry_id_option 'gnulinux-6.8.0-88-generic-1' {
		linux	/vmlinuz-6.8.0-88-generic root=/dev/mapper/vg-root ro  iommu=pt
	}
	menuentry 'Ubuntu, with Linux 6.8.0-87-generic' --class ubuntu $menuentry_id_option 'gnulinux-6.8.0-87-generic-1' {
		linux	/vmlinuz-6.8.0-87-generic.efi.signed root=/dev/mapper/vg-root ro  iommu=pt
	}
}
menuentry 'It'\\''s a memory test' $menuentry_id_option 'memtest' {
	linux16	/memtest86+x64.bin
}
"""


@pytest.mark.parametrize(
    ("default", "environment", "kernel"),
    [
        ("0", "", "6.8.0-88-generic"),
        ("0", "next_entry=1>1\n", "6.8.0-87-generic"),
        ("1>1", "", "6.8.0-87-generic"),
        ("1", "", "6.8.0-88-generic"),
        ("gnulinux-advanced-1>gnulinux-6.8.0-87-generic-1", "", "6.8.0-87-generic"),
        ("Advanced options for Ubuntu>Ubuntu, with Linux 6.8.0-87-generic", "", "6.8.0-87-generic"),
        ("${saved_entry}", "saved_entry=gnulinux-advanced-1>gnulinux-6.8.0-87-generic-1\n", "6.8.0-87-generic"),
        ("${saved_entry}", "", "6.8.0-88-generic"),
        ("gnulinux-6.5.0-14-generic-1", "", "6.8.0-88-generic"),
        ("7", "", "6.8.0-88-generic"),
        ("memtest", "", None),
    ],
)
def test_which_entry_grub_takes(default: str, environment: str, kernel: str | None) -> None:
    config = UBUNTU.replace('set default="0"', f'set default="{default}"')
    menu = grub_menu("/boot/grub/grub.cfg", config, environment, "GRUB_DEFAULT=0", {})
    assert [e.place for e in menu.entries] == [(0,), (1,), (1, 0), (1, 1), (2,)]
    assert menu.entries[4].title == "It's a memory test"
    chosen = next_kernel(BootState(menu=menu))
    assert chosen.release == kernel
    if default.startswith(("gnulinux-6.5", "7")):
        assert any("GRUB falls back to the first" in note for note in chosen.notes)


SNIPPETS = {
    "/boot/loader/entries/0123-5.14.0-503.11.1.el9_5.x86_64.conf": (
        "title Rocky Linux (5.14.0-503.11.1.el9_5.x86_64) 9.5 (Blue Onyx)\nversion 5.14.0-503.11.1.el9_5.x86_64\n"
        "linux /vmlinuz-5.14.0-503.11.1.el9_5.x86_64\noptions root=/dev/mapper/rl-root ro\n"
    ),
    "/boot/loader/entries/0123-5.14.0-570.12.1.el9_6.x86_64.conf": (
        "title Rocky Linux (5.14.0-570.12.1.el9_6.x86_64) 9.6 (Blue Onyx)\nversion 5.14.0-570.12.1.el9_6.x86_64\n"
        "linux /vmlinuz-5.14.0-570.12.1.el9_6.x86_64\noptions root=/dev/mapper/rl-root ro\n"
    ),
}


@pytest.mark.parametrize(
    ("saved", "kernel"),
    [
        ("", "5.14.0-570.12.1.el9_6.x86_64"),
        ("saved_entry=0123-5.14.0-503.11.1.el9_5.x86_64\n", "5.14.0-503.11.1.el9_5.x86_64"),
        ("saved_entry=1\n", "5.14.0-503.11.1.el9_5.x86_64"),
    ],
)
def test_grub_with_loader_entries_as_on_rocky(saved: str, kernel: str) -> None:
    config = 'set default="${saved_entry}"\nfunction load_video {\n}\nblscfg\n'
    menu = grub_menu("/boot/grub2/grub.cfg", config, saved, "GRUB_DEFAULT=saved", SNIPPETS)
    assert menu.snippets and next_kernel(BootState(menu=menu)).release == kernel


@pytest.mark.parametrize(
    ("once", "default", "conf", "kernel"),
    [
        ("", "", "", "5.14.0-570.12.1.el9_6.x86_64"),
        ("", "", "default 0123-5.14.0-503*\n", "5.14.0-503.11.1.el9_5.x86_64"),
        ("", "0123-5.14.0-503.11.1.el9_5.x86_64.conf", "", "5.14.0-503.11.1.el9_5.x86_64"),
        (
            "0123-5.14.0-570.12.1.el9_6.x86_64.conf",
            "",
            "default 0123-5.14.0-503*",
            "5.14.0-570.12.1.el9_6.x86_64",
        ),
        ("", "", "default gone-*\n", "5.14.0-570.12.1.el9_6.x86_64"),
    ],
)
def test_which_entry_systemd_boot_takes(once: str, default: str, conf: str, kernel: str) -> None:
    menu = systemd_menu("/boot/efi/loader/loader.conf", conf, once, default, SNIPPETS)
    assert next_kernel(BootState(menu=menu)).release == kernel


def test_a_unified_kernel_image_is_an_entry() -> None:
    name = "/efi/EFI/Linux/0123456789abcdef0123456789abcdef-6.11.0-9-generic.efi"
    menu = systemd_menu("", "", "", "", {name: ""})
    assert next_kernel(BootState(menu=menu)).release == "6.11.0-9-generic"


def test_secrets_of_a_command_line_are_not_kept() -> None:
    menu = grub_menu("x", UBUNTU.replace("iommu=pt", "rd.luks.key=hunter2"), "", "", SNIPPETS)
    assert menu.entries[0].arguments.endswith("rd.luks.key=***")


def test_sort_keys_go_before_versions() -> None:
    entries = snippet_entries(
        {"a.conf": "version 9\nsort-key zz", "b.conf": "version 10\nsort-key aa", "c.conf": "version 11"}, 0
    )
    assert [e.sort[2] for e in entries] == ["10", "9", "11"]


def test_kernels_are_ordered_as_people_number_them() -> None:
    given_ = ["6.11.0-9-generic", "6.8.0-88-generic", "6.8.0-9-generic", "6.8.0-88-lowlatency"]
    assert oldest_first(given_) == [
        "6.8.0-9-generic",
        "6.8.0-88-generic",
        "6.8.0-88-lowlatency",
        "6.11.0-9-generic",
    ]


def test_a_whole_host_is_read() -> None:
    boot = Boot(apt=APT_ON, more={"policy": POLICY, "candidates": CANDIDATES}, host="lockdown=[none] integrity\n")
    state = parse_next_boot(boot.text)
    assert [k.release for k in state.kernels] == [OLD, NEW]
    assert state.kernels[1].module is not None and state.kernels[1].module.version == "580.178.04"
    assert state.kernels[0].initrd is not None and state.kernels[0].initrd.size == 60_000_000
    assert state.dkms is not None and [e.kernel for e in state.dkms] == [OLD, NEW]
    assert state.spaces["/boot"].free_kib == 702000 and state.spaces["/var"].mount == "/"
    assert state.lockdown == "none" and state.library == "580.178.04"
    assert state.apt.unattended is True and state.apt.allowed[1].startswith("origin=Debian,codename=bookworm-security")
    assert state.apt.upgrades is not None
    assert {u.name: u.candidate for u in state.apt.upgrades} == {
        "linux-image-amd64": "6.1.123-1",
        "nvidia-container-toolkit-base": "1.20.1-1",
    }
    assert [p[3] for p in state.apt.pins] == [1000]
    assert state.enabled["nvidia-persistenced.service"] == "enabled"


def test_dkms_that_hangs_is_no_dkms_without_modules() -> None:
    state = parse_next_boot(Boot(dkms="rc=124\n").text)
    assert state.dkms is None and "did not end in time" in state.dkms_said


@pytest.mark.parametrize("cut", ["", "@boot:files\n", Boot().text.replace("@boot:end", "@boot:e")])
def test_a_cut_off_answer_is_refused(cut: str) -> None:
    with pytest.raises(ParseError):
        parse_next_boot(cut)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_raises_nothing_but_a_parse_error(data: st.DataObject) -> None:
    text = Boot(kernels=(Kernel(OLD), Kernel(NEW)), apt=APT_ON, more={"candidates": CANDIDATES}).text
    lines = text.split("\n")
    for _ in range(data.draw(st.integers(1, 6))):
        n = data.draw(st.integers(0, len(lines) - 1))
        lines[n] = data.draw(
            st.sampled_from(["", lines[n][:7], lines[n] * 3, "}", "menuentry 'x {", "\t\t\t"]) | st.text()
        )
    try:
        state = parse_next_boot("\n".join(lines))
    except ParseError:
        return
    next_kernel(state)


def test_the_command_runs_here_and_is_read(tmp_path: Path) -> None:
    """On this machine, whatever it has: it ends well, says nothing on stderr, and is understood."""
    done = subprocess.run(["sh", "-c", NEXT_BOOT], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    state = parse_next_boot(done.stdout)
    assert state.running and state.booted_at is not None and "/var" in state.spaces
