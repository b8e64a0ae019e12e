"""`metalserve template test`: boot a build and prove it."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from metalserve.paths import templates_directory
from metalserve.templates.proving import SIMULATED, Limits, Proof, Roles, prove
from metalserve.templates.proving_roles import compare_roles
from metalserve.templates.shelf import Shelf
from metalserve.templates.signing import trusted_keys
from metalserve.templates.spec import load_spec
from metalserve.templates.toolroot import tool_root
from metalserve.verify.finding import Finding

_COLOURS = {
    "ok": "green",
    "skipped": "dim",
    "warn": "yellow",
    "inconclusive": "yellow",
    "unknown": "red",
    "fail": "red",
}


@click.command("test")
@click.argument("name")
@click.argument("build", default="latest")
@click.option("--key", "keys", multiple=True, type=click.Path(path_type=Path), help="Public key; repeatable.")
@click.option("--spec", metavar="NAME|FILE", help="Specification whose roles are compared (that of NAME).")
@click.option("--boot-limit", type=click.IntRange(30), default=900, show_default=True, help="Seconds to SSH.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(name: str, build: str, keys: tuple[Path, ...], spec: str | None, boot_limit: int, as_json: bool) -> int:
    """Boot BUILD (a name, latest, candidate or stable) of template NAME twice in QEMU, and prove it.

    Signature and every file; no keys, logs or secrets in the image; boot to SSH, cloud-init, failed units, the disk
    grown, drives found, nothing for the roles to change; two copies with identities of their own. The hardware is
    emulated, without KVM: a boot takes one to five minutes. Exit status: 0 good; 1 a finding is bad, or the build is
    refused.
    """
    home = templates_directory()
    found = Shelf(home / "shelf").build(name, build)
    said = Console(stderr=True)
    limits = Limits(boot_s=boot_limit, look_s=boot_limit)
    roles = _roles(spec or name)
    proof = prove(found, trusted_keys(keys), tool_root(), home / "work", limits=limits, roles=roles, advance=said.print)
    if as_json:
        click.echo(json.dumps(proof.as_dict(), indent=1))
    else:
        _show(proof)
    return 0 if proof.good else 1


def _roles(name: str) -> Roles:
    spec = load_spec(name)
    return lambda shell, place: compare_roles(spec, shell, place, SIMULATED)


def _show(proof: Proof) -> None:
    console = Console()
    for finding in proof.findings:
        console.print(Text(_line(finding), style=_COLOURS[finding.status]), soft_wrap=True)
    boots = ", ".join(f"{each:g} s" for each in proof.measured.get("boot_to_ssh_s", [])) or "none"
    good = "good" if proof.good else "BAD"
    console.print(
        f"{proof.manifest.name} {proof.manifest.build}: {good}; power-on to SSH {boots} ({SIMULATED})", soft_wrap=True
    )


def _line(finding: Finding) -> str:
    """Return a finding as a line; a good one says what was proven, and what was seen of it."""
    if finding.status != "ok":
        return str(finding)
    return f"ok: {finding.subject}: {finding.expected} ({finding.observed})"
