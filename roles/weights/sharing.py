"""How the hosts of a fleet share a model: packages, certificates, the torrent, and who gives to whom. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from metalserve.desired.model import Action, Desired, Directory, File, Package, Unit, Watch
from metalserve.desired.node import Node
from metalserve.desired.observed import Observation
from metalserve.secrets import resolve
from metalserve.settings import HostSettings
from metalserve.verify.finding import Finding
from metalserve.weights import units
from metalserve.weights.agent.config import SwarmConfig
from metalserve.weights.credentials import credentials_of
from metalserve.weights.host import config_path, key_of
from metalserve.weights.manifest import load_manifest
from metalserve.weights.sharing import (
    CREDENTIALS,
    Member,
    read_torrent,
    sharing,
    swarm_config,
    torrent_file,
    torrent_path,
    torrent_text,
)

ENGINE = "python3-libtorrent"


def shares(settings: HostSettings) -> bool:
    """Tell whether a host shares its model with others."""
    return settings.model is not None and settings.staging.distribution == "swarm"


def watch(settings: HostSettings) -> Watch:
    """What an observation must look at for the swarm."""
    model = settings.model
    if model is None or not shares(settings):
        return Watch()
    return Watch(paths=(CREDENTIALS, f"{CREDENTIALS}/*"), units=(units.seed_name(key_of(model)),))


def config_of(node: Node, members: Sequence[Member]) -> SwarmConfig | None:
    """Return what the agent is told of the swarm; None: it fetches directly, since nothing is shared or no torrent is.

    Raises:
        MetalserveError: a host has no address in the private network, or the torrent is of other files.
    """
    model = node.settings.model
    if model is None or not shares(node.settings) or read_torrent(model, load_manifest(model.manifest)) is None:
        return None
    return swarm_config(node.name, model, members)


def configure(node: Node) -> Desired:
    """The engine, the certificates of this host, and the torrent.

    Raises:
        MetalserveError: the secret cannot be read, or the torrent is of other files.
    """
    model, secret = node.settings.model, node.settings.staging.swarm_secret
    unit = f"{units.DIRECTORY}/{units.SEED}@.service"
    nothing = Desired(files=(File(unit, None),) if unit in node.observed.files else ())
    if model is None or secret is None or not shares(node.settings):
        return nothing
    torrent = read_torrent(model, load_manifest(model.manifest))
    if torrent is None:
        return nothing
    keys = credentials_of(resolve(secret).reveal(), node.name)
    return Desired(
        packages=(Package(ENGINE),),
        directories=(Directory(CREDENTIALS, mode="0700"),),
        files=(
            File(f"{CREDENTIALS}/ca.pem", keys.authority),
            File(f"{CREDENTIALS}/cert.pem", keys.certificate),
            File(f"{CREDENTIALS}/key.pem", keys.key, mode="0600", secret=True),
            File(torrent_path(key_of(model)), torrent_text(torrent, keys.authority)),
        ),
    )


def give(
    node: Node, others: Sequence[tuple[Member, Observation | None]], has_it: Callable[[Observation], bool]
) -> Desired:
    """Let a host that has the model give it, as long as another one that shares it does not have it.

    Args:
        node: the host.
        others: the hosts of the inventory, and what was seen of them.
        has_it: whether a host has the model, by what was seen of it.
    """
    model = node.settings.model
    if model is None or not shares(node.settings) or not has_it(node.observed):
        return Desired()
    known = {member.name for member in sharing((member for member, _ in others), model)}
    lacking = [
        member.name
        for member, seen in others
        if member.name in known and member.name != node.name and seen is not None and not has_it(seen)
    ]
    name = units.seed_name(key_of(model))
    if not lacking or node.settings.staging.seed_minutes == 0 or torrent_path(key_of(model)) not in node.observed.files:
        return Desired()
    return Desired(
        actions=(
            Action(
                name=f"give {model.name}@{model.revision[:12]} to {len(lacking)} host(s) that lack it",
                why=", ".join(lacking[:3]),
                phase="late",
                done=lambda seen: seen.units.get(name) is not None and seen.units[name].active == "active",
                script=f"systemctl start {name}\n",
            ),
        )
    )


def renew(node: Node) -> Desired:
    """A host that gives is told of hosts that came or went."""
    model = node.settings.model
    if model is None or not shares(node.settings):
        return Desired()
    name = units.seed_name(key_of(model))
    seen = node.observed.units.get(name)
    if seen is None or seen.active != "active":
        return Desired()
    paths = (config_path(key_of(model)), torrent_path(key_of(model)), f"{CREDENTIALS}/cert.pem")
    return Desired(units=(Unit(name, running=True, enabled=None, restart_on=paths),))


def check(node: Node) -> Sequence[Finding]:
    """Say when hosts would share, but have no torrent to do it by."""
    model = node.settings.model
    if model is None or not shares(node.settings) or torrent_file(model).exists():
        return ()
    return (
        Finding(
            check="sharing",
            status="warn",
            subject=f"{model.name}@{model.revision[:12]}",
            expected=f"{torrent_file(model).name} beside the manifest, since staging.distribution is 'swarm'",
            observed="none",
            impact="every host fetches everything from the source",
            remedy="metalserve weights torrent MANIFEST --from DIR, or --host NAME INVENTORY once one host has it",
            source=str(model.manifest),
        ),
    )


__all__ = ["check", "config_of", "configure", "give", "renew", "shares", "watch"]
