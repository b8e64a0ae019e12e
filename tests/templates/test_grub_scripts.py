"""What GRUB is told: the installer, the very disk that was written, or the first; nothing in it is read as more."""

from __future__ import annotations

from pathlib import Path

import pytest

from metalserve.errors import MetalserveError
from metalserve.templates.grub_scripts import device, grub_chain, grub_disk, grub_install, grub_media
from metalserve.templates.machine_identity import Identity
from metalserve.templates.manifest import DISK, FileEntry
from metalserve.templates.order import Disk
from metalserve.templates.orders import Orders
from metalserve.templates.pack import Identity as DiskIdentity
from metalserve.templates.serving_scripts import boot_script, who
from tests.templates.builds import some_manifest

URL = "http://10.0.0.1:8088"
SERIAL, UUID, MAC = "S1", "6d657461-6c73-4572-8665-00000000a001", "52:54:00:00:00:01"


def test_a_url_is_written_as_grub_writes_it() -> None:
    assert device("http://10.0.0.1:8088/") == "(http,10.0.0.1:8088)"
    assert device("http://boot.site/a/b/") == "(http,boot.site)/a/b"
    for url in ("https://10.0.0.1", "http://[fd00::1]:8088"):
        with pytest.raises(MetalserveError, match="fetches by http"):
            device(url)


def test_it_asks_the_server_and_goes_on_to_the_disk() -> None:
    script = grub_chain(URL)
    assert 'set server="(http,10.0.0.1:8088)"\n' in script and f'set url="{URL}"\n' in script
    url = '"$server/v1/boot/grub?mac=$net_default_mac&serial=$serial&uuid=$uuid"'
    ask = f"for try in 1 2 3 4; do source {url}; sleep 1; done\n"
    assert ask in script and script.index(ask) < script.index("set root=$disk; chainloader /EFI/BOOT/BOOTX64.EFI; boot")


def test_the_installer_gets_its_arguments_one_by_one() -> None:
    script = grub_install("gpu'1", [MAC], "console=ttyS0,115200 a=*")
    assert 'if linux "$server/boot/installer/vmlinuz" boot=deploy "ms_server=$url" ' in script
    assert f"'a=*' 'ip=dhcp' 'BOOTIF=01-{MAC.replace(':', '-')}'; then\n" in script
    assert "echo 'metalserve: installing gpu 1'" in script
    with pytest.raises(MetalserveError):
        grub_install("n", [], "a;reboot")
    assert "linux /installer/vmlinuz 'boot=deploy'\n" in grub_media("boot=deploy")


def test_the_disk_that_was_written_is_looked_for_first() -> None:
    lines = grub_disk("it's $done; reboot", "1A2B-3C4D").splitlines()
    assert lines[0] == "echo 'metalserve: it s  done; reboot'"
    assert lines[2] == "search --no-floppy --fs-uuid --set=disk 1A2B-3C4D"
    assert lines[3].startswith('if [ -z "$disk" ]; then search --no-floppy --file')
    assert "fs-uuid" not in grub_disk("no order")
    with pytest.raises(MetalserveError):
        grub_disk("x", "1A2B-3C4D; reboot")


def test_a_machine_is_told_by_its_orders(tmp_path: Path) -> None:
    orders, shelf = Orders(tmp_path / "orders"), tmp_path / "shelf"
    entry = FileEntry(size=1, sha256="0" * 64)
    manifest = some_manifest({DISK: entry}, entry)
    place = shelf / manifest.name / manifest.build
    place.mkdir(parents=True)
    manifest.write(place / "manifest.json")
    told = who([("mac", MAC), ("mac", ""), ("serial", SERIAL), ("uuid", UUID)])
    assert told == Identity(serial=SERIAL, uuid=UUID, macs=(MAC,))

    def asked(told: Identity = told) -> tuple[str, str]:
        return boot_script("grub", told, orders, shelf, url=URL, arguments="quiet")

    assert "fs-uuid" not in asked()[0] and "no order for this machine" in asked()[1]
    order = orders.place(
        "n1", identity=Identity(serial=SERIAL, uuid=UUID), template=manifest.name, build=manifest.build, disk_serial="D"
    )
    assert 'linux "$server/' in asked()[0] and asked()[1] == "installer for n1"
    # a serial number that GRUB could not write down is not held against the machine, another one is
    assert asked(Identity(uuid=UUID))[1] == "installer for n1"
    assert "no order for this machine" in asked(Identity(serial="S2", uuid=UUID))[1]
    assert "no order for this machine" in boot_script(
        "ipxe", Identity(uuid=UUID), orders, shelf, url=URL, arguments=""
    )[0]  # fmt: skip
    permitted = orders.permit(told, [Disk(serial="D")])
    orders.finish(permitted.number, order.token, "ok", "")
    volume = DiskIdentity.of_build(manifest).volume_id
    assert f"--fs-uuid --set=disk {volume}\n" in asked()[0]
    (place / "manifest.json").unlink()
    assert "fs-uuid" not in asked()[0] and "chainloader" in asked()[0]
