"""What `weights` wants of a host: pure. One revision of one model, every byte proved, published by one rename."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from metalserve.desired.follow import Follow
from metalserve.desired.model import Action, Desired, Directory, File, NotYetKnown, Package, Unit, Watch
from metalserve.desired.node import Node
from metalserve.desired.observed import Observation
from metalserve.errors import MetalserveError
from metalserve.releases import Release
from metalserve.settings import HostSettings, ModelSettings
from metalserve.verify.finding import Finding
from metalserve.verify.weights import Times, check_weights
from metalserve.weights import units
from metalserve.weights.agent.config import SwarmConfig
from metalserve.weights.begin import begin_script
from metalserve.weights.host import CONFIGS, PACKAGE, agent_files, call, config_path, job_of, key_of
from metalserve.weights.manifest import Manifest, load_manifest
from metalserve.weights.observed import (
    checked_command,
    collectable_command,
    forgotten_command,
    published_command,
    read_checked,
    read_collectable,
    read_forgotten,
    read_published,
    references_command,
)
from metalserve.weights.store import StoreState, inspect, inspect_command, place_of
from metalserve.weights.watching import follow as followed
from roles.storage.desired import mounted_at, space
from roles.weights import references, sharing

SECTION = "weights-store"
PUBLISHED_SECTION = "weights-published"
CHECKED_SECTION = "weights-checked"
FORGOTTEN_SECTION = "weights-forgotten"
COLLECTABLE_SECTION = "weights-collectable"

OLD_SCRIPT = "/usr/local/lib/metalserve/stage-weights"
"""What staged before there was the agent."""


def watch(settings: HostSettings, release: Release) -> Watch:
    """What an observation must look at for this role."""
    model = settings.model
    if model is None:
        return Watch()
    mount, key = settings.storage.mount, key_of(model)
    place = place_of(mount, model)
    return sharing.watch(settings) | Watch(
        paths=(
            PACKAGE, f"{PACKAGE}/*.py", CONFIGS, f"{CONFIGS}/*", place.marker, OLD_SCRIPT,
            f"{units.DIRECTORY}/metalserve-weights*",
        ),
        units=(units.unit_name("stage", key), "metalserve-weights-check@*.timer", units.timer_name(key)),
        commands={
            SECTION: inspect_command(place),
            CHECKED_SECTION: checked_command(place),
            PUBLISHED_SECTION: published_command(place),
            FORGOTTEN_SECTION: forgotten_command(key),
            references.SECTION: references_command(mount),
            COLLECTABLE_SECTION: collectable_command(mount, settings.staging.keep_previous),
        },
    )  # fmt: skip


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


def published_at(observed: Observation) -> float:
    """Return when the model was published, seconds since 1970 by the host's clock; 0: not known."""
    return read_published(observed.text(PUBLISHED_SECTION))


def configure(node: Node, swarm: SwarmConfig | None = None) -> Desired:
    """The agent, what it is told (with whom it shares, too), and the units in which it works."""
    model, settings = node.settings.model, node.settings
    if model is None:
        return Desired()
    written = agent_files()
    # A module that this version does not have any more would still be found by `import`.
    strays = [p for p in node.observed.files if p.startswith(f"{PACKAGE}/") and p.endswith(".py") and p not in written]
    job = job_of(settings, model, manifest_of(model), swarm)
    seeds = settings.staging.seed_minutes if swarm is not None else 0
    wish = Desired(
        packages=(Package("python3"),),
        directories=(Directory(PACKAGE), Directory(CONFIGS)),
        files=(
            *(File(path, text) for path, text in written.items()),
            *(File(path, None) for path in (*strays, OLD_SCRIPT)),
            *(File(path, None) for path in node.observed.files if path.startswith(CONFIGS) and path.endswith(".tsv")),
            File(config_path(job.key), job.to_json()),
            *(
                File(path, text)
                for path, text in units.unit_files(settings.storage.mount, settings.staging.full_check, seeds).items()
            ),
        ),
    )
    return wish + sharing.configure(node)


def refer(node: Node) -> Desired:
    """The reference that keeps the model from the moment it comes, whether an engine serves it yet or not.

    Raises:
        NotYetKnown: the file system for it is not mounted yet.
    """
    model, storage = node.settings.model, node.settings.storage
    if model is None:
        return Desired()
    _need_mount(node, model)
    name, release = references.INVENTORY, node.release.name
    return Desired(actions=references.wanted(node.observed, storage.mount, name, model, release))


def _need_mount(node: Node, model: ModelSettings) -> None:
    storage = node.settings.storage
    if storage.device != "none" and not mounted_at(node.observed, storage.mount):
        raise NotYetKnown(
            f"staging of {model.name}: known only after {storage.mount} is mounted", remedy="run roles.storage first"
        )


