"""What must be done to go from what a host has to a plan, in order, with the commands by hand. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from metalserve.catalogue.loader import load_driver_packages
from metalserve.desired.model import Package
from metalserve.driver.plan import PREFERENCES_PATH, DriverPlan
from metalserve.driver.state import DriverState


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do.

    Attributes:
        what: in words.
        why: why it is needed here, "" where the words say it.
        command: what a person would type, "" where there is no one command.
        stops_gpus: nothing can use the GPUs meanwhile.
    """

    what: str
    why: str = ""
    command: str = ""
    stops_gpus: bool = False


def steps_to(plan: DriverPlan, state: DriverState | None) -> tuple[Step, ...]:
    """Return the steps from `state` to `plan`; with None for a host that is not known, both ways of loading are told.

    The order of unloading is NVIDIA's own (NVIDIA/gpu-driver-container); roles/nvidia_driver reboots in its place.
    """
    if state is not None and _in_place(plan, state):
        return ()
    return (
        *_leave(plan, state),
        *_source(plan),
        *_keep(plan),
        *_unload(plan, state),
        *_install(plan, state),
        *_load(plan, state),
        *_services(plan),
    )


def _in_place(plan: DriverPlan, state: DriverState) -> bool:
    return (
        _same(plan, state)
        and all(p.satisfied_by(state.packages.get(p.name)) for p in (*plan.packages, *plan.fabric))
        and not _foreign(plan, state)
    )


def _same(plan: DriverPlan, state: DriverState) -> bool:
    """Tell whether the loaded module is the plan's."""
    wanted = plan.version if plan.version is not None else state.on_disk
    kind = state.open is None or state.open == (plan.modules == "open")
    return state.holder is None and state.version is not None and state.version == wanted and kind


_KERNEL_SIDE = re.compile(
    r"nvidia-dkms|nvidia-(open-)?kernel(-open)?-dkms|nvidia-tesla-.*kernel-dkms|kmod-nvidia"
    r"|(?P<signed>linux-modules-nvidia-\d+-server(-open)?-(?!open))|(?P<pin>nvidia-driver-pinning-)"
)


def _foreign(plan: DriverPlan, state: DriverState) -> list[str]:
    """Return installed kernel modules and pins of another repository, branch or kind, which stand in the way."""
    wanted = {p.name for p in plan.every_package}
    kinds = {found.group("signed") for n in wanted if (found := _KERNEL_SIDE.match(n)) and found.group("signed")}
    strange = []
    for name in state.packages:
        found = _KERNEL_SIDE.match(name)
        # Modules for the kernels beside this one, of the same branch and kind, belong to the plan as well.
        if found and name not in wanted and not (found.group("signed") and found.group("signed") in kinds):
            strange.append(name)
    return sorted(strange)


def _leave(plan: DriverPlan, state: DriverState | None) -> Iterator[Step]:
    foreign = _foreign(plan, state) if state is not None else []
    if foreign:
        remover = "dnf remove -y" if plan.platform.family == "rhel" else "apt-get purge -y"
        why = "of another repository, branch or kind of module; two drivers never stand side by side"
        yield Step(f"remove {', '.join(foreign)}", why, f"{remover} {shlex.join(foreign)}", stops_gpus=True)


def _source(plan: DriverPlan) -> Iterator[Step]:
    origin = plan.origin
    if origin.needs:
        yield Step(f"enable {origin.needs}")
    if origin.url:
        yield Step(f"make {origin.name} known", "bound to its key, accepted by fingerprint only: " + origin.url)
    else:
        yield Step(f"enable {', '.join(origin.components)} in the host's sources of {origin.name}")
    if plan.preferences:
        yield Step(f"write {PREFERENCES_PATH}", "; ".join(p.why for p in plan.preferences))
    if plan.platform.family != "rhel":
        yield Step("read the package lists", command="apt-get update")


def _keep(plan: DriverPlan) -> Iterator[Step]:
    if plan.pinning is not None:
        yield Step(
            f"install {plan.pinning.name}",
            "before anything else is resolved",
            f"apt-get install -y {plan.pinning.name}",
        )
    elif plan.kept.by == "module-stream":
        stream = shlex.quote(plan.kept.what)
        command = f"dnf module reset -y nvidia-driver && dnf module enable -y {stream}"
        yield Step(f"enable module stream {plan.kept.what}", "one branch a stream", command)
    elif plan.kept.by == "versionlock":
        plugin = load_driver_packages().repository.keep.versionlock.plugin
        command = f"dnf install -y {plugin} && dnf versionlock add {shlex.quote(plan.kept.what)}"
        yield Step(f"lock {plan.kept.what}", "no other branch is resolved", command)


