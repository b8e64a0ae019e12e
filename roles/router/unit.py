"""The systemd units of a router: pure text."""

from __future__ import annotations

from metalserve.routing.paths import CONFIGURATION, CONTROL, MASTER, RUN, SERVERS

HAPROXY = "/usr/sbin/haproxy"


def haproxy_unit(max_connections: int) -> str:
    """Return the unit of the router itself. It is ours, beside the distribution's: that one's file is not touched."""
    name, state = RUN.rpartition("/")[2], SERVERS.rpartition("/")[0].rpartition("/")[2]
    lines = [
        "# Written by metalserve (roles/router); changes here are undone by its next run.",
        "[Unit]",
        "Description=Router of the fleet's engines (HAProxy)",
        "After=network-online.target",
        "Wants=network-online.target",
        "",
        "[Service]",
        "Type=notify",
        f"SyslogIdentifier={name}",
        f"RuntimeDirectory={name}",
        "RuntimeDirectoryMode=0700",
        f"StateDirectory={state}",
        "StateDirectoryMode=0700",
        # HAProxy warns of a state file that is not there; "1" is its format's version, with no server in it.
        f"ExecStartPre=/bin/sh -c 'test -s {SERVERS} || echo 1 >{SERVERS}'",
        f"ExecStartPre={HAPROXY} -c -q -f {CONFIGURATION}",
        f"ExecStart={HAPROXY} -Ws -f {CONFIGURATION} -p {RUN}/haproxy.pid -S {MASTER},mode,600",
        # The new process begins with what the old one knew: a drained or dead replica gets nothing after a reload.
        f"ExecReload={CONTROL} reload $MAINPID",
        f"ExecStop=-{CONTROL} save",
        "KillMode=mixed",
        "SuccessExitStatus=143",
        "Restart=always",
        "RestartSec=1",
        # Each connection has two ends, and some more go to checks and sockets.
        f"LimitNOFILE={2 * max_connections + 1000}",
        "NoNewPrivileges=yes",
        "ProtectHome=yes",
        "ProtectSystem=full",
        "PrivateTmp=yes",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"
