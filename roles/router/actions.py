"""What is done to a router beside files and units: its certificate, and the load of a checked configuration."""

from __future__ import annotations

import base64
import shlex
from functools import partial

from metalserve.desired.model import Action
from metalserve.desired.node import Node
from metalserve.desired.observed import Observation
from metalserve.routing import paths
from metalserve.routing.status import parse_state
from metalserve.settings.router import RouterTlsSettings


def load(text: str, generation: str, section: str) -> Action:
    """Have HAProxy check the configuration, put it in the old one's place, and load it; connections go on.

    Args:
        text: the configuration.
        generation: digest of all that it loads; the running HAProxy repeats it.
        section: section of the observation that holds the router's state.
    """
    new = f"{paths.CONFIGURATION}.new"
    encoded = base64.encodebytes(text.encode()).decode().rstrip("\n")
    return Action(
        name=f"load router configuration {generation}",
        done=partial(_loaded, generation=generation, section=section),
        script=(
            f"ms_put {new} 0600 root root <<'MS_EOF'\n{encoded}\nMS_EOF\n"
            f"mkdir -p {paths.SERVERS.rpartition('/')[0]}; [ -s {paths.SERVERS} ] || echo 1 >{paths.SERVERS}\n"
            f"said=$(haproxy -c -f {new} 2>&1) || {{ printf '%s\\n' \"$said\" | grep -E 'ALERT|WARNING' || :; "
            "ms_fail 'haproxy refuses the configuration, the running one is left -> see the lines above'; }\n"
            f"mv -fT {new} {paths.CONFIGURATION}\n"
            "systemctl daemon-reload\n"
            f"{paths.CONTROL} load {generation}\n"
        ),
    )


def _loaded(observed: Observation, generation: str, section: str) -> bool:
    unit = observed.units.get(paths.UNIT)
    running = unit is not None and unit.active in ("active", "reloading")
    return (
        running
        and paths.CONFIGURATION in observed.files
        and parse_state(observed.text(section)).generation == generation
    )


def certificate(node: Node, tls: RouterTlsSettings) -> Action:
    """The certificate that others keep on the host, copied to where HAProxy reads it; or one made here."""
    if tls.path is not None:
        source = tls.path
        return Action(
            name=f"take over the certificate of {source}",
            done=partial(_same, path=source),
            script=(
                f"[ -s {shlex.quote(source)} ] || "
                f"ms_fail 'router.tls.path: {source} is not there -> have it made first, key and chain in one file'\n"
                f"base64 <{shlex.quote(source)} | ms_put {paths.CERTIFICATE} 0600 root root\n"
            ),
        )
    name = node.name if len(node.name) <= 60 else "router"
    return Action(
        name="make a self-signed certificate",
        done=_there,
        script=(
            "umask 077\nwork=$(mktemp -d)\n"
            f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 825 "
            f"-subj {shlex.quote(f'/CN={name}')} -keyout $work/key -out $work/cert 2>&1 || "
            "ms_fail 'openssl could not make a certificate'\n"
            f"cat $work/key $work/cert | base64 | ms_put {paths.CERTIFICATE} 0600 root root\nrm -rf $work\n"
        ),
    )


def _there(observed: Observation) -> bool:
    return paths.CERTIFICATE in observed.files


def _same(observed: Observation, path: str) -> bool:
    source, own = observed.files.get(path), observed.files.get(paths.CERTIFICATE)
    return source is not None and own is not None and source.sha256 == own.sha256


def end_prefix_units(observed: Observation, keep: frozenset[str]) -> tuple[Action, ...]:
    """End the vllm-routers of pools that are gone, or that are chosen for by HAProxy now."""
    begins = paths.PREFIX_GLOB.split("*")[0]
    return tuple(
        Action(
            name=f"end {path.rpartition('/')[2]}",
            phase="late",
            done=partial(_gone, path=path),
            script=(
                f"systemctl -q disable --now {path.rpartition('/')[2]} || :\nrm -f {path}\nsystemctl daemon-reload\n"
            ),
        )
        for path in sorted(observed.files)
        if path.startswith(begins) and path not in keep
    )


def _gone(observed: Observation, path: str) -> bool:
    return path not in observed.files