def _unload(plan: DriverPlan, state: DriverState | None) -> Iterator[Step]:
    if state is None or state.version is None or state.holder is not None or _same(plan, state):
        return
    rules = load_driver_packages().unload
    open_loaded = "" if state.open is None else "open " if state.open else "proprietary "
    loaded = f"the {open_loaded}module {state.version} is loaded"
    services = " ".join(f"{s}.service" for s in rules.services)
    yield Step("stop the workloads that use the GPUs", loaded, stops_gpus=True)
    yield Step("stop what holds the driver", loaded, f"systemctl stop {services}", stops_gpus=True)


def _install(plan: DriverPlan, state: DriverState | None) -> Iterator[Step]:
    if plan.headers:
        yield Step("install the headers", "DKMS needs them", _install_command(plan, plan.headers))
    yield Step(
        "install the driver", f"{plan.modules} modules of branch {plan.branch}", _install_command(plan, plan.packages)
    )
    if plan.fabric:
        yield Step("install the fabric's packages", "of the driver's own version", _install_command(plan, plan.fabric))
    if plan.toolkit:
        yield Step("install the CUDA toolkit", command=_install_command(plan, plan.toolkit))
    if plan.kept.by == "hold":
        yield Step("hold them", "nothing else keeps them", f"apt-mark hold {' '.join(plan.kept.names)}")


def _install_command(plan: DriverPlan, packages: tuple[Package, ...]) -> str:
    if plan.platform.family == "rhel":
        # rpm's epoch may lack in a name-version; any release of it is taken.
        words = [p.name if p.version is None else f"{p.name}-{p.version}" for p in packages]
        return f"dnf install -y {' '.join(words)}"
    words = [p.name if p.version is None else f"{p.name}={p.version}-*" for p in packages]
    return f"apt-get install -y --no-install-recommends {' '.join(shlex.quote(w) for w in words)}"


def _load(plan: DriverPlan, state: DriverState | None) -> Iterator[Step]:
    rules = load_driver_packages().unload
    load = " && ".join(f"modprobe {m}" for m in rules.load)
    if plan.build == "dkms":
        yield Step(
            f"see that the module is built for the kernel that boots next ({plan.module_file})", "", "dkms status"
        )
    if state is not None and state.holder is not None:
        rebuild = "dracut --force" if plan.platform.family == "rhel" else "update-initramfs -u -k all"
        why = f"{state.holder} holds the GPUs and cannot be swapped in a running kernel"
        yield Step(f"blacklist {state.holder} and rebuild the initramfs", why, rebuild)
        yield Step("reboot", why, "systemctl reboot", stops_gpus=True)
    elif state is not None and state.version is None:
        yield Step("load the modules", "none is loaded: no reboot", load)
    elif state is not None and not _same(plan, state):
        order = " ".join(rules.modules)
        yield Step(
            "unload the old modules", "each once its use count is 0, in this order", f"rmmod {order}", stops_gpus=True
        )
        yield Step("load the new modules", "", load, stops_gpus=True)
        yield Step("reboot, where a use count does not reach 0", "something still holds a GPU", stops_gpus=True)
    elif state is None:
        yield Step("load the modules", "where none is loaded yet", load)
        yield Step("reboot, where nouveau or another driver holds the GPUs", "it cannot be swapped", stops_gpus=True)


def _services(plan: DriverPlan) -> Iterator[Step]:
    yield Step("keep the driver loaded", "", "systemctl enable --now nvidia-persistenced")
    names = [p.name for p in plan.fabric]
    rules = load_driver_packages()
    if rules.repository.subnet_manager.package in names:
        modules = rules.unload.subnet_manager
        yield Step("load what nvlsm needs", "", " && ".join(f"modprobe {m}" for m in modules))
    if any("fabric" in n for n in names):
        yield Step(
            "start fabric manager", "its package leaves it disabled", "systemctl enable --now nvidia-fabricmanager"
        )
        yield Step("wait until each GPU says Fabric State: Completed", "", "nvidia-smi -q | grep -A2 'Fabric$'")
    if any("imex" in n for n in names):
        yield Step(
            "list the trays of the domain and start IMEX",
            "/etc/nvidia-imex/nodes_config.cfg, one address a line",
            "systemctl enable --now nvidia-imex",
        )
    if plan.version is None and plan.cuda.min_driver is not None:
        why = f"the release's image has CUDA {plan.cuda.image}; the archive decides the driver's version"
        yield Step(
            f"see that the driver is {plan.cuda.min_driver} or newer",
            why,
            "nvidia-smi --query-gpu=driver_version --format=csv,noheader",
        )


__all__ = ["Step", "steps_to"]
