"""Reads an inventory file as pyinfra's command line does, without contacting any host."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalserve.errors import MetalserveError
from metalserve.paths import ROOT

if TYPE_CHECKING:
    from metalserve.settings import HostSettings


def load_inventory(path: str) -> list[tuple[str, dict[str, Any]]]:
    """Return (name, data) of every host of an inventory file, groups and `group_data` merged as pyinfra does.

    Args:
        path: the inventory, a Python file.

    Raises:
        MetalserveError: the file does not exist, fails when it runs, or names no hosts.
    """
    return load_hosts_and_groups(path)[0]


def load_apart(path: str) -> list[tuple[str, dict[str, Any]]]:
    """Return what `load_inventory` does, read in a process of its own: pyinfra's gevent stays out of this one.

    Raises:
        MetalserveError: as `load_inventory`.
    """
    command = [sys.executable, "-m", "metalserve.pyinfra_seam.inventory", str(Path(path).absolute())]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise MetalserveError(done.stderr.strip().rpartition("\n")[2] or "cannot be read", where=path)
    return [(name, data) for name, data in json.loads(done.stdout)]


def load_hosts_and_groups(path: str) -> tuple[list[tuple[str, dict[str, Any]]], dict[str, list[str]]]:
    """Return (name, data) of every host of an inventory file, and the names of each group's hosts.

    Args:
        path: the inventory, a Python file.

    Raises:
        MetalserveError: the file does not exist, fails when it runs, or names no hosts.
    """
    inventory = read_inventory(path)
    hosts = [(host.name, dict(host.data.dict())) for host in inventory]
    if not hosts:
        raise MetalserveError("names no hosts", where=path, remedy="a public list of hosts is a group")
    return hosts, {name: [host.name for host in group] for name, group in inventory.groups.items()}


def read_inventory(path: str) -> Any:
    """Return pyinfra's own inventory of a file, for who wants to connect to its hosts.

    Raises:
        MetalserveError: as `load_hosts_and_groups`.
    """
    file = Path(path)
    if not file.is_file():
        raise MetalserveError("no such inventory file", where=path, remedy="copy inventories/prod.py and fill it in")
    # Imported here: pyinfra_cli replaces sockets and threads with gevent's when it is imported.
    from pyinfra.api.exceptions import PyinfraError
    from pyinfra.api.state import State
    from pyinfra.context import ctx_state
    from pyinfra_cli.exceptions import CliError, UnexpectedExternalError  # type: ignore[import-untyped]
    from pyinfra_cli.inventory import make_inventory  # type: ignore[import-untyped]

    if str(ROOT) not in sys.path:  # as pyinfra adds the directory it is run from, which is the checkout
        sys.path.append(str(ROOT))
    log = logging.getLogger("pyinfra")
    ignored = _Ignored()
    log.addHandler(ignored)
    try:
        with ctx_state.use(State()):  # the reader notes there which file it runs
            inventory = make_inventory(str(file), cwd=str(ROOT))
    except UnexpectedExternalError as error:
        raise MetalserveError(_in_words(error.exception, error.filename), where=path) from error
    except (PyinfraError, CliError, SyntaxError, OSError, AttributeError, TypeError, ValueError) as error:
        raise MetalserveError(f"cannot be read: {error}", where=path) from error
    finally:
        log.removeHandler(ignored)
    if ignored.messages:
        raise MetalserveError("; ".join(ignored.messages), where=path)
    return inventory


def checked_inventory(path: str) -> tuple[Any, dict[str, HostSettings]]:
    """Return pyinfra's own inventory of a file, and name -> settings of all its hosts.

    Raises:
        MetalserveError: it cannot be read, or settings are wrong.
    """
    from metalserve.inventory import check_hosts

    inventory = read_inventory(path)
    return inventory, check_hosts([(host.name, host.data.dict()) for host in inventory], path)


def connecting_state(inventory: Any, hosts: Sequence[Any]) -> Any:
    """Return pyinfra's state for who connects to some hosts of an inventory outside of a run."""
    # Imported here: pyinfra_cli, which read the inventory, has put gevent in place of threads and sockets by now.
    from pyinfra.api.config import Config
    from pyinfra.api.state import State, StateStage

    state = State(inventory, Config(), initial_limit=hosts)  # type: ignore[no-untyped-call]  # pyinfra leaves it untyped
    state.set_stage(StateStage.Connect)
    return state


class _Ignored(logging.Handler):
    """Keeps what pyinfra would only warn of: a group it leaves out is hosts that are never brought up."""

    def __init__(self) -> None:
        """Listen to warnings."""
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def _in_words(error: BaseException, filename: str) -> str:
    """Return what failed in the inventory's own code and on which line."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == filename]
    at = f"{filename} line {lines[-1]}: " if lines else f"{filename}: "
    return f"{at}{type(error).__name__}: {error}"


def _print() -> int:
    try:
        hosts = load_inventory(sys.argv[1])
    except MetalserveError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    json.dump(hosts, sys.stdout, default=str)
    return 0


if __name__ == "__main__":
    sys.exit(_print())
