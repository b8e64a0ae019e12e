"""A machine in QEMU that has simulated GPUs, and the whole of deploys/gpu_node.py on it: how `loop.py` ends.

Simulated are the GPUs (their PCI functions, driver state, nvidia-smi; `metalserve/lab/sim` in its form for machines,
which leaves drives, kernel modules and udev alone), NVIDIA's packages, the engine's image and the model: all are the
lab's. Its lab directory (METALSERVE_LAB_DIR) is filled here and must have no lab up. The rest is the machine's own.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from metalserve.errors import MetalserveError
from metalserve.lab import distribution, guest, parts
from metalserve.lab.fleet import RunningFleet
from metalserve.lab.inventory import host_settings
from metalserve.lab.layout import SERVICE_PORT, Layout
from metalserve.lab.packages import build_repository
from metalserve.lab.repository import signing_key
from metalserve.lab.sim_setup import prepare_host
from metalserve.paths import ROOT
from metalserve.pyinfra_seam.cli_run import run_pyinfra
from metalserve.templates.qemu_net import BRIDGE, Network, end
from metalserve.templates.qemu_ssh import Shell
from metalserve.templates.shelf import Build
from metalserve.trees.mirrors import machine_mirrors
from metalserve.trees.system import run
from tests.lab.fleet import TOKEN

PROFILE: Final = "h100-nvl-2"
EXPECT: Final = {"gpu": "h100-nvl", "count": 2, "links": "bridge"}
ENGINES: Final = range(8000, 8002)
RELEASE: Final = "2026.11-lts"
SUITE: Final = "trixie"
PROCESSORS: Final = 2
SIMULATED: Final = (
    "two H100 NVL with their links, nvidia-smi and driver state (metalserve/lab/sim)",
    "NVIDIA's packages: driver, DKMS, container toolkit, DCGM (stand-ins in a signed repository)",
    "the engine's image (a stand-in for vLLM) and the model (random weights)",
    "the hardware of the machine itself (QEMU, TCG)",
)
REAL: Final = (
    "UEFI firmware, boot loader, Debian's kernel and its headers, systemd, udev, apt and Debian's packages, Docker",
    "NVMe drives as the kernel and nvme-cli see them (emulated), partition, file system and mount on them",
    "Redfish by metalserve.bmc, the installer, pyinfra and SSH",
)
REBOOT_S: Final = 1800.0
_POINTED: Final = """\
set -eu
rm -rf /etc/apt/sources.list /etc/apt/sources.list.d /var/lib/apt/lists
tar -xpf - -C / --no-same-owner
sh /opt/metalserve-lab/lib/install.sh / only-gpus
systemctl daemon-reload
"""


@dataclass(frozen=True)
class Supplies:
    """What the machine is served.

    Attributes:
        layout: the lab's directory and addresses.
        fleet: what an inventory says of the lab; it has no hosts.
    """

    layout: Layout
    fleet: RunningFleet

    @contextmanager
    def served(self, net: Network) -> Iterator[None]:
        """Serve it at the lab's own address within the machine's network, where its default gateway is."""
        layout, log = self.layout, self.layout.root / "requests.log"
        run(["ip", "-n", net.namespace, "addr", "add", f"{layout.service_address}/32", "dev", BRIDGE])
        words = ["-m", "metalserve.lab.fileserver", layout.www, layout.service_address, str(SERVICE_PORT), log]
        process = subprocess.Popen(net.command(sys.executable, *words), stdin=subprocess.DEVNULL, cwd=ROOT)
        try:
            yield
        finally:
            end(process)


def supplies(build: Build) -> Supplies:
    """Make what a machine that was installed from this build needs of the lab, as far as it is not there.

    Raises:
        MetalserveError: a lab is up in this directory, or something cannot be made or downloaded.
    """
    layout = Layout.current()
    if layout.fleet_file.exists():
        raise MetalserveError("a lab is up here", where=str(layout.root), remedy="set METALSERVE_LAB_DIR to another")
    key = signing_key(layout.keys)
    key.publish(layout.www / "keys/lab.asc")
    base, mirrors = _packages_of(layout, build), machine_mirrors()
    there = distribution.fetch(layout, SUITE, base, mirrors)
    headers = distribution.fetch(layout, SUITE, base, mirrors, extra="headers")
    distribution.publish(layout, SUITE, there, key, also=[headers])
    build_repository(layout.www, key, kernels=False)
    made = parts.engine(layout)
    fleet = RunningFleet(
        lab_id=layout.lab_id, release=RELEASE, service_url=layout.service_url, key_fingerprint=key.fingerprint,
        has_nvidia_repository=True, image=made.image, image_sha256=made.image_sha256, model=made.model, hosts=[],
    )  # fmt: skip
    return Supplies(layout, fleet)


def _packages_of(layout: Layout, build: Build) -> Path:
    """Return a tree that has the list of packages of the build, and nothing else."""
    tree = layout.cache / f"packages-{build.name}-{build.build}"
    if not tree.is_dir():
        new = tree.with_name(f"{tree.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        with build.hold() as directory:
            run(["tar", "--zstd", "-x", "-C", new, "-f", directory / "root.tar.zst", "./var/lib/dpkg/status"])
        new.rename(tree)
    return tree


def equip(shell: Shell, made: Supplies, node: str, revive: Callable[[], None]) -> dict[str, float]:
    """Give a machine that answers by SSH its simulated GPUs and the lab as its mirror, and reboot it.

    `revive` is called while it boots, and may help it.

    Returns:
        Seconds of both.

    Raises:
        MetalserveError: a step failed, or the machine did not come back with its GPUs.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="loop-gpu-") as scratch:
        root = Path(scratch)
        prepare_host(PROFILE, root / "opt/metalserve-lab", host=node, only_gpus=PROCESSORS)
        guest.point_apt(root, made.layout, SUITE)
        public = root / "usr/share/keyrings/metalserve-lab.asc"
        public.parent.mkdir(parents=True)
        shutil.copyfile(made.layout.www / "keys/lab.asc", public)
        done = subprocess.run(
            shell.command(f"sh -c '{_POINTED}'"), input=_packed(root), capture_output=True, timeout=900, check=False
        )
    if done.returncode != 0:
        raise MetalserveError(f"not equipped: {done.stderr.decode(errors='replace')[-500:]}", where=node)
    equipped = time.monotonic()
    reboot(shell, node, revive)
    listed = shell.run("lspci -Dnn -d 10de:; systemctl is-active metalserve-lab-sim.service").stdout
    if listed.count("[10de:") != EXPECT["count"] or not listed.endswith("\nactive\n"):
        raise MetalserveError(f"came back without its GPUs: {listed!r}", where=node)
    return {"equipped": round(equipped - began, 1), "rebooted": round(time.monotonic() - equipped, 1)}


