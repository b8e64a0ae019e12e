"""What is looked at in a finished tree before it becomes an image; nothing is booted. Each problem is one line."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from metalserve.templates.boot_chain import chain_problems
from metalserve.templates.clean import IDENTITIES, TRACES, matches
from metalserve.templates.kernels import initrd, kernel_release
from metalserve.templates.pack import Identity
from metalserve.templates.spec import TemplateSpec
from metalserve.trees.image import command_in_image

BOOT_MODULES = ("nvme", "ahci", "virtio_blk")
"""Without these in the initial RAM disk, a node does not find its root."""

NETWORK_MODULES = ("mlx5_core", "bnxt_en", "ice", "i40e", "ixgbe", "igb", "virtio_net")
"""The network adapters of GPU servers, in the initial RAM disk or at least among the image's modules."""

_EMPTY_FILES = {"etc/machine-id"}
_TEXT_PLACES = ("etc", "root", "home", "opt", "usr/local", "var/lib")
_LARGEST_TEXT = 1 << 20
_PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")

Run = Callable[[Sequence[str]], str]
"""Runs a program in the tree and returns what it printed, "" when it failed."""


def runner(root: Path) -> Run:
    """Return what runs programs in the tree `root`."""

    def run(words: Sequence[str]) -> str:
        done = subprocess.run(
            command_in_image(root, words), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        return done.stdout if done.returncode == 0 else ""

    return run


def problems(
    spec: TemplateSpec, root: Path, identity: Identity, run: Run, *, strangers: Iterable[str] = ()
) -> list[str]:
    """Return what is wrong with a tree, nothing when it may become an image.

    Args:
        spec: the template.
        root: the tree, cleaned.
        identity: of the disk that it is to be packed into.
        run: runs programs in the tree.
        strangers: text that must be nowhere in its files: the directory and the mirrors of the build.
    """
    found = [
        *_left_behind(root),
        *_secrets(root, [text.encode() for text in strangers if text]),
        *_passwords(root),
        *_boots(spec, root, identity, run),
        *chain_problems(spec, root, run),
    ]
    if "nvidia_driver" in spec.roles:
        found += _driver(spec, root, run)
    return found


def _left_behind(root: Path) -> Iterator[str]:
    for pattern in (*IDENTITIES, *TRACES):
        for path in matches(root, pattern):
            if path.is_symlink() or path.is_file() or any(not each.is_dir() for each in path.rglob("*")):
                yield f"/{path.relative_to(root)}: every node would have it"
    for name in sorted(_EMPTY_FILES):
        path = root / name
        if not path.is_file() or path.stat().st_size:
            yield f"/{name}: must be there, and empty"
    logs = [path for path in (root / "var/log").rglob("*") if path.is_file()]
    yield from (f"/{path.relative_to(root)}: a log of the build" for path in logs)


def _secrets(root: Path, strangers: list[bytes]) -> Iterator[str]:
    for path in _small_files(root):
        content = path.read_bytes()
        name = f"/{path.relative_to(root)}"
        if _PRIVATE_KEY.search(content[:200]):
            yield f"{name}: a private key, which every node would share"
        for stranger in strangers:
            if stranger in content:
                yield f"{name}: names {stranger.decode()}, which is of the build"


def _small_files(root: Path) -> Iterator[Path]:
    for place in _TEXT_PLACES:
        for directory, _, files in os.walk(root / place):
            for name in files:
                path = Path(directory) / name
                if not path.is_symlink() and path.is_file() and path.stat().st_size <= _LARGEST_TEXT:
                    yield path


def _passwords(root: Path) -> Iterator[str]:
    path = root / "etc/shadow"
    for line in path.read_text().splitlines() if path.is_file() else ():
        name, _, rest = line.partition(":")
        word = rest.split(":", 1)[0]
        if word not in ("*", "!", "!!", "!*"):
            yield f"/etc/shadow: {name} has {'a password' if word else 'an empty password'}"


def _boots(spec: TemplateSpec, root: Path, identity: Identity, run: Run) -> Iterator[str]:
    kernel = kernel_release(root)
    table = (root / "etc/fstab").read_text() if (root / "etc/fstab").is_file() else ""
    if f"UUID={identity.file_system} / " not in table:
        yield "/etc/fstab: does not name the root file system by its UUID"
    modules = root / "lib/modules" / kernel
    if not (modules / "modules.dep").is_file():
        yield f"/lib/modules/{kernel}/modules.dep: is not there, so no module can be loaded"
        return
    ram = root / initrd(kernel, spec).removeprefix("root/")
    if not ram.is_file():
        yield f"/{ram.relative_to(root)}: is not there"
        return
    inside = _ram_modules(spec, root, run)
    if not inside:
        yield f"/{ram.relative_to(root)}: cannot be read"
        return
    builtin = _module_names((modules / "modules.builtin").read_text().splitlines())
    for name in BOOT_MODULES:
        if name not in inside | builtin:
            yield f"/{ram.relative_to(root)}: has no module {name}, and the kernel has not got it built in"
    anywhere = _module_names(line.split(":")[0] for line in (modules / "modules.dep").read_text().splitlines())
    for name in NETWORK_MODULES:
        if name not in anywhere | builtin | inside:
            yield f"/lib/modules/{kernel}: has no module {name} for the network"


def _ram_modules(spec: TemplateSpec, root: Path, run: Run) -> set[str]:
    lister = "lsinitramfs" if spec.os.family == "apt" else "lsinitrd"
    ram = initrd(kernel_release(root), spec).removeprefix("root/")
    return _module_names(run([lister, f"/{ram}"]).splitlines())


def _module_names(paths: Iterable[str]) -> set[str]:
    names = (path.rsplit("/", 1)[-1].split(".ko")[0].replace("-", "_") for path in paths if ".ko" in path)
    return set(names)


def _driver(spec: TemplateSpec, root: Path, run: Run) -> Iterator[str]:
    kernel = kernel_release(root)
    if "nouveau" in _ram_modules(spec, root, run):
        yield f"/{initrd(kernel, spec).removeprefix('root/')}: has nouveau, which would take the GPUs first"
    listed = (root / "lib/modules" / kernel / "modules.dep").read_text()
    names = [
        line.split(":")[0]
        for line in listed.splitlines()
        if re.search(r"/nvidia(-current)?(-open)?\.ko", line.split(":")[0])
    ]
    if not names:
        yield f"/lib/modules/{kernel}: has no nvidia module, so that the driver would not load"
    for name in names:
        magic = run(["modinfo", "-F", "vermagic", f"/lib/modules/{kernel}/{name}"]).split()[:1]
        if magic != [kernel]:
            yield f"/lib/modules/{kernel}/{name}: is for kernel {magic[0] if magic else 'unknown'}"
