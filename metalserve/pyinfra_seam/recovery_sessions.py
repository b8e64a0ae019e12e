"""Single hosts of an inventory, asked by one SSH session each, for whoever recovers them."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pyinfra.connectors.sshuserclient.client import get_host_keys

from metalserve.errors import MetalserveError
from metalserve.pyinfra_seam.reboot import LOOK, REQUEST
from metalserve.pyinfra_seam.sessions import Answer, Chosen, ask, choose
from metalserve.recovery.known_hosts import entry_name, replaced
from metalserve.report.writing import write_whole
from metalserve.settings import HostSettings

_CONNECT_S = 30
"""Seconds for the connection, beside what the script may take."""

_LOOK_S = 240
"""Seconds that a host which answers may take until its services have started."""


class Sessions:
    """The hosts of one inventory.

    Args:
        inventory: the inventory file.

    Attributes:
        settings: name -> settings.
        opened: name -> SSH sessions that were opened.

    Raises:
        MetalserveError: the inventory cannot be read.
    """

    def __init__(self, inventory: str) -> None:
        self._chosen = choose(inventory)
        self._hosts = {host.name: host for host in self._chosen.hosts}
        self.settings: dict[str, HostSettings] = self._chosen.settings
        self.opened: dict[str, int] = dict.fromkeys(self._hosts, 0)

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Group -> its hosts."""
        return {name: tuple(h.name for h in group) for name, group in self._chosen.state.inventory.groups.items()}

    def address(self, host: str) -> str:
        """Return where a host is reached."""
        return str(self._hosts[host].data.dict().get("ssh_hostname") or host)

    def trust(self, host: str, keys: Sequence[str]) -> Path:
        """Make `keys` (type and Base64 each) the only keys of a host in its known_hosts file; returns the file.

        Raises:
            MetalserveError: it cannot be written.
        """
        data = self._hosts[host].data.dict()
        path = Path(str(data.get("ssh_known_hosts_file") or "~/.ssh/known_hosts")).expanduser().resolve()
        name = entry_name(self.address(host), int(data.get("ssh_port") or 22))
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
                write_whole(path, replaced(path.read_text() if path.exists() else "", name, keys).encode())
                path.chmod(mode)
            finally:
                os.close(lock)
        except OSError as error:
            raise MetalserveError(f"cannot be written: {error.strerror}", where=str(path)) from error
        get_host_keys.cache.clear()  # pyinfra reads the file once in the life of a process
        return path

    def local(self, host: str) -> bool:
        """Tell whether the host is this machine."""
        return bool(self._hosts[host].connector_cls.__name__ == "LocalConnector")

    def ask(self, host: str, script: str, timeout_s: float) -> Answer:
        """Run a script on a host; see `sessions.ask`."""
        self.opened[host] += 1
        one = Chosen(self._chosen.state, [self._hosts[host]], self.settings)
        return ask(one, script, timeout_s=timeout_s + _CONNECT_S)[host]

    def ask_all(self, hosts: list[str], script: str, timeout_s: float) -> dict[str, Answer]:
        """Run a script on several hosts side by side."""
        for host in hosts:
            self.opened[host] += 1
        some = Chosen(self._chosen.state, [self._hosts[name] for name in hosts], self.settings)
        return ask(some, script, timeout_s=timeout_s + _CONNECT_S)

    def reboot(self, host: str, deadline_s: float) -> tuple[bool | None, str]:
        """Reboot a host and wait until it answers in its next boot.

        Returns:
            Whether it did (None when nobody knows whether it was asked), and words.
        """
        until = time.monotonic() + deadline_s
        asked = self.ask(host, REQUEST, 60)
        if asked.error:
            return None, f"the reboot could not be asked for: {asked.error}"
        if asked.status != 0:
            return False, f"the request ended with status {asked.status}"
        return self.wait_for(host, lambda said: "new" in said, until, "its reboot")

    def wait_for(self, host: str, arrived: Callable[[list[str]], bool], until: float, what: str) -> tuple[bool, str]:
        """Wait until a host answers as wanted.

        Args:
            host: its name.
            arrived: judges what it says: "old" or "new" (marker in /run), then its boot_id and PID 1's start.
            until: `time.monotonic()` at which it is given up.
            what: what it comes back from, in words.
        """
        began = time.monotonic()
        said = "nothing yet"
        while time.monotonic() < until:
            time.sleep(2)
            answer = self.ask(host, LOOK + BOOT, _LOOK_S)
            lines = answer.data.decode(errors="replace").split()
            if not answer.error and arrived(lines):
                return True, f"answers {time.monotonic() - began:.0f} s after {what}"
            said = answer.error or " ".join(lines) or "nothing"
        return False, f"did not come back from {what} in time; it says: {said}"


BOOT = "cat /proc/sys/kernel/random/boot_id; cut -d' ' -f22 /proc/1/stat\n"


def boot_of(said: list[str]) -> str:
    """Return the boot's identity from what `LOOK` and `BOOT` printed, as `look.Seen.boot` has it; "" without one."""
    return ":".join(said[-2:]) if len(said) >= 2 else ""
