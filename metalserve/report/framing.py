"""What all HTML pages share: templates that escape every value, and one style below each page's own."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from metalserve.paths import FILES


def environment(folder: str) -> Environment:
    """Return Jinja's environment for the templates in `files/FOLDER`: every value escaped, unknown names are errors."""
    return Environment(
        loader=FileSystemLoader(FILES / folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )


@cache
def style(folder: str) -> Markup:
    """Return the style of all pages and that of `files/FOLDER` below it."""
    sheets = dict.fromkeys((FILES / "report" / "page.css", FILES / folder / "page.css"))
    return Markup("".join(sheet.read_text(encoding="utf-8") for sheet in sheets))  # noqa: S704 (files of ours)
