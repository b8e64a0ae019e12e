"""What an upgrade looks at, what it tells before it begins, and what other deploys must know of it. Pure."""

from __future__ import annotations

from metalserve.catalogue.driver_reload import load_driver_reload
from metalserve.desired.diff import difference
from metalserve.desired.model import Desired, File, Watch
from metalserve.desired.node import Node
from metalserve.errors import MetalserveError
from metalserve.releases import Release
from metalserve.settings import HostSettings
from metalserve.upgrade.fetch import SPACE, space_command
from metalserve.upgrade.holders import COMMANDS
from metalserve.upgrade.moves import Trace
from metalserve.upgrade.record import CURRENT, RECORD, Current, Record
from roles.container_runtime import desired as containers
from roles.cuda import desired as cuda
from roles.fabric_manager import desired as fabric
from roles.nvidia_driver import desired as driver
from roles.storage import desired as storage
from roles.topology import desired as topology
from roles.upgrade.decide import command, taken_up
from roles.upgrade.seen import (
    CURRENT_SECTION,
    RECORD_SECTION,
    has_engines,
    in_place,
    is_loaded,
    nouveau,
    record_of,
    refuse,
    release_on,
    settled,
)
from roles.upgrade.steps import engines, held_by, on, stages
from roles.vllm import desired as vllm
from roles.vllm.paths import UNIT_GLOB
from roles.weights import desired as weights


def watch_record(settings: HostSettings, release: Release) -> Watch:
    """What tells whether an upgrade is under way, and on which release the host is."""
    return Watch(paths=(RECORD, CURRENT), commands={RECORD_SECTION: f"cat {RECORD}", CURRENT_SECTION: f"cat {CURRENT}"})


def watch(settings: HostSettings, release: Release) -> Watch:
    """What an observation must look at for this role: all that the roles need whose wishes it brings about."""
    order = load_driver_reload()
    joined = watch_record(settings, release) | Watch(
        paths=(UNIT_GLOB,), units=order.units, commands={**COMMANDS, SPACE: space_command(tuple(order.space_mib))}
    )
    for part in (driver, cuda, containers, fabric, topology, storage, weights, vllm):
        joined = joined | part.watch(settings, release)
    return joined


def goal(node: Node) -> Node:
    """Return the host as one that is to have the release that its upgrade leads to now."""
    record = record_of(node)
    return on(node, record.goal) if record is not None and not record.finished else node


def refuse_unfinished(node: Node) -> Desired:
    """Refuse to touch a host whose upgrade is under way.

    Raises:
        MetalserveError: it is; says which, where it stopped and the command that goes on.
    """
    record = record_of(node)
    if record is not None and not record.finished:
        raise MetalserveError(
            f"an upgrade is unfinished: {record.words} (begun {record.started} by {record.controller})",
            remedy=command(node, record),
        )
    return Desired()


def remember(node: Node) -> Desired:
    """The release that was proved, written where the next upgrade finds it."""
    return Desired(files=(File(CURRENT, Current(release=node.release).text()),))


def outline(node: Node) -> list[tuple[str, str]]:
    """Return (step, words) of what a run would do; empty when there is nothing to do.

    Raises:
        MetalserveError: the upgrade would be refused.
    """
    record = record_of(node)
    if record is not None and not record.finished:
        taken = taken_up(node, record, Trace(""))
        return [("resume", f"unfinished: {record.words}; goes on to {taken.goal.name}")]
    origin = release_on(node)
    if settled(node, origin):
        return []
    refuse(node)
    same = origin == node.release
    lines = [("release", f"{node.release.name}: repaired" if same else f"{origin.name} -> {node.release.name}")]
    serving = has_engines(node)
    draft = Record(origin=origin, target=node.release, started="", controller="", serving=serving)
    installed, loaded = in_place(node, draft), is_loaded(node)
    if not (installed and loaded):
        if engines(node.observed):
            lines.append(("drain", f"{len(engines(node.observed))} engine(s)"))
        if held_by(node.observed):
            lines.append(("free", f"stop {', '.join(held_by(node.observed))}"))
    if not installed:
        for part in stages("install", draft):
            lines += [("install", c.summary) for c in difference(part.decide(node), node.observed)]
    if not loaded:
        lines.append(_loading(node))
    return lines


def _loading(node: Node) -> tuple[str, str]:
    why = nouveau(node)
    before = node.hardware.module_version or "no driver"
    words = f"driver {before} -> {node.release.driver.version}"
    return ("reboot", f"{words}: {why}") if why else ("reload", f"{words} without a reboot, if nothing else holds it")
