"""A boot loader for hosts that have none: /boot with stand-ins for kernels, grub.cfg, grubenv and update-grub.

No boot loader reads it; at a simulated boot the lab reads grub.cfg and grubenv itself, and the host then names the
chosen kernel (`uname -r`) and loads modules of that kernel only. The kernel beneath stays the machine's.
"""

from __future__ import annotations

import os
import re

from .state import Lab

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Out = Callable[[str], None]

MARK = "STAND-IN for the metalserve lab: not a kernel"
BOOTED = "state/boot/kernel"
_UPDATE_GRUB = """#!/bin/sh
# metalserve lab: simulated
exec /opt/metalserve-lab/bin/update-grub "$@"
"""
_UNAME = """#!/bin/sh
# metalserve lab: names the kernel that the simulated boot loader started
real=$(/usr/bin/uname -r)
read -r chosen 2>/dev/null </opt/metalserve-lab/state/boot/kernel || chosen=$real
/usr/bin/uname "$@" | sed "s|$real|$chosen|"
"""


def kernel(lab: Lab) -> str:
    """The kernel that the host runs, as the simulation has it."""
    try:
        with open(lab.path(BOOTED), encoding="utf-8") as stream:
            return stream.read().strip() or os.uname().release
    except OSError:
        return os.uname().release


def prepare(lab: Lab) -> None:
    """Give a host a boot directory, unless it has one, and start the kernel that its boot menu names."""
    boot = lab.file("/boot")
    os.makedirs(os.path.join(boot, "grub"), exist_ok=True)
    if not images(lab):
        install(lab, os.uname().release)
    _write(lab.file("/usr/sbin/update-grub"), _UPDATE_GRUB, 0o755)
    if not os.path.exists(os.path.join(boot, "grub/grub.cfg")):
        update(lab)
    chosen = _chosen(lab) or os.uname().release
    _write(lab.path(BOOTED), f"{chosen}\n")
    wrapper = lab.file("/usr/local/bin/uname")
    if chosen != os.uname().release:
        _write(wrapper, _UNAME, 0o755)
    elif os.path.exists(wrapper):
        os.unlink(wrapper)


def install(lab: Lab, release: str) -> None:
    """Lay a stand-in of a kernel and its initramfs into /boot, and its module directory."""
    for name in (f"vmlinuz-{release}", f"initrd.img-{release}"):
        _write(lab.file(f"/boot/{name}"), f"{MARK} ({release})\n")
    os.makedirs(lab.file(f"/lib/modules/{release}"), exist_ok=True)


def remove(lab: Lab, release: str) -> None:
    """Take it away again; modules that were built for it stay."""
    for name in (f"vmlinuz-{release}", f"initrd.img-{release}"):
        if os.path.exists(lab.file(f"/boot/{name}")):
            os.unlink(lab.file(f"/boot/{name}"))


def images(lab: Lab) -> list[str]:
    """Releases of the kernels in /boot, newest first."""
    try:
        names = os.listdir(lab.file("/boot"))
    except OSError:
        return []
    found = [name.removeprefix("vmlinuz-") for name in names if name.startswith("vmlinuz-")]
    return sorted(
        found, key=lambda r: [(p.isdigit(), int(p) if p.isdigit() else 0, p) for p in _parts(r)], reverse=True
    )


def _parts(release: str) -> list[str]:
    return re.findall(r"\d+|[A-Za-z]+", release)


def update(lab: Lab) -> None:
    """What update-grub does: a menu of all kernels, the newest first and the default."""
    lines = [
        "# metalserve lab: simulated; written by update-grub, read by the lab alone",
        'if [ "${next_entry}" ] ; then', '   set default="${next_entry}"', "else", '   set default="0"', "fi",
    ]  # fmt: skip
    found = images(lab)
    if found:
        lines += _entry("Debian GNU/Linux", "gnulinux-simple-lab", found[0], "")
        lines.append("submenu 'Advanced options for Debian GNU/Linux' $menuentry_id_option 'gnulinux-advanced-lab' {")
        for release in found:
            title = f"Debian GNU/Linux, with Linux {release}"
            lines += _entry(title, f"gnulinux-{release}-advanced-lab", release, "\t")
        lines.append("}")
    _write(lab.file("/boot/grub/grub.cfg"), "\n".join(lines) + "\n")


def _entry(title: str, ident: str, release: str, indent: str) -> list[str]:
    return [
        f"{indent}menuentry '{title}' --class debian $menuentry_id_option '{ident}' {{",
        f"{indent}\tlinux\t/boot/vmlinuz-{release} root=/dev/lab ro quiet",
        f"{indent}\tinitrd\t/boot/initrd.img-{release}",
        f"{indent}}}",
    ]


def _chosen(lab: Lab) -> str | None:
    """The kernel of `next_entry` where that names one, else of the first entry."""
    try:
        with open(lab.file("/boot/grub/grub.cfg"), encoding="utf-8") as stream:
            listed = re.findall(r"linux\s+\S*/vmlinuz-(\S+)", stream.read())
    except OSError:
        return None
    once = ""
    environment = lab.file("/boot/grub/grubenv")
    if os.path.exists(environment):
        with open(environment, encoding="utf-8") as stream:
            lines = stream.read().splitlines()
        once = next((line.partition("=")[2] for line in lines if line.startswith("next_entry=")), "")
        # GRUB clears it as it boots, so that the entry is taken once.
        _write(environment, "".join(f"{line}\n" for line in lines if not line.startswith("next_entry=")))
    there = set(images(lab))
    wanted = [r for r in listed if f"gnulinux-{r}-advanced-" in once] or listed
    return next((release for release in wanted if release in there), None)


def main(lab: Lab, args: list[str], out: Out, err: Out) -> int:
    """`update-grub`."""
    out("Generating grub configuration file ... (metalserve lab: simulated)")
    for release in images(lab):
        out(f"Found linux image: /boot/vmlinuz-{release}")
    update(lab)
    out("done")
    return 0


def newer(release: str, architecture: str = "amd64") -> str:
    """The kernel that the lab's repository has beside the machine's: newer than that one, and of Debian's naming."""
    major = re.match(r"\d+", release)
    return f"{int(major.group()) + 1 if major else 9}.1.0-1-{architecture}"


def _write(path: str, text: str, mode: int = 0o644) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{os.getpid()}.new"
    with open(temporary, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.chmod(temporary, mode)
    os.replace(temporary, path)
