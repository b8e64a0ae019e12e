"""The command line: one module a command, loaded when it is called, so that `--help` stays quick."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from metalserve import __version__
from metalserve.errors import MetalserveError

COMMANDS = {
    "audit": "What runs on each node, for those who sign for it: one page, JSON.",
    "bench": "Load an engine or router: knee, drift, A/B, answers; compare results.",
    "bmc": "Out of band: power, boot device, virtual media, sensors and events of a host's BMC.",
    "converge": "Run a deploy over the inventory: limits checked, waves, retries, a report.",
    "cost": "What a million tokens costs: rented, cloud, owned, or an API; break-even, sensitivity.",
    "diagnose": "What ails a node, from saved logs, and the smallest step that can cure it.",
    "driver": "Plan the driver of a host: packages, repository, pins, reasons, steps.",
    "drift": "Compare hosts with what they should be, changing nothing.",
    "lab": "The built-in lab: real hosts, simulated GPUs.",
    "plan": "Plan the vLLM launch from hardware and model.",
    "read": "Read the output of a hardware tool (nvidia-smi, lspci, ...) into JSON.",
    "release": "List, show and check releases.",
    "report": "Show the report of a verify run: terminal, HTML page, JUnit; what got worse.",
    "router": "The running routers: drain and enable replicas, see their state.",
    "settings": "Show every host setting: type, unit, default.",
    "template": "OS templates: golden images from the roles: build, test, publish, install.",
    "top": "Watch the fleet live: GPUs, clocks, links, engines, Xids.",
    "upgrade": "Bring hosts to another release, in waves; they go back when it fails.",
    "vllm": "Check vLLM flags against a pinned release.",
    "weights": "Models: manifests, staging onto hosts, checks, repair, what is no longer needed.",
}


class _LazyGroup(click.Group):
    """Loads `metalserve.cli.NAME` only when NAME is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"metalserve.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="metalserve")
def root() -> None:
    """From racked GPU servers to a fleet that serves LLMs, with proof."""


def main(args: list[str] | None = None) -> int:
    """Run the command line and return its exit status.

    A `MetalserveError` becomes one line on stderr and status 1; wrong usage is 2; Ctrl-C is 130.
    """
    try:
        result: Any = root.main(args=args, prog_name="metalserve", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except MetalserveError as error:
        click.echo(f"metalserve: {error}", err=True)
        return 1
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show(file=sys.stderr)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("metalserve: interrupted", err=True)
        return 130
