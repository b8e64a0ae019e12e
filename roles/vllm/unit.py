"""The systemd unit of one engine: pure text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from roles.vllm.paths import CACHE, ENVIRONMENT, GATE, PROBE, container_name

DOCKER = "/usr/bin/docker"

DRAIN_MARGIN_S = 20
"""Seconds that a stop may take beyond the engine's own drain: vLLM needed 2 to 6 s after it (measured on CPU)."""

GATE_S = 240
"""Seconds that the gate may take before the engine's own start: a fabric that comes up, memory that is being freed."""

STARTS = 5
"""Failed starts after which systemd gives up until someone (or the next run) looks."""


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
        weights: published directory on the host.
        weights_inside: where the container finds it.
        mount_unit: systemd's name of the mount that holds the models, or "".
        address: where the probe reaches the API.
        port: port of the API.
        gate: environment of the gate (names to values).
        authorisation: path of the header file for probes.
        start_timeout_s: seconds from start to the first token.
        stop_timeout_s: seconds that the engine takes to drain.
        log_max_size: size at which Docker rotates the container's log.
        log_max_files: rotated logs kept.
        back_off: systemd knows RestartSteps (version 254 on).
    """

    replica: int
    model: str
    image: str
    arguments: Sequence[str]
    gpus: Sequence[int]
    gpu_options: Sequence[str]
    weights: str
    weights_inside: str
    mount_unit: str
    address: str
    port: int
    gate: dict[str, str]
    authorisation: str
    start_timeout_s: int
    stop_timeout_s: int
    log_max_size: str
    log_max_files: int
    back_off: bool

    def text(self) -> str:
        """Return the unit file."""
        name = container_name(self.replica)
        environment = {
            "MS_ADDRESS": self.address,
            "MS_MODEL": self.model,
            "MS_AUTH": self.authorisation,
            **self.gate,
        }
        after = " ".join(
            filter(
                None,
                (
                    "docker.service network-online.target nvidia-persistenced.service nvidia-fabricmanager.service",
                    "nvidia-cdi-refresh.service",
                    self.mount_unit,
                ),
            )
        )
        stop = self.stop_timeout_s + DRAIN_MARGIN_S
        lines = [
            "# Written by metalserve (roles/vllm); changes here are undone by its next run.",
            "[Unit]",
            f"Description=vLLM engine {self.replica}: {_plain(self.model)} on GPU {','.join(map(str, self.gpus))}",
            f"After={after}",
            f"Wants=docker.service network-online.target {self.mount_unit}".rstrip(),
            # A start takes minutes: the window must hold all of the tries, or they would never be counted together.
            f"StartLimitIntervalSec={(self.start_timeout_s + GATE_S + 150) * STARTS}",
            f"StartLimitBurst={STARTS}",
            "",
            "[Service]",
            "Type=exec",
            f"SyslogIdentifier={name}",
            *(f"Environment={_quoted(f'{key}={value}', dollar='$')}" for key, value in environment.items()),
            f"ExecStartPre=-{DOCKER} rm --force {name}",
            f"ExecStartPre={GATE}",
            "ExecStart=" + " \\\n    ".join([f"{DOCKER} run", *self._run(name, stop)]),
            # Ready is a token, not an open port: /health is 200 while no token comes out.
            f"ExecStartPost={PROBE} --wait {self.start_timeout_s} {self.port}",
            # A frozen container hears no signal: a reboot would wait for it until every timeout has passed.
            f"ExecStop=-{DOCKER} unpause {name}",
            f"ExecStop=-{DOCKER} stop -t {stop} {name}",
            f"ExecStopPost=-{DOCKER} rm --force {name}",
            # vLLM ends with status 0 when its engine core dies, so only `always` brings it back.
            "Restart=always",
            "RestartSec=5",
            *(["RestartSteps=4", "RestartMaxDelaySec=120"] if self.back_off else []),
            f"TimeoutStartSec={self.start_timeout_s + GATE_S + 60}",
            f"TimeoutStopSec={stop + 30}",
            "",
            "[Install]",
            "WantedBy=multi-user.target",
        ]
        return "\n".join(lines) + "\n"

    def _run(self, name: str, stop: int) -> list[str]:
        options = [
            f"--name {name}",
            "--rm --pull never",
            "--network host --ipc host",
            "--ulimit memlock=-1 --ulimit stack=67108864",
            f"--stop-timeout {stop}",
            f"--log-driver json-file --log-opt max-size={self.log_max_size} --log-opt max-file={self.log_max_files}",
            f"--env-file {ENVIRONMENT}",
            *self.gpu_options,
            f"--volume {_quoted(f'{self.weights}:{self.weights_inside}:ro')}",
            # The compile cache outlives the container; one a replica, since two would write the same files at once.
            f"--volume {CACHE}/{self.replica}:/root/.cache/vllm",
            _quoted(self.image),
        ]
        return options + _paired(self.arguments)


def _paired(arguments: Sequence[str]) -> list[str]:
    """Return the arguments quoted, an option and its value on one line."""
    lines: list[str] = []
    for argument in arguments:
        if lines and not argument.startswith("-") and lines[-1].startswith("-") and " " not in lines[-1]:
            lines[-1] += f" {_quoted(argument)}"
        else:
            lines.append(_quoted(argument))
    return lines


def _plain(text: str) -> str:
    return text.replace("%", "%%")


def _quoted(word: str, *, dollar: str = "$$") -> str:
    """Return a word as systemd reads it back: no specifier, no variable, no split.

    Args:
        word: the word.
        dollar: how a dollar sign is written: twice in command lines, plainly in `Environment=`.
    """
    escaped = word.replace("%", "%%").replace("$", dollar).replace("\\", "\\\\").replace('"', '\\"')
    return escaped if word and all(c.isalnum() or c in "-_./:=,@+%" for c in word) else f'"{escaped}"'
