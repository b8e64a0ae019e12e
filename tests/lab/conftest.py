from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from metalserve.errors import MetalserveError
from metalserve.lab.api import Lab
from metalserve.lab.fleet import running_fleet
from metalserve.lab.layout import Layout
from tests.lab.fleet import Fleet

FLEET = """\
release: 2026.11-lts
hosts:
  first: {profile: h100-nvl-2, suite: bookworm, expect: {gpu: h100-nvl, count: 2, links: bridge}}
  second: {profile: l40s-4, suite: trixie}
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave to the end what takes the session's lab down: other files' tests need it."""
    items.sort(key=lambda item: item.get_closest_marker("ends_the_lab") is not None)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab of these tests' own beside the one that is up: two bare hosts, which may be broken at will.

    It shares the trees of the lab that is up (`./run test` brings that up), so that nothing is downloaded again.
    """
    # two test runs side by side must not have the same number
    lab = beside(tmp_path_factory.mktemp("lab") / "lab", 150 + os.getpid() % 100, FLEET)
    yield lab
    if lab.layout.root.exists():
        lab.down()


def beside(root: Path, number: int, hosts: str) -> Lab:
    """Bring up a lab beside the one that is up; its fleet's file is written next to its directory."""
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    running = Layout.current()
    try:
        running_fleet(running)
    except MetalserveError as error:
        pytest.skip(str(error))
    layout = Layout(root, number)
    layout.root.mkdir()
    shutil.copytree(running.cache, layout.cache, copy_function=_link, symlinks=True)
    fleet = layout.root.parent / "fleet.yaml"
    fleet.write_text(hosts)
    lab = Lab(layout)
    lab.up(str(fleet))
    return lab


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # another file system
        shutil.copy2(source, target, follow_symlinks=False)
    return target


@pytest.fixture
def fleet(lab: Lab) -> Path:
    return lab.layout.root.parent / "fleet.yaml"


@pytest.fixture(scope="session")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """The fleet of the lab that is up, brought to serving by the main job (which `./run demo` has done before)."""
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    lab = Lab()
    try:
        names = lab.hosts
    except MetalserveError as error:
        pytest.skip(str(error))
    for name in names:
        lab.heal(name)
        if lab.state(name) != "up":
            lab.start(name)
    fleet = Fleet(lab, tmp_path_factory.mktemp("serving"))
    run = fleet.run()
    assert run.rc == 0, run.out
    return fleet
