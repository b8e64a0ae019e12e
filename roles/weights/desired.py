"""What `weights` wants of a host: pure. One revision of one model, every byte proved, published by one rename."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Sequence
from functools import partial

from metalserve.desired.model import Action, Desired, Directory, File, NotYetKnown, Watch
from metalserve.desired.node import Node
from metalserve.desired.observed import Observation
from metalserve.errors import MetalserveError
from metalserve.paths import FILES
from metalserve.releases import Release
from metalserve.secrets import resolve
from metalserve.settings import HostSettings, ModelSettings, SecretRef
from metalserve.verify.finding import Finding
from metalserve.weights.manifest import Manifest, load_manifest
from metalserve.weights.store import (
    ModelPlace,
    StoreState,
    file_list,
    inspect,
    inspect_command,
    place_of,
    source_url,
)
from roles.storage.desired import mounted_at, space

STAGE = "/usr/local/lib/metalserve/stage-weights"
LISTS = "/etc/metalserve/weights"
AUTHORISATION = "/run/metalserve/weights-authorisation"
"""Lives for one staging, in memory, readable by root only."""

JOBS = 4
"""Files fetched at a time. A few streams that are hashed while they pass were the fastest way measured on a local
link (four against one: half the time); more only share the same link and cores."""

SECTION = "weights-store"


def watch(settings: HostSettings, release: Release) -> Watch:
    """What an observation must look at for this role."""
    if settings.model is None:
        return Watch()
    place = place_of(settings.storage.mount, settings.model)
    return Watch(
        paths=(STAGE, LISTS, list_path(settings.model), place.marker),
        commands={SECTION: inspect_command(place)},
    )


def list_path(model: ModelSettings) -> str:
    """Return the path on the host of the model's list of files."""
    return f"{LISTS}/{model.name.replace('/', '--')}@{model.revision}.tsv"


def manifest_of(model: ModelSettings) -> Manifest:
    """Return the model's manifest from the controller.

    Raises:
        MetalserveError: it cannot be read, or is of another model or revision.
    """
    manifest = load_manifest(model.manifest)
    for what, wanted, found in (
        ("repository", model.name, manifest.repository),
        ("revision", model.revision, manifest.revision),
    ):
        if wanted != found:
            raise MetalserveError(
                f"is of {what} {found}, but the inventory names {wanted}",
                where=model.manifest,
                remedy="make the manifest of the revision that is to be served, or correct the inventory",
            )
    return manifest


def store_state(node: Node, model: ModelSettings) -> StoreState:
    """Return what lies in the host's store of `model`."""
    return inspect(node.observed.text(SECTION), manifest_of(model))


def configure(node: Node) -> Desired:
    """The staging script and the list of files."""
    model = node.settings.model
    if model is None:
        return Desired()
    return Desired(
        directories=(Directory(LISTS),),
        files=(
            File(STAGE, (FILES / "weights" / "stage.sh").read_text(), mode="0755"),
            File(list_path(model), file_list(manifest_of(model))),
        ),
    )


def stage_model(node: Node) -> Desired:
    """The model, staged and published.

    Raises:
        NotYetKnown: the file system for it is not mounted yet.
        MetalserveError: the token for the source cannot be read, or the model can never fit.
    """
    model, storage = node.settings.model, node.settings.storage
    if model is None:
        return Desired()
    manifest = manifest_of(model)
    state = inspect(node.observed.text(SECTION), manifest)
    if state.state == "published":
        return Desired()
    if storage.device != "none" and not mounted_at(node.observed, storage.mount):
        raise NotYetKnown(
            f"staging of {model.name}: known only after {storage.mount} is mounted", remedy="run roles.storage first"
        )
    _refuse_too_large(node, manifest)
    why = {
        "absent": "not there",
        "partial": f"{state.bytes_there / 2**30:.2f} of {manifest.total / 2**30:.2f} GiB there",
        "changed": state.what,
    }[state.state]
    return Desired(
        actions=(
            Action(
                name=f"stage {model.name}@{model.revision[:12]}, {manifest.total / 2**30:.2f} GiB",
                why=why,
                phase="late",  # the script and the list are files, written before
                done=partial(_published, manifest=manifest),
                script=_script(place_of(storage.mount, model), model, storage.min_free_gib),
            ),
        )
    )


def _published(observed: Observation, manifest: Manifest) -> bool:
    return inspect(observed.text(SECTION), manifest).state == "published"


def _refuse_too_large(node: Node, manifest: Manifest) -> None:
    found = space(node.observed)
    reserve = int(node.settings.storage.min_free_gib * 2**30)
    if found is not None and manifest.total + reserve > found[0]:
        raise MetalserveError(
            f"{manifest.repository} has {manifest.total / 2**30:.1f} GiB, {node.settings.storage.mount} only "
            f"{found[0] / 2**30:.1f} GiB in all (with {reserve / 2**30:g} GiB to stay free)",
            remedy="take a larger drive, a smaller or quantised model, or lower storage.min_free_gib",
        )


def _script(place: ModelPlace, model: ModelSettings, reserve_gib: float) -> str:
    values = {
        "MS_STORE": place.store,
        "MS_REVISION": place.revision,
        "MS_LIST": list_path(model),
        "MS_SOURCE": source_url(model),
        "MS_RESERVE": str(int(reserve_gib * 2**30)),
        "MS_JOBS": str(JOBS),
        "MS_AUTH": AUTHORISATION if model.hf_token is not None else "",
    }
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())
    return f"{exports}{_authorisation(model.hf_token)}sh {STAGE}\n"


def _authorisation(token: SecretRef | None) -> str:
    if token is None:
        return ""
    # Read only now, when there is something to fetch. By standard input into a file of root's: no argv ever has it.
    header = base64.b64encode(f"Authorization: Bearer {resolve(token).reveal()}\n".encode()).decode()
    return (
        f"trap 'rm -f {AUTHORISATION}' EXIT; trap 'exit 143' TERM HUP INT\n"
        f"ms_put {AUTHORISATION} 0600 root root <<'MS_EOF'\n{header}\nMS_EOF\n"
    )


def check(node: Node) -> Sequence[Finding]:
    """Prove that the model is published with the right sizes, and unchanged since its bytes were hashed."""
    model = node.settings.model
    if model is None:
        return ()
    manifest = manifest_of(model)
    state = inspect(node.observed.text(SECTION), manifest)
    return (
        Finding(
            check="published",
            status="ok" if state.state == "published" else "fail",
            subject=f"{model.name}@{model.revision[:12]}",
            expected=f"{len(manifest.files)} files, {manifest.total} bytes, as they were hashed",
            observed=f"{state.state}: {state.what or f'{state.bytes_there} bytes'}",
            impact="no engine may be started on it",
            remedy="run the weights role again",
            source=place_of(node.settings.storage.mount, model).published,
        ),
    )


def in_words(node: Node) -> str:
    """Return the proved line of the report: which model lies where."""
    model = node.settings.model
    if model is None:
        return "no model"
    return f"{model.name}@{model.revision[:12]}, {manifest_of(model).total / 2**30:.2f} GiB proved"


__all__ = ["check", "configure", "in_words", "stage_model", "watch"]
