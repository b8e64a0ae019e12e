"""What `router` wants of a host: pure. HAProxy with the replicas of the serving hosts, running what is wanted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from metalserve.catalogue.vllm_router import VERSION
from metalserve.desired.model import Action, Desired, Directory, File, Package, Unit, Watch
from metalserve.desired.node import Node
from metalserve.desired.observed import Observation
from metalserve.errors import MetalserveError
from metalserve.paths import FILES
from metalserve.releases import Release
from metalserve.routing import paths
from metalserve.routing.haproxy import Facts, configuration
from metalserve.routing.pools import Peer, Pool, pools, recorded, shared_key
from metalserve.routing.pools import record as recording
from metalserve.routing.prefix import arguments, assign
from metalserve.routing.status import parse_state, summary
from metalserve.secrets import resolve, resolve_pem
from metalserve.settings import HostSettings, RouterSettings
from metalserve.verify.finding import Finding
from roles.router.actions import certificate, end_prefix_units, load
from roles.router.unit import haproxy_unit, prefix_unit, prefix_unit_name
from roles.vllm.paths import UNIT_GLOB, replica_of

STATE_SECTION = "router-state"
RECORD_SECTION = "router-replicas"
DISTRIBUTION_SECTION = "router-distribution"
DISTRIBUTION_UNIT = "haproxy.service"
OLDEST = (2, 4)
"""HAProxy that the configuration is written for: 2.4 brought json_query and wait-for-body."""


def watch(settings: HostSettings, release: Release) -> Watch:
    """What an observation must look at: the engines' units on any host, the router's own things on a router."""
    engines = Watch(paths=(UNIT_GLOB,))
    if settings.router is None:
        return engines | Watch(paths=(paths.UNIT_PATH, paths.PREFIX_GLOB), units=(paths.UNIT,))
    given = settings.router.tls
    own = [] if given is None or given.path is None else [given.path]
    if settings.router.engine == "vllm-router":
        own.append(settings.router.vllm_router)
    return engines | Watch(
        paths=(f"{paths.DIRECTORY}/*", paths.DIRECTORY, paths.CONTROL, paths.UNIT_PATH, paths.PREFIX_GLOB, *own),
        units=(paths.UNIT, DISTRIBUTION_UNIT, paths.PREFIX_GLOB.rpartition("/")[2]),
        commands={
            STATE_SECTION: f"{paths.CONTROL} state",
            RECORD_SECTION: f"cat {paths.RECORD}",
            # Whether the operator runs a HAProxy of their own: its configuration is not the package's then.
            DISTRIBUTION_SECTION: "dpkg --verify haproxy",
        },
    )


def peer(name: str, address: str, settings: HostSettings, observed: Observation | None) -> Peer:
    """Return a host of the inventory as the router needs it."""
    replicas = None
    if observed is not None:
        numbers = (replica_of(path) for path in observed.files if path.startswith(UNIT_GLOB.split("*")[0]))
        replicas = tuple(sorted(number for number in numbers if number is not None))
    return Peer(name, address, settings, replicas)


def install(node: Node) -> Desired:
    """HAProxy of the distribution, and the script that speaks to it."""
    if node.settings.router is None:
        return Desired()
    tls = node.settings.router.tls
    names = ["haproxy", "socat", *(["openssl"] if tls is not None and tls.self_signed else [])]
    return Desired(
        packages=tuple(Package(name) for name in names),
        files=(File(paths.CONTROL, (FILES / "router" / "control.sh").read_text(), mode="0755"),),
    )


def configure(node: Node, peers: Sequence[Peer]) -> Desired:
    """Keys, certificate and the record of the replicas; what holds a key is root's alone.

    Raises:
        MetalserveError: replicas are not known, or a key cannot be read.
    """
    router = node.settings.router
    if router is None:
        return Desired()
    found = _pools(node, router, peers)
    files, actions = [], []
    for path, content in _secret_files(router, found, peers).items():
        files.append(File(path, content, mode="0600", secret=True))
    files.append(File(paths.RECORD, recording(found)))
    if router.tls is not None:
        if router.tls.pem is not None:
            files.append(File(paths.CERTIFICATE, resolve_pem(router.tls.pem).reveal(), mode="0600", secret=True))
        else:
            actions.append(certificate(node, router.tls))
    return Desired(directories=(Directory(paths.DIRECTORY, mode="0700"),), files=tuple(files), actions=tuple(actions))


def route(node: Node, peers: Sequence[Peer]) -> Desired:
    """The configuration, checked by HAProxy before it takes the running one's place, and loaded without a gap.

    Raises:
        MetalserveError: HAProxy is too old, or replicas are not known.
    """
    router = node.settings.router
    if router is None:
        return _removal(node)
    _refuse_old(node)
    text, generation = configured(node, router, peers)
    wish = Desired(
        files=(File(paths.UNIT_PATH, haproxy_unit(router.max_connections)),),
        units=(*_distribution(node), Unit(paths.UNIT, restart_on=(paths.UNIT_PATH,))),
        actions=(load(text, generation, STATE_SECTION),),
    )
    return wish + _prefix(node, router, _pools(node, router, peers))


def _prefix(node: Node, router: RouterSettings, found: Sequence[Pool]) -> Desired:
    """One vllm-router a pool where it chooses the replica, and none where it does not."""
    ports = assign(router, found)
    if ports and router.vllm_router not in node.observed.files:
        raise MetalserveError(
            f"{router.vllm_router} is not on the host",
            where="router.engine",
            remedy=f"install vllm-router {VERSION} there: python3 -m venv /opt/metalserve/vllm-router && "
            f"/opt/metalserve/vllm-router/bin/pip install vllm-router=={VERSION}",
        )
    units = {name: prefix_unit(name, router.vllm_router, arguments(router, each)) for name, each in ports.items()}
    place = paths.PREFIX_GLOB.rpartition("/")[0]
    wanted = {f"{place}/{prefix_unit_name(name)}": text for name, text in units.items()}
    return Desired(
        files=tuple(File(path, text) for path, text in wanted.items()),
        units=tuple(Unit(path.rpartition("/")[2], restart_on=(path,)) for path in wanted),
        actions=end_prefix_units(node.observed, keep=frozenset(wanted)),
    )


def configured(node: Node, router: RouterSettings, peers: Sequence[Peer]) -> tuple[str, str]:
    """Return HAProxy's configuration and the digest of all that it loads: text, keys and certificate."""
    found = _pools(node, router, peers)
    secrets = _secret_files(router, found, peers)
    with_key = frozenset(pool.name for pool in found if _engine_key(pool, router, peers) is not None)
    ports = assign(router, found)
    parts = [configuration(router, found, Facts("0" * 16, with_key, ports)), *secrets.values()]
    if router.tls is not None:
        pem = router.tls.pem
        seen = node.observed.files.get(paths.CERTIFICATE)
        parts.append(resolve_pem(pem).reveal() if pem is not None else seen.sha256 if seen is not None else "")
    generation = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    return configuration(router, found, Facts(generation, with_key, ports)), generation


