"""What an observation says about an upgrade: what is recorded, in place, loaded, in use, good. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

from metalserve.catalogue.driver_reload import load_driver_reload
from metalserve.desired.diff import difference
from metalserve.desired.model import NotYetKnown
from metalserve.desired.node import Node
from metalserve.errors import MetalserveError
from metalserve.releases import Release, load_release, release_names
from metalserve.releases.model import ReleaseError
from metalserve.upgrade.fetch import SPACE, short_of_space
from metalserve.upgrade.holders import CONTAINERS, MODULES, PROCESSES, in_use, strangers
from metalserve.upgrade.machine import Seen, Verdict
from metalserve.upgrade.moves import Trace
from metalserve.upgrade.origin import installed_driver, origin_of
from metalserve.upgrade.record import CURRENT, RECORD, Record, Step, current_release
from metalserve.verify.finding import Finding
from roles.container_runtime import desired as containers
from roles.cuda import desired as cuda
from roles.fabric_manager import desired as fabric
from roles.nvidia_driver import desired as driver
from roles.topology import desired as topology
from roles.upgrade.steps import engines, held_by, stack, stages
from roles.vllm import desired as vllm
from roles.vllm.launch import refuse_wrong_arguments
from roles.vllm.paths import UNIT_GLOB

VERIFY_S = 180.0
"""Seconds that the checks may take to become good after the start: the fabric's two minutes and a minute more."""

RECORD_SECTION, CURRENT_SECTION = "upgrade-record", "upgrade-current"


def record_of(node: Node) -> Record | None:
    """Return the host's record, None when it never had one.

    Raises:
        MetalserveError: it cannot be understood.
    """
    return Record.read(node.observed.text(RECORD_SECTION)) if RECORD in node.observed.files else None


def current_of(node: Node) -> Release | None:
    """Return the release that the host was last proved to be on, None where there is no such record."""
    return current_release(node.observed.text(CURRENT_SECTION)) if CURRENT in node.observed.files else None


def release_on(node: Node) -> Release:
    """Return the release that the host is on, whole.

    Raises:
        MetalserveError: no driver is installed.
    """
    packages = {name: p.version for name, p in node.observed.packages.items() if p.installed}
    found = installed_driver(packages) or node.hardware.module_version
    toolkit = node.observed.version_of("nvidia-container-toolkit")
    return origin_of(current_of(node), found, toolkit, node.release, known_releases())


def known_releases() -> list[Release]:
    """Return the releases of the controller that can be read."""
    found = []
    for name in release_names():
        try:
            found.append(load_release(name))
        except ReleaseError:  # another's damaged file is no reason to leave this host alone
            continue
    return found


def settled(node: Node, origin: Release) -> bool:
    """Tell whether the host is on the inventory's release already, packages and kernel alike."""
    if origin != node.release:
        return False
    record = Record(origin=origin, target=node.release, started="", controller="")
    return in_place(node, record) and is_loaded(node) and not any(f.failing for f in stack_findings(node))


def refuse(node: Node) -> None:
    """Refuse what cannot be upgraded, while nothing has been touched.

    Raises:
        MetalserveError: no driver of the release fits; its vLLM cannot serve the model; strangers have the GPUs open;
            there is no space.
    """
    stack(node)
    if has_engines(node):
        refuse_wrong_arguments(node)
        with suppress(NotYetKnown):  # a host to be repaired tells nothing of its GPUs yet
            vllm.serve(node)
    others = strangers_of(node)
    if others:
        raise MetalserveError(
            f"the GPUs are in use by {', '.join(others[:5])}{' and more' if len(others) > 5 else ''}",
            remedy="end them or wait for them: an upgrade stops the engines and NVIDIA's services, nothing else",
        )
    missing = short_of_space(node.observed.text(SPACE), load_driver_reload().space_mib)
    if missing:
        raise MetalserveError("; ".join(missing), remedy="free it (`apt-get clean`, old kernels), then run again")


def has_engines(node: Node) -> bool:
    """Tell whether the host serves: it has a model and units of engines."""
    prefix = UNIT_GLOB.partition("*")[0]
    return node.settings.model is not None and any(path.startswith(prefix) for path in node.observed.files)


