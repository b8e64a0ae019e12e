"""A real vLLM on the CPU: `./run test-vllm` installs it and names its Python in METALSERVE_VLLM_PYTHON."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from metalserve.catalogue.loader import load_gpus
from metalserve.lab.engine import build_model
from metalserve.planning import hardware_by_name, model_config_from, plan_launch
from metalserve.releases import Release, load_release
from metalserve.settings import EngineSettings
from tests.real_vllm.engine import Engine, free_port

VERSION = "0.32.0"
NAME = "tiny"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker("real_vllm")
            item.add_marker("slow")


@pytest.fixture(scope="session")
def python() -> str:
    """The Python of an environment with vLLM."""
    found = os.environ.get("METALSERVE_VLLM_PYTHON")
    if not found:
        pytest.skip("needs a real vLLM: ./run test-vllm")
    assert shutil.which(found), found
    return found


@pytest.fixture(scope="session")
def release() -> Release:
    """The shipped release, with the vLLM that the environment has."""
    shipped = load_release("2026.11-lts")
    return shipped.model_copy(
        update={"vllm": shipped.vllm.model_copy(update={"version": VERSION, "tag": f"v{VERSION}"})}
    )


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lab's tiny Llama, made on the spot: random weights in vLLM's real file formats."""
    manifest = build_model(tmp_path_factory.mktemp("www"))
    return next((manifest.parent / "resolve").iterdir())


def planned(model: Path, release: Release, port: int, *extra: str, stop_timeout_s: int = 60) -> list[str]:
    """Return the arguments of the engine as the role renders them, with a dtype that every CPU computes."""
    settings = EngineSettings(
        host="127.0.0.1", port=port, extra_args=["--enforce-eager", *extra], stop_timeout_s=stop_timeout_s
    )
    gpus = load_gpus()
    config = model_config_from(json.loads((model / "config.json").read_text()))
    plan = plan_launch(
        hardware_by_name("1xH100-SXM", gpus), config, settings, release, gpus, model_path=str(model), served_name=NAME
    )
    assert plan.fits, plan.refused
    return list(plan.replica_args(0))


KEY = "a-key-of-this-test"


@pytest.fixture(scope="session")
def engine(python: str, model: Path, release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One real engine with a key, for all tests that only ask; the last of them stops it."""
    port = free_port()
    args = planned(model, release, port, "--dtype", "float32", "--enable-prompt-tokens-details")
    engine = Engine(python, args, port, tmp_path_factory.mktemp("engine"), key=KEY)
    try:
        engine.wait_until_ready()
        yield engine
    finally:
        engine.kill()
