"""`metalserve lab`: the built-in fleet of real hosts whose GPU hardware is simulated."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from metalserve.lab import faults as kinds
from metalserve.lab import hosts, lifecycle, operate
from metalserve.lab.bmc import faults as bmc_kinds
from metalserve.lab.fleet import running_fleet
from metalserve.lab.layout import Layout
from metalserve.lab.lifecycle import Step


@click.group(name="lab")
def command() -> None:
    """The built-in lab: real hosts (systemd, SSH, apt, Docker); only the GPU hardware is simulated."""


@contextmanager
def _progress() -> Iterator[Step]:
    """Show steps as they run; several may run at once."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(finished_text="[green]✓"), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        def step(title: str) -> AbstractContextManager[object]:
            @contextmanager
            def shown() -> Iterator[None]:
                started = time.monotonic()
                task = progress.add_task(title, total=1)
                yield
                progress.update(task, completed=1)
                if not console.is_terminal:
                    console.print(f"{title}: {time.monotonic() - started:.1f} s", highlight=False)

            return shown()

        yield step


@command.command()
@click.option("--fleet", default="default", show_default=True, help="Fleet: a name, or the path of a YAML file.")
def up(fleet: str) -> None:
    """Bring the lab up. What runs already is left alone."""
    layout = lifecycle.choose_number(Layout.current())
    started = time.monotonic()
    with _progress() as step:
        value = lifecycle.up(layout, fleet, step=step)
    for host in value.hosts:
        click.echo(f"{host.name:<16} {host.address:<14} {host.suite:<10} {host.profile}  (GPUs simulated)")
    click.echo(f"lab up in {time.monotonic() - started:.0f} s; next: pyinfra inventories/lab.py deploys/gpu_node.py")


@command.command()
@click.option("--keep-cache", is_flag=True, help="Keep root file systems and downloaded packages for the next `up`.")
def down(keep_cache: bool) -> None:
    """Stop the lab and remove everything that it made."""
    layout = Layout.current()
    with _progress() as step:
        lifecycle.down(layout, keep_cache=keep_cache, step=step)
    click.echo(f"lab removed{' (cache kept)' if keep_cache else ''}: {layout.root}")


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(as_json: bool) -> None:
    """Show each host: address, state, profile, faults."""
    layout = Layout.current()
    rows = operate.status(layout)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    table = Table("host", "address", "state", "profile (simulated)", "suite", "faults", box=None)
    colour = {"up": "green", "booting": "yellow"}
    for row in rows:
        state = row["state"]
        shown = f"[{colour.get(state, 'red')}]{state}[/]"
        table.add_row(row["name"], row["address"], shown, row["profile"], row["suite"], ", ".join(row["faults"]))
    Console().print(table)


@command.command(context_settings={"ignore_unknown_options": True})
@click.argument("node")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND...]")
def ssh(node: str, words: tuple[str, ...]) -> None:
    """Log in to NODE as root, or run a command there."""
    layout = Layout.current()
    line = operate.ssh_command(layout, running_fleet(layout).host(node))
    # one word is a shell command line as it stands; several are a program and its arguments
    tail = [words[0] if len(words) == 1 else shlex.join(words)] if words else []
    os.execvp(line[0], [*line, *tail])  # noqa: S606 - ssh takes over the terminal


@command.command(epilog="Kinds: " + ", ".join(kinds.KINDS))
@click.argument("node")
@click.argument("kind")
@click.option("--gpu", type=int, default=None, help="Index of the GPU it strikes; the first when not given.")
@click.option("--sticky", is_flag=True, help="It comes back after a reboot that would cure it.")
def fault(node: str, kind: str, gpu: int | None, sticky: bool) -> None:
    """Inject the fault KIND into NODE, now."""
    layout = Layout.current()
    operate.fault(layout, running_fleet(layout).host(node), kind, gpu, sticky=sticky)
    where = f" (GPU {gpu or 0})" if kinds.KINDS[kind].gpu else ""
    click.echo(f"{node}: {kind}{where}: {kinds.KINDS[kind].description}")


@command.command()
@click.argument("node")
@click.argument("kind", required=False)
def heal(node: str, kind: str | None) -> None:
    """End the faults of NODE, or only KIND."""
    layout = Layout.current()
    ended = operate.heal(layout, running_fleet(layout).host(node), kind)
    click.echo(f"{node}: {', '.join(each['kind'] for each in ended) or 'no fault'} ended")


@command.command("bmc-fault", epilog="Kinds: " + ", ".join(bmc_kinds.KINDS))
@click.argument("node")
@click.argument("kind")
def bmc_fault(node: str, kind: str) -> None:
    """Inject the fault KIND into the BMC of NODE, now."""
    layout = Layout.current()
    bmc_kinds.inject(layout.bmc(running_fleet(layout).host(node).name), kind)
    click.echo(f"{node}'s BMC: {kind}: {bmc_kinds.KINDS[kind]}")


@command.command("bmc-heal")
@click.argument("node")
@click.argument("kind", required=False)
def bmc_heal(node: str, kind: str | None) -> None:
    """End the faults of the BMC of NODE, or only KIND."""
    layout = Layout.current()
    ended = bmc_kinds.heal(layout.bmc(running_fleet(layout).host(node).name), kind)
    click.echo(f"{node}'s BMC: {', '.join(ended) or 'no fault'} ended")


@command.command()
@click.argument("node")
def start(node: str) -> None:
    """Switch NODE on and wait until it has booted."""
    operate.start(Layout.current(), node)


@command.command()
@click.argument("node")
@click.option("--now", is_flag=True, help="Cut the power.")
def stop(node: str, now: bool) -> None:
    """Power NODE off."""
    layout = Layout.current()
    hosts.stop(layout, running_fleet(layout).host(node), grace_s=0 if now else 30)


@command.command()
@click.argument("node")
def reboot(node: str) -> None:
    """Reboot NODE and wait until it has booted."""
    layout = Layout.current()
    operate.reboot(layout, running_fleet(layout).host(node))


@command.command()
@click.argument("nodes", nargs=-1)
def reset(nodes: tuple[str, ...]) -> None:
    """Make NODES (all when none is named) bare again: power cut, disks new, booted."""
    with _progress() as step:
        lifecycle.reset(Layout.current(), nodes, step=step)


@command.command()
@click.argument("milliseconds", type=click.FloatRange(0, 10000))
def delay(milliseconds: float) -> None:
    """Add MILLISECONDS to the round trip between this machine and the hosts; 0 takes it away."""
    click.echo(operate.delay(Layout.current(), milliseconds))


@command.command("real-vllm")
@click.option("--host", metavar="NAME", help="Host that shall have it; the first one when not given.")
@click.argument("site_packages", type=click.Path(exists=True, file_okay=False, path_type=Path))
def real_vllm(host: str | None, site_packages: Path) -> None:
    """Make an image with a REAL vLLM (on the CPU, tiny model) from SITE_PACKAGES; print what a run with it needs.

    The output is for a shell: variables, and the host's name as HOST.
    """
    from metalserve.lab import real_vllm as real

    name, environment = real.prepare(Layout.current(), site_packages, host)
    for key, value in {**environment, "HOST": name}.items():
        click.echo(f"{key}={shlex.quote(value)}")
