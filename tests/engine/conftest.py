from __future__ import annotations

from pathlib import Path

import pytest

from metalserve.lab.engine import build_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's directory, as a host has it staged."""
    manifest = build_model(tmp_path_factory.mktemp("www"))
    return next((manifest.parent / "resolve").iterdir())
