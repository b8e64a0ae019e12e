"""Out of band: a host's BMC, by Redfish, or by IPMI where Redfish is missing."""

from __future__ import annotations

from metalserve.bmc.client import Bmc
from metalserve.bmc.errors import BmcError
from metalserve.bmc.opening import open_bmc

__all__ = ["Bmc", "BmcError", "open_bmc"]
