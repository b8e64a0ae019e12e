"""The roles, run on a tree: pyinfra with the connector `@image`, as a child that ends with us."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from metalserve.errors import MetalserveError
from metalserve.paths import ROOT
from metalserve.templates.spec import TemplateSpec
from metalserve.trees.debian import dpkg_error
from metalserve.trees.inside import CONTAINED
from metalserve.trees.system import blame_room, read_text_tail

DEPLOY = "deploys/os_template.py"


def check_connector() -> None:
    """Refuse an installation whose pyinfra does not find the connector.

    Raises:
        MetalserveError: it does not.
    """
    if not importlib.metadata.entry_points(group="pyinfra.connectors", name="image"):
        raise MetalserveError(
            "pyinfra does not know the connector @image", where="pyinfra.connectors",
            remedy="this checkout was installed before it had one: pip install -e .",
        )  # fmt: skip


def _hosts(report: Path) -> list[dict[str, Any]]:
    """Return what the report has of each host; nothing when there is none, or only half of one (a full disk)."""
    try:
        return list(json.loads(report.read_text())["hosts"].values())
    except (OSError, ValueError, KeyError):
        return []


def converge(spec: TemplateSpec, root: Path, *, epoch: int, cache: Path, place: Path) -> list[str]:
    """Run the roles of a template on its tree.

    Args:
        spec: the template.
        root: the tree.
        epoch: SOURCE_DATE_EPOCH for what is run in it.
        cache: directory of package files.
        place: directory for the inventory, the report and the log.

    Returns:
        What was changed, one line each; empty when nothing was to do.

    Raises:
        MetalserveError: a role failed; its own words and remedy.
    """
    if not spec.roles:
        return []
    inventory, report, log = place / "inventory.py", place / "report.json", place / "roles.log"
    data = {**spec.host_data, "image_epoch": epoch, "image_apt_cache": str(cache)}
    inventory.write_text(f"image = [({f'@image/{root}'!r}, {data!r})]\n")
    report.unlink(missing_ok=True)
    command = [*CONTAINED, sys.executable, "-m", "pyinfra", "-y", str(inventory), DEPLOY]
    environment = {
        **os.environ,
        "METALSERVE_TEMPLATE_ROLES": ",".join(spec.roles),
        "METALSERVE_REPORT": str(report),
        "PYINFRA_PROGRESS": "off",
        "COLUMNS": "160",
    }
    with log.open("a") as stream:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT,
            check=False,
        )  # fmt: skip
    tail = read_text_tail(log)
    hosts = _hosts(report)
    if done.returncode != 0 or not hosts or any(host.get("failure") for host in hosts):
        evidence = [(host.get("failure") or {}).get("evidence", "") for host in hosts]
        blame_room(place, "the run of the roles", "\n".join([tail, *evidence]))
    for host in hosts:
        if failure := host.get("failure"):
            words = f"{failure['role']} / {failure['stage']}: {failure['what']}"
            # apt's own last line names no package
            if package := dpkg_error(failure.get("evidence", "").splitlines()):
                words = f"{words}: {package}"
            raise MetalserveError(words, where=spec.name, remedy=failure.get("remedy") or f"see {log}")
    if done.returncode != 0 or not hosts:
        lines = [line.strip() for line in tail.splitlines() if line.strip()]
        raise MetalserveError(
            f"the roles did not run ({done.returncode}): {lines[-1] if lines else 'no message'}", where=str(log)
        )
    return [f"{role} / {stage}: {what}" for role, stage, what in hosts[0]["changes"]]
