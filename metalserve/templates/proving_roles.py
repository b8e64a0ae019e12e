"""Compares a machine that was booted from an image with what its roles want: nothing may be left to do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from metalserve.converge.drift import Difference, differences
from metalserve.pyinfra_seam.cli_run import run_pyinfra
from metalserve.templates.qemu_ssh import Shell
from metalserve.templates.spec import TemplateSpec
from metalserve.verify.finding import Finding, Status

DEPLOY: Final = "deploys/os_template.py"
IN_IMAGES: Final = ("install", "configure")
"""Stages that an image goes through; the others need the machine (`roles`' `live_only`)."""


def inventory_text(spec: TemplateSpec, shell: Shell) -> str:
    """Return an inventory of the one machine, with the template's own settings."""
    data = {
        **spec.host_data,
        "ssh_hostname": shell.address,
        "ssh_port": shell.port,
        "ssh_user": shell.user,
        "ssh_key": str(shell.key),
        "ssh_strict_host_key_checking": "no",
        "ssh_known_hosts_file": str(shell.key.with_name("known-hosts")),
        "ssh_look_for_keys": False,
        "ssh_allow_agent": False,
    }
    return f"image = [({spec.name!r}, {data!r})]\n"


def compare_roles(spec: TemplateSpec, shell: Shell, place: Path, source: str) -> Finding:
    """Return whether the roles find something to change on the machine; nothing is changed.

    Args:
        spec: the template.
        shell: how the machine is reached.
        place: directory for the inventory.
        source: what the machine is, in words.
    """
    if not spec.roles:
        return _finding("skipped", "the template has no roles", source)
    inventory = place / "inventory.py"
    inventory.write_text(inventory_text(spec, shell))
    before = os.environ.get("METALSERVE_TEMPLATE_ROLES")
    os.environ["METALSERVE_TEMPLATE_ROLES"] = ",".join(spec.roles)
    try:
        outcome = run_pyinfra(str(inventory), DEPLOY, None, dry=True, quiet=True)
    finally:
        if before is None:
            del os.environ["METALSERVE_TEMPLATE_ROLES"]
        else:
            os.environ["METALSERVE_TEMPLATE_ROLES"] = before
    report = outcome.report
    if report is None or not report.hosts:
        last = (outcome.output.strip().splitlines() or ["no message"])[-1]
        return _finding("unknown", f"the roles did not run: {last[:300]}", source)
    host = next(iter(report.hosts.values()))
    left = [each for each in differences(report) if each.stage in IN_IMAGES]
    if left:
        return _finding("fail", f"{len(left)} to change: {'; '.join(map(_words, left[:5]))}", source)
    if host.failure is not None:
        stage = f"{host.failure.role} / {host.failure.stage}: {host.failure.what}"
        status: Status = "fail" if host.failure.stage in IN_IMAGES else "inconclusive"
        return _finding(status, f"they stopped at {stage}", source)
    if not host.connected:
        return _finding("unknown", "the machine was not reached", source)
    later = len(differences(report))
    return _finding("ok", f"nothing to change in {', '.join(spec.roles)}; {later} for a live machine only", source)


def _words(difference: Difference) -> str:
    return f"{difference.role} / {difference.stage}: {difference.what}"


def _finding(status: Status, observed: str, source: str) -> Finding:
    bad = status not in ("ok", "skipped")
    return Finding(
        "template-roles",
        status,
        "boot 1",
        "the roles that built it have nothing to change",
        observed,
        impact="every new node is changed before it serves, and may fail at it" if bad else "",
        remedy="build it again; when that does not help, a role is not done after its own run" if bad else "",
        source=source,
    )
