"""A host's part of an engine that several hosts run together: rank, arguments, network, RDMA. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from metalserve.catalogue.loader import load_gpus
from metalserve.catalogue.vllm_flags import load_flags
from metalserve.desired.node import Node
from metalserve.errors import MetalserveError
from metalserve.planning import LaunchPlan, ModelConfig
from metalserve.planning.constraints import split_problem
from metalserve.planning.search import Search, usable_host
from metalserve.settings import EngineSettings, GroupSettings, ModelSettings
from roles.vllm import image

ADDRESSES_SECTION: Final = "addresses"
"""Section of an observation: `ip -o addr show`."""

INFINIBAND: Final = "/dev/infiniband"


@dataclass(frozen=True)
class Part:
    """What the unit of one host of a group says beside the rest.

    Attributes:
        rank: 0 for the head.
        gate: variables of the gate and the watch.
        variables: environment of the container: which interface and which RDMA devices the ranks talk over.
        devices: device directories that the container gets.
        words: for the unit's description.
    """

    rank: int
    gate: dict[str, str]
    variables: tuple[str, ...]
    devices: tuple[str, ...]
    words: str


def part_of(node: Node, arguments: Sequence[str]) -> Part:
    """Return the host's part of its group.

    Args:
        node: the host.
        arguments: what follows the image, of this host.

    Raises:
        MetalserveError: the host is not in its own group, or does not have the address that the group gives it.
    """
    group = _group(node.settings.engine)
    rank = _rank(node, group)
    interface = _interface(node, group.hosts[node.name])
    rdma = _rdma(node)
    variables = [
        # Gloo falls back to loopback where it is not told, and NCCL takes the first interface of the list.
        f"NCCL_SOCKET_IFNAME=={interface}",
        f"GLOO_SOCKET_IFNAME={interface}",
        f"VLLM_HOST_IP={group.hosts[node.name]}",
        f"NCCL_IB_HCA=={','.join(rdma)}" if rdma else "NCCL_IB_DISABLE=1",
    ]
    return Part(
        rank=rank,
        gate={
            **watch_variables(node),
            "MS_VERSION": _version(node, arguments),
            "MS_GROUP_WAIT": str(node.settings.engine.start_timeout_s),
        },
        variables=tuple(variables),
        devices=(INFINIBAND,) if rdma else (),
        words=f", {'head' if rank == 0 else f'rank {rank}'} of {len(group.hosts)} hosts",
    )


def watch_variables(node: Node) -> dict[str, str]:
    """Return what gate and watch must know of the group; empty for a host of its own.

    Raises:
        MetalserveError: the host is not in its own group.
    """
    group = node.settings.engine.group
    if group is None:
        return {}
    rank = _rank(node, group)
    members = [f"{name}={address}" for name, address in group.hosts.items() if name != group.head]
    return {
        "MS_RANK": str(rank),
        "MS_PEERS": " ".join(members) if rank == 0 else f"{group.head}={group.head_address}",
        "MS_STATE_PORT": str(group.state_port),
    }


def _group(engine: EngineSettings) -> GroupSettings:
    assert engine.group is not None
    return engine.group


def _rank(node: Node, group: GroupSettings) -> int:
    try:
        return group.rank(node.name)
    except KeyError:
        raise MetalserveError(
            f"does not name this host; it names {', '.join(group.hosts)}",
            where="engine.group.hosts",
            remedy=f"add '{node.name}' with its address, or take the section from this host",
        ) from None


def _interface(node: Node, address: str) -> str:
    """Return the network interface that has an address of the host."""
    found = re.findall(r"^\d+: +(\S+) +inet6? (\S+)/\d+", node.observed.text(ADDRESSES_SECTION), re.MULTILINE)
    for interface, has in found:
        if has == address:
            return str(interface).partition("@")[0]
    there = ", ".join(f"{has} ({interface})" for interface, has in found if interface != "lo") or "none"
    raise MetalserveError(
        f"gives this host {address}, which it does not have; it has {there}",
        where="engine.group.hosts",
        remedy="give each host the address of its card in the network between the hosts",
    )


def _rdma(node: Node) -> list[str]:
    """Return the RDMA devices whose port is up, where containers can be given them."""
    if INFINIBAND not in node.observed.files:
        return []
    return sorted(nic.rdma for nic in node.hardware.nics_detail if nic.rdma is not None and nic.state == "up")


def _version(node: Node, arguments: Sequence[str]) -> str:
    """Return what all hosts of a group must agree on before one of them starts: image, model, arguments."""
    own = {"--headless"}
    words = [word for word in arguments if word not in own]
    if "--node-rank" in words:
        words[words.index("--node-rank") + 1] = "*"
    model = node.settings.model
    archive = node.settings.engine.image_archive_sha256 or ""
    said = [image.reference(node.settings, node.release), archive, model.revision if model else "", *words]
    return hashlib.sha256("\0".join(said).encode()).hexdigest()[:16]


def group_plan(node: Node, model: ModelConfig, settings: ModelSettings, path: str) -> LaunchPlan:
    """Return the plan of this host's part: tensor parallel inside a host, pipeline stages across them.

    Cross-node tensor parallel pays only over RDMA; vLLM's own rule is TP = GPUs of a host, PP = hosts (docs/serving,
    0.33), which is what is taken where the settings leave it open.

    Args:
        node: the host; all hosts of the group are taken to have the same GPUs.
        model: the model.
        settings: its settings.
        path: where the container finds it.

    Raises:
        MetalserveError: the host is not in its own group.
    """
    from metalserve.planning import arguments as words

    engine, version = node.settings.engine, node.release.vllm.version
    group = _group(engine)
    rank, hosts = _rank(node, group), len(group.hosts)
    flags, catalogue = load_flags(version), load_gpus()
    refused = LaunchPlan(fits=False, vllm_version=version)
    if "--nnodes" not in flags.by_name:
        return replace(refused, refused=f"vLLM {version} has no --nnodes: a group needs 0.11.2 or newer")
    if problem := words.extra_problem(engine.extra_args, flags):
        return replace(refused, refused=problem)
    found = usable_host(node.hardware, catalogue)
    if isinstance(found, str):
        return replace(refused, refused=found)
    count = len(found.gpus)
    pipeline = engine.pipeline_parallel or hosts
    tensor = engine.tensor_parallel or max(1, count * hosts // pipeline)
    if tensor * pipeline % hosts or tensor * pipeline // hosts > count:
        return replace(
            refused,
            refused=f"tensor parallel {tensor} x pipeline parallel {pipeline} GPUs cannot be laid evenly over {hosts} "
            f"hosts of {count}",
        )
    if problem := split_problem(model, tensor, pipeline):
        return replace(refused, refused=f"tensor parallel {tensor}, pipeline parallel {pipeline}: {problem}")
    default = flags.by_name["--gpu-memory-utilization"].default
    utilization = engine.gpu_memory_utilization or (default if isinstance(default, float) else 0.9)
    search = Search(found, model, engine, utilization, 2.0)
    share = search.share(tensor, pipeline)
    if share.kv_tokens < search.needed_tokens:
        return replace(
            refused,
            refused=f"{hosts} hosts of {count} {found.name} hold {share.kv_tokens:,} tokens of KV cache beside the "
            f"weights, {search.needed_tokens:,} are needed: more hosts, or a smaller or quantised model",
        )
    local = tensor * pipeline // hosts
    gpus = search.groups(min(tensor, local), max(1, local // tensor))[0]
    context = engine.max_model_len or min(model.max_position, max(1024, share.kv_tokens // 1024 * 1024))
    arguments = words.vllm_args(
        flags,
        model_path=path,
        served_name=settings.served_as,
        engine=engine,
        port=engine.port,
        tensor_parallel=tensor,
        pipeline_parallel=pipeline,
        max_model_len=context,
        utilization=utilization,
        dtype=None,
    )
    arguments += ["--nnodes", str(hosts), "--node-rank", str(rank), "--master-addr", group.head_address]
    arguments += ["--master-port", str(group.master_port), *(["--headless"] if rank else [])]
    if wrong := words.first_error(arguments, version):
        return replace(refused, refused=f"vLLM {version} would not start: {wrong}")
    return LaunchPlan(
        fits=True,
        replicas=1,
        tensor_parallel=tensor,
        pipeline_parallel=pipeline,
        gpus_per_replica=(tuple(gpus),),
        max_model_len=context,
        gpu_memory_utilization=utilization,
        kv_tokens=share.kv_tokens,
        memory=share,
        vllm_args=tuple(arguments),
        reasons=(
            f"{hosts} hosts run one engine: {tensor} GPUs share each layer, {pipeline} stages lie over the hosts; "
            f"this one is {'the head' if rank == 0 else f'rank {rank}'}.",
            f"The KV cache holds {share.kv_tokens:,} tokens.",
        ),
        vllm_version=version,
        ports=(engine.port,),
    )
