"""IMEX on the trays of rack-scale systems (GB200, GB300 NVL72), whose fabric manager runs on the switch trays. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from metalserve.desired.model import Desired, Directory, File, Package, Unit, Watch
from metalserve.desired.node import Node
from metalserve.driver.packages import fabric_packages
from metalserve.errors import MetalserveError
from metalserve.hardware.parsers.imex import ImexStatus, parse_imex_status
from metalserve.hardware.parsers.text import ParseError
from metalserve.releases import Release
from metalserve.settings import HostSettings
from metalserve.verify.finding import Finding, Status

UNIT = "nvidia-imex.service"
NODES = "/etc/nvidia-imex/nodes_config.cfg"
CONFIG = "/etc/nvidia-imex/config.cfg"
DPKG_LISTS = "/var/lib/dpkg/info/"
GUIDE = "docs.nvidia.com/multi-node-nvlink-systems/imex-guide"
STATUS_SECTION, ADDRESS_SECTION = "imex-status", "host-addresses"


def package(release: Release) -> Package:
    """Return the package of IMEX, which stops at any driver but its own version, as fabric manager does."""
    # Its name follows fabric manager's: with the branch up to 575, without it from 580 on.
    manager = fabric_packages(release.driver.branch, release.driver.version, nvlsm=False)[0]
    return Package(manager.name.replace("fabricmanager", "imex"), manager.version)


def watch(settings: HostSettings, release: Release) -> Watch:
    """What an observation must look at; nothing for hosts that name no domain."""
    if not settings.fabric.imex_nodes:
        return Watch()
    return Watch(
        paths=(NODES, CONFIG, f"{DPKG_LISTS}{package(release).name}.list"),
        units=(UNIT,),
        commands={STATUS_SECTION: "timeout 20 nvidia-imex-ctl -N", ADDRESS_SECTION: "hostname -I"},
    )


def install(node: Node) -> Desired:
    """IMEX of the driver's version, and the list of the domain's trays.

    Raises:
        MetalserveError: the domain's trays are not named, or this one is not among them.
    """
    nodes = _nodes(node)
    return Desired(
        packages=(package(node.release),),
        directories=(Directory(NODES.rpartition("/")[0]),),
        # No comment in it: the guide allows addresses only, one a line, the same file on every tray.
        files=(File(NODES, "".join(f"{address}\n" for address in nodes)),),
    )


def activate(node: Node) -> Desired:
    """The service, started anew when the list of trays or its package changed."""
    listing = f"{DPKG_LISTS}{package(node.release).name}.list"
    return Desired(units=(Unit(UNIT, restart_on=(NODES, CONFIG, listing)),))


def _nodes(node: Node) -> list[str]:
    nodes = node.settings.fabric.imex_nodes
    if not nodes:
        raise MetalserveError(
            "this host is a tray of a rack-scale system, and the trays of its NVLink domain are not named",
            where="fabric.imex_nodes",
            remedy="give the addresses of all trays of the domain, the same list on each of them",
        )
    own = node.observed.text(ADDRESS_SECTION).split()
    if own and not set(own) & set(nodes):
        raise MetalserveError(
            f"none of this host's addresses ({', '.join(own)}) is in it",
            where="fabric.imex_nodes",
            remedy="add the address by which the other trays reach this one",
        )
    return nodes


def findings(node: Node) -> Sequence[Finding]:
    """Prove the service alive, this tray ready, and tell which trays of the domain are not."""
    unit = node.observed.units.get(UNIT)
    alive = _finding(
        node,
        "imex-alive",
        "ok" if unit is not None and unit.active == "active" else "fail",
        f"{UNIT} active",
        f"{unit.active} ({unit.result or unit.sub})" if unit is not None else "absent",
        f"`journalctl -u {UNIT}` and /var/log/nvidia-imex.log tell why it stopped",
    )
    try:
        status = parse_imex_status(node.observed.text(STATUS_SECTION))
    except ParseError as error:
        words = f"not read: {error}"
        return (alive, _finding(node, "imex-ready", "unknown", "READY", words, "run `nvidia-imex-ctl -N` on the host"))
    return (alive, _ready(node, status), _domain(node, status))


def _ready(node: Node, status: ImexStatus) -> Finding:
    own = [a for a in node.observed.text(ADDRESS_SECTION).split() if a in status.nodes]
    states = ", ".join(f"{address} {status.nodes[address]}" for address in own)
    good: Status = "ok" if own and all(status.nodes[a] == "READY" for a in own) else "fail"
    remedy = f"see {NODES} and that the trays reach each other on the port that {CONFIG} names"
    return _finding(node, "imex-ready", good, "this tray READY", states or "this tray is not in the domain", remedy)


def _domain(node: Node, status: ImexStatus) -> Finding:
    wanted = node.settings.fabric.imex_nodes
    waiting = [f"{a} {status.nodes.get(a, 'not in it')}" for a in wanted if status.nodes.get(a) != "READY"]
    good = not waiting and status.domain == "UP"
    observed = f"domain {status.domain or 'unknown'}" + (f"; {', '.join(waiting)}" if waiting else "")
    # A warning: this tray serves by itself; programs that span trays need the others, which may still be set up.
    remedy = "set up the trays that are named; a tray that stays away needs its own run of this role"
    return _finding(
        node, "imex-domain", "ok" if good else "warn", f"domain UP, {len(wanted)} trays READY", observed, remedy
    )


def _finding(node: Node, check: str, status: Status, expected: str, observed: str, remedy: str) -> Finding:
    return Finding(
        check=check,
        status=status,
        subject=node.name,
        expected=expected,
        observed=observed,
        impact="programs that use GPUs of several trays fail",
        remedy=remedy,
        source=GUIDE,
    )
