"""What a role decides from: a host's settings, its release, and what was observed of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from metalserve.desired.model import NotYetKnown
from metalserve.desired.observed import Observation
from metalserve.hardware.node import NodeHardware, node_hardware
from metalserve.releases import Release
from metalserve.settings import HostSettings


@dataclass(frozen=True)
class Node:
    """One host, as far as it is known.

    Attributes:
        name: the host's name in the inventory.
        settings: its validated settings.
        release: the pinned set of versions that the settings name.
        observed: the newest observation.
    """

    name: str
    settings: HostSettings
    release: Release
    observed: Observation

    @cached_property
    def hardware(self) -> NodeHardware:
        """The hardware as the observation's tool outputs tell it."""
        return node_hardware(self.observed.sections)

    def with_observation(self, observed: Observation) -> Node:
        """Return the same host with a newer observation; itself with its own, so that its hardware is read once."""
        return self if observed is self.observed else replace(self, observed=observed)

    def need_driver(self, what: str) -> None:
        """Raise `NotYetKnown` for `what` unless nvidia-smi talks to a loaded driver."""
        if self.hardware.smi_state != "ok":
            raise NotYetKnown(
                f"{what}: known only after the driver is there (nvidia-smi: {self.hardware.smi_state})",
                remedy="run roles.nvidia_driver first",
            )
