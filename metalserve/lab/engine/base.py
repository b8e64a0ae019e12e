"""The bottom layer of the stand-in image: a shell and Python, unpacked from Debian packages, without Docker."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from metalserve.errors import MetalserveError
from metalserve.lab.engine.archive import write_tar
from metalserve.trees.mirrors import machine_mirrors

SUITE = "bookworm"
_PACKAGES = ("base-files", "coreutils", "dash", "libpython3-stdlib", "python3-minimal")
# Nothing in the container reads these; they are two thirds of what the packages unpack.
_EXCLUDED = (
    "usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian", "usr/share/bug",
    "usr/share/perl5", "usr/share/polkit-1", "usr/share/zoneinfo", "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/aarch64-linux-gnu/gconv", "usr/lib/python3.11/lib2to3", "usr/lib/python3.11/pydoc_data",
    "usr/lib/python3.11/unittest", "usr/lib/python3.11/sqlite3", "var/lib/apt", "var/lib/dpkg", "var/cache", "var/log",
    "etc/apt",
)  # fmt: skip
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nvllm:x:2000:0:vllm:/home/vllm:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
_DIRECTORIES = ("root", "home/vllm", "proc", "sys", "dev", "run", "tmp", "vllm-workspace", "usr/local/bin")


def base_layer(cache: Path, *, packages: Sequence[str] = _PACKAGES, keep: Sequence[str] = ()) -> Path:
    """Return the tar of the base layer, made once per recipe and kept in `cache`.

    Args:
        cache: where it is kept.
        packages: Debian packages, dependencies apart.
        keep: directories that are not taken out, of those that nothing in the stand-in reads.

    Raises:
        MetalserveError: no Debian mirror is configured, or mmdebstrap failed.
    """
    excluded = tuple(name for name in _EXCLUDED if name not in keep)
    recipe = repr((SUITE, tuple(packages), excluded, _FILES, _DIRECTORIES))
    target = cache / f"engine-base-{hashlib.sha256(recipe.encode()).hexdigest()[:10]}.tar"
    if target.is_file():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="engine-base-") as work:
        root = Path(work) / "root"
        _unpack(root, Path(work) / "log", packages)
        _reduce(root, excluded)
        write_tar(target, root)
    return target


def _unpack(root: Path, log: Path, packages: Sequence[str]) -> None:
    """Unpack the packages without running their scripts: quick, and the same every time."""
    command = ["mmdebstrap", "--variant=extract", "--mode=root", "--format=directory"]
    command += [f"--include={','.join(packages)}", '--aptopt=Acquire::Languages "none"']
    command += ['--aptopt=Acquire::Check-Valid-Until "false"', '--aptopt=Acquire::Retries "3"']
    command += [f"--aptopt={option}" for option in _proxies()]
    command += [SUITE, str(root), *machine_mirrors().sources(SUITE)]
    try:
        with log.open("w") as stream:
            status = subprocess.run(
                command, stdout=stream, stderr=subprocess.STDOUT, check=False, umask=0o022
            ).returncode
    except FileNotFoundError:
        raise MetalserveError(
            "mmdebstrap is not installed", where="engine image", remedy="apt-get install mmdebstrap"
        ) from None
    if status != 0:
        said = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("E:")]
        raise MetalserveError(
            f"mmdebstrap failed ({status}): {said[0] if said else 'no message'}", where="engine image"
        )


def _proxies() -> list[str]:
    """Return the machine's apt proxy settings: mmdebstrap's apt does not read the machine's configuration."""
    try:
        dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return []
    return re.findall(r'^(Acquire::https?::(?:Proxy|Proxy-Auto-Detect|CaInfo)\S* "[^"]+");$', dump, re.MULTILINE)


def _reduce(root: Path, excluded: Sequence[str]) -> None:
    for name in excluded:
        path = root / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
    for cached in root.rglob("__pycache__"):
        shutil.rmtree(cached)
    for name in _DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name, text in _FILES.items():
        (root / name).write_text(text)
    (root / "tmp").chmod(0o1777)
    (root / "dev").chmod(0o755)
    for node in (root / "dev").iterdir():  # the container runtime makes its own
        shutil.rmtree(node) if node.is_dir() and not node.is_symlink() else node.unlink()
