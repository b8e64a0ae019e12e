"""Hosts before their next boot, as text: what the command `next-boot` prints on them, in the tools' own formats.

Formats: grub.cfg as grub-mkconfig 2.06 writes it (Debian 12) reduced to the lines that the command keeps; `dkms status`
of dkms 3.0.10; `modinfo`, `apt-cache policy`, `apt-config dump` and `df -P` of Debian 12; names and ids are made up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

OLD, NEW = "6.1.0-28-amd64", "6.1.0-29-amd64"
DRIVER = "580.178.04"
UUID = "4b3a8c1e-0000-4000-8000-000000000001"
BOOTED = 1_764_000_000
NOW = BOOTED + 86_400


def grub_cfg(*kernels: str, default: str = "0", os: str = "Debian GNU/Linux") -> str:
    """Return what grub-mkconfig makes of kernels, newest first: a simple entry, and a submenu with all of them."""

    def entry(title: str, ident: str, kernel: str, indent: str = "", extra: str = "") -> str:
        head = f"{indent}menuentry '{title}' --class debian --class gnu-linux $menuentry_id_option '{ident}' {{\n"
        return f"{head}{indent}\tlinux\t/vmlinuz-{kernel} root=UUID={UUID} ro {extra} quiet\n{indent}}}\n"

    inside = "".join(
        entry(f"{os}, with Linux {k}", f"gnulinux-{k}-advanced-{UUID}", k, "\t")
        + entry(f"{os}, with Linux {k} (recovery mode)", f"gnulinux-{k}-recovery-{UUID}", k, "\t", "single")
        for k in kernels
    )
    return (
        '   set default="${next_entry}"\n'
        f'   set default="{default}"\n'
        "function savedefault {\n}\nfunction load_video {\n}\n"
        + entry(os, f"gnulinux-simple-{UUID}", kernels[0])
        + f"submenu 'Advanced options for {os}' $menuentry_id_option 'gnulinux-advanced-{UUID}' {{\n{inside}}}\n"
        + "menuentry 'UEFI Firmware Settings' $menuentry_id_option 'uefi-firmware' {\n}\n"
    )


@dataclass(frozen=True)
class Kernel:
    """A kernel of a scenario; `module` is the driver's version, "" for none."""

    release: str
    headers: bool = True
    module: str = DRIVER
    vermagic: str = ""
    license: str = "Dual MIT/GPL"
    signer: str = ""
    built_at: int = BOOTED - 5000
    initrd_at: int = BOOTED - 4000
    initrd: int | None = 60_000_000
    image: bool = True
    nouveau: bool = True
    file_only: bool = False
    place: str = "updates/dkms/nvidia.ko.xz"

    def rows(self) -> str:
        """The rows of block `files`."""
        lines = [f"image\t/boot/vmlinuz-{self.release}\t8200000\t{BOOTED - 9000}"] if self.image else []
        if self.initrd is not None and self.image:
            lines.append(f"initrd\t/boot/initrd.img-{self.release}\t{self.initrd}\t{self.initrd_at}")
        lines.append(f"tree\t{self.release}")
        lines += [f"headers\t{self.release}"] if self.headers else []
        lines += [f"nouveau\t{self.release}"] if self.nouveau else []
        if self.module or self.file_only:
            path = f"/lib/modules/{self.release}/{self.place}"
            lines.append(f"module\t{self.release}\t{path}\t14000000\t{self.built_at}")
        return "".join(f"{line}\n" for line in lines)

    def modinfo(self) -> str:
        """What `modinfo -k` says."""
        if not self.module:
            return "modinfo: ERROR: Module nvidia not found.\n"
        lines = [
            f"filename:       /lib/modules/{self.release}/{self.place}",
            f"version:        {self.module}",
            f"license:        {self.license}",
            f"vermagic:       {self.vermagic or self.release} SMP preempt mod_unload modversions ",
        ]
        if self.signer:
            lines += ["sig_id:         PKCS#7", f"signer:         {self.signer}"]
        return "".join(f"{line}\n" for line in lines)


def dkms_status(*kernels: Kernel, note: str = "") -> str:
    """`dkms status` where DKMS has done what the kernels' modules say."""
    built = [k for k in kernels if k.module]
    lines = [f"nvidia/{k.module}, {k.release}, x86_64: installed{note}\n" for k in built]
    return ("".join(lines) or f"nvidia/{DRIVER}: added\n") + "rc=0\n"


PACKAGES = f"""\
ii \tdkms\t3.0.10-8+deb12u1
ii \tlibnvidia-ml1\t{DRIVER}-1
ii \tlinux-image-{OLD}\t6.1.119-1
ii \tlinux-image-amd64\t6.1.119-1
ii \tnvidia-container-toolkit-base\t1.20.0-1
ii \tnvidia-driver-cuda\t{DRIVER}-1
ii \tnvidia-kernel-open-dkms\t{DRIVER}-1
"""

APT_OFF = 'APT::Periodic "";\nAPT::Periodic::Unattended-Upgrade "0";\nunattended=0\ndistro_id=debian\n'

