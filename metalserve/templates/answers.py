"""Answers for a distribution's own installer, from the same specification as the image.

For sites that must install that way: Ubuntu's autoinstall, Debian's preseed, Anaconda's kickstart. What they install
is the distribution with the template's packages, users and first boot; the roles come with the first run against it.
"""

from __future__ import annotations

import base64
import re
import shlex
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from metalserve.paths import FILES
from metalserve.templates.firstboot import LIBRARY, UNITS, UNVERIFIED, first_boot_files
from metalserve.templates.machine import users_script
from metalserve.templates.manifest import TemplateError
from metalserve.templates.spec import TemplateSpec

SOURCE = FILES / "templates" / "answers"

_SERIAL = re.compile(r"[A-Za-z0-9._:-]{3,64}")
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NO_DISK = "@METALSERVE_DISK@"
"""Stands for the disk until the early command has found it; no installer takes it for one."""


@dataclass(frozen=True)
class Target:
    """The machine that is installed.

    Attributes:
        hostname: a label, without a domain.
        disk: serial number of the disk that is wiped.
    """

    hostname: str
    disk: str


def answers(spec: TemplateSpec, target: Target) -> dict[str, str]:
    """Return the files for the installer of a template's distribution: name -> text.

    Raises:
        TemplateError: the host name or serial number is none, nobody could log in, or the kernel is not a package.
    """
    if not _HOST.fullmatch(target.hostname):
        raise TemplateError(
            f"{target.hostname[:80]!r} is no host name", where="hostname", remedy="small letters, digits and '-'"
        )
    if not _SERIAL.fullmatch(target.disk):
        raise TemplateError(
            f"{target.disk[:80]!r} is no serial number", where="disk", remedy="as `lsblk -dno SERIAL` prints it"
        )
    if not any(user.sudo and user.authorized_keys for user in spec.users):
        raise TemplateError(
            "nobody could log in to what these answers install",
            where=f"{spec.name}: users",
            remedy="name a user with sudo and authorized_keys",
        )
    if spec.kernel.package is None:
        raise TemplateError("names files, and an installer takes a package", where=f"{spec.name}: kernel")
    if spec.os.distribution == "ubuntu":
        return _autoinstall(spec, target)
    if spec.os.distribution == "debian":
        return {"preseed.cfg": _preseed(spec, target)}
    return {"ks.cfg": _kickstart(spec, target)}


def _autoinstall(spec: TemplateSpec, target: Target) -> dict[str, str]:
    """Return NoCloud's two files. The disk is put in by the early command, after which the installer reads anew."""
    find = f'{_find_by_lsblk(target.disk)}\nsed -i "s|{_NO_DISK}|/dev/$disk|" /autoinstall.yaml\n'
    config: dict[str, Any] = {
        "version": 1,
        "early-commands": [["sh", "-c", find]],
        "locale": "en_US.UTF-8",
        "keyboard": {"layout": "us"},
        "timezone": "Etc/UTC",
        "network": _netplan(spec),
        "apt": _apt(spec),
        "storage": {"swap": {"size": 0}, "config": _curtin_disk(spec)},
        "ssh": {"install-server": True, "allow-pw": False},
        "kernel": {"package": _bare(spec.kernel.package)},
        "packages": _packages(spec),
        "updates": "security",
        # no "identity": it wants a password; cloud-init makes no user of its own, the late command makes ours
        "user-data": {"hostname": target.hostname, "users": [], "ssh_pwauth": False},
        "late-commands": [["curtin", "in-target", "--target=/target", "--", "sh", "-c", _finish(spec, grub=True)]],
        "shutdown": "reboot",
    }
    head = (
        "#cloud-config\n"
        f"# Answers for Ubuntu's installer: template {spec.name}, host {target.hostname}. Made by metalserve.\n"
        f"# The one disk with serial number {target.disk} is wiped, no other; without just one such disk it ends.\n"
    )
    body = yaml.safe_dump({"autoinstall": config}, sort_keys=False, width=200)
    return {
        "user-data": head + body,
        "meta-data": f"instance-id: {target.hostname}\nlocal-hostname: {target.hostname}\n",
    }


def _netplan(spec: TemplateSpec) -> dict[str, Any]:
    if spec.first_boot.network == "none":
        return {"version": 2}
    wired = {"match": {"name": "en*"}, "dhcp4": True, "optional": True}
    return {"version": 2, "ethernets": {"wired": wired}}


def _apt(spec: TemplateSpec) -> dict[str, Any]:
    places = {"primary": spec.os.mirror, "security": spec.os.security}
    return {
        "preserve_sources_list": False,
        **{name: [{"arches": [spec.architecture], "uri": uri}] for name, uri in places.items() if uri},
    }


def _curtin_disk(spec: TemplateSpec) -> list[dict[str, Any]]:
    return [
        {
            "type": "disk",
            "id": "disk",
            "match": {"path": _NO_DISK},
            "ptable": "gpt",
            "wipe": "superblock-recursive",
            "preserve": False,
        },
        {
            "type": "partition",
            "id": "esp",
            "device": "disk",
            "size": f"{spec.disk.esp_mib}M",
            "flag": "boot",
            "grub_device": True,
        },
        {"type": "format", "id": "esp-fs", "volume": "esp", "fstype": "fat32"},
        {"type": "partition", "id": "root", "device": "disk", "size": -1},
        {"type": "format", "id": "root-fs", "volume": "root", "fstype": spec.disk.file_system},
        {"type": "mount", "id": "root-mount", "device": "root-fs", "path": "/"},
        {"type": "mount", "id": "esp-mount", "device": "esp-fs", "path": "/boot/efi"},
    ]


