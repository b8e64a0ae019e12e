"""What is done when the units of running engines change: the old ones are kept until the new ones answer. Pure."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from metalserve.desired.model import Action
from metalserve.desired.observed import Observation
from roles.vllm.paths import ENVIRONMENT, GATE, QUADLET_GLOB, REPLACE, UNIT_GLOB, replica_of, unit_name, unit_path
from roles.vllm.unit import EngineUnit

UNITS_SECTION: Final = "engine-units"
"""Section of an observation: which GPUs the units that lie on the host hand out."""

UNITS_COMMAND: Final = f"grep -sH '^Environment=.*MS_GPUS=' {UNIT_GLOB} {QUADLET_GLOB} || :"

GROUP_UNIT: Final = "metalserve-vllm-replace.service"
"""Transient unit that replaces a part of a group: it waits for the other hosts, which a run cannot."""


def layout(observed: Observation) -> dict[int, frozenset[str]]:
    """Return which GPUs (UUIDs) each unit on the host hands out, by replica."""
    found = {}
    for line in observed.text(UNITS_SECTION).splitlines():
        path, _, rest = line.partition(":")
        told = re.search(r'MS_GPUS=([^"\s]*)', rest)
        number = replica_of(path)
        if told and number is not None:
            found[number] = frozenset(told.group(1).split(","))
    return found


def running(observed: Observation, replica: int) -> bool:
    """Tell whether an engine runs and has answered."""
    found = observed.units.get(unit_name(replica))
    return found is not None and found.active == "active"


def occupied(observed: Observation, replica: int) -> bool:
    """Tell whether an engine holds its GPUs: it runs, or tries to."""
    found = observed.units.get(unit_name(replica))
    return found is not None and found.active in ("active", "activating", "reloading", "deactivating")


class Replacement:
    """The units that are wanted, held against those that run.

    Attributes:
        units: what is wanted.
        outdated: those of them that run as they were before.
        clash: replicas that hold GPUs which the new cut gives to another one; all of them must end first.
    """

    def __init__(
        self, observed: Observation, units: Sequence[EngineUnit], texts: Mapping[int, str], published_at: float
    ) -> None:
        self.units, self.texts, self.published_at = units, texts, published_at
        self.outdated = [u for u in units if running(observed, u.replica) and not self._newest(observed, u)]
        before = {n: gpus for n, gpus in layout(observed).items() if occupied(observed, n)}
        self.before = sorted(before)
        self.clash = sorted(
            {
                number
                for number, gpus in before.items()
                for unit in units
                if unit.replica != number and gpus & set(unit.gate["MS_GPUS"].split(","))
            }
        )

    def _newest(self, observed: Observation, unit: EngineUnit) -> bool:
        """Tell whether the engine was started after everything that it is started from came to be as it is."""
        path = unit_path(unit.replica, unit.runtime)
        found, state = observed.files.get(path), observed.units.get(unit_name(unit.replica))
        wanted = hashlib.sha256(self.texts[unit.replica].encode()).hexdigest()
        if found is None or found.sha256 != wanted or state is None:
            return False
        times = [observed.files[p].mtime for p in (path, ENVIRONMENT) if p in observed.files] + [self.published_at]
        return state.started is None or all(time <= state.started for time in times)

    def _done(self, observed: Observation, replicas: Sequence[int]) -> bool:
        chosen = [unit for unit in self.units if unit.replica in replicas]
        return all(running(observed, u.replica) and self._newest(observed, u) for u in chosen)

    def actions(self, *, group: bool) -> tuple[Action, ...]:
        """Return what replaces the engines that run as they were before; nothing when none does."""
        if group and self.outdated:
            return (self._in_step(),)
        if self.clash:
            return (self._swap(),)
        if not self.outdated:
            return ()
        numbers = [unit.replica for unit in self.outdated]
        words = ", ".join(map(str, numbers))
        return (
            Action(
                name=f"replace engine {words}: one by one, the old one comes back if the new one does not answer",
                done=partial(self._done, replicas=numbers),
                script=_gates(self.outdated) + f"{REPLACE} --roll {' '.join(map(str, numbers))}\n",
            ),
        )

    def _swap(self) -> Action:
        old, new = " ".join(map(str, self.before)), " ".join(str(u.replica) for u in self.units)
        return Action(
            name=f"replace engines {old} by {new}: the GPUs are cut anew, so the old ones end first",
            done=partial(self._done, replicas=[u.replica for u in self.units]),
            script=_gates(self.units) + f"{REPLACE} --swap {shlex.quote(old)} {shlex.quote(new)}\n",
        )

    def _in_step(self) -> Action:
        number = self.outdated[0].replica
        return Action(
            name="replace this host's part of the engine, in step with the other hosts of the group",
            done=lambda seen: self._begun(seen) or self._done(seen, [number]),
            script=(
                _gates(self.outdated) + f"systemctl reset-failed {GROUP_UNIT} 2>/dev/null || :\n"
                f"systemd-run --quiet --collect --no-block --unit={GROUP_UNIT} {REPLACE} --roll {number}\n"
            ),
        )

    def _begun(self, observed: Observation) -> bool:
        # Whether it came to its end is the proof's question; here it counts that it was set going with this unit.
        state = observed.units.get(GROUP_UNIT)
        wanted = {unit.replica: hashlib.sha256(self.texts[unit.replica].encode()).hexdigest() for unit in self.units}
        there = {n: observed.files.get(unit_path(n, self.units[0].runtime)) for n in wanted}
        written = all(found is not None and found.sha256 == wanted[n] for n, found in there.items())
        return written and state is not None and state.active in ("active", "activating")


def _gates(units: Sequence[EngineUnit]) -> str:
    """Return the shell that asks the gate for each unit before anything that runs is stopped."""
    return "".join(f"(\n{exports(unit)}export MS_MEMORY=0\n{GATE}\n)\n" for unit in units)


def exports(unit: EngineUnit) -> str:
    """Return the shell lines that give the gate the unit's variables."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in unit.gate.items())
