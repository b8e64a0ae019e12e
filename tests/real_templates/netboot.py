"""The whole way of an installation on one emulated machine: order, network boot or virtual media, disk, SSH."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from metalserve.errors import MetalserveError
from metalserve.paths import ROOT
from metalserve.templates.boot_tree import Site, publish
from metalserve.templates.machine_identity import Identity
from metalserve.templates.manifest import DISK as DISK_FILE
from metalserve.templates.order import Order
from metalserve.templates.orders import Orders
from metalserve.templates.proving import SIMULATED
from metalserve.templates.proving_boot import LOOK, sections
from metalserve.templates.qemu import KERNEL_ARGUMENTS, Drive, Machine, MachineSpec, powered_on
from metalserve.templates.qemu_net import ADDRESS, BRIDGE, RANGE, TAP, Network, dnsmasq, end, network
from metalserve.templates.qemu_parts import seed
from metalserve.templates.qemu_ssh import Shell, new_key, user_data
from metalserve.templates.ramdisk import ramdisk
from metalserve.templates.shelf import Build
from metalserve.templates.signing import trusted_keys
from metalserve.templates.toolroot import ToolRoot

PORT = 8088
URL = f"http://{ADDRESS}:{PORT}"
DISK = "NVME-ROOT-7F3A"
OTHER = "NVME-DATA-11C0"
SERIAL = "SIM-GPU-0001"
UUID = "6d657461-6c73-4572-8665-00000000a001"
MAC = "52:54:00:6d:73:a1"
ARGUMENTS = os.environ.get("METALSERVE_INSTALLER_ARGUMENTS", f"console=ttyS0,115200 {KERNEL_ARGUMENTS}")
"""Kernel arguments of the installer. On a busy machine without KVM, `ms_readback=0` saves a third of the time."""

SHOWN = (
    "state", "failed", "cycles", "unmounted", "cloud-init", "kernel", "boot-time", "root-bytes", "root-disk", "drives",
)  # fmt: skip
"""Sections of `look.sh` that a record keeps."""

Way = Literal["network", "cd"]


@dataclass
class Yard:
    """One machine on a provisioning network with everything that installs it.

    Attributes:
        home: directory of templates: orders, boot tree, and the shelf of another.
        directory: of the machine.
        tools: the tool root.
        net: the network.
        build: what is installed.
        key: file of the SSH key.
        secure_boot: the firmware has Microsoft's keys and Secure Boot on.
        times: event -> seconds since power-on.
    """

    home: Path
    directory: Path
    tools: ToolRoot
    net: Network
    build: Build
    key: Path
    secure_boot: bool = False
    times: dict[str, float] = field(default_factory=dict)

    @property
    def orders(self) -> Orders:
        return Orders(self.home / "orders")

    def order(self, disk: str = DISK, **more: Any) -> Order:
        return self.orders.place(
            "gpu-0001",
            identity=Identity(serial=SERIAL, uuid=UUID, macs=(MAC,)),
            template=self.build.name,
            build=self.build.build,
            disk_serial=disk,
            replace=True,
            **more,
        )

    def spec(self, way: Way | Literal["disk"]) -> MachineSpec:
        # The disk to be written is the second: names follow the slots, and a name is what must not be trusted.
        return MachineSpec(
            drives=(Drive("data.raw", OTHER), Drive("root.raw", DISK)),
            system=1,
            boot=way,
            seed="seed.img",
            cd="installer.iso" if way == "cd" else "",
            serial=SERIAL,
            uuid=UUID,
            mac=MAC,
            tap=TAP,
            namespace=self.net.namespace,
            secure_boot=self.secure_boot,
        )

    @contextmanager
    def on(self, way: Way | Literal["disk"]) -> Iterator[Machine]:
        with powered_on(self.tools, self.spec(way), self.directory) as machine:
            yield machine

    def state(self) -> Order:
        found = self.orders.get("gpu-0001")
        assert found is not None
        return found

    def wait_for_state(self, machine: Machine, state: str, timeout_s: float) -> Order:
        """Wait until the order has come to `state`."""
        deadline = time.monotonic() + timeout_s
        while (found := self.state()).state != state:
            if not machine.on or time.monotonic() > deadline or found.state in ("done", "failed"):
                raise MetalserveError(f"order is {found.state}: {found.words}; {machine.last_words()}", where="netboot")
            time.sleep(0.5)
        return found

    def shell(self) -> Shell:
        """How the machine is reached, at the address that it got last."""
        return Shell(self.key, address=leased(self.directory, MAC), namespace=self.net.namespace)

    def wait_for_ssh(self, machine: Machine, timeout_s: float) -> float:
        """Wait until the machine answers, whatever address it has by then; return the seconds since power-on."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return self.shell().wait(machine, 30.0)
            except (LookupError, MetalserveError):
                if not machine.on or time.monotonic() > deadline:
                    raise

    def look(self) -> dict[str, str]:
        """Return what the machine says of itself, section by section."""
        return sections(self.shell().run(LOOK.read_text(), timeout_s=1800).stdout)

    def asked(self) -> list[dict[str, Any]]:
        """Return what the boot server was asked, in order."""
        return asked(self.directory)


def leased(directory: Path, mac: str) -> str:
    """Return the address that a machine got last.

    Raises:
        LookupError: it has none.
    """
    lines = [line.split() for line in (directory / "leases").read_text().splitlines()]
    found = max(((int(words[0]), words[2]) for words in lines if words[1:2] == [mac]), default=None)
    if found is None:
        raise LookupError(mac)
    return found[1]


