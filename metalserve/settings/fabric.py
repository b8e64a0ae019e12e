"""Settings of the fabric that joins GPUs of several hosts."""

from __future__ import annotations

import ipaddress

from pydantic import Field, field_validator

from metalserve.settings.common import Section, problem


class FabricSettings(Section):
    """The NVLink fabric. Inside one host nothing is to be set: NVSwitches are found on the PCI bus."""

    imex_nodes: list[str] = Field(
        default_factory=list,
        description="addresses of all trays of the NVLink domain (GB200, GB300 NVL72), the same list on each of them",
    )

    @field_validator("imex_nodes")
    @classmethod
    def _addresses(cls, value: list[str]) -> list[str]:
        for entry in value:
            try:
                ipaddress.ip_address(entry)
            except ValueError:
                raise problem("must be IP addresses, one of each tray: IMEX takes no names") from None
        if len(set(value)) != len(value):
            raise problem("names an address twice")
        return value
