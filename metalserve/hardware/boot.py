"""What the next boot of a host will find on disk: boot menu, kernels, modules, packages. `None`: not known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

BootLoader = Literal["grub", "systemd-boot"]


@dataclass(frozen=True, slots=True)
class MenuEntry:
    """An entry of a boot menu.

    Attributes:
        place: where it stands, numbers from 0 as GRUB counts them: `(1, 0)` is the first entry of the second submenu.
        title: its title.
        ident: its id (`gnulinux-6.1.0-28-amd64-advanced-...`, the file's name of a loader entry), "" when it has none.
        image: path of the kernel as the menu spells it, "" when it boots none (a submenu, a chain loader).
        arguments: kernel command line.
        sort: what systemd-boot orders by, as (sort-key, machine-id, version).
        submenu: it is a submenu and boots nothing by itself.
    """

    place: tuple[int, ...]
    title: str
    ident: str = ""
    image: str = ""
    arguments: str = ""
    sort: tuple[str, str, str] = ("", "", "")
    submenu: bool = False


@dataclass(frozen=True, slots=True)
class BootMenu:
    """The configuration of the boot loader.

    Attributes:
        loader: who reads it.
        path: the file that it was read from.
        entries: in the order of the menu.
        default: which entry is taken, as the configuration says (`0`, `1>2`, a title, an id, a pattern).
        saved: GRUB's `saved_entry`.
        once: the entry of the next boot only (`next_entry` of GRUB, LoaderEntryOneShot of systemd-boot).
        wanted: GRUB_DEFAULT of /etc/default/grub, which counts only once the configuration is made anew.
        snippets: the entries are files of their own (Boot Loader Specification), not in GRUB's configuration.
    """

    loader: BootLoader
    path: str
    entries: tuple[MenuEntry, ...] = ()
    default: str = ""
    saved: str = ""
    once: str = ""
    wanted: str = ""
    snippets: bool = False


@dataclass(frozen=True, slots=True)
class DiskFile:
    """A file with its size in bytes and its time in seconds since the epoch."""

    path: str
    size: int
    time: float


@dataclass(frozen=True, slots=True)
class DiskModule:
    """What `modinfo` tells of the nvidia module that a kernel would load; "" where it says nothing."""

    path: str
    version: str = ""
    vermagic: str = ""
    license: str = ""
    signer: str = ""
    signature: str = ""

    @property
    def open(self) -> bool | None:
        """Whether it is the open one (`Dual MIT/GPL`; the proprietary one says `NVIDIA`)."""
        return None if not self.license else "MIT" in self.license or "GPL" in self.license


@dataclass(frozen=True, slots=True)
class DiskKernel:
    """A kernel that is installed.

    Attributes:
        release: as `uname -r` prints it once it runs.
        image: the kernel in /boot; `None`: only its modules are there.
        initrd: its initramfs, or `None`.
        tree: /lib/modules/RELEASE is there.
        headers: what DKMS builds with is there (/lib/modules/RELEASE/build leads to headers).
        module: the nvidia module that modprobe would load, or `None` when it finds none.
        module_files: nvidia modules in the places where packages put them, whether modprobe knows of them or not.
        nouveau: it has a module nouveau.
    """

    release: str
    image: DiskFile | None = None
    initrd: DiskFile | None = None
    tree: bool = False
    headers: bool = False
    module: DiskModule | None = None
    module_files: tuple[DiskFile, ...] = ()
    nouveau: bool = False


@dataclass(frozen=True, slots=True)
class DkmsEntry:
    """A line of `dkms status`.

    Attributes:
        module: name (`nvidia`, `nvidia-fs`, `mlnx-ofed-kernel`).
        version: its version.
        kernel: "" when it is only added, or broken.
        arch: architecture, or "".
        state: `added`, `built`, `installed`, `installed-weak`, `broken`, or what a newer dkms says.
        note: what stands behind the state in brackets.
    """

    module: str
    version: str
    kernel: str
    arch: str
    state: str
    note: str = ""

    @property
    def line(self) -> str:
        """The entry as dkms 3 prints it."""
        where = f", {self.kernel}, {self.arch}" if self.kernel else ""
        return f"{self.module}/{self.version}{where}: {self.state}{f' ({self.note})' if self.note else ''}"


@dataclass(frozen=True, slots=True)
class DiskPackage:
    """A package of the kernel, the driver or containers, or one that dpkg left half-way; `status` as dpkg's `ii `."""

    name: str
    version: str
    status: str

    @property
    def whole(self) -> bool:
        """Whether it is installed and configured."""
        return self.status[1:2] == "i"

    @property
    def held(self) -> bool:
        """Whether `apt-mark hold` keeps it."""
        return self.status[:1] == "h"


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A package for which apt knows a newer version.

    Attributes:
        name: package.
        installed: its version.
        candidate: the version that apt would take.
        origins: `release` lines of the repositories that have it (`o=Debian,a=stable,n=bookworm,l=Debian,c=main`).
    """

    name: str
    installed: str
    candidate: str
    origins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AptState:
    """What apt would do by itself.

    Attributes:
        unattended: unattended-upgrades is installed and turned on (`None`: the host has no apt).
        timer: state of apt-daily-upgrade.timer (`active`), "" when systemd does not know it.
        next_run: when it runs next, in systemd's words; "" when it does not.
        allowed: patterns of the origins that it takes from (`o=...,a=...`), placeholders filled in.
        blacklist: regular expressions of packages that it leaves alone.
        reboot: it reboots the host by itself, and when (`now`, `02:00`); "" when it does not.
        upgrades: newer versions of packages of the kernel, the driver or containers; `None`: not asked.
        pins: (file, package patterns, pin, priority) of apt's preferences that name NVIDIA's packages.
    """

    unattended: bool | None = None
    timer: str = ""
    next_run: str = ""
    allowed: tuple[str, ...] = ()
    blacklist: tuple[str, ...] = ()
    reboot: str = ""
    upgrades: tuple[Upgrade, ...] | None = None
    pins: tuple[tuple[str, str, str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Space:
    """A file system: where it is mounted, its size and what is free, in KiB."""

    mount: str
    size_kib: int
    free_kib: int


@dataclass(frozen=True)
class BootState:
    """All of it.

    Attributes:
        menu: configuration of the boot loader, or `None` when none could be read.
        kernels: kernels with an image in /boot or modules in /lib/modules, oldest version first.
        links: links of the distribution such as /vmlinuz -> their kernel's file.
        dkms: what `dkms status` says; `None`: there is no dkms, or it did not answer.
        dkms_said: what dkms said that is no status line (errors), verbatim.
        blacklists: (path, time, line) of modprobe.d that keep nouveau out.
        early: lines of the initramfs' configuration that put nvidia into it.
        packages: packages of the kernel, the driver and containers, and all that dpkg left half-way.
        interrupted: dpkg's journal is not empty: a run of it was cut off.
        apt: what apt would do by itself.
        spaces: asked path (`/boot`, `/var`) -> its file system.
        library: version of the driver's management library on disk, or `None`.
        enabled: unit -> what `systemctl is-enabled` says.
        lockdown: `none`, `integrity`, `confidentiality`, or `None` when the kernel has none.
        signatures_enforced: the running kernel takes signed modules only, by its own setting.
        trusted: names of the keys that the running kernel trusts.
        own_key: whether DKMS' own key is enrolled; `None`: there is none, or it was not asked.
        running: the kernel that runs now.
        booted_at: when the host booted, seconds since the epoch; `None` when not known.
        modinfo: modules could be asked for; without it no kernel has a known module.
        read_at: seconds since the epoch by the host's clock.
    """

    menu: BootMenu | None = None
    kernels: tuple[DiskKernel, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    dkms: tuple[DkmsEntry, ...] | None = None
    dkms_said: str = ""
    blacklists: tuple[tuple[str, float, str], ...] = ()
    early: tuple[str, ...] = ()
    packages: tuple[DiskPackage, ...] = ()
    interrupted: bool = False
    apt: AptState = AptState()
    spaces: Mapping[str, Space] = field(default_factory=dict)
    library: str | None = None
    enabled: Mapping[str, str] = field(default_factory=dict)
    lockdown: str | None = None
    signatures_enforced: bool | None = None
    trusted: tuple[str, ...] = ()
    own_key: bool | None = None
    running: str = ""
    booted_at: float | None = None
    modinfo: bool = False
    read_at: float | None = None

    def kernel(self, release: str) -> DiskKernel | None:
        """Return the kernel `release`, or `None` when it is not installed."""
        return next((k for k in self.kernels if k.release == release), None)

    def package(self, name: str) -> DiskPackage | None:
        """Return an installed package by name, or `None`."""
        return next((p for p in self.packages if p.name == name), None)
