"""The hosts of a run, checked as far as that is possible without contacting one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metalserve.converge.waves import choose
from metalserve.inventory import check_hosts
from metalserve.pyinfra_seam.inventory import load_hosts_and_groups


@dataclass(frozen=True, slots=True)
class Selection:
    """Hosts of an inventory that a run is to take.

    Attributes:
        every: all hosts, in the inventory's order.
        chosen: those that the limits name.
    """

    every: tuple[str, ...]
    chosen: tuple[str, ...]

    def limits_for(self, hosts: Sequence[str]) -> Sequence[str] | None:
        """Return what to limit pyinfra to for `hosts`: None when they are all there are."""
        return None if len(hosts) == len(self.every) else hosts


def select(inventory: str, limits: Sequence[str]) -> Selection:
    """Load an inventory, choose hosts by `limits` and check their settings.

    All chosen hosts are checked now: a typing error in the last wave must not show after the first has been changed.

    Raises:
        SettingsError: settings are wrong; every problem in one.
        MetalserveError: the inventory cannot be read, or a limit names nothing.
    """
    loaded, groups = load_hosts_and_groups(inventory)
    every = tuple(name for name, _ in loaded)
    chosen = tuple(choose(every, groups, limits))
    check_hosts([(name, data) for name, data in loaded if name in set(chosen)], inventory)
    return Selection(every, chosen)
