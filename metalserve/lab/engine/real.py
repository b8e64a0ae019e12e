"""An image with a REAL vLLM for the CPU in place of the stand-in: the packages of an environment that has one.

Only the engine is real. It computes on the CPU, and the GPUs of the lab's hosts stay simulated.
"""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import yaml

from metalserve.errors import MetalserveError
from metalserve.lab.engine.archive import EPOCH, tar_of, write_docker_archive
from metalserve.lab.engine.base import base_layer
from metalserve.lab.engine.image import architecture
from metalserve.paths import FILES

VERSION = "0.32.0"
REPOSITORY = "metalserve-lab/vllm-cpu"
_PLACE = "opt/vllm/site-packages"
# What the packages need of a Debian: a whole Python of their version, and the libraries that wheels do not bring.
_PACKAGES = (
    "base-files", "coreutils", "dash", "libgomp1", "libnuma1", "libpython3.11-stdlib", "libstdc++6", "python3",
    "util-linux",
)  # fmt: skip
_KEEP = ("usr/lib/python3.11/unittest", "usr/lib/python3.11/pydoc_data", "usr/lib/python3.11/sqlite3")
_VLLM = f"""#!/usr/bin/python3
import sys

sys.path.insert(0, "/{_PLACE}")
from vllm.entrypoints.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
"""


def build_real_image(target: Path, *, site_packages: Path, cache: Path) -> str:
    """Write the image as a Docker archive, tag `metalserve-lab/vllm-cpu:v0.32.0`; about 2.5 GB.

    Args:
        target: the archive to write, atomically.
        site_packages: the packages of an environment with vllm-cpu 0.32.0 and Python 3.11 (`./run test-vllm` makes it).
        cache: where the base layer is kept.

    Returns:
        The SHA-256 of the archive, 64 hexadecimal digits.

    Raises:
        MetalserveError: there is no such vLLM, no Debian mirror, or mmdebstrap failed.
    """
    if not (site_packages / f"vllm-{VERSION}+cpu.dist-info").is_dir() or "python3.11" not in site_packages.parts:
        remedy = "./run test-vllm installs it, with Python 3.11"
        raise MetalserveError(f"holds no vLLM {VERSION} for the CPU", where=str(site_packages), remedy=remedy)
    target.parent.mkdir(parents=True, exist_ok=True)
    packages = target.with_name(".vllm-packages.tar")
    try:
        with tarfile.open(packages, "w", format=tarfile.GNU_FORMAT) as tar:
            tar.add(site_packages, arcname=_PLACE, filter=_owned_by_root)
        command = tar_of({"usr/local/bin/vllm": (_VLLM.encode(), 0o755)}, {"usr/bin/vllm": "../local/bin/vllm"})
        layers: list[Path | bytes] = [base_layer(cache, packages=_PACKAGES, keep=_KEEP), packages, command]
        return write_docker_archive(
            target, tag=f"{REPOSITORY}:v{VERSION}", architecture=architecture(), config=_config(), layers=layers
        )
    finally:
        packages.unlink(missing_ok=True)


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    # The times stay: compiled modules beside the sources are only used when the sources are as old as they say.
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = int(member.mtime) or EPOCH
    return member


def _config() -> dict[str, Any]:
    return {
        "Entrypoint": ["vllm", "serve"],
        "WorkingDir": "/root",
        "Env": [
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG=C.UTF-8",
            f"PYTHONPATH=/{_PLACE}",
            "VLLM_CPU_KVCACHE_SPACE=1",
            "VLLM_HOST_IP=127.0.0.1",
        ],
        "Labels": {
            "org.opencontainers.image.title": "vLLM for the CPU, for the lab: real engine, no GPU",
            "org.opencontainers.image.version": VERSION,
        },
        "StopSignal": "SIGTERM",
    }


def write_release(directory: Path) -> str:
    """Write the releases of the checkout and one with this image into a directory; return that one's name."""
    directory.mkdir(parents=True, exist_ok=True)
    shipped = sorted((FILES / "releases").glob("*.yaml"))
    for path in shipped:
        (directory / path.name).write_bytes(path.read_bytes())
    data = yaml.safe_load(next(path for path in shipped if path.stem == "2026.11-lts").read_text())
    data["name"] = f"lab-vllm-{VERSION}-cpu"
    data["description"] = "The lab's release with a real vLLM on the CPU; never for a host with GPUs"
    data["vllm"] |= {"version": VERSION, "repository": REPOSITORY, "tag": f"v{VERSION}", "digest": None}
    (directory / f"{data['name']}.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return str(data["name"])


def settings(*, release: str, archive: str, sha256: str) -> dict[str, Any]:
    """Return the settings of a lab host that runs this image: one replica, in a type that every CPU computes."""
    return {
        "release": release,
        "engine": {
            "image_archive": archive,
            "image_archive_sha256": sha256,
            "replicas": 1,
            "tensor_parallel": 1,
            "extra_args": ["--dtype", "float32", "--enforce-eager"],
        },
    }
