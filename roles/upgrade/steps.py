"""What each step of an upgrade wants of the host: the roles' own desired values, in the order of an upgrade. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from metalserve.catalogue.driver_reload import load_driver_reload
from metalserve.desired.model import Action, Desired, NotYetKnown, Package, Reboot
from metalserve.desired.node import Node
from metalserve.desired.observed import Observation
from metalserve.driver.packages import toolkit_package
from metalserve.errors import MetalserveError
from metalserve.releases import Release
from metalserve.upgrade import scripts
from metalserve.upgrade.fetch import fetch_script
from metalserve.upgrade.holders import OURS
from metalserve.upgrade.record import Record, Step
from roles.container_runtime import desired as containers
from roles.cuda import desired as cuda
from roles.fabric_manager import desired as fabric
from roles.nvidia_driver import desired as driver
from roles.vllm import desired as vllm
from roles.vllm import image


@dataclass(frozen=True)
class Stage:
    """A part of a step.

    Attributes:
        name: shown to people.
        decide: what it wants; as in any role.
        once: its effect does not show in an observation: it is done once in a run.
    """

    name: str
    decide: Callable[[Node], Desired]
    once: bool = False


def on(node: Node, release: Release) -> Node:
    """Return the host as one that is to have `release`."""
    return node if node.release == release else replace(node, release=release)


def fetch(node: Node, origin: Release, *, serving: bool) -> tuple[Stage, ...]:
    """What can be done while the engines serve: both releases' packages and the new image on the host."""
    stages = [Stage("repository", driver.repository), Stage("container repositories", containers.repositories)]
    if serving:
        stages.append(Stage("image", image.install))
    return (*stages, Stage("packages", partial(_fetch, origin=origin), once=True))


def _fetch(node: Node, origin: Release) -> Desired:
    new = stack(node)
    old = () if origin == node.release else stack(on(node, origin))
    gone = [Package(name) for name in obsolete(node, origin)]
    pin = _pin(node)
    words = f"fetch the packages of {node.release.name}" + (f" and of {origin.name}, the way back" if old else "")
    return Desired(actions=(Action(words, lambda seen: False, fetch_script(new, old, gone, pin, origin.name)),))


def stack(node: Node) -> tuple[Package, ...]:
    """Return every package that the node's release pins on this host."""
    plan, release = driver.plan(node), node.release
    toolkit = (Package(name, release.container_toolkit.version) for name in containers.TOOLKIT_PACKAGES)
    more = (toolkit_package(release.cuda.toolkit),) if node.settings.cuda.toolkit else ()
    return (_pin(node), *plan.packages, *plan.fabric, *toolkit, *more)


def _pin(node: Node) -> Package:
    """Return the pinning package of the node's release.

    Raises:
        MetalserveError: the driver is of the distribution's archive, which no release moves.
    """
    pin = driver.plan(node).pinning
    if pin is None:
        raise MetalserveError(
            "the driver of this host comes from its distribution's archive, so no release upgrades it",
            remedy="set driver.source to 'nvidia' for drivers that a release pins",
        )
    return pin


def obsolete(node: Node, other: Release) -> tuple[str, ...]:
    """Return installed packages of `other` that the node's release has no longer: names change between branches."""
    try:
        before = stack(on(node, other))
    except MetalserveError:
        return ()  # a release that this host could not have had leaves nothing behind
    keep = {p.name for p in stack(node)}
    pins = {_pin(on(node, other)).name}  # the new pin takes the old one's place by itself
    return tuple(p.name for p in before if p.name not in keep | pins and node.observed.packages.get(p.name) is not None)


def stages(step: Step, record: Record) -> tuple[Stage, ...]:
    """Return the parts of `step`, for a node whose release is the record's goal."""
    other = record.origin if record.direction == "forward" else record.target
    if step == "drain":
        return (Stage("engines", drain),)
    if step == "free":
        return (Stage("services", free),)
    if step == "install":
        return (
            Stage("pin", driver.pin),
            Stage("packages", partial(_install, other=other)),
            Stage("module", driver.build),
            Stage("module on disk", _on_disk),
            Stage("CUDA", cuda.install),
            Stage("container toolkit", containers.install),
        )
    if step == "reload":
        return (Stage("modules", reload, once=True),)
    if step == "reboot":
        return (Stage("host", _reboot, once=True),)
    if step == "start":
        start = [
            Stage("driver", driver.activate),
            Stage("fabric manager", fabric.activate),
            Stage("containers", containers.configure),
            Stage("devices", containers.devices),
            Stage("what was stopped", partial(_start, units=record.stopped), once=True),
        ]
        if record.serving:
            start += [
                Stage("image", vllm.install),
                Stage("engine settings", vllm.configure),
                Stage("watch", vllm.watched),
                Stage("engines", vllm.serve),
            ]
        return tuple(start)
    return ()


