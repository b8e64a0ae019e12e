"""What README.md says is true: its settings are the code's, its files and commands are there."""

from __future__ import annotations

import re

from metalserve.cli.settings import markdown
from metalserve.paths import ROOT

README = (ROOT / "README.md").read_text()


def test_the_settings_are_the_codes() -> None:
    table = README.split("<!-- settings: metalserve settings --markdown -->\n")[1].split("\n<!-- /settings -->")[0]
    assert table == markdown(), "put the output of `metalserve settings --markdown` into README.md"


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_command_of_run_that_it_names_is_there() -> None:
    script = (ROOT / "run").read_text()
    named = set(re.findall(r"\./run ([a-z-]+)", README))
    assert {"demo", "test"} <= named
    assert [name for name in sorted(named) if f"\n  {name})" not in script] == []


def test_no_placeholder_is_left() -> None:
    assert "@@" not in README
