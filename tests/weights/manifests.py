"""The command that makes manifests, as the tests call it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from metalserve.cli import main

Run = Callable[..., tuple[int, str, str]]


def runner(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return what runs `metalserve weights manifest ARGUMENTS`: exit status, what it printed, its complaints."""
    for name in ("HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: object) -> tuple[int, str, str]:
        status = main(["weights", "manifest", *map(str, arguments)])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run
