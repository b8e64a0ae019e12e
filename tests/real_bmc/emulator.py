"""libvirt, QEMU and sushy-emulator in a tree of their own, made once, ended whole."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from metalserve.errors import MetalserveError
from metalserve.lab import rootfs
from metalserve.lab.bmc import certificate
from metalserve.lab.system import unmount_below
from metalserve.trees.mirrors import machine_mirrors

HERE = Path(__file__).resolve().parent
UUID = "e1858886-1402-4ee9-8afe-36c353aabb28"
SUSHY_TOOLS = "sushy-tools==2.2.0"
SUITE = "bookworm"
PACKAGES = (
    "dosfstools", "ipxe", "libvirt-clients", "libvirt-daemon", "libvirt-daemon-driver-qemu", "mtools", "ovmf",
    "python3", "python3-libvirt", "qemu-system-x86", "qemu-utils", "xorriso",
)  # fmt: skip
# Debian makes this user with its set-up of libvirt as a service, which is not installed here.
USER = "groupadd -r libvirt-qemu && useradd -r -g libvirt-qemu libvirt-qemu"
# What boots from the virtual CD is iPXE: it says its name on the console.
ISO = """\
set -e
cd /srv/bmc
rm -rf iso esp.img boot.iso; mkdir iso
truncate -s 8M esp.img
mkfs.vfat esp.img > /dev/null
mmd -i esp.img ::/EFI ::/EFI/BOOT
mcopy -i esp.img /usr/lib/ipxe/ipxe.efi ::/EFI/BOOT/BOOTX64.EFI
cp esp.img iso/
xorriso -as mkisofs -quiet -V BOOT -o boot.iso -e esp.img -no-emul-boot iso
"""


def tree() -> Path:
    """Return the tree, made with mmdebstrap and pip when it is not there (minutes); it is kept for the next run."""
    if os.geteuid() != 0:
        pytest.skip("libvirt in a tree of its own needs root")
    missing = [name for name in ("mmdebstrap", "unshare", "chroot") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"programs missing: {', '.join(missing)}")
    recipe = repr((SUITE, PACKAGES, SUSHY_TOOLS, USER))
    target = Path(tempfile.gettempdir()) / f"metalserve-emulator-{hashlib.sha256(recipe.encode()).hexdigest()[:10]}"
    if target.is_dir():
        return target
    building = target.with_name(f"{target.name}.new")
    unmount_below(building)
    shutil.rmtree(building, ignore_errors=True)
    try:
        sources = machine_mirrors().sources(SUITE)
    except MetalserveError as error:
        pytest.skip(f"no Debian mirror: {error}")
    command = ["mmdebstrap", "--variant=minbase", "--mode=root", "--format=directory", "--quiet"]
    command += [f"--include={','.join(PACKAGES)}", "--dpkgopt=force-unsafe-io"]
    command += [f"--aptopt={option}" for option in rootfs._apt_network_options()]
    command += [f"--customize-hook=chroot $1 sh -c '{USER}'", SUITE, str(building), *sources]
    done = subprocess.run(command, capture_output=True, text=True, check=False, umask=0o022)
    if done.returncode != 0:
        pytest.skip(f"mmdebstrap failed: {done.stderr.strip().splitlines()[-1:]}")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(building / "opt/sushy"), SUSHY_TOOLS]
    pip += ["--python-version", "3.11", "--only-binary=:all:"]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"{SUSHY_TOOLS} cannot be installed: {done.stderr.strip().splitlines()[-1:]}")
    building.rename(target)
    return target


class Emulator:
    """A running emulator in front of one QEMU machine that is off."""

    def __init__(self, root: Path, port: int) -> None:
        self.root = root
        self.port = port
        self.state = root / "srv/bmc"
        self.console = self.state / "console.log"

    @property
    def pin(self) -> str:
        return certificate.fingerprint(self.state / "server.pem")

    def said(self, words: str, timeout_s: float) -> bool:
        """Wait until the machine's console has said something."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if words in (self.console.read_text(errors="replace") if self.console.exists() else ""):
                return True
            time.sleep(0.5)
        return False


def empty_disk(state: Path) -> None:
    """Make the disk of `machine.xml`."""
    with (state / "disk.raw").open("wb") as disk:
        disk.truncate(64 << 20)


@contextmanager
def emulator(
    log: Path, machine: Path = HERE / "machine.xml", make_disks: Callable[[Path], None] = empty_disk
) -> Iterator[Emulator]:
    """Run it.

    Args:
        log: what it and libvirt say.
        machine: libvirt's description of the machine.
        make_disks: makes the machine's disks in the directory that it is given (/srv/bmc for libvirt).
    """
    root = tree()
    state = root / "srv/bmc"
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir(parents=True)
    shutil.copyfile(machine, state / "machine.xml")
    make_disks(state)
    certificate.make(state / "server.pem", "gpu-node-01", "127.0.0.1")
    subprocess.run(["chroot", str(root), "sh", "-c", ISO], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*command, "sh", str(HERE / "start.sh"), str(root), str(port)],
            stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while True:
            assert process.poll() is None, log.read_text(errors="replace")[-2000:]
            assert time.monotonic() < deadline, log.read_text(errors="replace")[-2000:]
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        yield Emulator(root, port)
    finally:
        process.kill()  # unshare takes no other signal; its child, and all in its namespace, end with it
        process.wait()


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """Serve a directory over HTTP; gives the base URL."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Keep still."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(directory)))
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
