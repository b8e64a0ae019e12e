"""The units in which the agent works on a host: pure text. They outlive whoever started them."""

from __future__ import annotations

from typing import Final, Literal

from metalserve.weights.host import CONFIGS, RUN
from metalserve.weights.store import AGENT_LIBRARY

Verb = Literal["stage", "repair", "check"]

DIRECTORY = "/etc/systemd/system"
NAMES: Final[dict[Verb, str]] = {
    "stage": "metalserve-weights",
    "repair": "metalserve-weights-repair",
    "check": "metalserve-weights-check",
}
SEED: Final = "metalserve-weights-seed"
_DO: Final[dict[Verb, str]] = {
    "stage": "stage %s",
    "repair": "repair %s",
    "check": "check --full %s",
}
_DESCRIPTIONS: Final[dict[Verb, str]] = {
    "stage": "Staging of the model %i",
    "repair": "Check of every byte of the model %i, what is wrong fetched again",
    "check": "Check of every byte of the model %i",
}
_SHARES: Final[dict[Verb, tuple[str, ...]]] = {
    # An engine serves meanwhile: its requests go before the next model.
    "stage": ("Nice=5", "CPUWeight=50", "IOWeight=50"),
    "repair": ("Nice=5", "CPUWeight=50", "IOWeight=50"),
    "check": ("Nice=19", "CPUSchedulingPolicy=idle", "IOSchedulingClass=idle", "CPUWeight=1", "IOWeight=1"),
}


def unit_name(verb: Verb, key: str) -> str:
    """Return the name of the unit in which one model is worked on."""
    return f"{NAMES[verb]}@{key}.service"


def seed_name(key: str) -> str:
    """Return the name of the unit in which one model is given to other hosts."""
    return f"{SEED}@{key}.service"


def timer_name(key: str) -> str:
    """Return the name of the timer of a model's full check."""
    return f"{NAMES['check']}@{key}.timer"


def unit_files(mount: str, full_check: str, seed_minutes: int = 0) -> dict[str, str]:
    """Return path -> text of the units.

    Args:
        mount: mount point of the models.
        full_check: `daily`, `weekly`, `monthly` or `never`.
        seed_minutes: that a host gives a model to others once it has it; 0: it does not.
    """
    files = {f"{DIRECTORY}/{NAMES[verb]}@.service": _service(verb, mount, seeds=seed_minutes > 0) for verb in NAMES}
    if seed_minutes:
        files[f"{DIRECTORY}/{SEED}@.service"] = _seed(mount, seed_minutes)
    if full_check != "never":
        files[f"{DIRECTORY}/{NAMES['check']}@.timer"] = _timer(full_check)
    return files


def _service(verb: Verb, mount: str, *, seeds: bool) -> str:
    # %i as it stands, not %I: a key has dashes, which systemd would read as slashes.
    lines = [
        "# Written by metalserve (roles/weights); changes here are undone by its next run.",
        "[Unit]",
        f"Description={_DESCRIPTIONS[verb]}",
        f"RequiresMountsFor={mount}",
        "Wants=network-online.target",
        "After=network-online.target",
        # Both use the model's port. Who has it all gives it, whether anybody is still connected to see to it or not.
        *((f"Conflicts={SEED}@%i.service", f"After={SEED}@%i.service") if seeds and verb != "check" else ()),
        *((f"OnSuccess={SEED}@%i.service",) if seeds and verb == "stage" else ()),
        "",
        "[Service]",
        "Type=exec",
        f"Environment=PYTHONPATH={AGENT_LIBRARY}",
        f"ExecStart=/usr/bin/python3 -B -m msweights {_DO[verb] % f'{CONFIGS}/%i.json'}",
        # The secret lies in memory for as long as this runs, whoever put it there and whatever became of them.
        *([f"ExecStopPost=-/bin/rm -f {RUN}/%i.secret"] if verb != "check" else []),
        "UMask=0022",
        "NoNewPrivileges=yes",
        *_SHARES[verb],
    ]
    return "\n".join(lines) + "\n"


def _seed(mount: str, minutes: int) -> str:
    lines = [
        "# Written by metalserve (roles/weights); changes here are undone by its next run.",
        "[Unit]",
        "Description=Gives the model %i to other hosts of the fleet",
        f"RequiresMountsFor={mount}",
        "",
        "[Service]",
        "Type=exec",
        f"Environment=PYTHONPATH={AGENT_LIBRARY}",
        # RuntimeMaxSec= would leave a failed unit behind
        f"ExecStart=/usr/bin/timeout {minutes}m /usr/bin/python3 -B -m msweights seed {CONFIGS}/%i.json",
        "SuccessExitStatus=124",
        "NoNewPrivileges=yes",
        "Nice=5",
        "CPUWeight=50",
        "IOWeight=50",
    ]
    return "\n".join(lines) + "\n"


def _timer(full_check: str) -> str:
    lines = [
        "# Written by metalserve (roles/weights); changes here are undone by its next run.",
        "[Unit]",
        "Description=Time for a check of every byte of the model %i",
        "",
        "[Timer]",
        f"OnCalendar={full_check}",
        # The hosts of a fleet do not begin together, and one that was off then makes up for it.
        "RandomizedDelaySec=6h",
        "Persistent=true",
        "",
        "[Install]",
        "WantedBy=timers.target",
    ]
    return "\n".join(lines) + "\n"
