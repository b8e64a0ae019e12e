"""The whole loop on an emulated machine: powered on and booted by Redfish, installed, and converged until it serves.

    sudo python -m bench.templates.loop HOME PUBLIC_KEY OUT.json [pxe|cd]

HOME is a templates directory with a signed build of debian-13-base on its shelf. The BMC is sushy-emulator, with
libvirt and QEMU (TCG) behind it, in the tree that tests/real_bmc makes. The machine is on a network of its own; what
installs it is `metalserve template serve`, what asks the BMC `metalserve.bmc`. QEMU emulates no GPU: once installed and
answering by SSH the machine is given simulated ones (loop_gpu.py), and the whole of deploys/gpu_node.py runs on it
twice. The image's own roles are compared before that, while the machine is as the image made it.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

from bench.templates.loop_gpu import REAL, SIMULATED, Supplies, completions, equip, inventory, one_run, seen, supplies
from metalserve.bmc import Bmc, open_bmc
from metalserve.errors import MetalserveError
from metalserve.pyinfra_seam.boot_device import boot_back, boot_from
from metalserve.settings.bmc import BmcSettings
from metalserve.templates.machine_identity import Identity
from metalserve.templates.manifest import DISK as DISK_FILE
from metalserve.templates.orders import Orders
from metalserve.templates.proving_boot import LOOK, sections
from metalserve.templates.proving_roles import compare_roles
from metalserve.templates.qemu import KERNEL_ARGUMENTS, NO_TICKS
from metalserve.templates.qemu_net import BRIDGE, Network, network
from metalserve.templates.qemu_ssh import Shell
from metalserve.templates.shelf import Build, Shelf
from metalserve.templates.spec import load_spec
from metalserve.templates.toolroot import tool_root
from tests.real_bmc.emulator import Emulator, emulator
from tests.real_templates.netboot import (
    DISK,
    MAC,
    OTHER,
    SERIAL,
    URL,
    UUID,
    asked,
    host,
    leased,
    machine_files,
    own_home,
    services,
)

TEMPLATE: Final = "debian-13-base"
NODE: Final = "gpu-0001"
PATIENCE_S: Final = 3600.0
DRIVES: Final = {"root.raw": 10 << 30, "data.raw": 6 << 30}
"""Bytes of the drives: Docker and its images are on the system's, the model is on the other."""
MOST_RUNS: Final = 6
"""Runs of deploys/gpu_node.py at most: two when all goes well, and until one has nothing to change."""
MACHINE: Final = "QEMU, TCG, behind libvirt and sushy-emulator: simulated hardware"

_GIVEN: Final = {
    "ARGUMENTS": KERNEL_ARGUMENTS, "BRIDGE": BRIDGE, "DISK": DISK, "MAC": MAC, "OTHER": OTHER, "SERIAL": SERIAL,
    "UUID": UUID,
}  # fmt: skip

Way = Literal["pxe", "cd"]


class Loop:
    """One run: what happened when, since the power-on.

    Args:
        home: the templates directory.
        directory: keys and logs.
        build: what is installed.
        emulated: the BMC with its machine.
        key: file of the SSH key.
    """

    def __init__(self, home: Path, directory: Path, build: Build, emulated: Emulator, key: Path) -> None:
        self.directory, self.build, self.emulated, self.key = directory, build, emulated, key
        self.orders = Orders(home / "orders")
        self.began = time.monotonic()
        self.panics = 0
        self.times: dict[str, float] = {}
        self.said: dict[str, str] = {}
        os.environ["LOOP_BMC_PASSWORD"] = "password"
        self.settings = BmcSettings.model_validate(
            {
                "address": f"127.0.0.1:{emulated.port}",
                "user": "admin",
                "password": {"env": "LOOP_BMC_PASSWORD"},
                "uuid": UUID,
                "tls": {"pin": emulated.pin},
            }
        )

    def bmc(self) -> Bmc:
        """Open the machine's BMC."""
        return open_bmc(self.settings, NODE)

    def at(self, event: str) -> None:
        """Note an event."""
        self.times[event] = round(time.monotonic() - self.began, 1)
        print(f"{self.times[event]:8.1f} s  {event}  {self.said.get(event, '')}", flush=True)

    def tell(self, event: str, words: str) -> None:
        """Note an event, and what was seen of it."""
        self.said[event] = words
        self.at(event)

    def until(self, good: Callable[[], bool], what: str) -> None:
        """Wait for something that the machine does."""
        deadline = time.monotonic() + PATIENCE_S
        while not good():
            if time.monotonic() > deadline:
                raise MetalserveError(f"{what}: not within {PATIENCE_S:g} s", where=NODE)
            time.sleep(1.0)

    def install(self, way: Way) -> None:
        """Order, boot the installer by Redfish, wait for its result, give the machine its disk back, cycle it."""
        order = self.orders.place(
            NODE,
            identity=Identity(serial=SERIAL, uuid=UUID, macs=(MAC,)),
            template=self.build.name,
            build=self.build.build,
            disk_serial=DISK,
            replace=True,
        )
        with self.bmc() as bmc:
            seen = bmc.identity()
            assert seen.proven and bmc.power() == "off", f"{seen}, power {bmc.power()}"
            words = boot_from(bmc, [way], f"{URL}/boot/installer.iso", NODE)
            self.tell("boot override", words)
            self.began = time.monotonic()
            self.tell("power on", bmc.set_power("on", 60).words)
        for state in ("permitted", "done"):
            self.until(functools.partial(self._is, order.number, state), state)
            self.at(state)
        self.tell("boot device back", boot_back(self.bmc, 2.0))
        with self.bmc() as bmc:
            self.tell("power cycle", bmc.set_power("cycle", 120).words)

    def _is(self, number: str, state: str) -> bool:
        order = self.orders.get(NODE)
        assert order is not None and order.number == number
        if order.state == "failed":
            raise MetalserveError(f"the installation failed: {order.words}", where=NODE)
        return order.state in (state, "done")

    def shell(self) -> Shell:
        """How the machine is reached; LookupError: it has no address yet."""
        return Shell(self.key, address=leased(self.directory, MAC))

    def revive(self) -> None:
        """Reset the machine if its kernel found too few ticks of the timer: the busy host's fault, not the image's."""
        if self._panics() > self.panics:
            with self.bmc() as bmc:
                self.tell("reset, emulated timer", bmc.set_power("cycle", 120).words)
            self.panics = self._panics()  # none where libvirt has begun the log anew

    def _panics(self) -> int:
        console = self.emulated.console
        return console.read_text(errors="replace").count(NO_TICKS) if console.exists() else 0

    def answers(self) -> bool:
        """Tell whether the installed system answers by SSH."""
        self.revive()
        try:
            return self.shell().run("true").returncode == 0
        except (LookupError, MetalserveError):
            return False


