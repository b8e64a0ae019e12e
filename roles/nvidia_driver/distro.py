"""The driver of the distribution's own archive: its components enabled, its versions kept together. Pure."""

from __future__ import annotations

import shlex

from metalserve.desired.model import Action, Desired, File
from metalserve.desired.observed import Observation
from metalserve.driver import DriverPlan
from metalserve.driver.plan import PREFERENCES_PATH
from metalserve.driver.repository import key_path, source_path
from metalserve.driver.state import of_a_driver
from metalserve.paths import FILES
from metalserve.verify.next_boot_case import upstream

COMPONENTS = source_path("distribution")
"""The archive's further components, as a source of their own: the host's sources stay as they are."""

ENABLE = FILES / "driver/enable_components.sh"


def repository(plan: DriverPlan) -> Desired:
    """The archive's components and apt's preferences; NVIDIA's repository goes, for the two are never mixed."""
    given = {
        "MS_COMPONENTS": " ".join(plan.origin.components),
        "MS_ORIGIN": plan.platform.family.capitalize(),
        "MS_TARGET": COMPONENTS,
    }
    script = "".join(f"{name}={shlex.quote(value)}\n" for name, value in given.items()) + ENABLE.read_text()
    wanted = ", ".join(plan.origin.components)
    return Desired(
        files=(
            File(source_path("nvidia"), None),
            File(key_path("nvidia"), None),
            File(PREFERENCES_PATH, "# Written by metalserve (roles/nvidia_driver).\n" + plan.preferences_text),
        ),
        actions=(
            Action(f"enable {wanted} of {plan.origin.name}", lambda o: COMPONENTS in o.files, script, phase="middle"),
        ),
    )


def version(plan: DriverPlan, observed: Observation) -> str | None:
    """Return the upstream version of the installed kernel modules ("535.261.03"), or None when there are none."""
    installed = observed.version_of(plan.packages[0].name)
    return None if installed is None else upstream(installed)


def holds(plan: DriverPlan, observed: Observation) -> tuple[Action, ...]:
    """What an archive has no pinning package for is held; what a plan does not hold is released before apt resolves."""
    wanted = set(plan.kept.names)
    strange = _held(observed) - wanted
    release = Action(
        "release packages of a driver that are held",
        lambda o: not _held(o) - wanted,
        f"apt-mark unhold {' '.join(sorted(strange))}",
        phase="early",
    )
    hold = Action(
        f"hold {', '.join(plan.kept.names)}",
        lambda o: wanted <= _held(o),
        f"apt-mark hold {' '.join(plan.kept.names)}",
        phase="late",
    )
    return (*((release,) if strange else ()), *((hold,) if wanted else ()))


def _held(observed: Observation) -> set[str]:
    return {n for n, p in observed.packages.items() if p.status.startswith("h") and of_a_driver(n)}
