"""Models by name: sizes from the catalogue, for planning without the model's files."""

from __future__ import annotations

import difflib
from functools import cache
from typing import Any

from metalserve.errors import MetalserveError
from metalserve.paths import CATALOGUE
from metalserve.planning.model import ModelConfig, model_config_from
from metalserve.yaml_text import read_yaml


@cache
def _rows() -> dict[str, dict[str, Any]]:
    data: dict[str, Any] = read_yaml((CATALOGUE / "language_models.yaml").read_text(encoding="utf-8"))
    rows: dict[str, dict[str, Any]] = data["models"]
    return rows


def known_models() -> tuple[str, ...]:
    """Return the repository ids of the catalogue."""
    return tuple(_rows())


def published_params(name: str) -> float:
    """Return a catalogue model's parameters as counted when the catalogue was made, in billions."""
    return float(_rows()[name]["params_b"])


def known_model(name: str) -> ModelConfig:
    """Return a model of the catalogue, by repository id or its unique end (`Llama-3.3-70B-Instruct`).

    Raises:
        MetalserveError: no such model, with the nearest name.
    """
    rows = _rows()
    matches = [known for known in rows if known.lower() == name.lower()]
    matches = matches or [known for known in rows if known.lower().rpartition("/")[2] == name.lower()]
    if len(matches) != 1:
        near = difflib.get_close_matches(name, list(rows), n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}? " if near else ""
        raise MetalserveError(
            f"no model '{name}' in the catalogue, and no such file",
            where="--model",
            remedy=f"{hint}Give a config.json or the model's directory",
        )
    return model_config_from(rows[matches[0]]["config"])