def inside(net: Network, home: Path, key: Path, out: Path, way: Way) -> None:
    """Run it, within the machine's network, and write the record."""
    os.environ["METALSERVE_TEMPLATES_DIR"] = str(home)
    load, tools = os.getloadavg(), tool_root()
    build = Shelf(home / "shelf").build(TEMPLATE)
    directory = Path(tempfile.mkdtemp(prefix="loop-", dir=home))
    home = own_home(home, directory)
    made: list[Path] = []
    try:
        xml = directory / "machine.xml"
        text = (Path(__file__).parent / "loop.xml").read_text()
        for name, value in _GIVEN.items():
            text = text.replace(f"@{name}@", value)
        xml.write_text(text)

        def disks(state: Path) -> None:
            made.append(machine_files(state, directory, tools, home, key))
            for name, size in DRIVES.items():
                os.truncate(state / name, size)

        lab = supplies(build)
        with (
            emulator(directory / "emulator.log", xml, disks) as emulated,
            services(home, directory, tools, net, key),
            lab.served(net),
        ):
            loop = Loop(home, directory, build, emulated, made[0])
            try:
                _loop(loop, lab, way, out, load)
            finally:
                _keep(loop, out.with_suffix(".logs"))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _loop(loop: Loop, lab: Supplies, way: Way, out: Path, load: tuple[float, float, float]) -> None:
    loop.install(way)
    before = len(asked(loop.directory))
    loop.until(loop.answers, "SSH")
    loop.at("ssh")
    shell = loop.shell()
    said = sections(shell.run(LOOK.read_text(), timeout_s=1800).stdout)
    loop.at("at rest")
    roles = compare_roles(load_spec(TEMPLATE), shell, loop.directory, MACHINE)
    loop.at("image's roles compared")
    equip(shell, lab, NODE, loop.revive)
    loop.at("simulated GPUs there")
    runs: list[dict[str, Any]] = []
    while len(runs) < MOST_RUNS and (len(runs) < 2 or runs[-1]["rc"] or runs[-1]["changes"]):
        runs.append(one_run(inventory(shell, lab, loop.directory, NODE)))
        loop.tell(f"gpu_node.py, run {len(runs)}", runs[-1]["status"])
    tokens, node = completions(shell, lab), seen(shell)
    loop.at("completions")
    with loop.bmc() as bmc:
        shown = bmc.boot()
        bmc.set_power("force-off", 60)
    manifest = loop.build.manifest
    record = {
        "schema": 1,
        "simulated": True,
        "machine": MACHINE,
        "simulated_parts": SIMULATED,
        "real_parts": REAL,
        "way": "network boot (PXE, iPXE, HTTP)" if way == "pxe" else "virtual media (ISO)",
        "host": host(load),
        "template": manifest.name,
        "roles_of_the_image": load_spec(TEMPLATE).roles,
        "packed_bytes": manifest.files[DISK_FILE].size,
        "raw_bytes": manifest.raw.size,
        "seconds_since_power_on": loop.times,
        "said": loop.said,
        "boot_override_at_the_end": f"{shown.target} ({shown.enabled})",
        "asked_after_the_disk_was_given_back": [each["asked"] for each in asked(loop.directory)[before:]],
        "asked": [f"{each['asked']} {each['status']} {each['words']}" for each in asked(loop.directory)],
        "booted": said,
        "image_roles": roles.as_dict(),
        "gpu_node": runs,
        "completions": tokens,
        "node": node,
    }
    out.write_text(json.dumps(record, indent=1) + "\n")


def _keep(loop: Loop, into: Path) -> None:
    """Keep the logs beside the record."""
    into.mkdir(exist_ok=True)
    for path in (loop.emulated.console, *loop.directory.glob("*.log"), *loop.emulated.state.glob("*.log")):
        if path.exists():
            shutil.copyfile(path, into / path.name)


def main(words: list[str]) -> int:
    """Make the network, and go on inside of it."""
    if words[0] == "--inside":
        home, key, out, way = words[2:]
        inside(Network(words[1]), Path(home), Path(key), Path(out), "cd" if way == "cd" else "pxe")
        return 0
    home, key, out, *rest = words
    supplies(Shelf(Path(home) / "shelf").build(TEMPLATE))  # here: inside there is no way to a mirror
    with network() as net:
        given = [str(Path(each).absolute()) for each in (home, key, out)]
        command = net.command(
            sys.executable, "-m", "bench.templates.loop", "--inside", net.namespace, *given, *(rest or ["pxe"])
        )
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
