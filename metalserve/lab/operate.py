"""What is done to the hosts of a lab that is up: log in, look, switch, break and heal."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from metalserve.errors import MetalserveError
from metalserve.lab import delay as links
from metalserve.lab import faults, hosts, power, wrecks
from metalserve.lab.fleet import RunningHost, running_fleet
from metalserve.lab.layout import Layout
from metalserve.lab.system import check_machine, read_json, run

BOOT_TIMEOUT_S = 120.0


def wait_until_up(layout: Layout, wanted: Iterable[RunningHost], timeout_s: float = BOOT_TIMEOUT_S) -> None:
    """Wait until every host has booted: SSH greets and systemd has started everything.

    Raises:
        MetalserveError: a host failed or was not up in time; names its console log.
    """
    deadline = time.monotonic() + timeout_s
    for host in wanted:
        log = layout.host(host.name) / "console.log"
        if (layout.host(host.name) / "unplugged").exists():
            continue
        while (state := hosts.state_of(layout, host, timeout_s=0.5)) != "up":
            # `stopped` is what a host is for the moment until its supervisor has written otherwise
            if state in ("failed", "absent") or time.monotonic() > deadline:
                raise MetalserveError(f"the host did not boot ({state})", where=host.name, remedy=f"see {log}")
            time.sleep(0.1)
        left = max(1.0, deadline - time.monotonic())
        ssh(layout, host, "timeout 60 systemctl is-system-running --wait >/dev/null", timeout_s=left)


def ssh_command(layout: Layout, host: RunningHost) -> list[str]:
    """Return the ssh command line that reaches a host with strict checking of its key."""
    options = {
        "IdentityFile": str(layout.ssh_key),
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": str(layout.known_hosts),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "HostKeyAlgorithms": "ssh-ed25519",
        "ConnectTimeout": "10",
        "LogLevel": "ERROR",
    }
    words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    return ["ssh", "-F", "none", *words, f"root@{host.address}"]


def ssh(layout: Layout, host: RunningHost, command: str, *, timeout_s: float | None = None) -> tuple[int, str, str]:
    """Run a command on a host; return its exit status (255: no connection), stdout and stderr."""
    line = [*ssh_command(layout, host), command]
    try:
        done = run(line, check=False, timeout=timeout_s, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise MetalserveError(f"no answer within {timeout_s:.0f} s to: {command}", where=host.name) from error
    return done.returncode, done.stdout, done.stderr


def status(layout: Layout) -> list[dict[str, Any]]:
    """Look at every host: name, address, state, profile, suite, boots, names of its faults."""

    def one(host: RunningHost) -> dict[str, Any]:
        recorded = read_json(layout.host(host.name) / "state.json") or {}
        active = [
            f"{each['kind']}{' gpu ' + str(each['gpu']) if 'gpu' in each else ''}"
            for each in faults.active(layout.host(host.name))
        ]
        return {
            **host.model_dump(include={"name", "address", "profile", "suite"}),
            "state": hosts.state_of(layout, host),
            "boots": recorded.get("boots", 0),
            "faults": active,
            "simulated": True,
        }

    fleet = running_fleet(layout)
    with ThreadPoolExecutor(max_workers=16) as pool:
        return list(pool.map(one, fleet.hosts))


def start(layout: Layout, name: str) -> None:
    """Switch a host on and wait until it has booted."""
    check_machine()
    host = running_fleet(layout).host(name)
    hosts.start(layout, host)
    wait_until_up(layout, [host])


def reboot(layout: Layout, host: RunningHost, *, wait: bool = True) -> None:
    """Reboot a host; with `wait`, return when it has booted again.

    Raises:
        MetalserveError: it does not run, or is not back in time.
    """
    file = layout.host(host.name) / "state.json"
    boots = (read_json(file) or {}).get("boots", 0)
    hosts.reboot(layout, host)
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    while wait and (read_json(file) or {}).get("boots", 0) == boots:
        if time.monotonic() > deadline:
            raise MetalserveError(
                "the host did not go down", where=host.name, remedy=f"metalserve lab stop {host.name} --now"
            )
        time.sleep(0.1)
    if wait:
        wait_until_up(layout, [host])


def fault(
    layout: Layout, host: RunningHost, kind: str, gpu: int | None = None, *, sticky: bool = False
) -> dict[str, Any]:
    """Begin a fault; those from outside the host (its cable) act here."""
    entry = faults.inject(layout.host(host.name), kind, gpu, sticky=sticky)
    if kind == "unreachable":
        hosts.plug(layout, host, connected=False)
    elif kind == "host-hang":
        wrecks.hang(layout.host(host.name))
        hosts.plug(layout, host, connected=False)
    elif kind == "filesystem-destroyed":
        wrecks.destroy(layout.host(host.name))
        _power_anew(layout, host)
    return entry


def heal(layout: Layout, host: RunningHost, kind: str | None = None) -> list[dict[str, Any]]:
    """End a host's faults, or those of one kind; returns those that ended."""
    ended = faults.heal(layout.host(host.name), kind)
    if kind in (None, "unreachable", "host-hang"):
        wrecks.unhang(layout.host(host.name))
        hosts.plug(layout, host, connected=True)
    if kind in (None, "filesystem-destroyed") and wrecks.restore(layout.host(host.name)):
        _power_anew(layout, host)
    return ended


def _power_anew(layout: Layout, host: RunningHost) -> None:
    power.cut_power(layout, host.name)
    hosts.start(layout, host)


def delay(layout: Layout, milliseconds: float) -> str:
    """Set the delay of the link to the hosts; returns a sentence that says what was done."""
    check_machine()
    running_fleet(layout)
    method = links.set_delay(layout, milliseconds)
    if method == "none":
        return "no delay"
    how = "the kernel's netem" if method == "netem" else "a process of the lab's: this kernel has no netem"
    return f"{milliseconds:g} ms added to each round trip between this machine and the hosts (by {how})"
