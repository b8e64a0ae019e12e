"""What is done to engines beside their units: begun behind the gate, revived when stuck, removed when unplanned."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from functools import partial

from metalserve.desired.model import Action
from metalserve.desired.node import Node
from metalserve.desired.observed import Observation
from roles.vllm.answers import Answer, answers
from roles.vllm.paths import (
    CACHE,
    GATE,
    LAUNCHES,
    PROBE,
    PROVEN,
    UNVERIFIED,
    container_name,
    replica_of,
    unit_name,
    unit_path,
)
from roles.vllm.replacing import GROUP_UNIT, exports, running
from roles.vllm.unit import EngineUnit


def begin(observed: Observation, units: Sequence[EngineUnit], texts: Mapping[int, str]) -> tuple[Action, ...]:
    """Ask the gate of each engine, then begin the starts without waiting for them; nothing when all have begun.

    The gate's reason is then what the run says, not "the unit did not start"; and the gates are asked and the engines
    load side by side, since the units' own start, which comes next, only waits for what was begun here. One that is
    refused keeps no other from starting. A run that comes here has proved the roles before this one: a node just made
    from a template counts as verified.

    Args:
        observed: the host.
        units: the engines.
        texts: their unit files, by replica.
    """
    digests = {number: hashlib.sha256(text.encode()).hexdigest() for number, text in texts.items()}
    left = [unit for unit in units if not _begun(observed, unit, digests[unit.replica])]
    if not left:
        return ()
    engines = ", ".join(f"{unit.replica} on GPU {','.join(map(str, unit.gpus))}" for unit in left)
    asked = "".join(f"(\n{exports(unit)}export MS_MEMORY=0\n{GATE}\n) >$ms_gates/{unit.replica} 2>&1 &\n"
                    f"ms_{unit.replica}=$!\n" for unit in left)  # fmt: skip
    return (
        Action(
            name=f"begin engine {engines}, if driver, fabric and weights are right",
            done=lambda seen: all(_begun(seen, unit, digests[unit.replica]) for unit in left),
            script=(
                f"rm -f {UNVERIFIED}\nsystemctl daemon-reload\nms_gates=$(mktemp -d)\n"
                f"trap 'rm -rf \"$ms_gates\"' EXIT\n{asked}"
                + "".join(_start(observed, unit, digests[unit.replica]) for unit in left)
                + '[ -z "${ms_refused:-}" ] || { cat $ms_refused; exit 1; }\n'
            ),
        ),
    )


def _start(observed: Observation, unit: EngineUnit, digest: str) -> str:
    name, number = unit_name(unit.replica), unit.replica
    state = observed.units.get(name)
    starting = state is not None and state.active == "activating"
    # One that still starts (or fails again and again) as it was before would go on doing so; one that loads is left.
    verb = "restart" if starting and not _written(observed, unit, digest) else "start"
    return (
        f'if wait "$ms_{number}"; then cat "$ms_gates/{number}"; systemctl reset-failed {name} 2>/dev/null || :\n'
        f"systemctl {verb} --no-block {name}\n"
        f'else ms_refused="${{ms_refused:-}} $ms_gates/{number}"; fi\n'
    )


def _written(observed: Observation, unit: EngineUnit, digest: str) -> bool:
    found = observed.files.get(unit_path(unit.replica, unit.runtime))
    return found is not None and found.sha256 == digest


def _begun(observed: Observation, unit: EngineUnit, digest: str) -> bool:
    if running(observed, unit.replica):
        return True
    # A part of a group answers when all of them do; that is waited for when every host was begun with.
    found, replacing = observed.units.get(unit_name(unit.replica)), observed.units.get(GROUP_UNIT)
    under_way = found is not None and found.active in ("activating", "deactivating", "reloading")
    # Between its stop and its start a unit that is being replaced is neither.
    under_way = under_way or (replacing is not None and replacing.active in ("active", "activating"))
    return bool(unit.part) and under_way and _written(observed, unit, digest)


def revive(node: Node, units: Sequence[EngineUnit]) -> tuple[Action, ...]:
    """One restart of the engines that run and give no token; what still does not answer fails the host."""
    stuck = [u for u in units if not _not_stuck(node.observed, replica=u.replica, port=u.port, model=u.model)]
    if not stuck:
        return ()
    first = stuck[0]
    given = "".join(
        f"export {key}={shlex.quote(value)}\n"
        for key, value in (("MS_ADDRESS", first.address), ("MS_MODEL", first.model), ("MS_AUTH", first.authorisation))
    )
    numbers = ", ".join(str(u.replica) for u in stuck)
    checks = [partial(_not_stuck, replica=u.replica, port=u.port, model=u.model) for u in stuck]
    told = answers(node.observed)
    return (
        Action(
            name=f"restart engine {numbers}: running, but no token comes",
            why=told.get(first.port, Answer(first.port)).in_words(),
            phase="late",
            done=lambda seen: all(check(seen) for check in checks),
            script=given + "\n".join(_ask_again(u) for u in stuck) + _RESTART,
        ),
    )


def _ask_again(unit: EngineUnit) -> str:
    # Once more, so that one lost answer does not cost a restart of minutes. What is stuck finishes no request: it is
    # killed, since a stop would wait for its running requests first.
    name = container_name(unit.replica)
    return (
        f'if ! {PROBE} --once {unit.port}; then stuck="${{stuck:-}} {name}.service"; '
        f"{unit.runtime} logs --tail 10 {name} 2>&1 || :; {unit.runtime} unpause {name} >/dev/null 2>&1 || :; "
        f"{unit.runtime} kill {name} >/dev/null 2>&1 || :; fi"
    )


_RESTART = """
[ -n "${stuck:-}" ] || exit 0
systemctl restart $stuck || {
  systemctl status --no-pager -n 15 $stuck || :
  ms_fail "restarted, and still no token from$stuck -> read its lines above, then the GPU's: dmesg | grep -i xid"
}
"""


def _not_stuck(observed: Observation, replica: int, port: int, model: str) -> bool:
    if not running(observed, replica):
        return True  # not running is the unit's own business
    answer = answers(observed).get(port, Answer(port))
    return answer.serves(model) or answer.busy(model)


def removals(node: Node, keep: int, *, runtime: str = "docker", phase: str = "late") -> tuple[Action, ...]:
    """Stop and remove the engines whose number is `keep` or above, and those of another runtime: no plan has them.

    Late, when those that stay have answered: what is to go serves until then, where it does not stand in the way.
    """
    found = {path: number for path in node.observed.files if (number := _engine_of(path)) is not None}
    return tuple(
        Action(
            name=f"remove engine {number}, which is no longer planned"
            if number >= keep
            else f"remove the unit of engine {number} for another runtime",
            phase=phase if number >= keep else "early",
            done=partial(_gone, path=path),
            script=(
                f"systemctl -q disable --now {unit_name(number)} 2>/dev/null || :\n"
                f"systemctl stop {unit_name(number)} 2>/dev/null || :\n"
                f"rm -f {path} {PROVEN}/{path.rpartition('/')[2]} {LAUNCHES}/{number}.json\n"
                f"systemctl daemon-reload\nsystemctl reset-failed {unit_name(number)} 2>/dev/null || :\n"
                f"for ms_run in docker podman; do ! command -v $ms_run >/dev/null || "
                f"$ms_run rm --force {container_name(number)} >/dev/null 2>&1 || :; done\n"
            ),
        )
        for path, number in sorted(found.items())
        if number >= keep or path != unit_path(number, runtime)
    )


def _engine_of(path: str) -> int | None:
    number = replica_of(path)
    return number if number is not None and path in (unit_path(number), unit_path(number, "podman")) else None


def _gone(observed: Observation, path: str) -> bool:
    return path not in observed.files


def old_caches(node: Node, units: Sequence[EngineUnit]) -> tuple[Action, ...]:
    """Remove compiled kernels that nothing uses: those of today and the newest others (to go back to) are kept."""
    current = {f"{CACHE}/{unit.cache.partition('/')[0]}" for unit in units}
    others = [f for path, f in node.observed.files.items() if path.rpartition("/")[0] == CACHE and path not in current]
    old = [f.path for f in sorted(others, key=lambda f: f.mtime, reverse=True)[1:]]
    if not old:
        return ()
    return (
        Action(
            name=f"remove {len(old)} old compile cache(s)",
            phase="late",
            done=lambda seen: not any(path in seen.files for path in old),
            script=f"rm -rf {' '.join(map(shlex.quote, old))}\n",
        ),
    )
