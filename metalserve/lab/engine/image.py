"""The image `vllm/vllm-openai` of the lab, as an archive for `docker load`: SIMULATED, and labelled so."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from metalserve.catalogue.vllm_check import FIRST_POSITIONAL_RELEASE
from metalserve.catalogue.vllm_flags import load_flags, version_key
from metalserve.lab.engine.archive import tar_of, write_docker_archive, write_tar
from metalserve.lab.engine.base import base_layer
from metalserve.paths import CATALOGUE, lab_directory

REPOSITORY = "vllm/vllm-openai"
_STANDIN = Path(__file__).resolve().parent / "standin"
_PLACE = "opt/vllm-standin"
_VLLM = """#!/usr/bin/python3
# SIMULATED: metalserve's stand-in for vLLM
import sys

sys.path.insert(0, "/opt/vllm-standin")
from standin.server import main

sys.exit(main())
"""
_API_SERVER = """# SIMULATED: metalserve's stand-in for vLLM's old entry point
import sys

sys.path.insert(0, "/opt/vllm-standin")
from standin.server import main

sys.exit(main(prog="api_server.py"))
"""
_PROBE = """#!/usr/bin/python3
# SIMULATED: metalserve's stand-in for files/probes/{name}.py
import sys

sys.path.insert(0, "/opt/vllm-standin")
from standin.measured import main

sys.exit(main("{name}"))
"""


def architecture() -> str:
    """Return the name that Docker has for this machine's architecture."""
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _release_layer(version: str) -> tuple[dict[str, tuple[bytes, int]], dict[str, str]]:
    """Return the files and links of the upper layer: the stand-in, its entry points and the release's flags."""
    files = {
        f"{_PLACE}/standin/{source.name}": (source.read_bytes(), 0o644) for source in sorted(_STANDIN.glob("*.py"))
    }
    flags = CATALOGUE / "vllm" / f"flags-{version}.json"
    files[f"{_PLACE}/{flags.name}"] = (flags.read_bytes(), 0o644)
    for name in ("bandwidth", "soak", "storage"):
        files[f"{_PLACE}/probes/{name}.py"] = (_PROBE.format(name=name).encode(), 0o755)
    files["usr/local/bin/vllm"] = (_VLLM.encode(), 0o755)
    package = "usr/lib/python3/dist-packages/vllm/entrypoints/openai"
    files[f"{package}/api_server.py"] = (_API_SERVER.encode(), 0o644)
    return files, {"usr/bin/vllm": "../local/bin/vllm"}


def _config(version: str) -> dict[str, Any]:
    serve = version_key(version) >= FIRST_POSITIONAL_RELEASE
    entry = ["vllm", "serve"] if serve else ["python3", "-m", "vllm.entrypoints.openai.api_server"]
    return {
        "Entrypoint": entry,
        "WorkingDir": "/vllm-workspace",
        "Env": [
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG=C.UTF-8",
            "PYTHONDONTWRITEBYTECODE=1",
            "NVIDIA_VISIBLE_DEVICES=all",  # as NVIDIA's base image, which the real one stands on
            "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
            "VLLM_ENABLE_CUDA_COMPATIBILITY=0",
            "METALSERVE_LAB_REQUIRE_GPUS=1",
            f"METALSERVE_PROBES=/{_PLACE}/probes",  # there is nothing to measure here: these answer, and say so
            f"VLLM_STANDIN_FLAGS=/{_PLACE}/flags-{version}.json",
        ],
        "Labels": {
            "simulated": "true",
            "org.opencontainers.image.title": "metalserve's stand-in for vLLM (simulated)",
            "org.opencontainers.image.version": version,
        },
        "StopSignal": "SIGTERM",
    }


def build_image(
    target: Path, *, version: str = "0.33.0", suite_rootfs: Path | None = None, cache: Path | None = None
) -> str:
    """Write the stand-in image of a vLLM release as a Docker archive, tag `vllm/vllm-openai:vVERSION`.

    Two builds of the same sources give the same bytes. The base layer is made once (mmdebstrap, from the machine's
    own apt sources) and shared by all releases.

    Args:
        target: the archive to write, atomically.
        version: a release of the flag catalogue.
        suite_rootfs: a file system with python3 to use as the base layer instead of making one.
        cache: where the base layer is kept; the lab's cache by default.

    Returns:
        The SHA-256 of the archive, 64 hexadecimal digits.

    Raises:
        MetalserveError: the release is unknown, there is no Debian mirror, or mmdebstrap failed.
    """
    version = load_flags(version).release
    cache = cache or lab_directory() / "cache"
    if suite_rootfs is None:
        base = base_layer(cache)
    else:
        base = cache / f"engine-base-of-{suite_rootfs.name}.tar"
        cache.mkdir(parents=True, exist_ok=True)
        write_tar(base, suite_rootfs)
    layer = tar_of(*_release_layer(version))
    tag = f"{REPOSITORY}:v{version}"
    layers: list[Path | bytes] = [base, layer]
    return write_docker_archive(target, tag=tag, architecture=architecture(), config=_config(version), layers=layers)
