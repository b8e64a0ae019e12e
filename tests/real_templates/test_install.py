"""Installing on (emulated) metal, the whole way: order, power on, boot, write, reboot, SSH. Minutes each: no KVM."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metalserve.templates.boot_tree import Site, publish
from metalserve.templates.ramdisk import ramdisk
from metalserve.templates.signing import make_key, trusted_keys
from tests.real_templates.images import Image, image
from tests.real_templates.netboot import ARGUMENTS, BRIDGE, DISK, OTHER, RANGE, URL, Way, Yard, install, record, yard

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
    with yard(made.home, tmp_path / "machine", made.tools, made.build, made.public) as found:
        yield found


@pytest.mark.parametrize(("way", "secure_boot"), [("network", False), ("network", True), ("cd", True)])
def test_a_machine_is_installed_and_runs_from_the_ordered_disk(
    made: Image, tmp_path: Path, way: Way, secure_boot: bool
) -> None:
    load = os.getloadavg()
    with yard(made.home, tmp_path / "machine", made.tools, made.build, made.public, secure_boot=secure_boot) as place:
        said = install(place, way)
        _keep(f"{way}-secure" if secure_boot else way, record(place, way, said, load))
        _is_installed(place, said)
        if secure_boot:
            # the installer's kernel and the image's; with virtual media each has a power-on and a console of its own
            console = (place.directory / "serial.log").read_text(errors="replace")
            assert console.count("secureboot: Secure boot enabled") >= (2 if way == "network" else 1)


def _is_installed(place: Yard, said: dict[str, str]) -> None:
    times = place.times
    assert place.state().state == "done"
    assert times["permitted"] < times["written"] < times["rebooting"] < times["ssh"]
    assert len([each for each in place.asked() if each["words"].startswith("permitted: ")]) == 1
    assert (said["state"], said["failed"], said["cycles"], said["unmounted"]) == ("running", "", "", "")
    assert said["hostname"] == "gpu-0001"
    # which of them is nvme0 changes from boot to boot
    assert {line.split()[0] for line in said["drives"].splitlines()} == {OTHER, DISK}
    assert said["root-disk"] == str((3 << 30) // 512)  # the ordered one; the other has 1 GiB
    assert int(said["root-bytes"]) > 2 << 30
    # what the controller was told is what the machine shows
    assert len(place.state().host_keys) >= 2
    assert sorted(said["host-keys"].splitlines()) == sorted(place.state().host_keys)
    # the other disk was not touched
    assert (place.directory / "data.raw").stat().st_blocks == 0


def _keep(way: str, found: dict[str, Any]) -> None:
    """Write the record where METALSERVE_INSTALL_RECORDS says: an installation takes long, and is a measurement too."""
    if into := os.environ.get("METALSERVE_INSTALL_RECORDS"):
        (Path(into) / f"install-{way}.json").write_text(json.dumps(found, indent=1) + "\n")


def test_a_machine_without_an_order_boots_its_disk(place: Yard) -> None:
    with place.on("network") as machine:
        machine.wait_for("no order for this machine", 900)
    assert (place.directory / "root.raw").stat().st_blocks == 0


def test_an_installer_with_other_keys_writes_nothing(place: Yard, made: Image, tmp_path: Path) -> None:
    make_key(tmp_path / "other.sec", tmp_path / "other.pub")
    site = Site(URL, BRIDGE, RANGE, ARGUMENTS)
    publish(place.home / "boot", site, trusted_keys([tmp_path / "other.pub"]), made.tools, ramdisk())
    place.order()
    with place.on("network") as machine:
        found = place.wait_for_state(machine, "failed", 3000)
    assert found.words == "nothing was written: the manifest is not signed by a key of this installer"
    assert (place.directory / "root.raw").stat().st_blocks == 0
