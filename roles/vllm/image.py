"""The engine's image: pulled by digest, or loaded from an archive where there is no registry. Pure."""

from __future__ import annotations

import hashlib
import re
import shlex
from functools import partial

from metalserve.desired.model import Action, Desired, NotYetKnown
from metalserve.desired.node import Node
from metalserve.desired.observed import Observation
from metalserve.errors import MetalserveError
from metalserve.releases import Release, version_key
from metalserve.settings import EngineSettings, HostSettings
from roles.vllm.paths import ARCHIVES, IMAGE_MARKER

SECTION = "engine-image"

PODMAN_MINIMUM = (5, 1)
"""The toolkit writes CDI specifications 0.7.0 since 1.19.1, which Podman reads from 5.1 on (its release notes)."""


def reference(settings: HostSettings, release: Release) -> str:
    """Return the image as `docker run` is given it: by digest where one is known and a registry gave the image."""
    vllm = release.vllm
    name = vllm.repository
    first = name.partition("/")[0]
    if settings.engine.runtime == "podman" and "." not in first and ":" not in first and first != "localhost":
        name = f"docker.io/{name}"  # Podman asks no registry for a name that does not say which
    if vllm.digest is not None and settings.engine.image_archive is None:
        return f"{name}@{vllm.digest}"
    return f"{name}:{vllm.tag}"  # an archive carries names, no digests of a registry


def to_run(node: Node) -> str:
    """Return the image as the unit names it: an archive's by its id, which no other archive can take from it.

    A tag would move to the image that was loaded last, and with it what a failed replacement goes back to.
    """
    found = node.observed.sections.get(SECTION)
    ids = re.findall(r"\b[0-9a-f]{64}\b", found.text) if found is not None and found.rc == 0 else []
    return ids[0] if ids and node.settings.engine.image_archive is not None else reference(node.settings, node.release)


def inspect_command(settings: HostSettings, release: Release) -> str:
    """Return the command that tells the image's id, or fails when the host does not have it."""
    image = shlex.quote(reference(settings, release))
    return f"timeout 20 {settings.engine.runtime} image inspect --format '{{{{.Id}}}}' {image}"


def refuse_old_podman(node: Node) -> None:
    """Refuse a Podman that does not know Quadlet or the CDI specifications of today's toolkit.

    Raises:
        NotYetKnown: Podman is not installed yet.
        MetalserveError: it is too old.
    """
    if node.settings.engine.runtime != "podman":
        return
    version = node.observed.version_of("podman")
    if version is None:
        raise NotYetKnown("the unit of the engine: known only after Podman is installed", remedy="run roles.vllm")
    if version_key(version)[:2] < PODMAN_MINIMUM:
        least = ".".join(map(str, PODMAN_MINIMUM))
        raise MetalserveError(
            f"Podman {version} is older than {least}, the oldest that takes the toolkit's CDI devices",
            where="engine.runtime",
            remedy="take Debian 13 or newer, or engine.runtime: docker",
        )


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
                script=_load(image, engine) if engine.image_archive else _pull(image, node.release, engine.runtime),
            ),
        )
    )


def _present(observed: Observation, engine: EngineSettings) -> bool:
    found = observed.sections.get(SECTION)
    if found is None or found.rc != 0 or not found.text.strip():
        return False
    if engine.image_archive_sha256 is None:
        return True
    marker = observed.files.get(IMAGE_MARKER)
    return marker is not None and marker.sha256 == hashlib.sha256(_marker(engine).encode()).hexdigest()


def _marker(engine: EngineSettings) -> str:
    return f"{engine.image_archive_sha256}\n"


def _pull(image: str, release: Release, runtime: str) -> str:
    pinned = release.vllm.digest
    wrong = (
        f"the registry has no image {image}: digest or repository in release {release.name} is wrong "
        f"-> read the digest of {release.vllm.tag} from the registry and correct vllm.digest"
        if pinned is not None
        else f"the registry has no image {image} -> correct vllm.repository and vllm.tag in release {release.name}"
    )
    other = (
        f"what the registry sent is not {image}: its content has another digest; nothing was started "
        "-> ask who changed it: a proxy or mirror in between, or the registry itself"
    )
    return (
        f"ms_said=$({runtime} pull --quiet {shlex.quote(image)} 2>&1) && exit 0\n"
        "printf '%s\\n' \"$ms_said\" | tail -n 5\n"
        'case "$ms_said" in\n'
        f"  *'manifest unknown'*|*'not found'*|*'name unknown'*|*'does not exist'*) ms_fail {shlex.quote(wrong)} ;;\n"
        f"  *digest*match*|*digest*verif*|*verif*digest*|*'did not match'*) ms_fail {shlex.quote(other)} ;;\n"
        "  *'no space left'*) ms_fail 'the disk is full: no room to unpack the image -> make room in its store' ;;\n"
        "esac\n"
        f"ms_fail 'could not pull {image} -> see that the host reaches the registry, or set engine.image_archive'\n"
    )


def _load(image: str, engine: EngineSettings) -> str:
    url, sha256 = engine.image_archive or "", engine.image_archive_sha256 or ""
    # By its hash where that is known: a template carries it by that name, and what another archive's fetch has left
    # is never gone on with.
    file = shlex.quote(f"{ARCHIVES}/{f'{sha256}.tar' if sha256 else url.rpartition('/')[2] or 'image.tar'}")
    get = (
        f"fetch || {{ rm -f {file}; fetch; }} || "
        f"ms_fail 'could not fetch the image archive {url} -> check engine.image_archive and the disk'\n"
    )
    if sha256:
        get = (
            f'found=\nright() {{ found=$(sha256sum <{file}) && found=${{found%% *}} && [ "$found" = {sha256} ]; }}\n'
            f"if [ -s {file} ] && right; then echo 'the image archive is on this host already'\n"
            f"else\nhad=$(ls {file} 2>/dev/null || :)\n{get}"
            # What was there before may be the front of something else.
            f'right || {{ [ -n "$had" ] && rm -f {file} && fetch && right; }} || {{ rm -f {file}; '
            f'ms_fail "the image archive has SHA-256 $found, expected {sha256}'
            ' -> correct engine.image_archive_sha256 or the file behind engine.image_archive"; }\nfi\n'
        )
    quoted = shlex.quote(image)
    return (
        f"mkdir -p {ARCHIVES} {IMAGE_MARKER.rpartition('/')[0]}\n"
        # 33 and 36: the server cannot go on in the middle; then once more from the start.
        f"fetch() {{ curl -fsSL --connect-timeout 15 --speed-limit 1024 --speed-time 60 --retry 3 -C - "
        f"-o {file} {shlex.quote(url)}; }}\n"
        f"{get}"
        f"{engine.runtime} load --quiet --input {file} || "
        f"ms_fail '{engine.runtime} could not load the archive -> is the disk full?'\n"
        f"{engine.runtime} image inspect {quoted} >/dev/null 2>&1 || "
        f"ms_fail 'the image archive does not hold {image} -> make it with: docker save {image}'\n"
        f"rm -f {file}\n"
        + (f"printf '%s\\n' {sha256} | base64 | ms_put {IMAGE_MARKER} 0644 root root\n" if sha256 else "")
    )
