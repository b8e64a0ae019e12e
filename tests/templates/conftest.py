"""What the tests of templates share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Debian mirror that this machine is set up for, whatever it really is; nothing here asks it."""
    monkeypatch.setenv("METALSERVE_LAB_MIRROR", "http://mirror.invalid/debian http://security.invalid/debian-security")
