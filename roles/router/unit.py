"""The systemd units of a router: pure text."""

from __future__ import annotations

from collections.abc import Sequence

from metalserve.routing.paths import CONFIGURATION, CONTROL, MASTER, PREFIX_GLOB, RUN, SERVERS

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
        f"ExecStartPre={HAPROXY} -c -f {CONFIGURATION}",
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


def prefix_unit_name(pool: str) -> str:
    """Return the name of the unit of a pool's vllm-router."""
    return PREFIX_GLOB.rpartition("/")[2].replace("*", pool)


def prefix_unit(pool: str, program: str, arguments: Sequence[str]) -> str:
    """Return the unit of a pool's vllm-router: on loopback only, without a key, as nobody in particular."""
    lines = [
        "# Written by metalserve (roles/router); changes here are undone by its next run.",
        "[Unit]",
        f"Description=vllm-router of {pool}: chooses the replica that has a prompt's prefix",
        "After=network-online.target metalserve-router.service",
        "",
        "[Service]",
        "Type=exec",
        "DynamicUser=yes",
        "ExecStart=" + " \\\n    ".join([program, *_lines(arguments)]),
        # It ends when no replica is ready within ten minutes of its start, and is to try again.
        "Restart=always",
        "RestartSec=2",
        "NoNewPrivileges=yes",
        "ProtectHome=yes",
        "ProtectSystem=strict",
        "PrivateTmp=yes",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def _lines(arguments: Sequence[str]) -> list[str]:
    lines: list[str] = []
    for word in arguments:
        if word.startswith("--") or not lines:
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    return lines
