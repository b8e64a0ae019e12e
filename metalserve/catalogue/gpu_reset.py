"""How GPUs are reset on each platform: `gpu_reset.yaml`, typed."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from metalserve.catalogue.models import CatalogueError


class Board(BaseModel):
    """A board whose GPUs are reset together.

    Attributes:
        device: PCI device id of its NVSwitches, four hexadecimal digits.
        what: its name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str
    what: str


class GpuReset(BaseModel):
    """Which GPUs are reset together.

    Attributes:
        source: where the rules come from.
        whole_set_switches: boards whose GPUs are only reset all together.
        whole_set_causes: ids of causes after which all GPUs of a host are reset.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    whole_set_switches: tuple[Board, ...]
    whole_set_causes: tuple[str, ...]

    def together(self, pci: str, causes: tuple[str, ...] = ()) -> bool:
        """Tell whether all GPUs of a host are reset together.

        Args:
            pci: `lspci -Dn` of the host.
            causes: ids of the causes that ask for the reset.
        """
        found = set(re.findall(r"\b10de:([0-9a-f]{4})\b", pci.lower()))
        return any(b.device in found for b in self.whole_set_switches) or bool({*causes} & {*self.whole_set_causes})


@cache
def load_gpu_reset() -> GpuReset:
    """Return the rules.

    Raises:
        CatalogueError: the file is damaged.
    """
    text = resources.files("metalserve.catalogue").joinpath("gpu_reset.yaml").read_text(encoding="utf-8")
    try:
        return GpuReset.model_validate(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError) as error:
        raise CatalogueError(f"gpu_reset.yaml: {error}") from error
