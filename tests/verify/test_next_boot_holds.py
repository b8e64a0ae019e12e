"""Hosts that the next reboot does not break, and those of which nobody can tell."""

from __future__ import annotations

from typing import Any

import pytest

from metalserve.hardware.machine import HostState
from metalserve.hardware.node import node_hardware
from metalserve.hardware.section import Section
from metalserve.verify.next_boot import answer_of, next_boot
from tests.roles.helpers import lspci
from tests.verify.boots import (
    BOOTED,
    NEW,
    OLD,
    PACKAGES,
    UUID,
    Boot,
    Kernel,
    grub_cfg,
)
from tests.verify.outlooks import BARE, H100, HEALTHY, RELEASE, TODAY, outlook

HOLDS: list[tuple[str, Boot, dict[str, Any], str]] = [
    ("two kernels, both built", HEALTHY, {}, NEW),
    ("one kernel", HEALTHY.having(kernels=(Kernel(OLD),)), {}, OLD),
    (
        "an old kernel without a module does not matter",
        HEALTHY.having(kernels=(Kernel(OLD, module="", headers=False), Kernel(NEW)), running=NEW),
        {},
        NEW,
    ),
    (
        "the saved entry is one that is built, the newest kernel is not",
        HEALTHY.having(
            kernels=(Kernel(OLD), BARE),
            cfg=grub_cfg(NEW, OLD, default="${saved_entry}"),
            grubenv=f"saved_entry=gnulinux-advanced-{UUID}>gnulinux-{OLD}-advanced-{UUID}\n",
            grub_default="GRUB_DEFAULT=saved\n",
        ),
        {},
        OLD,
    ),
    (
        "by numbers",
        HEALTHY.having(
            kernels=(Kernel(OLD), BARE), cfg=grub_cfg(NEW, OLD, default="1>2"), grub_default="GRUB_DEFAULT='1>2'"
        ),
        {},
        OLD,
    ),
    (
        "by titles",
        HEALTHY.having(
            kernels=(Kernel(OLD), BARE),
            cfg=grub_cfg(NEW, OLD, default=f"Advanced options for Debian GNU/Linux>Debian GNU/Linux, with Linux {OLD}"),
            grub_default="",
        ),
        {},
        OLD,
    ),
    (
        "signed by a key that the kernel trusts",
        HEALTHY.having(
            kernels=(Kernel(OLD, signer="Canonical Ltd. Kernel Module Signing"),),
            keys="key=Canonical Ltd. Kernel Module Signing\n",
        ),
        {"host": HostState(kernel=OLD, virtual="none", secure_boot=True)},
        OLD,
    ),
    (
        "signed by DKMS' key, which is enrolled",
        HEALTHY.having(
            kernels=(Kernel(OLD, signer="DKMS module signing key"),),
            keys="key=Debian Secure Boot CA\nmok=/var/lib/dkms/mok.pub is already enrolled\n",
        ),
        {"host": HostState(kernel=OLD, virtual="none", secure_boot=True)},
        OLD,
    ),
    (
        "precompiled modules, no DKMS, no headers",
        HEALTHY.having(
            kernels=(Kernel(OLD, headers=False, place="kernel/nvidia-580srv-open/nvidia.ko"),),
            dkms="none",
            packages=PACKAGES.replace("-open-dkms", "-support"),
        ),
        {},
        OLD,
    ),
    (
        "nouveau kept out by the command line of the next boot",
        HEALTHY.having(
            blacklisted=False, cfg=grub_cfg(NEW, OLD).replace(" quiet", " modprobe.blacklist=nouveau quiet")
        ),
        {},
        NEW,
    ),
    ("a kernel without nouveau", HEALTHY.having(kernels=(Kernel(OLD, nouveau=False),), blacklisted=False), {}, OLD),
    ("no boot loader to be read, but one kernel only", HEALTHY.having(kernels=(Kernel(OLD),), cfg=""), {}, OLD),
    (
        "an initramfs from before the blacklist that has booted the host well",
        HEALTHY.having(kernels=(Kernel(OLD),), blacklist_at=BOOTED + 10),
        {},
        OLD,
    ),
]


