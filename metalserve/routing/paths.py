"""Where a router's things lie on its host."""

from __future__ import annotations

DIRECTORY = "/etc/metalserve/router"
CONFIGURATION = f"{DIRECTORY}/haproxy.cfg"
CLIENT_KEYS = f"{DIRECTORY}/client-keys.map"
"""SHA-256 of each client's key, and whose it is."""

ENGINE_KEYS = f"{DIRECTORY}/engine-keys.map"
"""Pool, and the key that its engines ask for."""

CERTIFICATE = f"{DIRECTORY}/tls.pem"
RECORD = f"{DIRECTORY}/replicas.json"
"""The replicas of each host, for runs in which a host is not seen."""

RUN = "/run/metalserve-router"
SOCKET = f"{RUN}/admin.sock"
MASTER = f"{RUN}/master.sock"

SERVERS = "/var/lib/metalserve-router/servers"
"""State of the servers (up, down, draining) as it was last saved: what a new process begins with."""

CONTROL = "/usr/local/lib/metalserve/router-control"
UNIT = "metalserve-router.service"
PREFIX_GLOB = "/etc/systemd/system/metalserve-prefix-*.service"
"""Units of vllm-router, one a pool, where that chooses the replica."""

UNIT_PATH = f"/etc/systemd/system/{UNIT}"