def asked(directory: Path) -> list[dict[str, Any]]:
    """Return what the boot server was asked, in order."""
    text = (directory / "server.log").read_text()
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


@contextmanager
def yard(
    home: Path, directory: Path, tools: ToolRoot, build: Build, public_key: Path, *, secure_boot: bool = False
) -> Iterator[Yard]:
    """Put up network, DHCP, boot tree and boot server, and an empty machine; all of it is gone afterwards.

    Orders and boot tree are in `directory`; of `home` the shelf is used, and nothing there is changed.
    """
    directory.mkdir(parents=True)
    home = own_home(home, directory)
    key = machine_files(directory, directory, tools, home, public_key, secure_boot=secure_boot)
    shutil.copyfile(home / "boot/installer.iso", directory / "installer.iso")
    with network() as net, services(home, directory, tools, net, public_key):
        yield Yard(home, directory, tools, net, build, key, secure_boot)


def own_home(home: Path, directory: Path) -> Path:
    """Make a templates directory in `directory` that has the shelf of another, and return it."""
    own = directory / "home"
    own.mkdir()
    (own / "shelf").symlink_to(home.absolute() / "shelf")
    return own


def machine_files(
    into: Path, directory: Path, tools: ToolRoot, home: Path, public_key: Path, *, secure_boot: bool = False
) -> Path:
    """Make two empty drives and the seed of a machine in `into`, and the boot tree in `home`; return the SSH key."""
    key, public = new_key(directory)
    seed(tools, into, user_data=user_data(public), meta_data="instance-id: sim-1\nlocal-hostname: gpu-0001\n")
    for name, size in (("root.raw", 3 << 30), ("data.raw", 1 << 30)):
        with (into / name).open("wb") as stream:
            stream.truncate(size)
    site = Site(URL, BRIDGE, RANGE, ARGUMENTS, secure_boot)
    publish(home / "boot", site, trusted_keys([public_key]), tools, ramdisk())
    return key


@contextmanager
def services(home: Path, directory: Path, tools: ToolRoot, net: Network, public_key: Path) -> Iterator[None]:
    """Run DHCP, TFTP and the boot server in the network; their logs are in `directory`."""
    with dnsmasq(tools, net, home / "boot", directory), _server(home, directory, net, public_key):
        yield


@contextmanager
def _server(home: Path, directory: Path, net: Network, public_key: Path) -> Iterator[None]:
    words = [sys.executable, "-u", "-m", "metalserve", "template", "serve", "--address", ADDRESS, "--port", str(PORT)]
    words += ["--key", str(public_key), "--arguments", ARGUMENTS]
    environment = {**os.environ, "METALSERVE_TEMPLATES_DIR": str(home)}
    with (directory / "server.log").open("wb") as log:
        process = subprocess.Popen(
            net.command(*words), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=ROOT
        )
    try:
        deadline = time.monotonic() + 30
        while "serving on" not in (directory / "server.log").read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise MetalserveError((directory / "server.log").read_text()[-500:], where="boot server")
            time.sleep(0.1)
        yield
    finally:
        end(process)


def install(place: Yard, way: Way, *, patience_s: float = 3000.0) -> dict[str, str]:
    """Order, power on, boot by `way`, be written, reboot, answer by SSH; return what the machine then says of itself.

    By network the boot order is left as it is, as a BMC that ignores Once does: the boot server must send the machine
    to its disk. With virtual media the controller ejects and power-cycles, which is its job there. `place.times` gets
    seconds since the first power-on.
    """
    place.order()
    times = place.times
    with place.on(way) as machine:
        place.wait_for_state(machine, "permitted", patience_s)
        times["permitted"] = machine.age_s
        place.wait_for_state(machine, "done", patience_s)
        times["written"] = machine.age_s
        machine.wait_for("rebooting in", 120)
        times["rebooting"] = machine.age_s
        if way == "network":
            times["ssh"] = place.wait_for_ssh(machine, patience_s)
            return place.look()
    with place.on("disk") as machine:
        times["ssh"] = times["rebooting"] + place.wait_for_ssh(machine, patience_s)
        return place.look()


def record(place: Yard, way: Way, said: dict[str, str], load: tuple[float, float, float]) -> dict[str, Any]:
    """Return what an installation showed, for JSON.

    Args:
        place: where it took place.
        way: how it was booted.
        said: what the installed machine said of itself.
        load: load averages of the host before.
    """
    order, manifest = place.state(), place.build.manifest
    loader = "shim and GRUB" if place.secure_boot else "iPXE"
    return {
        "schema": 1,
        "simulated": True,
        "machine": SIMULATED,
        "way": (f"network boot (PXE, {loader}, HTTP)" if way == "network" else "virtual media (ISO)"),
        "secure_boot": place.secure_boot,
        "host": host(load),
        "installer_arguments": ARGUMENTS,
        "template": manifest.name,
        "packed_bytes": manifest.files[DISK_FILE].size,
        "raw_bytes": manifest.raw.size,
        "seconds_since_power_on": {key: round(value, 1) for key, value in place.times.items()},
        "boot_order_left_at_network": way == "network",
        "order": {"state": order.state, "words": order.words},
        "asked": [f"{each['asked']} {each['status']} {each['words']}" for each in place.asked()],
        "booted": {key: said.get(key) for key in SHOWN},
    }


def host(load_before: tuple[float, float, float]) -> dict[str, Any]:
    """Return what times depend on: the machine that emulates, and its load."""
    load = {"load_before": load_before, "load_after": os.getloadavg()}
    return {"cpus": os.cpu_count(), **load, "kernel": platform.release()}