APT_ON = """\
APT::Periodic "";
APT::Periodic::Update-Package-Lists "1";
APT::Periodic::Unattended-Upgrade "1";
Unattended-Upgrade "";
Unattended-Upgrade::Origins-Pattern "";
Unattended-Upgrade::Origins-Pattern:: "origin=Debian,codename=${distro_codename},label=Debian";
Unattended-Upgrade::Origins-Pattern:: "origin=Debian,codename=${distro_codename}-security,label=Debian-Security";
unattended=1
distro_id=debian
distro_codename=bookworm
NextElapseUSecRealtime=Thu 2026-11-26 06:38:08 UTC
ActiveState=active
"""

POLICY = """\
Package files:
 100 /var/lib/dpkg/status
     release a=now
 500 http://mirror.example.org/debian-security bookworm-security/main amd64 Packages
     release v=12,o=Debian,a=oldstable-security,n=bookworm-security,l=Debian-Security,c=main,b=amd64
     origin mirror.example.org
 500 http://mirror.example.org/debian bookworm/main amd64 Packages
     release v=12.15,o=Debian,a=oldstable,n=bookworm,l=Debian,c=main,b=amd64
     origin mirror.example.org
 600 https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64  Packages
     release o=NVIDIA,l=NVIDIA CUDA,c=
     origin developer.download.nvidia.com
Pinned packages:
     nvidia-kernel-open-dkms -> 580.178.04-1 with priority 1000
"""

CANDIDATES = """\
docker.io:
  Installed: 20.10.24+dfsg1-1+deb12u1
  Candidate: 20.10.24+dfsg1-1+deb12u1
  Version table:
 *** 20.10.24+dfsg1-1+deb12u1 500
        500 http://mirror.example.org/debian bookworm/main amd64 Packages
        100 /var/lib/dpkg/status
linux-image-amd64:
  Installed: 6.1.119-1
  Candidate: 6.1.123-1
  Version table:
     6.1.123-1 500
        500 http://mirror.example.org/debian-security bookworm-security/main amd64 Packages
 *** 6.1.119-1 500
        500 http://mirror.example.org/debian bookworm/main amd64 Packages
        100 /var/lib/dpkg/status
nvidia-container-toolkit-base:
  Installed: 1.20.0-1
  Candidate: 1.20.1-1
  Version table:
     1.20.1-1 600
        600 https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64  Packages
 *** 1.20.0-1 100
        100 /var/lib/dpkg/status
"""

PIN = """\
file=/etc/apt/preferences.d/nvidia-driver-pinning-580.178.04.pref
Package: *nvidia* libcuda1 libcudadebugger1 libnvsdm cuda-drivers* nvlink5* firmware-nvidia-gsp
Pin: version 580.178.04-*
Pin-Priority: 1000
"""


@dataclass(frozen=True)
class Boot:
    """A host before its next boot; `text` is what the command prints on it."""

    kernels: tuple[Kernel, ...] = (Kernel(OLD), Kernel(NEW))
    running: str = OLD
    host: str = ""
    cfg: str | None = None
    grubenv: str = ""
    grub_default: str = "GRUB_DEFAULT=0\n"
    dkms: str | None = None
    blacklist_at: int = BOOTED - 6000
    blacklisted: bool = True
    early: str = ""
    library: str = DRIVER
    units: str = "nvidia-fabricmanager.service=\nnvidia-persistenced.service=enabled\ndocker.service=enabled\n"
    packages: str = PACKAGES
    preferences: str = PIN
    apt: str = APT_OFF
    space: str = "/boot /dev/sda2 983176 214000 702000 24% /boot\n/var /dev/sda3 460000000 90000000 350000000 21% /\n"
    keys: str = ""
    more: Mapping[str, str] = field(default_factory=dict)

    def having(self, **fields: object) -> Boot:
        """The same host with something else."""
        return replace(self, **fields)  # type: ignore[arg-type]

    @property
    def text(self) -> str:
        """What the command prints."""
        newest_first = [k.release for k in reversed(self.kernels) if k.image]
        cfg = self.cfg if self.cfg is not None else grub_cfg(*newest_first) if newest_first else ""
        blocks = {"host": f"now={NOW}\nkernel={self.running}\nbtime={BOOTED}\nmodinfo=1\n{self.host}"}
        if cfg:
            blocks |= {"grub-cfg /boot/grub/grub.cfg": cfg, "grubenv": self.grubenv}
        blocks["grub-default"] = self.grub_default
        blocks["files"] = "".join(k.rows() for k in self.kernels)
        blocks |= {f"modinfo {k.release}": k.modinfo() for k in self.kernels}
        dkms = self.dkms if self.dkms is not None else dkms_status(*self.kernels)
        if dkms != "none":
            blocks["dkms"] = dkms
        path = "/etc/modprobe.d/metalserve-nouveau.conf"
        blocks["modprobe"] = f"{path}\t{self.blacklist_at}\tblacklist nouveau\n" if self.blacklisted else ""
        blocks |= {"early": self.early, "library": self.library, "units": self.units, "space": self.space}
        blocks |= {"packages": self.packages, "preferences": self.preferences, "apt": self.apt, "keys": self.keys}
        blocks |= {**self.more, "end": ""}
        return "".join(f"\n@boot:{name}\n{text}" for name, text in blocks.items())