def _preseed(spec: TemplateSpec, target: Target) -> str:
    # the installer has busybox only, and goes on when this fails, to the only disk there is: so it must not end
    find = (
        f"found=; for link in /dev/disk/by-id/*_{target.disk} /dev/disk/by-id/*_{target.disk}_1; do "
        '[ -b "$link" ] || continue; disk=$(readlink -f "$link"); '
        'case " $found " in *" $disk "*) ;; *) found="$found $disk";; esac; done; set -- $found; '
        f'if [ $# != 1 ]; then echo "metalserve: $# disks have the serial number {target.disk}: nothing is wiped" '
        ">/dev/console; while :; do sleep 3600; done; fi; "
        'debconf-set partman-auto/disk "$1"'
    )
    packed = base64.b64encode(_finish(spec).encode()).decode()
    # decoded in the target: the installer's busybox need not know base64
    finish = f"in-target sh -c 'printf %s {packed} | base64 -d | sh'"
    return _render(
        "preseed.cfg.j2",
        spec,
        target,
        find_disk=find,
        finish=finish,
        mirror=urlsplit(spec.os.mirror),
        security=urlsplit(spec.os.security) if spec.os.security else None,
        esp=spec.disk.esp_mib,
    )


def _kickstart(spec: TemplateSpec, target: Target) -> str:
    lines = (
        "ignoredisk --only-use=$disk",
        "zerombr",
        "clearpart --all --initlabel --disklabel=gpt --drives=$disk",
        f"part /boot/efi --fstype=efi --size={spec.disk.esp_mib} --ondisk=$disk",
        f"part / --fstype={spec.disk.file_system} --size=4096 --grow --ondisk=$disk",
    )
    return _render(
        "kickstart.cfg.j2",
        spec,
        target,
        find_disk=_find_by_lsblk(target.disk),
        disk_commands="\n".join(lines),
        finish=_finish(spec).rstrip("\n"),
        machine={"amd64": "x86_64"}[spec.architecture],
    )


def _render(name: str, spec: TemplateSpec, target: Target, **more: Any) -> str:
    # no HTML is made here
    environment = Environment(  # noqa: S701
        loader=FileSystemLoader(SOURCE), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    template = environment.get_template(name)
    return template.render(
        spec=spec, target=target, kernel=_bare(spec.kernel.package), packages=_packages(spec), **more
    )


def _find_by_lsblk(serial: str) -> str:
    """Return shell that sets `disk` to the name of the one disk with a serial number, or fails."""
    return (
        f"set -eu\nserial={shlex.quote(serial)}\n"
        'disk=$(lsblk -dnro NAME,TYPE,SERIAL | awk -v s="$serial" \'$2 == "disk" && $3 == s {print $1}\')\n'
        'if [ "$(printf \'%s\\n\' "$disk" | grep -c .)" != 1 ]; then\n'
        '  echo "metalserve: not just one disk has the serial number $serial: nothing is wiped" >&2\n'
        "  exit 1\nfi"
    )


def _finish(spec: TemplateSpec, *, grub: bool = False) -> str:
    """Return the script that runs in the installed system: users, and the first boot of metalserve."""
    lines = [users_script(spec.users).rstrip("\n")]
    for path, (mode, text) in sorted(_first_boot(spec).items()):
        packed = base64.b64encode(text.encode()).decode()
        lines.append(f"install -d -m 0755 {shlex.quote(path.rsplit('/', 1)[0])}")
        lines.append(f"printf %s {packed} | base64 -d >{shlex.quote(path)}; chmod {mode:04o} {shlex.quote(path)}")
    if grub:
        line = f"GRUB_CMDLINE_LINUX_DEFAULT={shlex.quote(spec.kernel.command_line)}"
        lines.append("install -d -m 0755 /etc/default/grub.d")
        lines.append(f"printf '%s\\n' {shlex.quote(line)} >/etc/default/grub.d/90-metalserve.cfg; update-grub")
    if spec.os.family == "dnf":
        lines.append(f"restorecon -R /home /etc/sudoers.d /usr/local/lib /var/lib/metalserve {UNITS}")
    return "\n".join(lines) + "\n"


def _first_boot(spec: TemplateSpec) -> dict[str, tuple[int, str]]:
    """The first boot's files without those that make one image many machines: the installer made this one machine."""
    own = spec.first_boot.model_copy(update={"cloud_init": True, "network": "none"})
    files = first_boot_files(spec.model_copy(update={"first_boot": own}))
    wanted = (f"{LIBRARY}/", f"{UNITS}/metalserve-", f"{UNITS}/multi-user.target.d/", UNVERIFIED)
    return {path: file for path, file in files.items() if path.startswith(wanted)}


def _packages(spec: TemplateSpec) -> list[str]:
    return sorted({_bare(name) for name in spec.packages} | {"sudo"})


def _bare(package: str | None) -> str:
    """A package's name without the suite that it is to come from, which installers cannot say."""
    return (package or "").split("/")[0]