@pytest.mark.parametrize(("boot", "fields", "kernel"), [h[1:] for h in HOLDS], ids=[h[0] for h in HOLDS])
def test_what_does_not_break_it(boot: Boot, fields: dict[str, Any], kernel: str) -> None:
    seen = outlook(boot, **fields)
    assert (seen.answer, seen.kernel) == ("NO", kernel), seen.words
    assert seen.findings[0].status == "ok"
    assert not [f for f in seen.findings if f.status == "fail"]


UNKNOWN: list[tuple[str, Boot, dict[str, Any], str]] = [
    ("several kernels and no boot loader", HEALTHY.having(cfg=""), {}, "no boot loader's configuration was found"),
    ("no kernel at all", HEALTHY.having(kernels=()), {}, "/boot has no kernel"),
    (
        "a default that only GRUB knows",
        HEALTHY.having(cfg=grub_cfg(NEW, OLD, default="${my_entry}")),
        {},
        "known to GRUB alone",
    ),
    (
        "systemd-boot starts what it started last",
        HEALTHY.having(
            cfg="",
            host="LoaderInfo=systemd-boot 252.39\n",
            more={"loader-conf /boot/efi": "default @saved", f"entry /boot/efi/loader/entries/m-{NEW}.conf": "title x"},
        ),
        {},
        "@saved",
    ),
    (
        "an initramfs from before the blacklist",
        HEALTHY.having(blacklist_at=BOOTED + 10),
        {},
        "older than the blacklist of nouveau",
    ),
    (
        "signed by somebody, and the keys cannot be read",
        HEALTHY.having(kernels=(Kernel(OLD, signer="Example Corp"),)),
        {"host": HostState(kernel=OLD, virtual="none", secure_boot=True)},
        "whether the next kernel trusts that key is not known",
    ),
    ("no modinfo", HEALTHY, {"modinfo": False}, "the host has no modinfo"),
    (
        "user space of unknown version",
        HEALTHY.having(library="", packages=PACKAGES.replace("libnvidia-ml1", "libnvidia-cfg1")),
        {"smi_state": "error"},
        "its version could not be read",
    ),
]


@pytest.mark.parametrize(("boot", "fields", "reason"), [u[1:] for u in UNKNOWN], ids=[u[0] for u in UNKNOWN])
def test_what_cannot_be_told_is_not_guessed(boot: Boot, fields: dict[str, Any], reason: str) -> None:
    if fields.pop("modinfo", True) is False:
        hardware = node_hardware(
            {"lspci": Section(lspci([H100])), "next-boot": Section(boot.text.replace("modinfo=1\n", ""))}
        )
        seen = next_boot(hardware, RELEASE, today=TODAY)
    else:
        seen = outlook(boot, **fields)
    assert seen.answer == "UNKNOWN", seen.words
    assert any(reason in r for r in seen.reasons), seen.reasons
    assert seen.findings[0].status == "inconclusive"


def test_a_host_that_was_not_observed_is_unknown() -> None:
    seen = next_boot(node_hardware({"lspci": Section(lspci([H100]))}), RELEASE, today=TODAY)
    assert (seen.answer, seen.kernel) == ("UNKNOWN", None)


@pytest.mark.parametrize(
    ("boot", "fields", "reason"),
    [
        (
            HEALTHY.having(kernels=(Kernel(OLD, image=False),), cfg=""),
            {"host": HostState(kernel=OLD, virtual="systemd-nspawn")},
            "a container boots no kernel of its own",
        ),
        (HEALTHY, {"pci_gpus": (), "gpus": ()}, "no NVIDIA GPU"),
        (
            HEALTHY.having(kernels=(BARE,), dkms="none", packages="", library="", units=""),
            {"module_version": None, "smi_state": "absent"},
            "no driver is installed yet",
        ),
    ],
)
def test_where_there_is_nothing_to_break(boot: Boot, fields: dict[str, Any], reason: str) -> None:
    seen = outlook(boot, **fields)
    assert seen.answer == "NOT APPLICABLE" and reason in seen.words
    assert seen.findings[0].status == "skipped" and answer_of(seen.words) == "NOT APPLICABLE"