def engines(observed: Observation) -> tuple[str, ...]:
    """Return the engines' units that run, start or stop."""
    return tuple(
        sorted(
            u.name
            for u in observed.units.values()
            if u.name.startswith(OURS) and u.active in ("active", "activating", "deactivating", "reloading")
        )
    )


def held_by(observed: Observation) -> tuple[str, ...]:
    """Return the units that have the driver open and run, in the order in which they are stopped."""
    running = ("active", "activating", "deactivating", "reloading")
    found = ((name, observed.units.get(name)) for name in load_driver_reload().units)
    return tuple(name for name, unit in found if unit is not None and unit.active in running)


def drain(node: Node) -> Desired:
    """The engines stopped as gracefully as their units say: running requests are finished first."""
    units = engines(node.observed)
    script = scripts.stop_engines(units)
    return Desired(actions=(Action(f"drain {len(units)} engine(s)", lambda seen: not engines(seen), script),))


def free(node: Node) -> Desired:
    """What has the GPUs open stopped: exporters, DCGM, then the driver's own daemons."""
    units = held_by(node.observed)
    script = scripts.stop_in_order(units)
    return Desired(actions=(Action(f"stop {', '.join(units)}", lambda seen: not held_by(seen), script),))


def _install(node: Node, other: Release) -> Desired:
    # One transaction: names that the new release lacks go, fabric manager moves with the driver that it must equal.
    gone = tuple(Package(name, present=False) for name in obsolete(node, other))
    wish = Desired(packages=gone) + driver.install(node) + fabric.install(node)
    differs = any(not p.satisfied_by(node.observed.version_of(p.name)) for p in wish.packages)
    return wish + Desired(actions=_pin_again(node)) if differs else wish


def _pin_again(node: Node) -> tuple[Action, ...]:
    """Put back the preferences of a pin that is installed, where somebody removed them: they are a configuration file,
    which dpkg does not bring again by itself, and without them apt resolves to the newest branch."""
    pin = _pin(node).name
    paths = node.observed.files
    there = any(p.removeprefix(driver.PREFERENCES).removesuffix(".pref") == pin for p in paths)
    if there or node.observed.version_of(pin) is None:
        return ()
    script = (
        f"ms_apt update || ms_fail 'apt-get update failed -> check the repositories and the network'\n"
        f"ms_apt install --reinstall -o Dpkg::Options::=--force-confmiss {shlex.quote(pin)}\n"
    )
    return (Action(f"put the preferences of {pin} back", lambda seen: False, script, phase="early"),)


def _on_disk(node: Node) -> Desired:
    found, wanted = node.hardware.module_on_disk, node.release.driver.version
    installed = all(p.satisfied_by(node.observed.version_of(p.name)) for p in driver.plan(node).packages)
    if installed and found not in (None, wanted):
        raise NotYetKnown(
            f"the next `modprobe nvidia` would load {found}, the packages are of {wanted}",
            remedy="remove the other driver (a .run installer's leftover: `nvidia-uninstall`), then `dkms autoinstall`",
        )
    return Desired()


def reload(node: Node) -> Desired:
    """The modules exchanged in the running kernel; what cannot be unloaded is told, and loaded again after a reboot."""
    version = node.release.driver.version
    script = scripts.exchange_modules(load_driver_reload().unload, driver.BOOT_MODULES, f"driver {version}")
    loaded = node.hardware.module_version or "no driver"
    return Desired(actions=(Action(f"exchange the modules: {loaded} -> {version}", lambda seen: False, script),))


def _reboot(node: Node) -> Desired:
    reason = f"driver {node.release.driver.version} cannot be loaded otherwise"
    return Desired(reboot=Reboot(reason, node.settings.driver.reboot_timeout_s))


def _start(node: Node, units: Sequence[str]) -> Desired:
    # The driver's own daemons are the roles' business. A poller that does not like the new driver is no reason to go
    # back, but it is told: see `findings`.
    own = (driver.PERSISTENCE, fabric.UNIT)
    missing = [u for u in reversed(units) if u not in own and not _active(node.observed, u)]
    script = scripts.start_in_order(missing)
    return Desired(actions=(Action(f"start {', '.join(missing)}", lambda seen: not missing, script),))


def _active(observed: Observation, name: str) -> bool:
    unit = observed.units.get(name)
    return unit is not None and unit.active in ("active", "activating")


def not_started(record: Record, observed: Observation) -> tuple[str, ...]:
    """Return the units that ran before the upgrade and do not now."""
    own = (driver.PERSISTENCE, fabric.UNIT)
    return tuple(u for u in record.stopped if u not in own and not _active(observed, u))


__all__ = ["Stage", "engines", "fetch", "held_by", "not_started", "obsolete", "on", "stack", "stages"]
