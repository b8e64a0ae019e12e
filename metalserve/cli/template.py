"""`metalserve template`: OS images built from the roles, kept, proven, and put on machines."""

from __future__ import annotations

import importlib
import pkgutil

import click

import metalserve.cli as package

_PREFIX = "template_"


class _Parts(click.Group):
    """Its commands are the modules `metalserve.cli.template_NAME`; each has a `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        names = (module.name for module in pkgutil.iter_modules(package.__path__))
        found = (name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX))
        return sorted(name for name in found if not name.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command = getattr(importlib.import_module(f"metalserve.cli.{_PREFIX}{cmd_name}"), "command", None)
        return command if isinstance(command, click.Command) else None


@click.group(name="template", cls=_Parts)
def command() -> None:
    """OS templates: golden images rebuilt from the roles, signed, kept, proven and installed."""
