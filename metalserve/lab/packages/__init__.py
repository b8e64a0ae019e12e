"""The lab's NVIDIA repository: real .deb files that stand in for NVIDIA's, so that real apt resolves, pins and fails.

Every description begins with `STAND-IN for the metalserve lab:`; nothing in them is NVIDIA's.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from metalserve.errors import MetalserveError
from metalserve.lab.packages.model import Package
from metalserve.lab.packages.table import all_packages
from metalserve.lab.repository import SigningKey, make_flat_repository

DISTRIBUTIONS = ("debian12", "debian13")
MARK = "STAND-IN for the metalserve lab:"
_MARKERS = "/usr/share/metalserve-lab/stand-ins"


def build_repository(www: Path, key: SigningKey, *, kernels: bool = True) -> None:
    """Write the stand-ins of NVIDIA's repository for all distributions of the lab, indexed and signed.

    Nothing is done when the packages, the key and the kernel release are those of the last time.

    Args:
        www: what the lab serves; `www/nvidia/DISTRIBUTION/ARCHITECTURE/` is written.
        key: signs the indexes.
        kernels: with stand-ins for kernels and their headers, which containers need; a machine has Debian's own.

    Raises:
        MetalserveError: dpkg-deb, apt-ftparchive or gpg is missing or fails.
    """
    kernel = os.uname().release
    architecture = deb_architecture()
    packages = all_packages(kernel if kernels else None, architecture)
    stamp = hashlib.sha256(f"{packages!r} {architecture} {key.fingerprint}".encode()).hexdigest()
    targets = [www / "nvidia" / name / repository_architecture(architecture) for name in DISTRIBUTIONS]
    if all((target / "Release").exists() and _stamp(target) == stamp for target in targets):
        return
    (www / "nvidia").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=www, prefix=".nvidia-") as scratch:
        built = build_packages(packages, Path(scratch), architecture)
        for target in targets:
            new = target.with_name(f".{target.name}.new")
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
            for file in built:
                os.link(file, new / file.name)
            make_flat_repository(new, key=key, origin="metalserve-lab-nvidia", label="metalserve lab: stand-ins")
            (new / "stamp").write_text(stamp, encoding="ascii")
            shutil.rmtree(target, ignore_errors=True)
            new.rename(target)


def _stamp(target: Path) -> str:
    path = target / "stamp"
    return path.read_text(encoding="ascii") if path.exists() else ""


def deb_architecture() -> str:
    """Return Debian's name of the machine's architecture."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


def repository_architecture(architecture: str) -> str:
    """Return the directory name that NVIDIA's repositories use: `x86_64` or `sbsa`."""
    return {"amd64": "x86_64", "arm64": "sbsa"}.get(architecture, architecture)


def build_packages(packages: list[Package], directory: Path, architecture: str) -> list[Path]:
    """Build packages with dpkg-deb into `directory`; returns the files, in the order given."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        return list(pool.map(lambda package: _build(package, directory, architecture), packages))


def _build(package: Package, directory: Path, architecture: str) -> Path:
    arch = "all" if package.arch_all else architecture
    plain = package.version.split(":", 1)[-1]
    target = directory / f"{package.name}_{plain}_{arch}.deb"
    tree = directory / f".{package.name}_{plain}"
    upstream = package.upstream or plain.rsplit("-", 1)[0]
    files = {**{path: (file.text, file.mode) for path, file in package.files.items()}}
    files[f"{_MARKERS}/{package.name}"] = (f"{upstream}\n", 0o644)
    for path, (text, mode) in files.items():
        _file(tree / path.lstrip("/"), text, mode)
    control = {
        "Package": package.name,
        "Version": package.version,
        "Architecture": arch,
        "Maintainer": "metalserve lab <lab@metalserve.invalid>",
        "Section": "misc",
        "Priority": "optional",
        **package.relations,
        "Description": f"{MARK} {package.summary}\n This package holds none of the software it is named after.",
    }
    _file(tree / "DEBIAN/control", "".join(f"{name}: {value}\n" for name, value in control.items()), 0o644)
    kept = [path for path in files if path.startswith("/etc/")]
    if kept:
        _file(tree / "DEBIAN/conffiles", "".join(f"{path}\n" for path in kept), 0o644)
    for name, text in package.scripts.items():
        _file(tree / f"DEBIAN/{name}", f"#!/bin/sh\nset -e\n{text}", 0o755)
    command = ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(tree), str(target)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise MetalserveError("dpkg-deb is not installed", where="lab", remedy="apt-get install dpkg") from error
    if done.returncode != 0:
        raise MetalserveError(f"dpkg-deb failed: {done.stderr.strip()}", where=f"stand-in {package.name}")
    shutil.rmtree(tree)
    return target


def _file(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
