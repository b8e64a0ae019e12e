"""Hosts and releases of the tests of the choice."""

from __future__ import annotations

from functools import cache

from metalserve.catalogue.loader import load_cuda_drivers, load_gpus
from metalserve.releases import Release, load_release

LTS = load_release("2026.11-lts")
GPUS, RULES = load_gpus(), load_cuda_drivers()


@cache
def of_branch(branch: int) -> Release:
    """Return the LTS release with another driver branch, at the newest version that the catalogue has of it."""
    row = RULES.branch(branch)
    version = row.last_seen if row is not None and row.last_seen else f"{branch}.10.01"
    pin = {"driver": {"branch": branch, "version": version}, "fabric_manager": {"version": version}}
    return Release.model_validate({**LTS.model_dump(), **pin, "name": f"test-{branch}"})
