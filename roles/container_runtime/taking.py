"""How Docker takes a changed daemon.json: by a reload where that is enough, else by a restart that keeps containers.

Pure. A reload (SIGHUP) changes `live-restore` and `runtimes` in the running daemon (moby, daemon/reload.go); log
driver and options, cgroup driver, data root and CDI need a restart, which stops every container unless live-restore is
on in the daemon that goes down. It is turned on by a reload first, therefore.
"""

from __future__ import annotations

import shlex
from typing import Any

from metalserve.desired.model import Action, Desired, File, Unit
from metalserve.desired.node import Node
from metalserve.desired.observed import Observation
from roles.container_runtime.daemon import DAEMON_JSON

UNIT = "docker.service"
RELOADED = "/run/metalserve/docker-reloaded"
"""Touched after a reload: the unit's start does not tell of it. In /run, since a reboot brings a start."""

RELOADABLE = frozenset({"live-restore", "runtimes"})
"""Keys of ours that a reload is enough for. Source: moby, daemon/reload.go."""

_RELOAD = f"systemctl reload {UNIT} || ms_fail 'Docker did not reload -> `journalctl -u {UNIT} -n 50` tells why'\n"


def take(
    node: Node, file: File | None, changed: frozenset[str], info: dict[str, Any], *, live_restore: bool
) -> Desired:
    """Return the unit, and what else makes the running daemon take `file`.

    Args:
        node: the host.
        file: daemon.json as it is to be written, or None when it stays.
        changed: top-level keys of it that change.
        info: what `docker info` told, {} when Docker does not run.
        live_restore: containers are to outlive the daemon.
    """
    files = (file,) if file is not None else ()
    running = node.observed.live and bool(info)
    if file is not None and running and changed <= RELOADABLE and DAEMON_JSON in node.observed.files:
        reload = Action(
            f"reload Docker ({', '.join(sorted(changed))})",
            lambda observed: _is(observed, file) and reloaded(observed),
            f"{_RELOAD}touch {shlex.quote(RELOADED)}",
            why="containers go on",
        )
        return Desired(files=files, actions=(reload,), units=(Unit(UNIT),))
    if file is None and reloaded(node.observed):
        return Desired(units=(Unit(UNIT),))
    wish = Desired(files=files, units=(Unit(UNIT, restart_on=(DAEMON_JSON,)),))
    restarts = file is not None or _untaken(node.observed)
    if not restarts or not running or not live_restore or info.get("LiveRestoreEnabled") is not False:
        return wish
    keep = Action(
        "let Docker keep its containers over the restart",
        lambda observed: _is(observed, file) if file is not None else not _untaken(observed),
        _RELOAD,
    )
    return Desired(actions=(keep,)) + wish


def reloaded(observed: Observation) -> bool:
    """Tell whether the running daemon took daemon.json by a reload."""
    file, stamp, unit = (observed.files.get(DAEMON_JSON), observed.files.get(RELOADED), observed.units.get(UNIT))
    if file is None or stamp is None or unit is None or unit.started is None:
        return False
    return stamp.mtime >= file.mtime and stamp.mtime >= unit.started


def _untaken(observed: Observation) -> bool:
    """Tell whether daemon.json is newer than the daemon's start: a run died in between, or somebody edited it."""
    file, unit = observed.files.get(DAEMON_JSON), observed.units.get(UNIT)
    if file is None or unit is None or unit.started is None:
        return False
    return file.mtime > unit.started and not reloaded(observed)


def _is(observed: Observation, file: File) -> bool:
    found = observed.files.get(file.path)
    return found is not None and found.sha256 == file.sha256
