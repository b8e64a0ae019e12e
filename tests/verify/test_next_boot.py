"""Would the next reboot break the node? A table of hosts: what they are, the answer, and the reason."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalserve.hardware.machine import HostState
from metalserve.hardware.node import NodeHardware, node_hardware
from metalserve.hardware.section import Section
from metalserve.releases import load_release
from metalserve.verify.finding import Finding
from metalserve.verify.next_boot import VERDICT, Outlook, answer_of, next_boot
from tests.roles.helpers import lspci
from tests.verify.boots import (
    APT_ON,
    BOOTED,
    CANDIDATES,
    DRIVER,
    NEW,
    OLD,
    PACKAGES,
    PIN,
    POLICY,
    UUID,
    Boot,
    Kernel,
    dkms_status,
    grub_cfg,
)

RELEASE = load_release("2026.11-lts")
TODAY = date(2026, 11, 25)
H100, B200 = "2330", "2901"
HEALTHY = Boot()
BARE = Kernel(NEW, headers=False, module="")


def hardware_of(boot: Boot, **fields: Any) -> NodeHardware:
    gpu = fields.pop("gpu", H100)
    sections = {"lspci": Section(lspci([gpu])), "next-boot": Section(boot.text)}
    found = node_hardware(sections)
    assert found.boot is not None, found.problems
    given = {"host": HostState(kernel=boot.running, virtual="none", secure_boot=False), **fields}
    for name, value in {"module_version": DRIVER, "smi_state": "ok", **given}.items():
        object.__setattr__(found, name, value)
    return found


def outlook(boot: Boot, **fields: Any) -> Outlook:
    return next_boot(hardware_of(boot, **fields), RELEASE, today=TODAY)


def found(outlook: Outlook, check: str) -> Finding:
    of_check = [f for f in outlook.findings if f.check == check]
    return next((f for f in of_check if f.status != "ok"), of_check[0])


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
