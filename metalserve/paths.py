"""Where the project's own files lie: absolute, as pyinfra resolves relative paths against the working directory."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The checkout: the directory that holds `deploys/`, `roles/`, `files/` and `metalserve/`."""

FILES = ROOT / "files"
CATALOGUE = Path(__file__).resolve().parent / "catalogue"


def lab_directory() -> Path:
    """Return the directory that holds everything the lab makes (`METALSERVE_LAB_DIR`, or `.lab` in the checkout)."""
    return Path(os.environ.get("METALSERVE_LAB_DIR") or ROOT / ".lab").absolute()


def releases_directory() -> Path:
    """Return the directory of the release files (`METALSERVE_RELEASES_DIR`, or `files/releases`)."""
    return Path(os.environ.get("METALSERVE_RELEASES_DIR") or FILES / "releases").absolute()


def state_directory() -> Path:
    """Return the directory of what the controller remembers (`METALSERVE_STATE`, or `state` in the checkout)."""
    return Path(os.environ.get("METALSERVE_STATE") or ROOT / "state").absolute()


def templates_directory() -> Path:
    """Return the directory of what OS templates are made of and of those made.

    It is `METALSERVE_TEMPLATES_DIR`, or `.templates` in the checkout.
    """
    return Path(os.environ.get("METALSERVE_TEMPLATES_DIR") or ROOT / ".templates").absolute()
