"""Stand-ins for kernels and their headers: the machine's own headers, and a newer kernel that an upgrade brings."""

from __future__ import annotations

from collections.abc import Iterator

from metalserve.lab.packages.model import File, Package
from metalserve.lab.sim.grub import MARK, newer

VERSION = "1-1~metalserve1"
_POSTINST = """\
if [ "$1" = configure ]; then
  cp /usr/share/metalserve-lab/kernels/{release} /boot/vmlinuz-{release}
  cp /usr/share/metalserve-lab/kernels/{release} /boot/initrd.img-{release}
  if [ -d /etc/kernel/postinst.d ]; then
    for hook in /etc/kernel/postinst.d/*; do
      if [ -x "$hook" ]; then "$hook" {release} /boot/vmlinuz-{release}; fi
    done
  fi
  if [ -x /usr/sbin/update-grub ]; then /usr/sbin/update-grub; fi
fi
"""
_POSTRM = """\
rm -f /boot/vmlinuz-{release} /boot/initrd.img-{release}
if [ -x /usr/sbin/update-grub ]; then /usr/sbin/update-grub; fi
"""
_HEADERS_POSTINST = """\
mkdir -p /lib/modules/{release}
ln -sfn /usr/src/linux-headers-{release} /lib/modules/{release}/build
if command -v dkms >/dev/null; then dkms autoinstall -k {release} || true; fi
"""


def kernel_packages(running: str, architecture: str) -> Iterator[Package]:
    """Headers of the machine's kernel; a newer kernel, its headers, and the meta packages that bring them.

    Args:
        running: `uname -r` of the machine, which lab hosts run on.
        architecture: Debian's name of the machine's architecture.
    """
    release = newer(running, architecture)
    yield headers_package(running)
    yield Package(
        f"linux-image-{release}",
        VERSION,
        f"kernel {release}; a text in /boot that no machine can start",
        files={
            f"/usr/share/metalserve-lab/kernels/{release}": File(f"{MARK} ({release})\n"),
            f"/usr/lib/modules/{release}/modules.builtin": File(""),
        },
        scripts={
            "postinst": _POSTINST.format(release=release),
            "postrm": _POSTRM.format(release=release),
        },
        arch_all=True,
    )
    yield headers_package(release)
    for kind in ("image", "headers"):
        yield Package(
            f"linux-{kind}-{architecture}",
            VERSION,
            f"newest kernel's {kind}, metapackage",
            relations={"Depends": f"linux-{kind}-{release} (= {VERSION})"},
            arch_all=True,
        )


def headers_package(release: str) -> Package:
    """The headers of a kernel: a directory that the stand-in dkms looks for, and what the real hook would do."""
    return Package(
        f"linux-headers-{release}",
        VERSION,
        f"kernel headers of {release}; a directory that the stand-in dkms looks for",
        files={
            f"/usr/src/linux-headers-{release}/Makefile": File("# STAND-IN for the metalserve lab: builds nothing\n")
        },
        scripts={
            "postinst": _HEADERS_POSTINST.format(release=release),
            "prerm": f"rm -f /lib/modules/{release}/build\n",
        },
        arch_all=True,
    )
