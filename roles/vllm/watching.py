"""The watch over a host's engines, and the beacon that tells a group's other hosts how this one's part is: pure."""

from __future__ import annotations

from metalserve.desired.model import Action, Desired, File, Unit
from metalserve.desired.node import Node
from metalserve.settings import ModelSettings
from roles.vllm import group
from roles.vllm.engine import address
from roles.vllm.paths import (
    AUTHORISATION,
    BEACON,
    BEACON_SERVICE_PATH,
    BEACON_SOCKET,
    BEACON_SOCKET_PATH,
    GROUP,
    UNIT_DIRECTORY,
    WATCH,
    WATCH_UNIT,
    WATCH_UNIT_PATH,
)
from roles.vllm.unit import quoted

_HEAD = "# Written by metalserve (roles/vllm); changes here are undone by its next run.\n"


def watching(node: Node, model: ModelSettings) -> Desired:
    """The watch, running; in a group the beacon too.

    Raises:
        MetalserveError: the host is not in its own group.
    """
    wish = Desired(
        files=(File(WATCH_UNIT_PATH, _watch(node, model)),),
        units=(Unit(WATCH_UNIT, restart_on=(WATCH_UNIT_PATH, WATCH, GROUP)),),
    )
    settings = node.settings.engine.group
    if settings is None:
        return wish + _no_beacon(node)
    own = settings.hosts.get(node.name, "")
    listen = f"[{own}]:{settings.state_port}" if ":" in own else f"{own}:{settings.state_port}"
    others = " ".join(a for name, a in settings.hosts.items() if name != node.name)
    socket = (
        f"{_HEAD}[Unit]\nDescription=State of this host's part of a group of vLLM engines\n\n"
        # FreeBind: the network between the hosts may come up after the socket.
        f"[Socket]\nListenStream={listen}\nFreeBind=true\nAccept=yes\nMaxConnections=32\n"
        f"IPAddressAllow=localhost {own} {others}\nIPAddressDeny=any\n\n[Install]\nWantedBy=sockets.target\n"
    )
    service = (
        f"{_HEAD}[Unit]\nDescription=Tell the state of this host's part of a group\nCollectMode=inactive-or-failed\n\n"
        f"[Service]\nExecStart=-{BEACON}\nStandardInput=socket\nStandardOutput=socket\nStandardError=journal\n"
        "RuntimeMaxSec=10\nLogLevelMax=warning\n"
    )
    return wish + Desired(
        files=(File(BEACON_SOCKET_PATH, socket), File(BEACON_SERVICE_PATH, service)),
        units=(Unit(BEACON_SOCKET, restart_on=(BEACON_SOCKET_PATH,)),),
    )


def _watch(node: Node, model: ModelSettings) -> str:
    engine = node.settings.engine
    values = {
        "MS_ADDRESS": address(engine),
        "MS_MODEL": model.served_as,
        "MS_AUTH": AUTHORISATION,
        "MS_PORT": str(engine.port),
        "MS_RUNTIME": engine.runtime,
        # Three looks at least within the time after which an engine counts as stalled.
        "MS_INTERVAL": str(max(2, min(5 if engine.group else 10, engine.stall_timeout_s // 6))),
        "MS_STALL": str(engine.stall_timeout_s),
        "MS_RESTARTS": str(engine.stall_restarts),
        **group.watch_variables(node),
    }
    variables = "".join(f"Environment={quoted(f'{key}={value}', dollar='$')}\n" for key, value in values.items())
    return (
        f"{_HEAD}[Unit]\nDescription=Watch over the vLLM engines: steps are made, GPUs stay attached\n"
        "After=network-online.target\nWants=network-online.target\n\n"
        f"[Service]\nType=exec\n{variables}ExecStart={WATCH}\nRestart=always\nRestartSec=10\n\n"
        "[Install]\nWantedBy=multi-user.target\n"
    )


def _no_beacon(node: Node) -> Desired:
    if not {BEACON_SOCKET_PATH, BEACON_SERVICE_PATH} & set(node.observed.files):
        return Desired()
    return Desired(actions=(_removal("remove the beacon: the host is in no group", BEACON_SOCKET),))


def nothing_watched(node: Node) -> tuple[Action, ...]:
    """Return what ends watch and beacon where nothing is served any more."""
    found = []
    if WATCH_UNIT_PATH in node.observed.files:
        found.append(_removal("remove the watch: nothing is served", WATCH_UNIT))
    return (*found, *_no_beacon(node).actions)


def _removal(name: str, unit: str) -> Action:
    paths = [f"{UNIT_DIRECTORY}/{unit}"] + ([BEACON_SERVICE_PATH] if unit == BEACON_SOCKET else [])
    return Action(
        name=name,
        phase="early",
        done=lambda seen: not any(path in seen.files for path in paths),
        script=f"systemctl -q disable --now {unit} || :\nrm -f {' '.join(paths)}\nsystemctl daemon-reload\n",
    )