def _pools(node: Node, router: RouterSettings, peers: Sequence[Peer]) -> tuple[Pool, ...]:
    return pools(router, peers, own=node.name, before=recorded(node.observed.text(RECORD_SECTION)))


def _secret_files(router: RouterSettings, found: Sequence[Pool], peers: Sequence[Peer]) -> Mapping[str, str]:
    clients = []
    for key in router.keys:
        digest = hashlib.sha256(resolve(key.key).reveal().encode()).hexdigest().upper()
        clients.append(f"{digest} {key.name}")
    if len({line.split(" ")[0] for line in clients}) != len(clients):
        raise MetalserveError("two of them are the same key", where="router.keys", remedy="give each client its own")
    engines = [(pool.name, _engine_key(pool, router, peers)) for pool in found]
    return {
        paths.CLIENT_KEYS: "".join(f"{line}\n" for line in clients),
        paths.ENGINE_KEYS: "".join(f"{name} {key}\n" for name, key in engines if key is not None),
    }


def _engine_key(pool: Pool, router: RouterSettings, peers: Sequence[Peer]) -> str | None:
    refs = {peer.name: peer.settings.engine.api_key for peer in peers if peer.name in pool.hosts}
    refs |= {given.name: given.api_key for given in router.backends if given.model == pool.model}
    return shared_key(pool, {host: resolve(ref).reveal() if ref is not None else None for host, ref in refs.items()})


