"""What a BMC knows, as files of a bundle that `metalserve diagnose` reads: for a host that no longer answers itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from metalserve.bmc.client import Bmc
from metalserve.bmc.errors import BmcError

SCHEMA = 1
FILES = ("bmc-power.json", "bmc-sensors.json", "bmc-events.json", "bmc-gpu.json")


def collect(bmc: Bmc, since: float = 0.0) -> dict[str, str]:
    """Read what there is, changing nothing. Raises nothing: what cannot be read says why in its file.

    Args:
        bmc: an open BMC.
        since: events from before are left out, seconds since the epoch.

    Returns:
        File name -> JSON. Each holds `schema`, and either what was read or `error`.
    """
    return {
        "bmc-power.json": _file(lambda: _power(bmc)),
        "bmc-sensors.json": _file(lambda: asdict(bmc.sensors())),
        "bmc-events.json": _file(lambda: asdict(bmc.events(since))),
        "bmc-gpu.json": _file(lambda: asdict(bmc.gpu_telemetry())),
    }


def _power(bmc: Bmc) -> dict[str, Any]:
    power = bmc.power()
    return {"power": power, "identity": asdict(bmc.identity()), "boot": asdict(bmc.boot())}


def _file(read: Callable[[], dict[str, Any]]) -> str:
    try:
        value = read()
    except BmcError as error:
        value = {"error": str(error)}
    return json.dumps({"schema": SCHEMA, **value}, indent=1)
