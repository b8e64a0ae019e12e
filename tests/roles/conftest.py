"""What several roles' tests need."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.roles.models import MANIFEST


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    """Return the path of the model's manifest."""
    path = tmp_path / "manifest.yaml"
    path.write_text(yaml.safe_dump(MANIFEST.model_dump()))
    return str(path)