def stage_model(node: Node) -> Desired:
    """The model, staged and published.

    Raises:
        NotYetKnown: the file system for it is not mounted yet.
        MetalserveError: the token for the source cannot be read, or the model can never fit.
    """
    model = node.settings.model
    if model is None:
        return Desired()
    manifest, key = manifest_of(model), key_of(model)
    state = store_state(node, model)
    if state.state == "published":
        return Desired()
    _need_mount(node, model)
    _refuse_too_large(node, manifest)
    name = f"{model.name}@{model.revision[:12]}, {manifest.total / 2**30:.2f} GiB"
    why = {
        "absent": "not there",
        "partial": f"{state.bytes_there / 2**30:.2f} of {manifest.total / 2**30:.2f} GiB there",
    }.get(state.state, state.what)
    verb = _verb(node.observed, key)
    return Desired(
        actions=(
            Action(
                name=f"{'stage' if verb != 'follow' else 'follow the staging of'} {name}",
                why=why,
                phase="late",  # the agent, its units and what it is told are files, written before
                done=partial(published, manifest=manifest),
                script=begin_script(model, "stage", restart=verb == "restart"),
            ),
        )
    )


def following(node: Node) -> Follow:
    """Return how the staging that `stage_model` begins is followed."""
    model = node.settings.model
    assert model is not None
    return followed("stage", key_of(model))


def _verb(observed: Observation, key: str) -> str:
    """Return what is to be done with the unit: start, follow (it runs), or restart (it was told something else)."""
    found, config = observed.units.get(units.unit_name("stage", key)), observed.files.get(config_path(key))
    if found is None or found.active not in ("active", "activating"):
        return "start"
    if config is not None and found.started is not None and config.mtime > found.started:
        return "restart"
    return "follow"


def published(observed: Observation, manifest: Manifest) -> bool:
    """Tell whether a host has the model, by what was seen of it."""
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


def schedule(node: Node) -> Desired:
    """The timer of the full check of what is published."""
    model = node.settings.model
    if model is None or store_state(node, model).state != "published":
        return Desired()
    name = units.timer_name(key_of(model))
    if node.settings.staging.full_check == "never":
        return Desired(units=(Unit(name, running=False, enabled=False, optional=True),))
    return Desired(units=(Unit(name),))


def forget(node: Node) -> Desired:
    """No job and no timer of models that are no longer there and that the inventory does not name."""
    keys = read_forgotten(node.observed.text(FORGOTTEN_SECTION))
    return Desired(
        files=tuple(File(config_path(key), None) for key in keys),
        units=tuple(Unit(units.timer_name(key), running=False, enabled=False, optional=True) for key in keys),
    )


def collect(node: Node) -> Desired:
    """What nobody references any more is removed, the newest excepted (`staging.keep_previous`)."""
    settings = node.settings
    if settings.model is None:
        return Desired()
    found = read_collectable(node.observed.text(COLLECTABLE_SECTION))
    if not found.paths:
        return Desired()
    command = call("gc", settings.storage.mount, "--keep", str(settings.staging.keep_previous))
    return Desired(
        actions=(
            Action(
                name=f"remove {len(found.paths)} model(s) or remnants that nothing refers to",
                why=f"{found.freed_bytes / 2**30:.2f} GiB: {', '.join(found.paths[:3])}",
                phase="late",
                done=lambda seen: not read_collectable(seen.text(COLLECTABLE_SECTION)).paths,
                script=f"{command}\n",
            ),
        )
    )


def check(node: Node) -> Sequence[Finding]:
    """Prove that the model is published with the right sizes, and unchanged since its bytes were hashed."""
    model = node.settings.model
    if model is None:
        return ()
    place = place_of(node.settings.storage.mount, model)
    marker = node.observed.files.get(place.marker)
    return check_weights(
        store_state(node, model),
        manifest_of(model),
        place.published,
        node.settings.staging.full_check,
        Times(
            hashed_at=published_at(node.observed) or (marker.mtime if marker is not None else 0.0),
            checked_at=read_checked(node.observed.text(CHECKED_SECTION)),
            now=float(node.observed.facts.get("now", 0)),
        ),
    )


def in_words(node: Node) -> str:
    """Return the proved line of the report: which model lies where."""
    model = node.settings.model
    if model is None:
        return "no model"
    return f"{model.name}@{model.revision[:12]}, {manifest_of(model).total / 2**30:.2f} GiB proved"


__all__ = [
    "check",
    "collect",
    "configure",
    "following",
    "forget",
    "in_words",
    "refer",
    "schedule",
    "stage_model",
    "watch",
]
