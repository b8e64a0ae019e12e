"""What the systemd unit of one engine says, whichever runtime starts its container: pure. Written in `written.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from roles.vllm.paths import PROBE, RECORD, WARM

DRAIN_MARGIN_S = 20
"""Seconds that a stop may take beyond the engine's own drain: vLLM needed 2 to 6 s after it (measured on CPU)."""

GATE_S = 240
"""Seconds that the gate may take before the engine's own start: a fabric that comes up, memory that is being freed."""


@dataclass(frozen=True)
class EngineUnit:
    """What a replica's unit says.

    Attributes:
        replica: number, from 0.
        model: name that clients ask for.
        image: image reference.
        arguments: what follows the image.
        gpus: nvidia-smi's numbers, for people.
        gpu_options: `docker run` options that hand these GPUs out and no others.
        devices: CDI names of the same GPUs, for Podman.
        weights: published directory on the host.
        weights_inside: where the container finds it.
        mount_unit: systemd's name of the mount that holds the models, or "".
        address: where the probe reaches the API: the head's address for the hosts of a group.
        port: port of the API.
        gate: environment of the gate and of the group's beacon (names to values).
        authorisation: path of the header file for probes.
        cache: directory below CACHE for compiled kernels, named after image, GPU and model.
        start_timeout_s: seconds from start to the first token.
        stop_timeout_s: seconds that the engine takes to drain.
        gate_s: seconds that the gate may take.
        attempts: failed starts after which systemd gives up until someone (or the next run) looks.
        delay_s: seconds before a failed engine is started again, at first.
        delay_max_s: seconds to which that grows.
        memory_limit: memory of the host that the container may use, or None.
        pids_limit: processes and threads it may have.
        log_max_size: size at which Docker rotates the container's log.
        log_max_files: rotated logs kept.
        back_off: systemd knows RestartSteps (version 254 on).
        variables: further environment of the container.
        host_devices: device directories that the container gets (/dev/infiniband).
        part: of which group, in words; "" for an engine of its own.
        runtime: docker or podman.
        page_cache: auto or off, whether the weights are read ahead.
        load_format: what --load-format says, or auto.
        identity: digest of the rest; `unit_text` puts it in.
    """

    replica: int
    model: str
    image: str
    arguments: Sequence[str]
    gpus: Sequence[int]
    gpu_options: Sequence[str]
    devices: Sequence[str]
    weights: str
    weights_inside: str
    mount_unit: str
    address: str
    port: int
    gate: dict[str, str]
    authorisation: str
    cache: str
    start_timeout_s: int
    stop_timeout_s: int
    attempts: int
    delay_s: int
    delay_max_s: int
    memory_limit: str | None
    pids_limit: int
    log_max_size: str
    log_max_files: int
    back_off: bool
    gate_s: int = GATE_S
    variables: Sequence[str] = ()
    host_devices: Sequence[str] = ()
    part: str = ""
    runtime: str = "docker"
    page_cache: str = "auto"
    load_format: str = "auto"
    identity: str = ""

    @property
    def stop_s(self) -> int:
        """Seconds that a stop of the container may take: longer than the engine's own drain."""
        return self.stop_timeout_s + DRAIN_MARGIN_S


def head(unit: EngineUnit, *, after: str, wants: str) -> str:
    """Return the section [Unit]."""
    order = [after, "network-online.target nvidia-persistenced.service nvidia-fabricmanager.service"]
    order += ["nvidia-cdi-refresh.service", unit.mount_unit]
    on = f" on GPU {','.join(map(str, unit.gpus))}"
    lines = [
        "# Written by metalserve (roles/vllm); changes here are undone by its next run.",
        "[Unit]",
        f"Description=vLLM engine {unit.replica}: {_plain(unit.model)}{on}{_plain(unit.part)}",
        f"After={' '.join(filter(None, order))}",
        f"Wants={' '.join(filter(None, [wants, 'network-online.target', unit.mount_unit]))}",
        # A start takes minutes: the window must hold all of the tries, or they would never be counted together.
        f"StartLimitIntervalSec={(unit.start_timeout_s + unit.gate_s + unit.delay_max_s + 30) * unit.attempts}",
        f"StartLimitBurst={unit.attempts}",
        "",
    ]
    return "\n".join(lines)


def environment(unit: EngineUnit) -> list[str]:
    """Return the unit's variables: for the gate, the probe and the record; none of them is a secret."""
    values = {
        "MS_ADDRESS": unit.address,
        "MS_MODEL": unit.model,
        "MS_AUTH": unit.authorisation,
        "MS_RUNTIME": unit.runtime,
        "MS_ID": unit.identity,
        "MS_MODELS": unit.weights,
        "MS_CACHE": unit.page_cache,
        "MS_FORMAT": unit.load_format,
        **unit.gate,
    }
    return [f"Environment={quoted(f'{key}={value}', dollar='$')}" for key, value in values.items()]


def after_start(unit: EngineUnit) -> list[str]:
    """Return what makes a start count: a token, not an open port (/health is 200 while none comes out)."""
    return [
        f"ExecStartPost=-{WARM} {unit.replica}",
        f"ExecStartPost={PROBE} --wait {unit.start_timeout_s} {unit.port}",
        f"ExecStartPost=-{RECORD} {unit.replica}",
    ]


def restarts(unit: EngineUnit) -> list[str]:
    """Return how the unit comes back: always (vLLM ends with status 0 when its engine core dies), but not for ever."""
    return [
        "Restart=always",
        f"RestartSec={unit.delay_s}",
        *(["RestartSteps=4", f"RestartMaxDelaySec={max(unit.delay_s, unit.delay_max_s)}"] if unit.back_off else []),
        f"TimeoutStartSec={unit.start_timeout_s + unit.gate_s + 60}",
        f"TimeoutStopSec={unit.stop_s + 30}",
    ]


def _plain(text: str) -> str:
    return text.replace("%", "%%")


def quoted(word: str, *, dollar: str = "$$") -> str:
    """Return a word as systemd reads it back: no specifier, no variable, no split.

    Args:
        word: the word.
        dollar: how a dollar sign is written: twice in command lines, plainly in `Environment=`.
    """
    escaped = word.replace("%", "%%").replace("$", dollar).replace("\\", "\\\\").replace('"', '\\"')
    return escaped if word and all(c.isalnum() or c in "-_./:=,@+%" for c in word) else f'"{escaped}"'
