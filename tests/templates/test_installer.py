"""The installer's script, run by the shell on made-up /sys and files for disks, against the real boot server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metalserve.templates.manifest import DISK, MANIFEST, SIGNATURE
from metalserve.templates.order import Order
from metalserve.templates.ramdisk import SCRIPTS, archive
from metalserve.templates.signing import make_key
from tests.templates.boot_servers import BootYard

MIB = 1 << 20
OLD = b"what was on the disk before " * 1000

_TOOLS = ("jq", "curl", "zstd", "ssh-keygen")
pytestmark = pytest.mark.skipif(any(shutil.which(tool) is None for tool in _TOOLS), reason=f"needs {', '.join(_TOOLS)}")

MINISIGN = """#!{python}
# stands in for minisign -VQ -p KEY -m FILE -x SIGNATURE
import sys
from pathlib import Path
import minisign
_, _, _, key, _, file, _, signature = sys.argv
found = minisign.Signature.from_file(signature)
try:
    minisign.PublicKey.from_file(key).verify(Path(file).read_bytes(), found)
except minisign.Error:
    sys.exit(1)
print(found.trusted_comment)
"""


class Machine:
    """A machine of two disks, as its ramdisk sees it."""

    def __init__(self, root: Path, yard: BootYard) -> None:
        self.root, self.yard = root, yard
        self.work = root / "work"
        self.keys = root / "keys"
        self.keys.mkdir(parents=True)
        shutil.copy(yard.keys[0].where, self.keys / "site.pub")
        for name, text in (
            ("class/dmi/id/product_serial", "S1   \n"),
            ("class/dmi/id/product_uuid", "4c4c4544-0051-3010-8051-b4c04f4e3232\n"),
            ("class/net/eno1/address", "52:54:00:00:00:01\n"),
            ("class/net/eno1/device/vendor", "0x15b3\n"),
            ("class/net/lo/address", "00:00:00:00:00:00\n"),
        ):
            self.file(f"sys/{name}", text)
        self.file("proc/uptime", "12.34 20.00\n")
        self.file("proc/sys/vm/drop_caches", "")
        self.arguments("")
        self.disk("nvme0n1", "D1", 4)
        self.disk("nvme1n1", "D2", 4)
        self.disk("sr0", "D2", 4)
        self.tools()

    def file(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def arguments(self, more: str, url: str = "") -> None:
        self.file("proc/cmdline", f"boot=deploy ms_server={url} console=ttyS0 {more}\n")

    def disk(self, name: str, serial: str, mib: int, **more: str) -> None:
        for key, text in {
            "size": str(mib * 2048),
            "device/serial": f"{serial}     ",
            "device/model": "M",
            **more,
        }.items():
            self.file(f"sys/block/{name}/{key}", f"{text}\n")
        path = self.root / "dev" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((OLD * (mib * MIB // len(OLD) + 1))[: mib * MIB])

    def tools(self) -> None:
        self.tool("gnu-dd", f'#!/bin/sh\nexec {shutil.which("dd")} "$@"\n')
        # Zeroes where it is asked to, as a disk does that can; `can-zero` decides whether this one can.
        self.tool(
            "blkdiscard",
            f'#!/bin/sh\necho "$*" >>{self.root}/discards\n[ -e {self.root}/can-zero ] || exit 1\n'
            'case "$*" in *-z*) while [ $# -gt 1 ]; do [ "$1" = -l ] && size=$2; shift; done\n'
            'exec dd if=/dev/zero of="$1" bs="$size" count=1 conv=notrunc status=none ;; esac\n',
        )
        self.file("can-zero", "")
        self.tool("udevadm", "#!/bin/sh\nexit 1\n")
        self.tool("modprobe", "#!/bin/sh\n")
        # The partitions are there once the table has been read again; `system` is what is mounted of the second.
        self.tool(
            "blockdev",
            f"#!/bin/sh\nname=${{2##*/}}\nfor n in 1 2; do part={self.root}/sys/block/$name/${{name}}p$n\n"
            "mkdir -p $part; echo $n >$part/partition; done\n",
        )
        self.tool("blkid", "#!/bin/sh\ncase $5 in *p1) echo vfat ;; *p2) echo ext4 ;; *) exit 2 ;; esac\n")
        self.file("system/etc/ssh/sshd_config", "")
        note = f'echo "${{0##*/}} $*" >>{self.root}/mounts'
        self.tool(
            "mount",
            f"#!/bin/sh\n{note}\n[ ! -e {self.root}/no-mount ] || exit 32\n"
            f'[ "$2" = devtmpfs ] || {{ rmdir "$4" && ln -s {self.root}/system "$4"; }}\n',
        )
        self.tool("umount", f'#!/bin/sh\n{note}\ncase $1 in */dev) ;; *) rm "$1" && mkdir "$1" ;; esac\n')
        # The same script without a new root: its paths are below it.
        self.tool(
            "chroot",
            '#!/bin/sh\nscript=$(printf %s "$4" | sed "s|/etc/ssh|$1/etc/ssh|g; s|ssh-keygen -A|& -f $1|")\n'
            'exec sh -c "$script"\n',
        )
        if shutil.which("minisign") is None:
            self.tool("minisign", MINISIGN.format(python=sys.executable))

    def tool(self, name: str, text: str) -> None:
        self.file(f"bin/{name}", text)
        (self.root / "bin" / name).chmod(0o755)

    def deploy(self, url: str, more: str = "") -> subprocess.CompletedProcess[str]:
        self.arguments(more, url)
        environment = {
            "PATH": f"{self.root}/bin:{os.environ['PATH']}",
            "MS_SYS": f"{self.root}/sys",
            "MS_DEV": f"{self.root}/dev",
            "MS_PROC": f"{self.root}/proc",
            "MS_KEYS": str(self.keys),
            "MS_WORK": str(self.work),
        }
        return subprocess.run(
            ["sh", "-c", f". {SCRIPTS / 'deploy.sh'}; deploy"],
            env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    def content(self, name: str) -> bytes:
        return (self.root / "dev" / name).read_bytes()

    def untouched(self, name: str) -> bool:
        content = self.content(name)
        return content == (OLD * (len(content) // len(OLD) + 1))[: len(content)]

    @property
    def order(self) -> Order:
        found = self.yard.orders.get("gpu-01")
        assert found is not None
        return found


@pytest.fixture
def yard(tmp_path: Path) -> BootYard:
    (tmp_path / "yard").mkdir()
    return BootYard(tmp_path / "yard")


@pytest.fixture
def url(yard: BootYard) -> Iterator[str]:
    with yard.serving() as base:
        yield base


@pytest.fixture
def machine(tmp_path: Path, yard: BootYard) -> Machine:
    return Machine(tmp_path / "machine", yard)


def raw(yard: BootYard) -> bytes:
    return subprocess.run(["zstd", "-dcq", yard.build.path / DISK], capture_output=True, check=True).stdout


def test_the_ordered_disk_is_written_read_back_and_said(machine: Machine, yard: BootYard, url: str) -> None:
    yard.order()
    done = machine.deploy(url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert machine.content("nvme1n1").startswith(raw(yard)) and len(machine.content("nvme1n1")) == 4 * MIB
    assert machine.untouched("nvme0n1") and machine.untouched("sr0")
    assert (machine.order.state, "12.34 s after the start" in machine.order.words) == ("done", True)
    assert f"{machine.root}/dev/nvme1n1" in (machine.root / "discards").read_text()
    asked = json.loads((machine.work / "asked.json").read_text())
    assert asked["identity"] == {
        "serial": "S1", "uuid": "4c4c4544-0051-3010-8051-b4c04f4e3232", "macs": ["52:54:00:00:00:01"],
    }  # fmt: skip
    assert [disk["name"] for disk in asked["disks"]] == ["nvme0n1", "nvme1n1"]
    assert asked["disks"][1] == {"serial": "D2", "size_bytes": 4 * MIB, "model": "M", "name": "nvme1n1"}


def test_the_system_gets_host_keys_and_the_server_learns_the_public_ones(
    machine: Machine, yard: BootYard, url: str
) -> None:
    yard.order()
    machine.file("system/etc/ssh/ssh_host_dsa_key", "what an image should not carry")
    assert machine.deploy(url).returncode == 0
    made = machine.root / "system/etc/ssh"
    found = {path.name: path for path in made.glob("ssh_host_*")}
    public = sorted(name for name in found if name.endswith(".pub"))
    assert "ssh_host_ed25519_key.pub" in public and "ssh_host_dsa_key" not in found
    assert all(found[name.removesuffix(".pub")].stat().st_mode & 0o777 == 0o600 for name in public)
    assert [*machine.order.host_keys] == [" ".join(found[name].read_text().split()[:2]) for name in public]
    assert f"{len(public)} host keys" in machine.order.words
    done = (machine.root / "mounts").read_text().splitlines()
    assert [line.split()[0] for line in done] == ["mount", "mount", "umount", "umount"]
    assert done[0].startswith(f"mount -t ext4 {machine.root}/dev/nvme1n1p2 ")
    told = [machine.work.glob("*"), machine.root.glob("proc/**/*")]
    assert not any(b"PRIVATE" in path.read_bytes() for each in told for path in each if path.is_file())


@pytest.mark.parametrize("lacking", ["no-mount", "sshd"])
def test_without_host_keys_the_installation_is_still_done(
    machine: Machine, yard: BootYard, url: str, lacking: str
) -> None:
    yard.order()
    machine.file("no-mount", "") if lacking == "no-mount" else shutil.rmtree(machine.root / "system/etc")
    assert machine.deploy(url).returncode == 0
    assert machine.order.state == "done" and machine.order.host_keys == ()
    assert "0 host keys" in machine.order.words
    assert not (machine.work / "system").is_symlink()


def test_a_line_that_is_no_key_does_not_cost_the_result(machine: Machine, yard: BootYard, url: str) -> None:
    yard.order()
    machine.tool("chroot", "#!/bin/sh\necho a line; echo ssh-rsa short x; cat $1/ed25519.pub\n")
    key = "ssh-ed25519 " + "A" * 68
    machine.file("system/ed25519.pub", f"{key} root@(none)\n")
    assert machine.deploy(url).returncode == 0
    assert machine.order.state == "done" and machine.order.host_keys == (key,)


def test_the_name_of_a_disk_does_not_matter(machine: Machine, yard: BootYard, url: str) -> None:
    yard.order()
    for name, serial in (("nvme0n1", "D2"), ("nvme1n1", "D1")):
        machine.file(f"sys/block/{name}/device/serial", serial)
    assert machine.deploy(url).returncode == 0
    assert machine.content("nvme0n1").startswith(raw(yard)) and machine.untouched("nvme1n1")


def test_a_disk_that_cannot_zero_itself_is_written_in_full(machine: Machine, yard: BootYard, url: str) -> None:
    yard.order()
    (machine.root / "can-zero").unlink()
    assert machine.deploy(url).returncode == 0
    assert machine.content("nvme1n1").startswith(raw(yard))
    # an old partition table has its second copy at the end
    assert machine.content("nvme1n1")[-MIB:] == bytes(MIB)


def test_without_an_order_nothing_is_written(machine: Machine, yard: BootYard, url: str) -> None:
    done = machine.deploy(url)
    assert done.returncode == 1 and "not permitted: " in done.stdout and "no order for this machine" in done.stdout
    assert machine.untouched("nvme0n1") and machine.untouched("nvme1n1")
    assert not (machine.root / "discards").exists()


def test_a_second_run_is_refused(machine: Machine, yard: BootYard, url: str) -> None:
    yard.order()
    assert machine.deploy(url).returncode == 0
    machine.disk("nvme1n1", "D2", 4)
    done = machine.deploy(url)
    assert done.returncode == 1 and "its order has been used: done" in done.stdout
    assert machine.untouched("nvme1n1") and machine.order.state == "done"


def test_a_serial_that_is_not_there_is_refused(machine: Machine, yard: BootYard, url: str) -> None:
    yard.order(disk="D9")
    done = machine.deploy(url)
    assert done.returncode == 1 and "disk D9 is not in this machine" in done.stdout
    assert machine.order.state == "ordered" and not (machine.root / "discards").exists()


@pytest.mark.parametrize("key", ["ro", "removable", "hidden"])
def test_a_disk_that_is_none_is_not_offered(machine: Machine, yard: BootYard, url: str, key: str) -> None:
    yard.order()
    machine.file(f"sys/block/nvme1n1/{key}", "1\n")
    done = machine.deploy(url)
    assert "disk D2 is not in this machine" in done.stdout and machine.untouched("nvme1n1")


def bad_before_the_first_block(machine: Machine, done: subprocess.CompletedProcess[str], words: str) -> None:
    assert done.returncode == 1 and words in done.stdout, done.stdout + done.stderr
    assert not (machine.root / "discards").exists()
    assert machine.untouched("nvme0n1") and machine.untouched("nvme1n1")
    assert machine.order.state == "failed" and machine.order.words.startswith("nothing was written: ")


def test_a_signature_by_another_key_is_refused_before_the_first_block(
    machine: Machine, yard: BootYard, url: str
) -> None:
    yard.order()
    (machine.keys / "site.pub").unlink()
    make_key(machine.root / "other.sec", machine.keys / "other.pub")
    bad_before_the_first_block(machine, machine.deploy(url), "not signed by a key of this installer")


def test_a_manifest_changed_on_the_way_is_refused_before_the_first_block(
    machine: Machine, yard: BootYard, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The server finds it right when it permits; what is fetched afterwards is another.
    yard.order()
    manifest = yard.build.path / MANIFEST
    swap = f'#!/bin/sh\n{shutil.which("curl")} "$@" || exit\ncase "$*" in */manifest.json)\n'
    swap += f'sed -i \'s/"packages": 1/"packages": 2/\' {machine.work}/manifest.json ;; esac\n'
    machine.tool("curl", swap)
    bad_before_the_first_block(machine, machine.deploy(url), "not signed by a key of this installer")
    assert b'"packages": 1' in manifest.read_bytes()


def test_the_signed_manifest_of_another_build_is_refused(machine: Machine, yard: BootYard, url: str) -> None:
    from tests.templates.builds import make_build

    other = yard.shelf.publish(yard.path / "more", make_build(yard.path / "more", 7), key=yard.key)
    yard.order()
    # A server that is not ours: it gives an older, signed build for the one that was ordered.
    swap = f'#!/bin/sh\nfor word; do last=$word; done\n{shutil.which("curl")} "$@" || exit\n'
    swap += f"case $last in */{MANIFEST}) cp {other.path / MANIFEST} {machine.work}/{MANIFEST} ;;\n"
    swap += f"*/{SIGNATURE}) cp {other.path / SIGNATURE} {machine.work}/{SIGNATURE} ;; esac\n"
    machine.tool("curl", swap)
    bad_before_the_first_block(machine, machine.deploy(url), "the manifest is signed as another build")


def test_an_image_that_is_not_the_manifest_s_is_wiped_and_said(machine: Machine, yard: BootYard, url: str) -> None:
    yard.order()
    image = yard.build.path / DISK
    other = yard.path / "other.raw"
    other.write_bytes(b"another disk " * 1000)
    subprocess.run(["zstd", "-qf", other, "-o", image], check=True)
    with image.open("ab") as stream:  # of the same length, as a transfer that went wrong is
        stream.truncate(yard.manifest.files[DISK].size)
    done = machine.deploy(url)
    assert done.returncode == 1 and "wiping the first blocks" in done.stdout, done.stdout
    assert machine.content("nvme1n1")[: 2 * MIB] == bytes(2 * MIB)
    assert machine.order.state == "failed" and machine.order.words.startswith("wiped: ")


def test_a_server_that_stops_in_the_middle_is_a_failure(machine: Machine, yard: BootYard, url: str) -> None:
    yard.order()
    part = f'#!/bin/sh\ncase "$*" in */{DISK}) {shutil.which("curl")} "$@" | head -c 40; exit 18 ;; esac\n'
    machine.tool("curl", f'{part}exec {shutil.which("curl")} "$@"\n')
    done = machine.deploy(url)
    assert done.returncode == 1 and machine.order.state == "failed"
    assert machine.order.words.startswith("wiped: ") and "failed" in machine.order.words
    assert machine.content("nvme1n1")[:MIB] == bytes(MIB)


def test_a_disk_that_gives_other_data_than_it_was_given_is_found(machine: Machine, yard: BootYard, url: str) -> None:
    yard.order()
    real = shutil.which("dd")
    machine.tool(
        "gnu-dd",
        f'#!/bin/sh\n{real} "$@" || exit\ncase "$*" in *bs=4M*of=*|*of=*bs=4M*) '
        f"printf x | {real} of={machine.root}/dev/nvme1n1 bs=1 seek=777 conv=notrunc status=none ;; esac\n",
    )
    done = machine.deploy(url)
    assert done.returncode == 1 and "the disk gives SHA-256" in done.stdout
    assert machine.order.words.startswith("wiped: the disk gives SHA-256")
    machine.disk("nvme1n1", "D2", 4)
    yard.order()
    assert machine.deploy(url, "ms_readback=0").returncode == 0


def test_a_server_that_does_not_answer_is_said(machine: Machine) -> None:
    machine.tool("curl", "#!/bin/sh\nexit 7\n")
    done = machine.deploy("http://127.0.0.1:9")
    assert done.returncode == 1 and "the boot server does not answer; nothing was written" in done.stdout
    assert "no ms_server=" in machine.deploy("").stdout


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
@pytest.mark.parametrize(
    "script", ["installer/deploy.sh", "installer/hook", "firstboot/first-boot.sh", "firstboot/converge.sh"]
)
def test_shellcheck_finds_nothing(script: str) -> None:
    done = subprocess.run(
        ["shellcheck", "--severity=style", SCRIPTS.parent / script], capture_output=True, text=True, check=False
    )
    assert done.stdout == ""


@pytest.mark.skipif(shutil.which("cpio") is None, reason="needs cpio")
def test_the_archive_behind_the_ramdisk_is_one_that_cpio_reads(tmp_path: Path) -> None:
    files: dict[str, Any] = {"scripts/deploy": (b"#!/bin/sh\n", 0o644), "etc/metalserve/keys/a.pub": (b"key", 0o600)}
    made = archive(files)
    assert made == archive(dict(reversed(files.items()))) and len(made) % 4 == 0
    subprocess.run(["cpio", "-idm", "--quiet"], input=made, cwd=tmp_path, check=True)
    assert (tmp_path / "scripts/deploy").read_bytes() == b"#!/bin/sh\n"
    assert (tmp_path / "etc/metalserve/keys/a.pub").stat().st_mode & 0o777 == 0o600
