"""What `vllm` wants of a host: pure. One supervised engine a replica, started when everything under it is right."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from metalserve.desired.model import Desired, Directory, File, Unit, Watch
from metalserve.desired.node import Node
from metalserve.paths import FILES
from metalserve.planning import LaunchPlan
from metalserve.releases import Release
from metalserve.secrets import resolve
from metalserve.settings import EngineSettings, HostSettings, ModelSettings
from metalserve.verify.finding import Finding
from metalserve.weights.store import place_of
from roles.container_runtime.desired import CDI_SPEC, access
from roles.storage.desired import unit_name as mount_unit_name
from roles.vllm import image
from roles.vllm.actions import begin, removals, revive
from roles.vllm.answers import ANSWERS_SECTION, Answer, answers
from roles.vllm.launch import CONFIG_SECTION, container_path, planned, refuse_wrong_arguments
from roles.vllm.paths import (
    AUTHORISATION,
    CACHE,
    ENVIRONMENT,
    GATE,
    IMAGE_MARKER,
    PROBE,
    UNIT_GLOB,
    unit_name,
    unit_path,
)
from roles.vllm.unit import EngineUnit
from roles.weights.desired import list_path


def watch(settings: HostSettings, release: Release) -> Watch:
    """What an observation must look at for this role."""
    model, engine = settings.model, settings.engine
    base = Watch(paths=(UNIT_GLOB, GATE, PROBE, ENVIRONMENT, AUTHORISATION), units=("metalserve-vllm-*.service",))
    if model is None:
        return base
    place = place_of(settings.storage.mount, model)
    return base | Watch(
        paths=(IMAGE_MARKER, place.marker, f"{CACHE}/*"),
        units=(unit_name(0),),
        commands={
            image.SECTION: image.inspect_command(settings, release),
            CONFIG_SECTION: f"cat {shlex.quote(f'{place.published}/config.json')}",
            # The probe's text travels with the observation: a host whose copy is missing or old answers all the same.
            ANSWERS_SECTION: _exports(engine, model) + f"set -- --all {engine.port}\n" + _file("probe.sh"),
        },
    )


def _file(name: str) -> str:
    return (FILES / "vllm" / name).read_text()


def _exports(engine: EngineSettings, model: ModelSettings) -> str:
    values = {"MS_ADDRESS": address(engine), "MS_MODEL": model.served_as, "MS_AUTH": AUTHORISATION}
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


def address(engine: EngineSettings) -> str:
    """Return the address at which the host reaches its own engines."""
    known = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - what listens everywhere is asked on loopback
    return known.get(engine.host, f"[{engine.host}]" if ":" in engine.host else engine.host)


def install(node: Node) -> Desired:
    """The image, and the two scripts that guard the engines.

    Raises:
        MetalserveError: `engine.extra_args` has what this vLLM does not start with.
    """
    if node.settings.model is None:
        return Desired()
    refuse_wrong_arguments(node)
    scripts = Desired(
        files=(File(GATE, _file("gate.sh"), mode="0755"), File(PROBE, _file("probe.sh"), mode="0755")),
    )
    return scripts + (image.install(node) if node.observed.live else Desired())


def configure(node: Node) -> Desired:
    """The containers' environment and the probes' header; both hold the API key and are root's alone.

    Raises:
        MetalserveError: the API key cannot be read on the controller.
    """
    if node.settings.model is None:
        return Desired(files=(File(ENVIRONMENT, None), File(AUTHORISATION, None)))
    lines = [
        "HF_HUB_OFFLINE=1",  # the model is here: a node boots and serves without the internet
        "VLLM_NO_USAGE_STATS=1",
        "DO_NOT_TRACK=1",
    ]
    header: str | None = None
    if node.settings.engine.api_key is not None:
        key = resolve(node.settings.engine.api_key).reveal()
        lines.append(f"VLLM_API_KEY={key}")
        header = f"Authorization: Bearer {key}\n"
    return Desired(
        files=(
            File(ENVIRONMENT, "\n".join(lines) + "\n", mode="0600", secret=True),
            File(AUTHORISATION, header, mode="0600", secret=True),
        ),
    )


def serve(node: Node) -> Desired:
    """The units of the planned replicas, running and answering; units of replicas that are not planned go.

    Raises:
        NotYetKnown: driver, Docker or model are not there yet.
        MetalserveError: the model cannot be served on this host.
    """
    model = node.settings.model
    if model is None:
        return Desired(actions=removals(node, keep=0))
    plan = planned(node, model)
    marker = place_of(node.settings.storage.mount, model).marker
    units = [engine_unit(node, model, plan, replica) for replica in range(plan.replicas)]
    return Desired(
        directories=tuple(Directory(f"{CACHE}/{unit.replica}") for unit in units),
        files=tuple(File(unit_path(unit.replica), unit.text()) for unit in units),
        units=tuple(Unit(unit_name(u.replica), restart_on=(unit_path(u.replica), ENVIRONMENT, marker)) for u in units),
        actions=(*removals(node, keep=plan.replicas), *map(begin, units), *revive(node, units)),
        notes=plan.reasons,
    )


def engine_unit(node: Node, model: ModelSettings, plan: LaunchPlan, replica: int) -> EngineUnit:
    """Return what the unit of one replica says."""
    settings, engine = node.settings, node.settings.engine
    place = place_of(settings.storage.mount, model)
    gpus = plan.gpus_per_replica[replica]
    uuids = [gpu.uuid or "" for index in gpus if (gpu := node.hardware.gpu(index)) is not None]
    by_cdi = access(node) == "cdi"
    if by_cdi:
        gpu_options = [f"--device nvidia.com/gpu={index}" for index in gpus]
    else:
        gpu_options = ["--runtime nvidia", f"--env NVIDIA_VISIBLE_DEVICES={','.join(uuids)}"]
    systemd = node.observed.version_of("systemd") or "0"
    major = systemd.split(".")[0].split("-")[0].split("~")[0]
    return EngineUnit(
        replica=replica,
        model=model.served_as,
        image=image.reference(settings, node.release),
        arguments=plan.replica_args(replica),
        gpus=gpus,
        gpu_options=gpu_options,
        weights=place.published,
        weights_inside=container_path(model),
        mount_unit=mount_unit_name(settings.storage.mount) if settings.storage.device != "none" else "",
        address=address(engine),
        port=plan.ports[replica],
        gate={
            "MS_GPUS": ",".join(uuids),
            **({"MS_DEVICES": ",".join(map(str, gpus)), "MS_SPEC": CDI_SPEC} if by_cdi else {}),
            "MS_FABRIC": "1" if node.hardware.needs_fabric_manager and len(gpus) > 0 else "0",
            "MS_WEIGHTS": "1",
            "MS_STORE": place.store,
            "MS_REVISION": place.revision,
            "MS_LIST": list_path(model),
        },
        authorisation=AUTHORISATION,
        start_timeout_s=engine.start_timeout_s,
        stop_timeout_s=engine.stop_timeout_s,
        log_max_size=settings.container.log_max_size,
        log_max_files=settings.container.log_max_files,
        back_off=major.isdigit() and int(major) >= 254,
    )


def check(node: Node) -> Sequence[Finding]:
    """Prove that each planned engine serves the model and completes a prompt."""
    model = node.settings.model
    if model is None:
        return ()
    plan = planned(node, model)
    told = answers(node.observed)
    return tuple(_finding(model, told.get(port, Answer(port)), replica) for replica, port in enumerate(plan.ports))


def _finding(model: ModelSettings, answer: Answer, replica: int) -> Finding:
    name = model.served_as
    busy = answer.busy(name)
    return Finding(
        check="answers",
        status="ok" if answer.serves(name) else "warn" if busy else "fail",
        subject=f"engine {replica} on port {answer.port}",
        expected=f"{name} completes a prompt",
        observed="busy: no token in 15 s, but its counters move" if busy else answer.in_words(),
        impact="requests wait" if busy else "clients get nothing from it",
        remedy=f"journalctl -u {unit_name(replica)} -n 50",
        source="/v1/models and one completion",
    )


def in_words(node: Node) -> str:
    """Return the proved line of the report: what each engine answered."""
    model = node.settings.model
    if model is None:
        return "no model"
    said: dict[str, list[int]] = {}
    for port, answer in sorted(answers(node.observed).items()):
        said.setdefault(answer.text.strip(), []).append(port)
    return "; ".join(f"{model.served_as} on {_ports(ports)} -> {text!r}" for text, ports in said.items())


def _ports(ports: Sequence[int]) -> str:
    joined = len(ports) > 1 and ports[-1] - ports[0] == len(ports) - 1
    return f":{ports[0]} to :{ports[-1]}" if joined else ", ".join(f":{port}" for port in ports)


__all__ = ["answers", "check", "configure", "in_words", "install", "serve", "watch"]
