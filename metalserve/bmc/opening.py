"""From settings to a BMC that can be asked."""

from __future__ import annotations

from metalserve.bmc.client import Bmc
from metalserve.bmc.errors import BmcError
from metalserve.secrets import resolve
from metalserve.settings.bmc import BmcSettings


def open_bmc(settings: BmcSettings, host: str) -> Bmc:
    """Return a host's BMC. Nothing is sent before the first question; close it (`with`) when done.

    Args:
        settings: where it is, who logs in, how it is known to be the right one.
        host: the host's name, for messages.

    Raises:
        BmcError: a library or program is missing.
        SecretError: the password cannot be read.
    """
    password = resolve(settings.password)
    if settings.kind == "ipmi":
        from metalserve.bmc.ipmi import IpmiBmc

        return IpmiBmc(settings, password, host)
    try:
        from metalserve.bmc.redfish import RedfishBmc
    except ModuleNotFoundError as error:
        raise BmcError(
            f"the Python package {error.name} is missing", where=f"{host}'s BMC", remedy="pip install 'metalserve[bmc]'"
        ) from error
    return RedfishBmc(settings, password, host)