def seen(node: Node, record: Record, trace: Trace) -> Seen:
    """Return what was observed, as the choice of the next step needs it.

    Args:
        node: the host, its release being the goal of `record`.
        record: the upgrade.
        trace: what this run did.

    Raises:
        MetalserveError: the host cannot have this release.
    """
    observed = node.observed
    installed, loaded = in_place(node, record), is_loaded(node)
    changed = installed and loaded
    started = changed and nothing_left(node, record, "start", trace)
    findings = findings_of(node, record) if started else ()
    complaint = complaint_of(findings, record)
    verdict: Verdict = "waiting"
    if started:
        verdict = "good" if not complaint else "bad" if trace.paused_s >= VERIFY_S else "waiting"
    return Seen(
        engines=bool(engines(observed)),
        held=bool(held_by(observed)),
        strangers=strangers_of(node) if not changed else (),
        installed=installed,
        loaded=loaded,
        in_use=in_use(observed.text(MODULES), load_driver_reload().unload) or nouveau(node),
        may_reboot=node.settings.driver.reboot == "auto",
        # A container shares its machine's boot id: there only this run knows that it rebooted.
        boot_id=observed.facts.get("boot_id", "") + (f"/{trace.reboots}" if trace.reboots else ""),
        started=started,
        verdict=verdict,
        complaint=complaint,
    )


def in_place(node: Node, record: Record) -> bool:
    """Tell whether every package of the node's release is there, and the module for the next load."""
    return nothing_left(node, record, "install", None)


def nothing_left(node: Node, record: Record, step: Step, trace: Trace | None) -> bool:
    """Tell whether nothing differs from what a step wants; what shows in no observation counts as done once acted."""
    parts = stages(step, record)
    acted = trace.acted if trace is not None else {}
    for part in parts:
        if part.once and acted.get(f"{step} / {part.name}"):
            continue
        if difference(part.decide(node), node.observed):
            return False
    return True


def is_loaded(node: Node) -> bool:
    """Tell whether the kernel runs the release's driver, in the kind that was chosen."""
    plan, hardware = driver.plan(node), node.hardware
    kind = hardware.module_open is None or hardware.module_open == (plan.modules == "open")
    return hardware.module_version == plan.version and kind


def nouveau(node: Node) -> str:
    """Return in words that nouveau holds the GPUs, "" when it does not."""
    return "nouveau holds the GPUs" if node.hardware.nouveau_loaded else ""


def strangers_of(node: Node) -> tuple[str, ...]:
    """Return who uses the GPUs and is not stopped by an upgrade, in words."""
    observed = node.observed
    return strangers(observed.text(PROCESSES), observed.text(CONTAINERS), load_driver_reload().units)


def stack_findings(node: Node) -> list[Finding]:
    """Return what the checks of driver and fabric manager say."""
    try:
        return [*driver.findings(node), *fabric.findings(node)]
    except NotYetKnown as error:
        return [Finding("driver-answers", "unknown", node.name, "a driver that answers", error.what)]


def machine_findings(node: Node) -> Sequence[Finding]:
    """Return what the topology checks say; nothing while no driver answers, for then they say it of every GPU."""
    return topology.check(node) if node.hardware.smi_state == "ok" else ()


def findings_of(node: Node, record: Record) -> list[Finding]:
    """Return what all checks say that an upgrade must satisfy; those of the driver alone while they are bad."""
    found = stack_findings(node)
    if any(f.failing for f in found):
        return found
    found += [*cuda.findings(node), *containers.findings(node), *machine_findings(node)]
    if record.serving:
        try:
            found += vllm.check(node)
        except NotYetKnown as error:
            found.append(Finding("answers", "unknown", node.name, "engines that answer", error.what))
    return found


def key_of(finding: Finding) -> str:
    """Return by what a finding is known again later."""
    return f"{finding.check} {finding.subject}"


def complaint_of(findings: Sequence[Finding], record: Record) -> str:
    """Return the first bad check in words, "" when there is none but those that were bad before."""
    bad = next((f for f in findings if f.failing and key_of(f) not in record.excused), None)
    return f"{bad.subject}: {bad.check}: expected {bad.expected}, found {bad.observed}" if bad is not None else ""


def now_of(node: Node) -> str:
    """Return the time of the observation by the host's clock, UTC, ISO 8601."""
    try:
        seconds = float(node.observed.facts.get("now", "0"))
    except ValueError:
        seconds = 0.0
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
