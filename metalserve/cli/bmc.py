"""`metalserve bmc`: what a host's BMC says, and what it does to the host; the host itself is not asked."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, get_args

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from metalserve.bmc import Bmc, open_bmc
from metalserve.bmc.client import BootDevice, PowerAction
from metalserve.errors import MetalserveError
from metalserve.inventory import check_hosts
from metalserve.settings.bmc import BmcSettings

WANTS_YES = 3
_AT_ONCE = 32
_MEANS = {
    "on": "boot it", "off": "shut it down, by force when that takes long", "force-off": "cut its power",
    "graceful-off": "shut it down", "cycle": "cut its power and boot it",
}  # fmt: skip
_COLOURS = {"Critical": "red", "Warning": "yellow", "OK": "green", "on": "green", "off": "yellow", "unknown": "red"}


@click.group("bmc")
def command() -> None:
    """Out of band: ask and switch hosts through their BMCs (Redfish, or IPMI), as the inventory's `bmc` says.

    Reading is free. What changes a machine asks for --yes; without it the plan is shown, exit status 3.
    """


def _settings(inventory: str, names: Iterable[str]) -> dict[str, BmcSettings]:
    """Return the BMCs of the named hosts, of all that have one when none is named."""
    # Apart from this process: threads stay threads here.
    from metalserve.pyinfra_seam.inventory import load_apart

    hosts = check_hosts(load_apart(inventory), inventory)
    wanted = list(names)
    for name in wanted:
        if name not in hosts:
            raise MetalserveError(f"has no host '{name}'", where=inventory)
        if hosts[name].bmc is None:
            raise MetalserveError(f"host {name} has no `bmc`", where=inventory, remedy="metalserve settings bmc")
    found = {name: each.bmc for name, each in hosts.items() if each.bmc is not None and (not wanted or name in wanted)}
    if not found:
        raise MetalserveError("no host has a `bmc`", where=inventory, remedy="metalserve settings bmc")
    return found


def _open(inventory: str, host: str) -> Bmc:
    return open_bmc(_settings(inventory, [host])[host], host)


@command.command()
@click.argument("inventory")
@click.argument("hosts", nargs=-1, metavar="[HOST...]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(inventory: str, hosts: tuple[str, ...], as_json: bool) -> int:
    """Show power, machine and boot override of HOSTS, all when none is named. Status 1: a BMC could not be asked."""

    def one(pair: tuple[str, BmcSettings]) -> dict[str, Any]:
        name, settings = pair
        row: dict[str, Any] = {"host": name, "address": settings.address, "kind": settings.kind}
        try:
            with open_bmc(settings, name) as bmc:
                identity = bmc.identity()
                row |= {"power": bmc.power(), "identity": asdict(identity), "boot": asdict(bmc.boot())}
                row["simulated"] = identity.simulated
        except MetalserveError as error:
            row["error"] = str(error)
        return row

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        rows = list(pool.map(one, _settings(inventory, hosts).items()))
    if as_json:
        click.echo(json.dumps({"schema": 1, "hosts": rows}, indent=1))
    else:
        table = Table(box=None)
        for column in ("host", "power", "machine", "serial", "boots next", "BMC"):
            table.add_column(column, no_wrap=column != "machine")
        for row in rows:
            if "error" not in row:
                table.add_row(
                    row["host"], _coloured(row["power"]), escape(row["identity"]["model"]), row["identity"]["serial"],
                    _boot_words(row["boot"]), row["address"] + (" (IPMI)" if row["kind"] == "ipmi" else ""),
                )  # fmt: skip
        if table.row_count:
            Console().print(table)
        for row in rows:
            if "error" in row:
                click.echo(f"{row['host']}: {row['error']}", err=True)
            elif not row["identity"]["proven"]:
                click.echo(f"{row['host']}: not proven to be its BMC: set bmc.serial to {row['identity']['serial']}")
    return 1 if any("error" in row for row in rows) else 0


@command.command()
@click.argument("inventory")
@click.argument("host")
@click.argument("action", type=click.Choice(get_args(PowerAction)))
@click.option("--deadline", "deadline_s", type=click.FloatRange(5, 1800), default=120.0, show_default=True,
              help="Seconds until the BMC must show it.")  # fmt: skip
@click.option("--yes", is_flag=True, help="Do it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def power(inventory: str, host: str, action: PowerAction, deadline_s: float, yes: bool, as_json: bool) -> int:
    """Switch HOST, and wait until its BMC shows it. `cycle` cuts the power: nothing is shut down in order."""
    with _open(inventory, host) as bmc:
        identity = bmc.identity()
        if not yes:
            return _plan(as_json, host, f"{_MEANS[action]} ({action}); it is {bmc.power()} now ({identity.serial})")
        seen = bmc.set_power(action, deadline_s)
    _told(as_json, host, asdict(seen), f"{seen.power} after {seen.seconds:.1f} s ({seen.words})")
    return 0


@command.command()
@click.argument("inventory")
@click.argument("host")
@click.argument("device", type=click.Choice([*get_args(BootDevice), "back"]), required=False)
@click.option("--uri", help="What UEFI HTTP shall load; by default what DHCP says.")
@click.option("--yes", is_flag=True, help="Do it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def boot(inventory: str, host: str, device: Any, uri: str | None, yes: bool, as_json: bool) -> int:
    """Show what HOST boots from next, or set it for one boot; `back` ends an override.

    What the BMC stored is read again and shown: some store it for good, and the host must then be set back.
    """
    with _open(inventory, host) as bmc:
        if device is not None and not yes:
            words = "boot from its disk again" if device == "back" else f"boot from {device} next time"
            return _plan(as_json, host, f"{words}; shown now: {_boot_words(asdict(bmc.boot()))}")
        seen = bmc.boot() if device is None else bmc.boot_back() if device == "back" else bmc.boot_once(device, uri)
    _told(as_json, host, asdict(seen), _boot_words(asdict(seen)) + (f"; {seen.words}" if seen.words else ""))
    return 0


@command.command()
@click.argument("inventory")
@click.argument("host")
@click.option("--insert", "url", metavar="URL", help="Insert this image into the virtual CD drive.")
@click.option("--eject", is_flag=True, help="Take the image out.")
@click.option("--yes", is_flag=True, help="Do it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def media(inventory: str, host: str, url: str | None, eject: bool, yes: bool, as_json: bool) -> int:
    """Show HOST's virtual drives, insert an image or eject it."""
    if url and eject:
        raise click.UsageError("give --insert or --eject")
    with _open(inventory, host) as bmc:
        if (url or eject) and not yes:
            return _plan(as_json, host, f"insert {url}" if url else "eject what is in the virtual CD drive")
        drives = (bmc.insert(url),) if url else (bmc.eject(),) if eject else bmc.media()
    words = [
        f"{each.path.rsplit('/', 1)[-1]} ({', '.join(each.kinds) or 'unknown kind'}): "
        f"{each.image or 'an image' if each.inserted else 'empty'}"
        for each in drives
    ]
    _told(as_json, host, {"drives": [asdict(each) for each in drives]}, "; ".join(words) or "no virtual drives")
    return 0


