"""The unit file of one engine: a service that runs Docker, or the Quadlet that Podman makes one of. Pure text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from roles.vllm.paths import CACHE, ENVIRONMENT, GATE, container_name
from roles.vllm.unit import EngineUnit, after_start, environment, head, quoted, restarts

DOCKER = "/usr/bin/docker"
PODMAN = "/usr/bin/podman"


def unit_text(unit: EngineUnit) -> str:
    """Return the unit file, or for Podman the Quadlet that it is made of."""
    write = _quadlet if unit.runtime == "podman" else _docker_unit
    # What the unit is, by its content: so that what was proved is told from what was written and never started.
    identity = hashlib.sha256(write(unit).encode()).hexdigest()[:16]
    return write(replace(unit, identity=identity))


def _docker_unit(unit: EngineUnit) -> str:
    """Return the unit of an engine that Docker runs."""
    name, stop = container_name(unit.replica), unit.stop_s
    return _joined(
        head(unit, after="docker.service", wants="docker.service"),
        "[Service]",
        "Type=exec",
        f"SyslogIdentifier={name}",
        *environment(unit),
        f"ExecStartPre=-{DOCKER} rm --force {name}",
        f"ExecStartPre={GATE}",
        "ExecStart=" + " \\\n    ".join([f"{DOCKER} run", *_run(unit, name)]),
        *after_start(unit),
        # A frozen container hears no signal: a reboot would wait for it until every timeout has passed.
        f"ExecStop=-{DOCKER} unpause {name}",
        f"ExecStop=-{DOCKER} stop -t {stop} {name}",
        f"ExecStopPost=-{DOCKER} rm --force {name}",
        *restarts(unit),
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    )


def _quadlet(unit: EngineUnit) -> str:
    """Return the Quadlet of an engine that Podman runs; its generator makes ExecStart and ExecStop of it."""
    name = container_name(unit.replica)
    options = ["--ipc=host", *([f"--memory={unit.memory_limit}"] if unit.memory_limit else [])]
    return _joined(
        head(unit, after="", wants=""),
        "[Container]",
        f"ContainerName={name}",
        f"Image={quoted(unit.image)}",
        "Pull=never",
        "Network=host",
        f"PodmanArgs={' '.join(options)}",
        "Ulimit=memlock=-1",
        "Ulimit=stack=67108864",
        f"PidsLimit={unit.pids_limit}",
        f"StopTimeout={unit.stop_s}",
        # The journal rotates by itself; Podman keeps no other copy of the log.
        "LogDriver=journald",
        "SecurityLabelDisable=true",
        f"EnvironmentFile={ENVIRONMENT}",
        *(f"Environment={quoted(variable, dollar='$')}" for variable in unit.variables),
        *(f"AddDevice=nvidia.com/gpu={device}" for device in unit.devices),
        *(line for device in unit.host_devices for line in (f"AddDevice={device}", "AddCapability=IPC_LOCK")),
        f"Volume={quoted(f'{unit.weights}:{unit.weights_inside}:ro')}",
        f"Volume={quoted(f'{CACHE}/{unit.cache}:/root/.cache/vllm')}",
        "Exec=" + " \\\n    ".join(_paired(unit.arguments)),
        "",
        "[Service]",
        f"SyslogIdentifier={name}",
        *environment(unit),
        f"ExecStartPre={GATE}",
        *after_start(unit),
        f"ExecStop=-{PODMAN} unpause {name}",
        *restarts(unit),
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    )


def _run(unit: EngineUnit, name: str) -> list[str]:
    log = f"max-size={unit.log_max_size} --log-opt max-file={unit.log_max_files}"
    limits = [f"--memory {unit.memory_limit}"] if unit.memory_limit else []
    options = [
        f"--name {name}",
        "--rm --pull never",
        "--network host --ipc host",
        "--ulimit memlock=-1 --ulimit stack=67108864",
        " ".join([f"--pids-limit {unit.pids_limit}", *limits]),
        f"--stop-timeout {unit.stop_s}",
        f"--log-driver json-file --log-opt {log}",
        f"--env-file {ENVIRONMENT}",
        *(f"--env {quoted(variable)}" for variable in unit.variables),
        *unit.gpu_options,
        *(f"--device {device} --cap-add IPC_LOCK" for device in unit.host_devices),
        f"--volume {quoted(f'{unit.weights}:{unit.weights_inside}:ro')}",
        # The compile cache outlives the container; one a replica, since two would write the same files at once.
        f"--volume {quoted(f'{CACHE}/{unit.cache}:/root/.cache/vllm')}",
        quoted(unit.image),
    ]
    return options + _paired(unit.arguments)


def _paired(arguments: Sequence[str]) -> list[str]:
    """Return the arguments quoted, an option and its value on one line."""
    lines: list[str] = []
    for argument in arguments:
        if lines and not argument.startswith("-") and lines[-1].startswith("-") and " " not in lines[-1]:
            lines[-1] += f" {quoted(argument)}"
        else:
            lines.append(quoted(argument))
    return lines


def _joined(*lines: str) -> str:
    """Return the lines as a file."""
    return "\n".join(lines) + "\n"
