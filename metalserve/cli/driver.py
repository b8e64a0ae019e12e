"""`metalserve driver`: which driver a host gets, and why, with or without the host."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import click

from metalserve.catalogue.loader import load_cuda_drivers, load_gpus
from metalserve.cli.driver_text import show
from metalserve.converge.selection import select
from metalserve.desired.observed import parse_observation
from metalserve.driver import plan_driver
from metalserve.driver.export import plan_dict
from metalserve.driver.named import machine_by_name
from metalserve.driver.plan import Machine, Source
from metalserve.driver.proven import PlannedOnly, check_plan
from metalserve.driver.seen import Seen
from metalserve.driver.state import DriverState
from metalserve.driver.steps import steps_to
from metalserve.errors import MetalserveError
from metalserve.hardware.node import node_hardware
from metalserve.pyinfra_seam.cli_run import run_pyinfra
from metalserve.releases import load_release, release_names

Modules = Literal["auto", "open", "proprietary"]


@dataclass(frozen=True)
class _Subject:
    """What is planned for, wherever it was learnt."""

    machine: Machine
    state: DriverState | None = None
    host: str | None = None
    simulated: bool = False
    release: str | None = None
    modules: Modules = "auto"
    source: Source = "nvidia"
    toolkit: bool = False
    assumed: tuple[str, ...] = ()


@click.group("driver")
def command() -> None:
    """Plan NVIDIA drivers."""


@command.command("plan")
@click.argument("host", required=False, metavar="[HOST|FILE]")
@click.option("--inventory", metavar="FILE", help="The inventory that HOST is in; it is observed in one SSH session.")
@click.option("--os", "os_id", metavar="NAME", help="Without a host: its operating system, such as ubuntu-24.04.")
@click.option("--gpu", "gpus", multiple=True, metavar="COUNTxGPU", help="Without a host: 8xB200; repeatable.")
@click.option("--arch", metavar="ARCH", help="Without a host: x86_64 or arm64; default: arm64 for Grace systems.")
@click.option("--kernel", default="", metavar="VERSION", help="Without a host: what `uname -r` prints.")
@click.option("--secure-boot", is_flag=True, help="Without a host: Secure Boot is on.")
@click.option("--release", "release_name", metavar="NAME", help="The release; default: the host's, else the newest.")
@click.option("--source", type=click.Choice(["nvidia", "distro"]), help="As driver.source.")
@click.option("--modules", type=click.Choice(["auto", "open", "proprietary"]), help="As driver.modules.")
@click.option("--toolkit", is_flag=True, help="As cuda.toolkit.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON (docs/driver-plan-schema.md).")
def plan(
    host: str | None,
    inventory: str | None,
    os_id: str | None,
    gpus: tuple[str, ...],
    arch: str | None,
    kernel: str,
    secure_boot: bool,
    release_name: str | None,
    source: Source | None,
    modules: Modules | None,
    toolkit: bool,
    as_json: bool,
) -> int:
    """Show which driver a host gets: packages, repository, pins, fabric, reasons, and the steps to it.

    Without a host it takes --os and --gpu. HOST with --inventory is observed; FILE is an observation that was kept.
    Nothing is changed. Exit status 1 when there is no driver for it, with the reason.
    """
    if host is None:
        if os_id is None or not gpus:
            raise click.UsageError("give --os and --gpu, or HOST with --inventory, or a FILE with an observation")
        machine, assumed = machine_by_name(os_id, gpus, load_gpus(), arch=arch, kernel=kernel, secure_boot=secure_boot)
        subject = _Subject(machine, assumed=assumed)
    elif os_id or gpus or arch or kernel or secure_boot:
        raise click.UsageError("--os, --gpu, --arch, --kernel and --secure-boot are for plans without a host")
    elif inventory is not None:
        subject = _observed(host, inventory)
    else:
        subject = _kept(host)
    release = load_release(release_name or subject.release or sorted(release_names())[-1])
    chosen = plan_driver(
        subject.machine,
        release,
        modules or subject.modules,
        load_gpus(),
        load_cuda_drivers(),
        source=source or subject.source,
        toolkit=toolkit or subject.toolkit,
    )
    chosen = replace(chosen, warnings=(*subject.assumed, *chosen.warnings))
    data = plan_dict(
        chosen,
        subject.machine,
        release.name,
        load_gpus(),
        steps=steps_to(chosen, subject.state),
        planned_only=_planned_only(chosen),
        host=subject.host,
        simulated=subject.simulated,
    )
    if as_json:
        click.echo(json.dumps(data, indent=2))
    else:
        show(data)
    return 0


def _planned_only(chosen: Any) -> str | None:
    try:
        check_plan(chosen)
    except PlannedOnly as reason:
        return reason.what
    return None


def _observed(host: str, inventory: str) -> _Subject:
    """Observe `host` in one session.

    Raises:
        MetalserveError: it is not in the inventory, could not be reached, or is of a system that is not known.
    """
    selection = select(inventory, (host,))
    if len(selection.chosen) != 1:
        names = ", ".join(selection.chosen)
        raise MetalserveError(f"{host!r} names several hosts: {names}", where=inventory, remedy="name one of them")
    name = selection.chosen[0]
    outcome = run_pyinfra(inventory, "deploys/driver_plan.py", (name,), dry=True, quiet=True)
    report = outcome.report.hosts.get(name) if outcome.report is not None else None
    if outcome.interrupted:
        raise click.Abort
    if report is not None and report.failure is not None:
        raise MetalserveError(report.failure.what, where=name, remedy=report.failure.remedy or None)
    if report is None or "driver" not in report.proofs:
        said = [line for line in outcome.output.splitlines() if line.strip()]
        raise MetalserveError(
            f"was not observed{': ' + said[-1].strip() if said else ''}",
            where=name,
            remedy="see whether it can be reached",
        )
    data = json.loads(report.proofs["driver"])
    seen, settings = Seen.from_dict(data), data["settings"]
    return _Subject(
        seen.machine,
        seen.state,
        name,
        settings["simulated"],
        settings["release"],
        settings["modules"],
        settings["source"],
        settings["toolkit"],
    )


def _kept(file: str) -> _Subject:
    """Read an observation that was kept.

    Raises:
        MetalserveError: there is no such file, or it is none.
    """
    path = Path(file)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise MetalserveError(
            f"no such file ({error.strerror}); a host takes --inventory", where=file, remedy="add --inventory FILE"
        ) from error
    observed = parse_observation(text)
    seen = Seen.of(node_hardware(observed.sections), observed)
    return _Subject(seen.machine, seen.state, observed.facts.get("hostname"))