@command.command()
@click.argument("inventory")
@click.argument("host")
@click.option("--since", default="7d", show_default=True, metavar="AGE", help="As 90m, 24h, 7d; 'all' for all.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def events(inventory: str, host: str, since: str, as_json: bool) -> int:
    """Show the logs of HOST's BMC, the oldest entry first. Status 1: a log could not be read."""
    begin = 0.0 if since == "all" else time.time() - _seconds(since)
    with _open(inventory, host) as bmc:
        found = bmc.events(begin)
    if as_json:
        click.echo(json.dumps({"schema": 1, "host": host, **asdict(found)}, indent=1))
    else:
        table = Table("time (UTC)", "severity", "log", "message", box=None)
        for each in found.items:
            at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(each.at)) if each.at is not None else "unknown"
            table.add_row(at, _coloured(each.severity or "unknown"), each.log, escape(each.message or each.code))
        _shown(table, found.missed, "no events")
    return 1 if found.missed else 0


@command.command()
@click.argument("inventory")
@click.argument("host")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def sensors(inventory: str, host: str, as_json: bool) -> int:
    """Show the sensors of HOST's BMC, and its GPUs as the baseboard sees them. Status 1: some could not be read."""
    with _open(inventory, host) as bmc:
        found, gpus = bmc.sensors(), bmc.gpu_telemetry()
    missed = tuple(dict.fromkeys([*found.missed, *gpus.missed]))
    if as_json:
        value = {"schema": 1, "host": host, "sensors": asdict(found), "gpus": asdict(gpus)}
        click.echo(json.dumps(value, indent=1))
        return 1 if missed else 0
    table = Table("sensor", "place", "value", "health", box=None)
    for each in found.items:
        value_words = "unknown" if each.value is None else f"{each.value:g} {_UNITS.get(each.unit, each.unit)}"
        table.add_row(escape(each.name), each.place, value_words, _coloured(each.health or "unknown"))
    for gpu in gpus.items:
        parts = [(gpu.temperature_c, "C"), (gpu.power_w, "W"), (gpu.ecc_uncorrected, "ECC errors")]
        words = ", ".join(f"{'unknown' if value is None else f'{value:g}'} {unit}" for value, unit in parts)
        table.add_row(f"{gpu.name} {gpu.serial}", escape(gpu.model), words, _coloured(gpu.health or "unknown"))
    _shown(table, missed, "no sensors")
    return 1 if missed else 0


_UNITS = {"Cel": "C", "degrees C": "C"}


def _seconds(age: str) -> float:
    found = re.fullmatch(r"(\d+)([mhd])", age)
    if not found:
        raise click.BadParameter("must be a number and m, h or d, or 'all'", param_hint="--since")
    return int(found[1]) * {"m": 60, "h": 3600, "d": 86400}[found[2]]


def _boot_words(seen: dict[str, Any]) -> str:
    if seen["enabled"] == "Disabled" or seen["target"] == "None":
        return "as ordered"
    return f"{seen['target'] or 'unknown'} ({seen['enabled'] or 'unknown'})"


def _coloured(word: str) -> str:
    return f"[{_COLOURS[word]}]{word}[/]" if word in _COLOURS else escape(word)


def _plan(as_json: bool, host: str, words: str) -> int:
    if as_json:
        click.echo(json.dumps({"schema": 1, "host": host, "plan": words, "done": False}, indent=1))
    else:
        click.echo(f"{host}: would {words}; nothing was done -> add --yes")
    return WANTS_YES


def _told(as_json: bool, host: str, value: dict[str, Any], words: str) -> None:
    click.echo(json.dumps({"schema": 1, "host": host, **value}, indent=1) if as_json else f"{host}: {words}")


def _shown(table: Table, missed: tuple[str, ...], nothing: str) -> None:
    if table.row_count:
        Console().print(table)
    else:
        click.echo(nothing)
    for each in missed:
        click.echo(f"not read: {each}", err=True)
