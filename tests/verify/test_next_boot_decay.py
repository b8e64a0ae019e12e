"""What does not break the next boot yet: decay that is warned about, and upgrades that come by themselves."""

from __future__ import annotations

from typing import Any

import pytest

from metalserve.verify.next_boot import Outlook
from tests.verify.boots import (
    APT_ON,
    CANDIDATES,
    DRIVER,
    NEW,
    OLD,
    PACKAGES,
    PIN,
    POLICY,
    Boot,
    Kernel,
    dkms_status,
    grub_cfg,
)
from tests.verify.outlooks import HEALTHY, found, outlook

DECAY: list[tuple[str, Boot, dict[str, Any], str, str]] = [
    (
        "headers missing under a built module",
        HEALTHY.having(kernels=(Kernel(OLD, headers=False),)),
        {},
        "next-boot-headers",
        "leads to no headers",
    ),
    (
        "built is not installed",
        HEALTHY.having(kernels=(Kernel(OLD),), dkms=f"nvidia/{DRIVER}, {OLD}, x86_64: built\nrc=0\n"),
        {},
        "next-boot-dkms",
        "built, not installed",
    ),
    (
        "not what DKMS built",
        HEALTHY.having(
            kernels=(Kernel(OLD),),
            dkms=dkms_status(Kernel(OLD), note=" (WARNING! Diff between built and installed module!)" * 3),
        ),
        {},
        "next-boot-dkms",
        "Diff between built and installed module",
    ),
    (
        "the network cards' driver is not built",
        HEALTHY.having(
            dkms=dkms_status(Kernel(OLD), Kernel(NEW)).replace("rc=0\n", "")
            + f"mlnx-ofed-kernel/24.10.OFED.24.10.2.1.8.1, {OLD}, x86_64: installed\nrc=0\n"
        ),
        {},
        "next-boot-dkms-others",
        "mlnx-ofed-kernel",
    ),
    (
        "driver of another release",
        HEALTHY.having(kernels=(Kernel(OLD, module="580.159.03"),), library="580.159.03", preferences=""),
        {"module_version": "580.159.03"},
        "next-boot-release",
        "driver 580.159.03",
    ),
    (
        "branch at its end",
        HEALTHY.having(kernels=(Kernel(OLD, module="570.211.01"),), library="570.211.01"),
        {},
        "next-boot-branch",
        "branch 570 had its end of life on 2026-02-28",
    ),
    (
        "toolkit with a way out",
        HEALTHY.having(packages=PACKAGES.replace("1.20.0-1", "1.17.8-1")),
        {},
        "next-boot-toolkit",
        "CVE-2026-24260",
    ),
    ("no pin", HEALTHY.having(preferences=""), {}, "next-boot-pins", "neither pinned nor held: libnvidia-ml1"),
    (
        "the branch is pinned, not the version",
        HEALTHY.having(preferences=PIN.replace("580.178.04-*", "580.*")),
        {},
        "next-boot-pins",
        "keeps it at 580.*",
    ),
    (
        "dpkg left half-way",
        HEALTHY.having(packages=PACKAGES + f"iF \tlinux-image-{NEW}\t6.1.123-1\n"),
        {},
        "next-boot-packages",
        f"linux-image-{NEW} (iF)",
    ),
    ("dpkg cut off", HEALTHY.having(packages=f"{PACKAGES}journal=0001\n"), {}, "next-boot-packages", "journal"),
    (
        "no room in /boot",
        HEALTHY.having(space="/boot /dev/sda2 483176 410000 48000 90% /boot\n"),
        {},
        "next-boot-space",
        "47 MiB free in /boot",
    ),
    (
        "no room in /var",
        HEALTHY.having(space="/var /dev/sda3 9000000 8600000 400000 96% /\n"),
        {},
        "next-boot-space",
        "391 MiB free in /var (file system /)",
    ),
    (
        "persistenced does not start at boot",
        HEALTHY.having(units="nvidia-persistenced.service=disabled\n"),
        {},
        "next-boot-services",
        "nvidia-persistenced.service is disabled",
    ),
    (
        "update-grub was not run after a kernel came",
        HEALTHY.having(cfg=grub_cfg(OLD)),
        {},
        "next-boot-kernel",
        f"kernel {NEW} is in /boot but not in",
    ),
    (
        "update-grub was not run after GRUB_DEFAULT changed",
        HEALTHY.having(grub_default="GRUB_DEFAULT=saved\nGRUB_DEFAULT='1>2'\n"),
        {},
        "next-boot-kernel",
        "GRUB_DEFAULT=1>2 of /etc/default/grub is not in",
    ),
]


