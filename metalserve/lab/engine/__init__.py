"""The engine of the lab: SIMULATED. A stand-in for vLLM as a Docker image, and a tiny model for it to read."""

from __future__ import annotations

from metalserve.lab.engine.image import build_image
from metalserve.lab.engine.model import TINY_MODEL, build_model

__all__ = ["TINY_MODEL", "build_image", "build_model"]
