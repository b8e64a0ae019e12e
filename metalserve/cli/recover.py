"""`metalserve recover`: bring failed nodes back, within limits, with proof; and what is remembered of it."""

from __future__ import annotations

import importlib

import click

from metalserve.errors import MetalserveError
from metalserve.paths import state_directory


class _Group(click.Group):
    """A group whose first word may also be an inventory: then it is `run`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in ("-h", "--help") and args[0] not in self.list_commands(ctx):
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*self.commands, *self._remembering()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self.commands.get(cmd_name) or self._remembering().get(cmd_name)

    def _remembering(self) -> dict[str, click.Command]:
        state = importlib.import_module("metalserve.cli.recover_state")
        commands: tuple[click.Command, ...] = state.commands
        return {c.name: c for c in commands if c.name}


@click.group("recover", cls=_Group)
def command() -> None:
    """Bring failed nodes back: evidence, the smallest step that can work, proof, and never the whole fleet at once.

    `metalserve recover INVENTORY HOST...` shows what would be done and does it with --yes; see `recover run --help`.
    """


@command.command("run")
@click.argument("inventory")
@click.argument("hosts", nargs=-1, metavar="[HOST|GROUP]...")
@click.option("--unhealthy", "fleet", is_flag=True, help="Find the hosts: no token, a verdict, no answer.")
@click.option("--yes", is_flag=True, help="Do it; without this only the plan is shown.")
@click.option("--observe", is_flag=True, help="Never act: write down what would be done (state/observed.jsonl).")
@click.option("--watch", is_flag=True, help="Go on for ever (with --unhealthy).")
@click.option(
    "--every", "every_s", type=click.IntRange(5), default=60, show_default=True, help="Seconds between looks."
)
@click.option(
    "--notify", "notify", multiple=True, metavar="FORMAT:env:NAME|FORMAT:file:PATH",
    help="Tell a webhook: json or slack, its address in a variable or file; repeatable.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print plan or results as JSON.")
def run(
    inventory: str,
    hosts: tuple[str, ...],
    fleet: bool,
    yes: bool,
    observe: bool,
    watch: bool,
    every_s: int,
    notify: tuple[str, ...],
    as_json: bool,
) -> int:
    """Look at all hosts of INVENTORY, and recover HOSTs, or with --unhealthy those that want it.

    The plan says what reboots, what is wiped and what capacity remains. Limits, marks and the breaker hold whatever
    is asked. An interrupted recovery is gone on with by the next run.

    Exit status: 0 all well or recovered; 1 something was not recovered; 2 refused before any host was touched; 3 the
    plan wants --yes; 130 interrupted.
    """
    from metalserve.cli.recover_run import once, prepared, watching

    if not hosts and not fleet:
        raise click.UsageError("name hosts or groups, or give --unhealthy")
    if watch and not fleet:
        raise click.UsageError("--watch wants --unhealthy")
    if yes and observe:
        raise click.UsageError("--observe never acts, so --yes makes no sense with it")
    try:
        job = prepared(inventory, hosts, fleet=fleet, notify=notify, keep=state_directory(), quiet=as_json)
    except MetalserveError as error:
        click.echo(f"metalserve: {error}", err=True)
        return 2
    if watch:
        return watching(job, every_s=every_s, act=yes)
    return once(job, act=yes, observe=observe, as_json=as_json)
