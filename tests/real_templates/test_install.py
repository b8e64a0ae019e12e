"""Installing on (emulated) metal, the whole way: order, power on, boot, write, reboot, SSH. Minutes each: no KVM."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from metalserve.templates.boot_tree import Site, publish
from metalserve.templates.proving_boot import LOOK, sections
from metalserve.templates.ramdisk import ramdisk
from metalserve.templates.signing import make_key, trusted_keys
from tests.real_templates.images import Image, image
from tests.real_templates.netboot import BRIDGE, DISK, OTHER, RANGE, URL, Way, Yard, install, yard

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="needs mmdebstrap"),
]


@pytest.fixture(scope="module")
def made() -> Iterator[Image]:
    with image() as found:
        yield found


@pytest.fixture
def place(made: Image, tmp_path: Path) -> Iterator[Yard]:
    shutil.rmtree(made.home / "orders", ignore_errors=True)
    with yard(made.home, tmp_path / "machine", made.tools, made.build, made.public) as found:
        yield found


@pytest.mark.parametrize("way", ["network", "cd"])
def test_a_machine_is_installed_and_answers(place: Yard, way: Way) -> None:
    times = install(place, way)
    assert place.state().state == "done"
    assert times["permitted"] < times["written"] < times["ssh"]
    written = [each for each in place.asked() if each["words"].startswith("permitted: ")]
    assert len(written) == 1
    # the other disk was not touched
    assert (place.directory / "data.raw").stat().st_blocks == 0


def test_the_machine_runs_from_the_ordered_disk(place: Yard) -> None:
    install(place, "network")
    with place.on("disk") as machine:
        shell = place.shell()
        shell.wait(machine, 3000)
        said = sections(shell.run(LOOK.read_text(), timeout_s=900).stdout)
    assert [line.split()[0] for line in said["drives"].splitlines()] == [OTHER, DISK] and said["failed"] == ""
    assert int(said["root-bytes"]) > 2 << 30  # of a drive of 3 GiB


def test_a_machine_without_an_order_boots_its_disk(place: Yard) -> None:
    with place.on("network") as machine:
        machine.wait_for("no order for this machine", 900)
    assert (place.directory / "root.raw").stat().st_blocks == 0


def test_an_installer_with_other_keys_writes_nothing(place: Yard, made: Image, tmp_path: Path) -> None:
    make_key(tmp_path / "other.sec", tmp_path / "other.pub")
    site = Site(URL, BRIDGE, RANGE, "console=ttyS0,115200")
    publish(made.home / "boot", site, trusted_keys([tmp_path / "other.pub"]), made.tools, ramdisk())
    place.order()
    with place.on("network") as machine:
        place.wait_for_state(machine, "permitted", 3000)
        found = place.wait_for_state(machine, "failed", 600)
    assert found.words == "nothing was written: the manifest is not signed by a key of this installer"
    assert (place.directory / "root.raw").stat().st_blocks == 0
