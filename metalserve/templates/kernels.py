"""The kernels of a tree, and what their initial RAM disks are called. Pure but for looking."""

from __future__ import annotations

from pathlib import Path

from metalserve.errors import MetalserveError
from metalserve.templates.spec import TemplateSpec


def initrd_name(kernel: str, spec: TemplateSpec) -> str:
    """Return the name of a kernel's initial RAM disk in /boot."""
    return f"initrd.img-{kernel}" if spec.os.family == "apt" else f"initramfs-{kernel}.img"


def initrd(kernel: str, spec: TemplateSpec) -> str:
    """Return the initial RAM disk of a kernel, as the packer's tools see it."""
    return f"root/boot/{initrd_name(kernel, spec)}"


def kernel_releases(root: Path) -> list[str]:
    """Return what `uname -r` will say of each kernel of the image, the newest first.

    Raises:
        MetalserveError: there is none.
    """
    names = [path.name.removeprefix("vmlinuz-") for path in (root / "boot").glob("vmlinuz-*")]
    if not names:
        raise MetalserveError("the image has no kernel (no /boot/vmlinuz-*)", where=str(root))
    return sorted(names, key=_version, reverse=True)


def kernel_release(root: Path) -> str:
    """Return what `uname -r` will say of the image's kernel, the newest where there are several; see above."""
    return kernel_releases(root)[0]


def _version(name: str) -> list[tuple[int, int | str]]:
    words = "".join(c if c.isalnum() else " " for c in name).split()
    return [(1, int(word)) if word.isdigit() else (0, word) for word in words]
