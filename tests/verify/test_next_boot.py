"""Would the next reboot break the node? A table of hosts that it breaks, and what holds for any host."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalserve.hardware.machine import HostState
from metalserve.verify.next_boot import VERDICT, answer_of
from tests.verify.boots import (
    BOOTED,
    DRIVER,
    NEW,
    OLD,
    PACKAGES,
    UUID,
    Boot,
    Kernel,
    grub_cfg,
)
from tests.verify.outlooks import B200, BARE, HEALTHY, outlook
from tests.verify.test_next_boot_holds import HOLDS

BREAKS: list[tuple[str, Boot, dict[str, Any], str]] = [
    (
        "kernel without headers",
        HEALTHY.having(kernels=(Kernel(OLD), BARE)),
        {},
        f"kernel {NEW} has no nvidia module: its headers are missing",
    ),
    (
        "headers there, DKMS did nothing",
        HEALTHY.having(kernels=(Kernel(OLD), Kernel(NEW, module=""))),
        {},
        "DKMS has not built it",
    ),
    (
        "DKMS lost the source",
        HEALTHY.having(kernels=(Kernel(OLD), Kernel(NEW, module="")), dkms=f"nvidia/{DRIVER}: broken\nrc=0\n"),
        {},
        "DKMS has lost the driver's source",
    ),
    (
        "precompiled modules for the old kernel only",
        HEALTHY.having(
            kernels=(Kernel(OLD, place="kernel/nvidia-580srv-open/nvidia.ko"), BARE),
            dkms="none",
            packages=PACKAGES.replace("ii \tdkms\t3.0.10-8+deb12u1\n", "").replace("-open-dkms", "-support"),
        ),
        {},
        f"no package brought one (linux-modules-nvidia-...-{NEW})",
    ),
    (
        "depmod was not run",
        HEALTHY.having(kernels=(Kernel(OLD), Kernel(NEW, module="", file_only=True))),
        {},
        "is there, but modprobe does not know of it",
    ),
    (
        "module of another kernel",
        HEALTHY.having(kernels=(Kernel(OLD), Kernel(NEW, vermagic="6.1.0-27-amd64"))),
        {},
        "was built for kernel 6.1.0-27-amd64",
    ),
    (
        "module older than user space",
        HEALTHY.having(kernels=(Kernel(OLD), Kernel(NEW, module="580.159.03"))),
        {},
        f"loads module 580.159.03, user space is {DRIVER}",
    ),
    (
        "user space by its package where no library is found",
        HEALTHY.having(library="", packages=PACKAGES.replace(f"ml1\t{DRIVER}", "ml1\t595.91.07")),
        {},
        f"loads module {DRIVER}, user space is 595.91.07",
    ),
    (
        "fabric manager of another version",
        HEALTHY,
        {"needs_fabric_manager": True, "fabric_manager_version": "580.159.03"},
        "fabric manager is 580.159.03",
    ),
    (
        "fabric manager that does not start at boot",
        HEALTHY.having(units="nvidia-fabricmanager.service=disabled\nnvidia-persistenced.service=enabled\n"),
        {"needs_fabric_manager": True, "fabric_manager_version": DRIVER},
        "nvidia-fabricmanager.service is disabled",
    ),
    (
        "proprietary module on Blackwell",
        HEALTHY.having(kernels=(Kernel(OLD), Kernel(NEW, license="NVIDIA"))),
        {"gpu": B200},
        "is the proprietary one",
    ),
    (
        "nouveau free to load",
        HEALTHY.having(blacklisted=False),
        {},
        "nouveau is not kept out",
    ),
    (
        "initramfs with the old module",
        HEALTHY.having(
            kernels=(Kernel(OLD), Kernel(NEW, built_at=BOOTED + 100)),
            early="/etc/initramfs-tools/modules:nvidia\n",
        ),
        {},
        "loads an nvidia module from before the last build",
    ),
    (
        "no initramfs for the new kernel",
        HEALTHY.having(kernels=(Kernel(OLD), Kernel(NEW, initrd=None))),
        {},
        f"kernel {NEW} has no initramfs",
    ),
    ("empty initramfs: /boot was full", HEALTHY.having(kernels=(Kernel(OLD), Kernel(NEW, initrd=0))), {}, "is empty"),
    (
        "the menu names a kernel that was removed",
        HEALTHY.having(kernels=(Kernel(OLD),), cfg=grub_cfg(NEW, OLD)),
        {},
        f"is to start /vmlinuz-{NEW}, which is not in /boot",
    ),
    (
        "Secure Boot and an unsigned module",
        HEALTHY,
        {"host": HostState(kernel=OLD, virtual="none", secure_boot=True)},
        "Secure Boot is on, and",
    ),
    (
        "locked down and unsigned",
        HEALTHY.having(host="lockdown=none [integrity] confidentiality\n"),
        {},
        "the kernel is locked down (integrity)",
    ),
    ("signatures enforced", HEALTHY.having(host="sig_enforce=Y\n"), {}, "module.sig_enforce"),
    (
        "signed with a key that is not enrolled",
        HEALTHY.having(
            kernels=(Kernel(NEW, signer="DKMS module signing key"),),
            running=NEW,
            keys="key=Debian Secure Boot CA\nmok=/var/lib/dkms/mok.pub is not enrolled\n",
        ),
        {"host": HostState(kernel=NEW, virtual="none", secure_boot=True)},
        "the key of DKMS module signing key is not enrolled",
    ),
    (
        "grub-reboot into a kernel without a module",
        HEALTHY.having(
            kernels=(Kernel(OLD, module=""), Kernel(NEW)),
            running=NEW,
            grubenv=f"next_entry=gnulinux-advanced-{UUID}>gnulinux-{OLD}-advanced-{UUID}\n",
        ),
        {},
        f"kernel {OLD} has no nvidia module",
    ),
]


@pytest.mark.parametrize(("boot", "fields", "reason"), [b[1:] for b in BREAKS], ids=[b[0] for b in BREAKS])
def test_what_breaks_the_next_boot(boot: Boot, fields: dict[str, Any], reason: str) -> None:
    seen = outlook(boot, **fields)
    assert seen.answer == "YES", seen.words
    assert any(reason in r for r in seen.reasons), seen.reasons
    verdict = seen.findings[0]
    assert (verdict.check, verdict.status) == (VERDICT, "warn")
    assert verdict.observed.startswith("YES, because ") and verdict.remedy and verdict.impact
    assert answer_of(verdict.observed) == "YES"


def test_the_root_of_the_trouble_is_named_first() -> None:
    seen = outlook(HEALTHY.having(kernels=(Kernel(OLD), BARE), blacklisted=False))
    assert seen.words.startswith(f"YES, because kernel {NEW} has no nvidia module: its headers are missing")
    assert seen.words.endswith("(and 1 more)")
    assert seen.findings[0].evidence.count(";") == 1


def test_every_finding_is_named_after_the_next_boot_and_none_fails_a_host() -> None:
    for _, boot, fields, *_ in [*BREAKS, *HOLDS]:
        for finding in outlook(boot, **fields).findings:
            assert finding.check.startswith("next-boot")
            assert not finding.failing


KERNELS = st.builds(
    Kernel,
    release=st.sampled_from([OLD, NEW, "6.1.0-9-amd64"]),
    headers=st.booleans(),
    module=st.sampled_from(["", DRIVER, "580.159.03"]),
    vermagic=st.sampled_from(["", OLD]),
    initrd=st.sampled_from([None, 0, 60_000_000]),
    image=st.booleans(),
)
BOOTS = st.builds(
    Boot,
    kernels=st.lists(KERNELS, max_size=3, unique_by=lambda k: k.release).map(tuple),
    running=st.sampled_from([OLD, NEW]),
    grubenv=st.sampled_from(["", "next_entry=1>2\n", "next_entry=7\n"]),
    blacklisted=st.booleans(),
    library=st.sampled_from([DRIVER, "580.159.03", ""]),
    packages=st.sampled_from([PACKAGES, ""]),
)


@settings(max_examples=150, deadline=None)
@given(boot=BOOTS, secure=st.sampled_from([True, False]))
def test_no_is_said_only_with_proof_and_never_without_a_reason(boot: Boot, secure: bool) -> None:
    """Whatever the host: NO needs a known kernel, with a whole image, and one loadable module that fits user space."""
    seen = outlook(boot, host=HostState(kernel=boot.running, virtual="none", secure_boot=secure))
    assert seen.reasons and seen.findings[0].observed == seen.words
    if seen.answer == "YES":
        assert seen.findings[0].remedy
    if seen.answer == "NO":
        (kernel,) = [k for k in boot.kernels if k.release == seen.kernel]
        assert kernel.image and kernel.initrd != 0
        assert kernel.module and kernel.vermagic in ("", kernel.release)
        assert boot.library in ("", kernel.module) and boot.blacklisted and not secure
