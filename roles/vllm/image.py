"""The engine's image: pulled by digest, or loaded from an archive where there is no registry. Pure."""

from __future__ import annotations

import hashlib
import shlex
from functools import partial

from metalserve.desired.model import Action, Desired
from metalserve.desired.node import Node
from metalserve.desired.observed import Observation
from metalserve.releases import Release
from metalserve.settings import EngineSettings, HostSettings
from roles.vllm.paths import ARCHIVES, IMAGE_MARKER

SECTION = "engine-image"


def reference(settings: HostSettings, release: Release) -> str:
    """Return the image as `docker run` is given it: by digest where one is known and a registry gave the image."""
    vllm = release.vllm
    if vllm.digest is not None and settings.engine.image_archive is None:
        return f"{vllm.repository}@{vllm.digest}"
    return f"{vllm.repository}:{vllm.tag}"  # an archive carries names, no digests of a registry


def inspect_command(settings: HostSettings, release: Release) -> str:
    """Return the command that tells the image's id, or fails when the host does not have it."""
    return f"timeout 20 docker image inspect --format '{{{{.Id}}}}' {shlex.quote(reference(settings, release))}"


def install(node: Node) -> Desired:
    """The image on the host, before anything needs it."""
    image = reference(node.settings, node.release)
    engine = node.settings.engine
    if _present(node.observed, engine=engine):
        return Desired()
    return Desired(
        actions=(
            Action(
                name=f"{'load' if engine.image_archive else 'pull'} image {image}",
                why=engine.image_archive or "",
                done=partial(_present, engine=engine),
                script=_load(image, engine) if engine.image_archive else _pull(image),
            ),
        )
    )


def _present(observed: Observation, engine: EngineSettings) -> bool:
    found = observed.sections.get(SECTION)
    if found is None or found.rc != 0 or "sha256:" not in found.text:
        return False
    if engine.image_archive_sha256 is None:
        return True
    marker = observed.files.get(IMAGE_MARKER)
    return marker is not None and marker.sha256 == hashlib.sha256(_marker(engine).encode()).hexdigest()


def _marker(engine: EngineSettings) -> str:
    return f"{engine.image_archive_sha256}\n"


def _pull(image: str) -> str:
    return (
        f"docker pull --quiet {shlex.quote(image)} || "
        f"ms_fail 'could not pull {image} -> see that the host reaches the registry, or set engine.image_archive'\n"
    )


def _load(image: str, engine: EngineSettings) -> str:
    url = engine.image_archive or ""
    file = shlex.quote(f"{ARCHIVES}/{url.rpartition('/')[2] or 'image.tar'}")
    sha256 = engine.image_archive_sha256 or ""
    check = (
        f"found=$(sha256sum <{file}); found=${{found%% *}}\n"
        f'[ "$found" = {sha256} ] || {{ rm -f {file}; ms_fail "the image archive has SHA-256 $found, expected {sha256}'
        ' -> correct engine.image_archive_sha256 or the file behind engine.image_archive"; }\n'
    )
    quoted = shlex.quote(image)
    return (
        f"mkdir -p {ARCHIVES} {IMAGE_MARKER.rpartition('/')[0]}\n"
        # 33 and 36: the server cannot go on in the middle; then once more from the start.
        f"fetch() {{ curl -fsSL --connect-timeout 15 --speed-limit 1024 --speed-time 60 --retry 3 -C - "
        f"-o {file} {shlex.quote(url)}; }}\n"
        f"fetch || {{ rm -f {file}; fetch; }} || "
        f"ms_fail 'could not fetch the image archive {url} -> check engine.image_archive and the disk'\n"
        f"{check if sha256 else ''}"
        f"docker load --quiet --input {file} || ms_fail 'docker could not load the archive -> is the disk full?'\n"
        f"docker image inspect {quoted} >/dev/null 2>&1 || "
        f"ms_fail 'the image archive does not hold {image} -> make it with: docker save {image}'\n"
        f"rm -f {file}\n"
        + (f"printf '%s\\n' {sha256} | base64 | ms_put {IMAGE_MARKER} 0644 root root\n" if sha256 else "")
    )
