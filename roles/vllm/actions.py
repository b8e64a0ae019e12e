"""What is done to engines beside their units: begun behind the gate, revived when stuck, removed when unplanned."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial

from metalserve.desired.model import Action
from metalserve.desired.node import Node
from metalserve.desired.observed import Observation
from roles.vllm.answers import Answer, answers
from roles.vllm.paths import GATE, PROBE, container_name, replica_of, unit_name, unit_path
from roles.vllm.unit import EngineUnit


def begin(unit: EngineUnit) -> Action:
    """Ask the gate, then begin the start without waiting for it.

    The gate's reason is then what the run says, not "the unit did not start"; and eight engines load side by side,
    since the units' own start, which comes next, only waits for what was begun here.
    """
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in unit.gate.items())
    name, gpus = unit_name(unit.replica), ",".join(map(str, unit.gpus))
    return Action(
        name=f"begin engine {unit.replica} on GPU {gpus}, if driver, fabric and weights are right",
        done=partial(_active, replica=unit.replica),
        script=(
            f"{exports}export MS_MEMORY=0\n{GATE}\n"
            f"systemctl daemon-reload\nsystemctl reset-failed {name} 2>/dev/null || :\n"
            f"systemctl start --no-block {name}\n"
        ),
    )


def revive(node: Node, units: Sequence[EngineUnit]) -> tuple[Action, ...]:
    """One restart of the engines that run and give no token; what still does not answer fails the host."""
    stuck = [u for u in units if not _not_stuck(node.observed, replica=u.replica, port=u.port, model=u.model)]
    if not stuck:
        return ()
    first = stuck[0]
    exports = "".join(
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
            script=exports + "\n".join(_ask_again(u) for u in stuck) + _RESTART,
        ),
    )


def _ask_again(unit: EngineUnit) -> str:
    # Once more, so that one lost answer does not cost a restart of minutes. What is stuck finishes no request: it is
    # killed, since a stop would wait for its running requests first.
    name = container_name(unit.replica)
    return (
        f'if ! {PROBE} --once {unit.port}; then stuck="${{stuck:-}} {name}.service"; '
        f"docker logs --tail 10 {name} 2>&1 || :; "
        f"docker unpause {name} >/dev/null 2>&1 || :; docker kill {name} >/dev/null 2>&1 || :; fi"
    )


_RESTART = """
[ -n "${stuck:-}" ] || exit 0
systemctl restart $stuck || {
  systemctl status --no-pager -n 15 $stuck || :
  ms_fail "restarted, and still no token from$stuck -> read its lines above, then the GPU's: dmesg | grep -i xid"
}
"""


def _active(observed: Observation, replica: int) -> bool:
    found = observed.units.get(unit_name(replica))
    return found is not None and found.active == "active"


def _not_stuck(observed: Observation, replica: int, port: int, model: str) -> bool:
    if not _active(observed, replica):
        return True  # not running is the unit's own business
    answer = answers(observed).get(port, Answer(port))
    return answer.serves(model) or answer.busy(model)


def removals(node: Node, keep: int) -> tuple[Action, ...]:
    """Stop and remove the engines whose number is `keep` or above: the plan has them no longer."""
    found = (replica_of(path) for path in node.observed.files if path.startswith(unit_path(0).split("0")[0]))
    return tuple(
        Action(
            name=f"remove engine {replica}, which is no longer planned",
            phase="early",
            done=partial(_gone, replica=replica),
            script=(
                f"systemctl -q disable --now {unit_name(replica)} || :\nrm -f {unit_path(replica)}\n"
                f"systemctl daemon-reload\nsystemctl reset-failed {unit_name(replica)} 2>/dev/null || :\n"
                f"docker rm --force {container_name(replica)} >/dev/null 2>&1 || :\n"
            ),
        )
        for replica in sorted(r for r in found if r is not None and r >= keep)
    )


def _gone(observed: Observation, replica: int) -> bool:
    return unit_path(replica) not in observed.files
