"""The lab for tests and other programs."""

from __future__ import annotations

import subprocess
from typing import Any

from metalserve.lab import faults, hosts, lifecycle, operate
from metalserve.lab.bmc import faults as bmc_faults
from metalserve.lab.fleet import RunningFleet, RunningHost, running_fleet
from metalserve.lab.hosts import State
from metalserve.lab.layout import Layout


class Lab:
    """One lab: the one that the environment names, unless another layout is given."""

    def __init__(self, layout: Layout | None = None) -> None:
        """Name the lab; nothing is started."""
        self.layout = layout or Layout.current()

    @property
    def fleet(self) -> RunningFleet:
        """The fleet that is up; raises `MetalserveError` when none is."""
        return running_fleet(self.layout)

    @property
    def hosts(self) -> list[str]:
        """Names of the hosts."""
        return [host.name for host in self.fleet.hosts]

    def up(self, fleet: str = "default") -> None:
        """Bring the lab up and wait until all hosts have booted."""
        lifecycle.up(self.layout, fleet)

    def down(self, *, keep_cache: bool = False) -> None:
        """Remove the lab."""
        lifecycle.down(self.layout, keep_cache=keep_cache)

    def address(self, host: str) -> str:
        """Return a host's IPv4 address."""
        return self._host(host).address

    def ssh(
        self, host: str, command: str, *, timeout_s: float | None = 120, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command on a host as root.

        Returns:
            Exit status, stdout and stderr; status 255 when the host could not be reached.

        Raises:
            subprocess.TimeoutExpired: it took longer than `timeout_s` seconds.
        """
        words = [*operate.ssh_command(self.layout, self._host(host)), command]
        return subprocess.run(
            words, input=stdin or "", capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False
        )

    def state(self, host: str) -> State:
        """Return `up`, `booting`, `unreachable`, `stopped`, `failed` or `absent`."""
        return hosts.state_of(self.layout, self._host(host))

    def start(self, host: str) -> None:
        """Switch a host on and wait until it has booted."""
        chosen = self._host(host)
        hosts.start(self.layout, chosen)
        operate.wait_until_up(self.layout, [chosen])

    def stop(self, host: str, *, grace_s: float = 30.0) -> None:
        """Power a host off; `grace_s=0` cuts the power."""
        hosts.stop(self.layout, self._host(host), grace_s=grace_s)

    def reboot(self, host: str, *, wait: bool = True) -> None:
        """Reboot a host; with `wait`, until it has booted again."""
        operate.reboot(self.layout, self._host(host), wait=wait)

    def reset(self, *names: str) -> None:
        """Make hosts bare again (all when none is named): new disks, no packages, no faults."""
        lifecycle.reset(self.layout, names)

    def fault(self, host: str, kind: str, gpu: int | None = None, *, sticky: bool = False) -> dict[str, Any]:
        """Begin a fault, see `metalserve.lab.faults.KINDS`."""
        return operate.fault(self.layout, self._host(host), kind, gpu, sticky=sticky)

    def heal(self, host: str, kind: str | None = None) -> list[dict[str, Any]]:
        """End a host's faults, or those of one kind."""
        return operate.heal(self.layout, self._host(host), kind)

    def faults(self, host: str) -> list[dict[str, Any]]:
        """Return a host's faults."""
        return faults.active(self.layout.host(host))

    def bmc_fault(self, host: str, kind: str) -> None:
        """Begin a fault of a host's BMC, see `metalserve.lab.bmc.faults.KINDS`."""
        bmc_faults.inject(self.layout.bmc(self._host(host).name), kind)

    def bmc_heal(self, host: str, kind: str | None = None) -> list[str]:
        """End the faults of a host's BMC, or those of one kind."""
        return bmc_faults.heal(self.layout.bmc(self._host(host).name), kind)

    def _host(self, name: str) -> RunningHost:
        return self.fleet.host(name)
