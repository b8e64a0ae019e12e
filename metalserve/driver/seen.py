"""What the choice depends on, as an observation told it, and the way of it from the host to the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from metalserve.catalogue.loader import load_driver_packages
from metalserve.desired.observed import Observation
from metalserve.driver.plan import Machine
from metalserve.driver.platform import Platform, platform_of
from metalserve.driver.state import DriverState
from metalserve.hardware.node import NodeHardware, PciDevice

CONTAINERS = ("systemd-nspawn", "lxc", "docker", "podman", "lxc-libvirt", "openvz")
"""What systemd-detect-virt says of hosts that share their kernel with a machine."""

KEY_SECTION = "mok-key"
"""Section of an observation with the output of `key_command`."""

ENROLLED = "is already enrolled"
"""What `mokutil --test-key` prints of a key that the firmware knows. Source: mokutil."""


def key_command() -> str:
    """Return the shell command that asks the firmware for the keys that DKMS signs with."""
    paths = dict.fromkeys(k.path for k in load_driver_packages().signing_keys)
    return f"for k in {' '.join(paths)}; do [ ! -f $k ] || mokutil --test-key $k; done; :"


def machine_seen(hardware: NodeHardware, observed: Observation, platform: Platform) -> Machine:
    """Return the machine that an observation tells of, or the one that an image is made for."""
    # A container has no kernel of its own to load modules into; the machine's firmware is not its business, and the
    # builder's not an image's.
    shared = observed.live and observed.facts.get("virt") in CONTAINERS
    return Machine(
        platform=platform,
        gpus=hardware.pci_gpus,
        secure_boot=observed.facts.get("secure_boot") == "1" and observed.live and not shared,
        needs_fabric_manager=hardware.needs_fabric_manager,
        needs_nvlsm=hardware.needs_nvlsm,
        needs_imex=hardware.needs_imex,
        kernel="" if shared else observed.kernel,
        key_enrolled=ENROLLED in observed.text(KEY_SECTION),
    )


@dataclass(frozen=True)
class Seen:
    """A host as far as its driver is concerned: what it is, and what it has."""

    machine: Machine
    state: DriverState

    @classmethod
    def of(cls, hardware: NodeHardware, observed: Observation) -> Self:
        """Return what an observation told.

        Raises:
            MetalserveError: the operating system or architecture is not known.
        """
        platform = platform_of(observed.os_id, observed.facts.get("arch", "unknown"))
        return cls(machine_seen(hardware, observed, platform), DriverState.of(hardware, observed))

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready values; `from_dict` reads them."""
        return {"machine": asdict(self.machine), "state": self.state.as_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return what `as_dict` made `data` of."""
        machine = dict(data["machine"])
        machine["platform"] = Platform(**machine["platform"])
        machine["gpus"] = tuple(PciDevice(**gpu) for gpu in machine["gpus"])
        return cls(Machine(**machine), DriverState.from_dict(data["state"]))
