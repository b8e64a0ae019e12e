"""The lab's network: a namespace with a bridge in it, and one veth pair to the machine.

Hosts live on the bridge; nothing is routed or masqueraded, so a lab host reaches the lab and nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path

from metalserve.lab.layout import Layout
from metalserve.lab.system import run

BRIDGE = "br0"
CONTROLLER_PORT = "controller"


def up(layout: Layout) -> bool:
    """Make namespace, bridge and the controller's link, as far as they are missing.

    Returns:
        Whether the namespace is a new one: what still runs in a lost one (it lives on without a name) cannot be
        reached any more, the file service and hosts must be started anew.
    """
    space = layout.namespace
    fresh = not layout.namespace_path.exists()
    if fresh:
        run(["ip", "netns", "add", space])
    inside = ["ip", "-n", space]
    if not _has_link([*inside, "link", "show", BRIDGE]):
        run([*inside, "link", "add", BRIDGE, "type", "bridge", "forward_delay", "0", "stp_state", "0"])
        run([*inside, "address", "add", f"{layout.service_address}/24", "dev", BRIDGE])
        run([*inside, "link", "set", "lo", "up"])
        run([*inside, "link", "set", BRIDGE, "up"])
    if not _has_link([*inside, "link", "show", CONTROLLER_PORT]):
        run(["ip", "link", "delete", layout.controller_link], check=False)  # its other end is in a lost namespace
        peer = ["peer", "name", CONTROLLER_PORT, "netns", space]
        run(["ip", "link", "add", layout.controller_link, "type", "veth", *peer])
        run([*inside, "link", "set", CONTROLLER_PORT, "master", BRIDGE, "up"])
        run(["ip", "address", "add", f"{layout.controller_address}/24", "dev", layout.controller_link])
        run(["ip", "link", "set", layout.controller_link, "up"])
    return fresh


def down(layout: Layout) -> None:
    """Remove the lab's links and its namespace."""
    run(["ip", "link", "delete", layout.controller_link], check=False)
    if layout.namespace_path.exists():
        run(["ip", "netns", "delete", layout.namespace], check=False)


def set_port(layout: Layout, port: str, *, connected: bool) -> bool:
    """Plug or unplug a host's cable; False when the host has no port now (it is not running)."""
    done = run(["ip", "-n", layout.namespace, "link", "set", port, "up" if connected else "down"], check=False)
    return done.returncode == 0


def addresses_in_use(layout: Layout) -> Path | None:
    """Return the route file entry when the machine itself already uses the lab's network, else `None`."""
    routes = run(["ip", "-4", "-json", "route", "show"], check=False).stdout or "[]"
    for route in json.loads(routes):
        if route.get("dst", "").startswith(f"{layout.network}.") and route.get("dev") != layout.controller_link:
            return Path(str(route.get("dev")))
    return None


def _has_link(command: list[str]) -> bool:
    return run(command, check=False).returncode == 0