def _refuse_old(node: Node) -> None:
    version = node.observed.version_of("haproxy")
    if version is None:
        return  # the package is about to be installed
    numbers = version.rpartition(":")[2].split(".")
    if len(numbers) > 1 and all(n.isdigit() for n in numbers[:2]) and (int(numbers[0]), int(numbers[1])) < OLDEST:
        raise MetalserveError(
            f"HAProxy {version} is older than {OLDEST[0]}.{OLDEST[1]}",
            where="router",
            remedy="use Ubuntu 22.04, Debian 12 or newer, or a newer haproxy package",
        )


def _distribution(node: Node) -> tuple[Unit, ...]:
    """The package's own service is not needed; one that the operator configured is theirs and stays."""
    theirs = "/etc/haproxy/haproxy.cfg" in node.observed.text(DISTRIBUTION_SECTION)
    return () if theirs else (Unit(DISTRIBUTION_UNIT, running=False, enabled=False, optional=True),)


def _removal(node: Node) -> Desired:
    """A host that is no router any more answers no clients; its keys go with it."""
    prefix = end_prefix_units(node.observed, keep=frozenset())
    if paths.UNIT_PATH not in node.observed.files:
        return Desired(actions=prefix)
    return Desired(
        actions=(
            *prefix,
            Action(
                name="end the router, which this host is no longer",
                phase="early",
                done=lambda observed: paths.UNIT_PATH not in observed.files,
                script=(
                    f"systemctl -q disable --now {paths.UNIT} || :\nrm -rf {paths.UNIT_PATH} {paths.DIRECTORY}\n"
                    f"systemctl daemon-reload\nsystemctl reset-failed {paths.UNIT} 2>/dev/null || :\n"
                ),
            ),
        )
    )


def check(node: Node) -> Sequence[Finding]:
    """Prove that the router runs and that each model has a replica that gives tokens."""
    if node.settings.router is None:
        return ()
    state = parse_state(node.observed.text(STATE_SECTION))
    findings = [
        Finding(
            check="router-answers",
            status="ok" if state.generation else "fail",
            subject=node.name,
            expected="HAProxy answers on its socket",
            observed=f"configuration {state.generation}" if state.generation else "no answer",
            impact="no client reaches the fleet",
            remedy=f"journalctl -u {paths.UNIT} -n 50",
            source="router-control state",
        )
    ]
    for pool in dict.fromkeys(replica.pool for replica in state.replicas):
        replicas = state.of(pool)
        up = [replica for replica in replicas if replica.up]
        # One that was drained is meant to be out.
        lost = [replica for replica in replicas if replica.status not in ("up", "drain")]
        findings.append(
            Finding(
                check="replicas-ready",
                status="fail" if not up else "warn" if lost else "ok",
                subject=pool,
                expected="each replica gives a token",
                observed=summary(replicas),
                impact="requests fail" if not up else "fewer replicas share the load" if lost else "",
                remedy="see the replica's host: journalctl -u 'metalserve-vllm-*' -n 50",
                source="readiness checks of the router",
            )
        )
    return findings


def in_words(node: Node) -> str:
    """Return the proved line of the report."""
    state = parse_state(node.observed.text(STATE_SECTION))
    names = dict.fromkeys(replica.pool for replica in state.replicas)
    return "; ".join(f"{name.removeprefix('model-')}: {summary(state.of(name))}" for name in names)


__all__ = ["check", "configure", "configured", "in_words", "install", "peer", "route", "watch"]
