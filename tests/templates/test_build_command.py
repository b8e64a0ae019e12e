from __future__ import annotations

import pytest

from metalserve.cli import main


def test_the_parts_of_the_command_are_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["template", "--help"]) == 0
    said = capsys.readouterr().out
    assert "build" in said
    assert main(["template", "build", "--help"]) == 0
    assert "METALSERVE_TEMPLATE_KEY" in capsys.readouterr().out


def test_an_unknown_template_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["template", "build", "debian-99"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "no template 'debian-99'" in said
    assert "debian-13-base" in said


def test_an_unknown_part_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["template", "bake"]) == 2