@pytest.mark.parametrize(("boot", "fields", "check", "words"), [d[1:] for d in DECAY], ids=[d[0] for d in DECAY])
def test_decay_that_does_not_break_the_next_boot_is_warned_about(
    boot: Boot, fields: dict[str, Any], check: str, words: str
) -> None:
    seen = outlook(boot, **fields)
    assert seen.answer == "NO", seen.words
    finding = found(seen, check)
    assert finding.status == "warn" and words in finding.observed, finding
    assert finding.remedy and finding.impact and finding.source


def unattended(apt: str = APT_ON, candidates: str = CANDIDATES, **fields: Any) -> Outlook:
    return outlook(HEALTHY.having(apt=apt, more={"policy": POLICY, "candidates": candidates}, **fields))


def test_an_unattended_kernel_upgrade_is_foretold_with_its_time() -> None:
    finding = found(unattended(), "next-boot-upgrades")
    assert finding.status == "warn"
    assert "linux-image-amd64 6.1.119-1 -> 6.1.123-1" in finding.observed
    assert "Thu 2026-11-26 06:38:08 UTC" in finding.observed
    assert "needs headers and a module of its own" in finding.impact
    # NVIDIA's repository is none of the allowed origins, whatever apt itself would do
    assert "nvidia-container-toolkit" not in finding.observed


@pytest.mark.parametrize(
    ("apt", "words"),
    [
        (APT_ON.replace('Upgrade "1"', 'Upgrade "0"'), "turned off"),
        (APT_ON.replace("unattended=1", "unattended=0"), "not installed"),
        (APT_ON + 'Unattended-Upgrade::Package-Blacklist:: "linux-image-";\n', "kept back"),
        (APT_ON.replace("-security,label=Debian-Security", "-updates,label=Debian"), "kept back"),
    ],
)
def test_what_unattended_upgrades_leaves_alone(apt: str, words: str) -> None:
    finding = found(unattended(apt), "next-boot-upgrades")
    assert finding.status == "ok" and words in finding.observed


def test_a_held_package_is_not_upgraded() -> None:
    packages = PACKAGES.replace("ii \tlinux-image-amd64", "hi \tlinux-image-amd64")
    assert found(unattended(packages=packages), "next-boot-upgrades").status == "ok"


def test_the_older_form_of_allowed_origins_is_understood() -> None:
    ubuntu = """APT::Periodic::Unattended-Upgrade "1";
Unattended-Upgrade::Allowed-Origins:: "${distro_id}:${distro_codename}-security";
unattended=1
distro_id=ubuntu
distro_codename=noble
"""
    policy = """Package files:
 500 http://mirror.example.org/ubuntu noble-security/multiverse amd64 Packages
     release v=24.04,o=Ubuntu,a=noble-security,n=noble,l=Ubuntu,c=multiverse,b=amd64
     origin mirror.example.org
"""
    candidates = """nvidia-utils-580-server:
  Installed: 580.159.03-0ubuntu0.24.04.1
  Candidate: 580.178.04-0ubuntu0.24.04.1
  Version table:
     580.178.04-0ubuntu0.24.04.1 500
        500 http://mirror.example.org/ubuntu noble-security/multiverse amd64 Packages
 *** 580.159.03-0ubuntu0.24.04.1 100
        100 /var/lib/dpkg/status
"""
    boot = HEALTHY.having(apt=ubuntu, more={"policy": policy, "candidates": candidates})
    finding = found(outlook(boot), "next-boot-upgrades")
    assert finding.status == "warn" and "NVML error 18" in finding.impact


def test_a_host_that_reboots_by_itself_is_warned_about() -> None:
    seen = unattended(
        APT_ON + 'Unattended-Upgrade::Automatic-Reboot "true";\nUnattended-Upgrade::Automatic-Reboot-Time "02:00";\n'
    )
    finding = found(seen, "next-boot-auto-reboot")
    assert finding.status == "warn" and "02:00" in finding.observed


def test_driver_packages_that_are_all_held_need_no_pin() -> None:
    packages = PACKAGES.replace("ii \tlibnvidia", "hi \tlibnvidia").replace("ii \tnvidia-", "hi \tnvidia-")
    seen = outlook(HEALTHY.having(preferences="", packages=packages))
    assert found(seen, "next-boot-pins").status == "ok"
