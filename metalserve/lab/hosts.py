"""One lab host: made, started, looked at, stopped, removed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from metalserve.errors import MetalserveError
from metalserve.lab import drives, guest, network, power, rootfs, sim_setup, wrecks
from metalserve.lab.fleet import RunningHost
from metalserve.lab.layout import Layout
from metalserve.lab.power import cut_power, leader, processes
from metalserve.lab.system import (
    ProcessId,
    managed_by_systemd,
    mounts_below,
    read_json,
    run,
    unmount_below,
    write_json,
)
from metalserve.paths import ROOT
from metalserve.trees.system import mount_overlay

State = Literal["up", "booting", "unreachable", "stopped", "failed", "absent"]

BOOT_GRACE_S = 60
"""A host that does not answer on its SSH port is `booting` for so long, then `unreachable`."""

# The machine's clock, modules and I/O ports are not a lab host's business.
_WITHHELD = "CAP_SYS_TIME,CAP_SYS_MODULE,CAP_SYS_RAWIO"
# What systemd asks of a guest's PID 1 by signal (systemd(1)).
_REBOOT = signal.SIGRTMIN + 5
_POWER_OFF = signal.SIGRTMIN + 4


def create(layout: Layout, host: RunningHost, hosts: Sequence[RunningHost]) -> None:
    """Make a host as bare as the day it was racked, unless it has been made already."""
    directory = layout.host(host.name)
    recipe = _recipe(layout, host)
    before = read_json(directory / "made.json")
    if before and all((layout.cache / name).is_dir() for name in before["lower"]):
        return
    remove(layout, host)
    for name in ("upper", "work", "root", "sim", "docker", "drives"):
        (directory / name).mkdir(parents=True)
    sim_setup.prepare_host(host.profile, directory / "sim")
    _install(layout, host, hosts, recipe)


def reinstall(layout: Layout, host: RunningHost, hosts: Sequence[RunningHost], *, root: Path | None = None) -> None:
    """Cut the power and write the system's disk anew; its other drives, its hardware and its faults stay.

    `root` is a root file system packed as tar.zst, or None for the lab's own; when it cannot be unpacked
    (MetalserveError) nothing bootable is left.
    """
    directory = layout.host(host.name)
    cut_power(layout, host.name)
    unmount_below(directory / "root")
    (directory / "made.json").unlink(missing_ok=True)
    wrecks.made_anew(directory)
    for name in ("upper", "work", "docker"):
        shutil.rmtree(directory / name, ignore_errors=True)
        (directory / name).mkdir()
    recipe = _recipe(layout, host)
    if root is not None:
        recipe["lower"] = [rootfs.unpack_template(layout, None, root).name]
    _install(layout, host, hosts, recipe)


def _install(layout: Layout, host: RunningHost, hosts: Sequence[RunningHost], recipe: dict[str, Any]) -> None:
    """Put the system on the host's empty disk, and what belongs to this host alone."""
    directory = layout.host(host.name)
    root = directory / "root"
    (directory / "upper").chmod(0o755)
    lower = [layout.cache / name for name in recipe["lower"]]
    mount_overlay(root, lower=lower, upper=directory / "upper", work=directory / "work")
    guest.personalise(
        root, layout, name=host.name, address=host.address, hosts={each.name: each.address for each in hosts}
    )
    key = root / "etc/ssh/ssh_host_ed25519_key"
    shutil.copyfile(_host_key(layout, host.name), key)
    key.chmod(0o600)
    shutil.copyfile(_host_key(layout, host.name).with_suffix(".pub"), key.with_suffix(".pub"))
    (root / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")
    public = root / "usr/share/keyrings/metalserve-lab.asc"
    shutil.copyfile(layout.www / "keys/lab.asc", public)
    write_json(directory / "made.json", recipe)


def _recipe(layout: Layout, host: RunningHost) -> dict[str, Any]:
    if host.template is not None:
        lower = [rootfs.unpack_template(layout, host.suite, Path(host.template))]
    else:
        lower = [rootfs.layer_path(layout, host.suite), rootfs.base_path(layout, host.suite)]
    return {"lower": [path.name for path in lower], "profile": host.profile, "address": host.address}


def _host_key(layout: Layout, name: str) -> Path:
    """The host's private SSH key: made once, kept over re-installations as known_hosts would have it."""
    path = layout.keys / "hosts" / name
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", path])
    return path


def known_hosts_lines(layout: Layout, host: RunningHost) -> list[str]:
    """Return the host's lines of the known_hosts file."""
    kind, key = _host_key(layout, host.name).with_suffix(".pub").read_text().split()[:2]
    return [f"{host.name},{host.address} {kind} {key}"]


def mount(layout: Layout, host: RunningHost) -> None:
    """Mount the host's root, unless it is mounted."""
    directory = layout.host(host.name)
    root = directory / "root"
    if root.resolve() in mounts_below(directory.resolve()):
        return
    # those it was made from: the sources may have changed since
    made = read_json(directory / "made.json") or _recipe(layout, host)
    lower = [layout.cache / name for name in made["lower"]]
    mount_overlay(root, lower=lower, upper=directory / "upper", work=directory / "work")


def start(layout: Layout, host: RunningHost) -> bool:
    """Switch the host on; False when it runs already.

    Raises:
        MetalserveError: the host has not been made, or its drives cannot be attached.
    """
    with power.switch(layout, host.name):
        return _start(layout, host)


def _start(layout: Layout, host: RunningHost) -> bool:
    directory = layout.host(host.name)
    if "supervisor" in processes(layout, host.name):
        return False
    power.cut(layout, host.name)
    if not (directory / "made.json").exists():
        raise MetalserveError("the host has not been made", where=host.name, remedy="metalserve lab up")
    wrecks.power_was_cut(directory)
    mount(layout, host)
    bound = drives.attach(directory / "drives", drives.wanted(directory / "sim"))
    machine = {"command": wrecks.runs(directory, _command(layout, host, bound)), "namespace": layout.namespace,
               "port": layout.port_name(host.index),
               "cgroup": None if managed_by_systemd() else layout.machine_name(host.index)}  # fmt: skip
    write_json(directory / "machine.json", machine)
    (directory / "state.json").unlink(missing_ok=True)
    pid = spawn([sys.executable, "-m", "metalserve.lab.supervisor", str(directory)], log=directory / "supervisor.log")
    # it waits for this: who looks at the host from now on finds it, and who cuts the power ends it
    supervisor = ProcessId.of(pid)
    if supervisor is not None:
        begun = {"state": "starting", "boots": 0, "since": time.time(), "supervisor": vars(supervisor)}
        write_json(directory / "state.json", begun)
    return True


def spawn(command: list[str], *, log: Path) -> int:
    """Start a process that outlives this one; return its pid."""
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    return process.pid


def _command(layout: Layout, host: RunningHost, bound: list[tuple[str, str]]) -> list[str]:
    directory = layout.host(host.name)
    command = [
        "nsenter", f"--net={layout.namespace_path}",
        "systemd-nspawn", "--quiet", "--boot", f"--directory={directory / 'root'}",
        f"--machine={layout.machine_name(host.index)}", f"--hostname={host.name}",
        "--register=no", "--link-journal=no", "--resolv-conf=off", "--timezone=off",
        f"--network-bridge={network.BRIDGE}",
        "--capability=all", f"--drop-capability={_WITHHELD}",
        "--system-call-filter=@known bpf keyctl",
        f"--bind={directory / 'sim'}:/opt/metalserve-lab",
        f"--bind={directory / 'docker'}:/var/lib/docker",
    ]  # fmt: skip
    command += [f"--bind={loop}:{device}" for loop, device in bound]
    if managed_by_systemd():
        # systemd gives the machine a scope of its own (delegated); its device policy is closed unless opened, and
        # the simulation makes /dev/nvidia*
        command += ["--property=DeviceAllow=char-* rwm", "--property=DeviceAllow=block-* rwm"]
    else:
        command.append("--keep-unit")
    return command


def state_of(layout: Layout, host: RunningHost, *, timeout_s: float = 1.0) -> State:
    """Look at a host: its processes, then its SSH port."""
    directory = layout.host(host.name)
    if not (directory / "made.json").exists():
        return "absent"
    recorded: dict[str, Any] = read_json(directory / "state.json") or {}
    if not processes(layout, host.name):
        return "failed" if recorded.get("state") == "failed" else "stopped"
    if answers(host.address, timeout_s=timeout_s):
        return "up"
    return "booting" if time.time() - recorded.get("since", 0) < BOOT_GRACE_S else "unreachable"


def answers(address: str, *, timeout_s: float) -> bool:
    """Tell whether an SSH server greets at this address."""
    try:
        with socket.create_connection((address, 22), timeout=timeout_s) as connection:
            connection.settimeout(timeout_s)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def stop(layout: Layout, host: RunningHost, *, grace_s: float = 30.0) -> None:
    """Power the host off: in order, then by cutting the power after `grace_s` seconds (0: at once)."""
    if grace_s > 0 and shut_down(layout, host):
        deadline = time.monotonic() + grace_s
        while processes(layout, host.name) and time.monotonic() < deadline:
            time.sleep(0.1)
    cut_power(layout, host.name)


def shut_down(layout: Layout, host: RunningHost) -> bool:
    """Ask the host to power off in order, as its power button does; False when it does not run, or hangs."""
    first = leader(layout, host.name)
    return not wrecks.hangs(layout.host(host.name)) and first is not None and first.send(_POWER_OFF)


def reboot(layout: Layout, host: RunningHost) -> None:
    """Reboot the host in order, without its network.

    Raises:
        MetalserveError: it does not run.
    """
    first = leader(layout, host.name)
    if wrecks.hangs(layout.host(host.name)) or first is None or not first.send(_REBOOT):
        raise MetalserveError("the host does not run", where=host.name, remedy="metalserve lab start " + host.name)


def plug(layout: Layout, host: RunningHost, *, connected: bool) -> None:
    """Plug or unplug the host's network cable; an unplugged one stays so over reboots."""
    mark = layout.host(host.name) / "unplugged"
    if connected:
        mark.unlink(missing_ok=True)
    else:
        mark.touch()
    network.set_port(layout, layout.port_name(host.index), connected=connected)


def remove(layout: Layout, host: RunningHost) -> None:
    """Cut the host's power and remove it with its disks."""
    remove_directory(layout, host.name)


def remove_directory(layout: Layout, name: str) -> None:
    """Remove whatever there is of a host of this name, also after a crash."""
    directory = layout.host(name)
    cut_power(layout, name)
    unmount_below(directory)
    drives.detach_below(directory)
    shutil.rmtree(directory, ignore_errors=True)