def _packed(root: Path) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path in sorted(each for each in root.rglob("*") if not each.is_dir()):
            archive.add(path, arcname=str(path.relative_to(root)), recursive=False)
        state = tarfile.TarInfo("opt/metalserve-lab/state")
        state.type, state.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(state)
    return packed.getvalue()


def reboot(shell: Shell, node: str, revive: Callable[[], None]) -> None:
    """Reboot it, and wait until it answers under another boot id and has started everything."""
    before = shell.run("cat /proc/sys/kernel/random/boot_id").stdout.strip()
    shell.run("systemctl reboot")
    deadline = time.monotonic() + REBOOT_S
    while True:
        revive()
        try:
            now = shell.run("cat /proc/sys/kernel/random/boot_id").stdout.strip()
        except MetalserveError:
            now = ""
        if now and before and now != before:
            break
        if time.monotonic() > deadline:
            raise MetalserveError(f"not back within {REBOOT_S:g} s of its reboot", where=node)
        time.sleep(2.0)
    shell.run("timeout 900 systemctl is-system-running --wait", timeout_s=1000)


def inventory(shell: Shell, made: Supplies, directory: Path, node: str) -> Path:
    """Write the inventory of the machine, and return its file."""
    path = directory / "gpu-inventory.py"
    path.write_text(f"gpu_nodes = [({node!r}, {_data(shell, made)!r})]\n")
    return path


def _data(shell: Shell, made: Supplies) -> dict[str, Any]:
    return {
        "ssh_hostname": shell.address,
        "ssh_user": shell.user,
        "ssh_key": str(shell.key),
        "ssh_strict_host_key_checking": "no",
        "ssh_known_hosts_file": str(shell.key.with_name("known-hosts")),
        "ssh_look_for_keys": False,
        "ssh_allow_agent": False,
        **host_settings(made.fleet),
        "expect": EXPECT,
    }


def one_run(hosts: Path) -> dict[str, Any]:
    """Run deploys/gpu_node.py once, and return what it did."""
    began = time.monotonic()
    outcome = run_pyinfra(str(hosts), "deploys/gpu_node.py", None)
    assert outcome.report is not None, outcome.output[-2000:]
    found = next(iter(outcome.report.hosts.values()))
    return {
        "status": outcome.report.status(found),
        "rc": outcome.rc,
        "seconds": round(time.monotonic() - began, 1),
        "ssh_sessions": found.sessions,
        "changes": [" / ".join(each) for each in found.changes],
        "proofs": found.proofs,
        "warnings": found.warnings,
        "failure": None if found.failure is None else vars(found.failure),
    }


def completions(shell: Shell, made: Supplies) -> dict[str, str]:
    """Return what each engine completes a prompt with, by its port: asked on the machine itself."""
    model = (made.fleet.model or {})["name"]
    said = {}
    for port in ENGINES:
        words = shell.command("python3", "-", str(port), model)
        done = subprocess.run(words, input=TOKEN, capture_output=True, text=True, timeout=120, check=False)
        said[str(port)] = done.stdout.strip() or f"none: {done.stderr.strip()[-200:]}"
    return said


def seen(shell: Shell) -> dict[str, str]:
    """Return what the converged machine says of itself, in the words of its own tools."""
    commands = {
        "kernel": "uname -rv",
        "state": "systemctl is-system-running; systemctl list-units --failed --plain --no-legend",
        "virtualisation": "systemd-detect-virt",
        "drives": "lsblk -nrdo NAME,SERIAL,SIZE,MODEL; findmnt -nt xfs,ext4 -o TARGET,SOURCE,FSTYPE",
        "gpus": "nvidia-smi -L",
        "containers": "docker ps --format '{{.Names}} {{.Image}} {{.Status}}'; docker version -f '{{.Server.Version}}'",
        "engines": "systemctl is-active 'metalserve-vllm-*.service'",
    }
    return {name: shell.run(words).stdout.strip() for name, words in commands.items()}
