from __future__ import annotations

from typing import Any

import pytest

from metalserve.catalogue.loader import load_gpus
from metalserve.hardware.node import Gpu, NodeHardware
from metalserve.planning import LaunchPlan, ModelConfig, hardware_by_name, plan_launch
from metalserve.planning.known import known_model
from metalserve.releases import Release, load_release
from metalserve.settings import EngineSettings


@pytest.fixture(scope="session")
def release() -> Release:
    return load_release("2026.11-lts")


class Planning:
    """Plans in one line: `planning("8xH100-SXM", "Llama-3.3-70B-Instruct", intent="latency")`."""

    def __init__(self, release: Release) -> None:
        self.release = release

    def __call__(self, hardware: str | NodeHardware, model: str | ModelConfig, **engine: Any) -> LaunchPlan:
        gpus = load_gpus()
        host = hardware_by_name(hardware, gpus) if isinstance(hardware, str) else hardware
        config = known_model(model) if isinstance(model, str) else model
        settings = EngineSettings(**engine)
        return plan_launch(host, config, settings, self.release, gpus, model_path="/srv/models/x", served_name="x")


@pytest.fixture
def planning(release: Release) -> Planning:
    return Planning(release)


def host(
    links: dict[tuple[int, int], str], count: int, *, memory_mib: int = 81559, default: str = "SYS"
) -> NodeHardware:
    """H100s with the given links; all other pairs have `default`."""
    every = {(a, b): links.get((a, b), default) for a in range(count) for b in range(a + 1, count)}
    name = "NVIDIA H100 80GB HBM3"
    gpus = tuple(Gpu(index=i, name=name, device_id="2330", memory_mib=memory_mib) for i in range(count))
    return NodeHardware(gpus=gpus, links=every, smi_state="ok")
