"""From plan and settings to what the unit of one engine says: pure."""

from __future__ import annotations

import re

from metalserve.desired.node import Node
from metalserve.hardware.node import Gpu
from metalserve.planning import LaunchPlan
from metalserve.settings import EngineSettings, ModelSettings
from metalserve.weights.store import place_of
from roles.container_runtime.desired import CDI_SPEC, access
from roles.storage.desired import unit_name as mount_unit_name
from roles.vllm import group, image, loading
from roles.vllm.launch import container_path
from roles.vllm.paths import AUTHORISATION
from roles.vllm.unit import GATE_S, EngineUnit


def address(engine: EngineSettings) -> str:
    """Return the address at which the host reaches the API of its engines; in a group that is the head's."""
    if engine.group is not None:
        return _bracketed(engine.group.head_address)
    known = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - what listens everywhere is asked on loopback
    return known.get(engine.host, _bracketed(engine.host))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def engine_unit(node: Node, model: ModelSettings, plan: LaunchPlan, replica: int) -> EngineUnit:
    """Return what the unit of one replica says.

    Raises:
        NotYetKnown: Docker is not there yet.
        MetalserveError: the host is in a group whose network it does not have.
    """
    settings, engine = node.settings, node.settings.engine
    place = place_of(settings.storage.mount, model)
    gpus = plan.gpus_per_replica[replica]
    found = [gpu for index in gpus if (gpu := node.hardware.gpu(index)) is not None]
    uuids = [gpu.uuid or "" for gpu in found]
    # By UUID: an index means another GPU once one before it is gone, and two engines would meet on it.
    devices = tuple(gpu.uuid or str(gpu.index) for gpu in found)
    by_cdi = engine.runtime == "podman" or access(node) == "cdi"
    if by_cdi:
        gpu_options = [f"--device nvidia.com/gpu={device}" for device in devices]
    else:
        gpu_options = ["--runtime nvidia", f"--env NVIDIA_VISIBLE_DEVICES={','.join(uuids)}"]
    systemd = node.observed.version_of("systemd") or "0"
    major = systemd.split(".")[0].split("-")[0].split("~")[0]
    part = group.part_of(node, plan.replica_args(replica)) if engine.group is not None else None
    serves = part is None or part.rank == 0
    load_format, _ = loading.format_for(node, model.served_as, place.revision, len(gpus))
    listen = {"MS_LISTEN": f"{engine.host} {plan.ports[replica]}"} if serves else {}
    return EngineUnit(
        replica=replica,
        model=model.served_as,
        image=image.to_run(node),
        arguments=loading.with_format(plan.replica_args(replica), load_format),
        gpus=gpus,
        gpu_options=gpu_options,
        devices=devices,
        weights=place.published,
        weights_inside=container_path(model),
        mount_unit=mount_unit_name(settings.storage.mount) if settings.storage.device != "none" else "",
        address=address(engine),
        port=plan.ports[replica],
        gate={
            "MS_GPUS": ",".join(uuids),
            **({"MS_DEVICES": ",".join(devices), "MS_SPEC": CDI_SPEC} if by_cdi else {}),
            "MS_IMAGE": image.reference(settings, node.release),
            "MS_FABRIC": "1" if node.hardware.needs_fabric_manager and len(gpus) > 0 else "0",
            "MS_WEIGHTS": "1",
            "MS_STORE": place.store,
            "MS_REVISION": place.revision,
            "MS_SHARE": f"{plan.gpu_memory_utilization:g}",
            **listen,
            **(part.gate if part is not None else {}),
        },
        authorisation=AUTHORISATION,
        cache=f"{cache_key(node, model, found)}/{replica}",
        start_timeout_s=engine.start_timeout_s,
        stop_timeout_s=engine.stop_timeout_s,
        gate_s=GATE_S + (engine.start_timeout_s if part is not None else 0),
        attempts=engine.start_attempts,
        delay_s=engine.restart_delay_s,
        delay_max_s=engine.restart_delay_max_s,
        memory_limit=engine.memory_limit,
        pids_limit=engine.pids_limit,
        log_max_size=settings.container.log_max_size,
        log_max_files=settings.container.log_max_files,
        back_off=major.isdigit() and int(major) >= 254,
        variables=part.variables if part is not None else (),
        host_devices=part.devices if part is not None else (),
        part=part.words if part is not None else "",
        runtime=engine.runtime,
        page_cache=engine.page_cache,
        load_format=load_format,
    )


def cache_key(node: Node, model: ModelSettings, gpus: list[Gpu]) -> str:
    """Return the name of the directory for compiled kernels: what they are made for is image, GPU and model."""
    vllm = node.release.vllm
    tag = vllm.digest.removeprefix("sha256:")[:12] if vllm.digest is not None else vllm.tag
    gpu = (gpus[0].name if gpus else None) or "GPU"
    words = f"{tag}--{gpu}--{model.name.replace('/', '--')}@{model.revision[:12]}"
    return re.sub(r"[^A-Za-z0-9_.@-]+", "-", words)
