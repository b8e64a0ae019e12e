"""A signed build for the slow tests: Debian 13 with the base role, made once a module.

METALSERVE_TEST_TEMPLATES names a templates directory that has one already, with its keys `secret` and `public.pub`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from metalserve.paths import templates_directory
from metalserve.templates.build import build_template
from metalserve.templates.shelf import Build, Shelf
from metalserve.templates.signing import make_key
from metalserve.templates.spec import load_spec
from metalserve.templates.toolroot import ToolRoot, tool_root

TEMPLATE = "debian-13-base"


@dataclass(frozen=True)
class Image:
    """A build, and what is needed to trust it.

    Attributes:
        home: directory with the shelf; orders and boot tree come beside it.
        build: the build.
        secret: the secret key's file.
        public: the public key's file.
        tools: the tool root.
    """

    home: Path
    build: Build
    secret: Path
    public: Path
    tools: ToolRoot


@contextmanager
def image() -> Iterator[Image]:
    """Build the image; it is removed afterwards. One that was given is left where it is."""
    if given := os.environ.get("METALSERVE_TEST_TEMPLATES"):
        there = Path(given).absolute()
        yield Image(there, Shelf(there / "shelf").build(TEMPLATE), there / "secret", there / "public.pub", tool_root())
        return
    home = templates_directory() / "test"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    try:
        secret, public = home / "key.sec", home / "key.pub"
        make_key(secret, public)
        tools = tool_root()
        build = build_template(load_spec(TEMPLATE), shelf=Shelf(home / "shelf"), tools=tools, key=secret)
        yield Image(home, build, secret, public, tools)
    finally:
        shutil.rmtree(home, ignore_errors=True)
