"""Host data that is right, for tests to break."""

from __future__ import annotations

from typing import Any

from metalserve.settings import HostSettings, SettingsError

REVISION = "0123456789abcdef0123456789abcdef01234567"


def host_data(**changes: Any) -> dict[str, Any]:
    """Return the data of a host that serves a model, with `changes` over it."""
    data: dict[str, Any] = {
        "ssh_hostname": "192.0.2.11",
        "ssh_user": "root",
        "_sudo": False,
        "release": "2026.11-lts",
        "expect": {"gpu": "h100-sxm", "count": 8, "links": "nvswitch", "nvlinks_per_gpu": 18},
        "model": {"name": "organisation/model", "revision": REVISION, "manifest": "manifest.yaml"},
        "engine": {"api_key": {"env": "API_KEY"}, "host": "10.0.0.11"},
    }
    return {**data, **changes}


def problems(data: dict[str, Any]) -> tuple[str, ...]:
    """Return the problems of a host's data, each less the `prod.py: gpu-01: ` it must begin with."""
    try:
        HostSettings.from_data(data, host="gpu-01", source="prod.py")
    except SettingsError as error:
        assert all(line.startswith("prod.py: gpu-01: ") for line in error.problems)
        return tuple(line.removeprefix("prod.py: gpu-01: ") for line in error.problems)
    return ()
