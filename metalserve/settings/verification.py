"""Settings of `deploys/verify.py`: how deep it looks, and what it may disturb for that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from metalserve.settings.common import Positive, Section

SHORT = ("depth", "soak_seconds", "stop_engines")
"""Settings that may stand at the top, so that `pyinfra --data depth=standard` can give them."""


class VerifySettings(Section):
    """What `deploys/verify.py` does beside the roles' own checks."""

    depth: Literal["quick", "standard", "deep"] = Field(
        "quick",
        description="'quick' puts no load on the host; 'standard' measures for a quarter of an hour, 'deep' an hour",
    )
    soak_seconds: Positive | None = Field(
        None, description="seconds of sustained load; None: 900 for 'standard', 3600 for 'deep'"
    )
    stop_engines: bool = Field(
        False, description="stop the engines while it is measured, and start them again; False measures nothing then"
    )
    nvls: Literal["on", "off", "leave"] = Field(
        "leave", description="NVLink SHARP in the bandwidth probe; 'leave' takes what NCCL and its environment choose"
    )


def with_verify(data: Any) -> Any:
    """Return host data with the short forms moved into `verify`, where they win."""
    given = {key: data[key] for key in SHORT if key in data} if isinstance(data, Mapping) else {}
    if not given or not isinstance(data.get("verify", {}), Mapping):
        return data
    rest = {key: value for key, value in data.items() if key not in given}
    return {**rest, "verify": {**data.get("verify", {}), **given}}
