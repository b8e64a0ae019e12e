"""The hardware of a host as a fact, for deploys of your own; metalserve's roles observe it together with all the rest.

host.get_fact(Hardware)                                     in a deploy: schema 1 of `metalserve.hardware.export`
pyinfra INVENTORY fact metalserve.facts.hardware.Hardware   in a shell
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Any

from pyinfra.api.exceptions import FactProcessError
from pyinfra.api.facts import FactBase

from metalserve.desired.model import Watch
from metalserve.desired.observe_script import observation_script
from metalserve.desired.observed import parse_observation
from metalserve.errors import MetalserveError
from metalserve.hardware.commands import COMMANDS
from metalserve.hardware.export import hardware_dict
from metalserve.hardware.node import node_hardware


class Hardware(FactBase[dict[str, Any]]):
    """GPUs, links, PCIe tree, drives and what else `metalserve read` and the checks know of; one session, as root.

    A host whose answer cannot be used fails alone (`FactProcessError`); what could not be read stands in `unread`.
    """

    def command(self) -> str:
        """Return the one command that observes it all."""
        return f"sh -c {shlex.quote(observation_script(Watch(), COMMANDS))}"

    def process(self, output: Iterable[str]) -> dict[str, Any]:
        """Read what the command printed."""
        try:
            return hardware_dict(node_hardware(parse_observation("\n".join(output)).sections))
        except MetalserveError as error:
            raise FactProcessError(str(error)) from error
