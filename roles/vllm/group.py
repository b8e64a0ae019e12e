"""A host's part of an engine that several hosts run together: rank, arguments, network, RDMA. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from metalserve.catalogue.loader import load_gpus
from metalserve.desired.node import Node
from metalserve.errors import MetalserveError
from metalserve.planning import LaunchPlan, ModelConfig
from metalserve.planning.multinode import plan_group
from metalserve.planning.work import Split
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
    words = [word for word in arguments if word != "--headless"]
    for option in ("--node-rank", "--data-parallel-start-rank"):
        if option in words:
            place = words.index(option)
            del words[place : place + 2]
    model = node.settings.model
    archive = node.settings.engine.image_archive_sha256 or ""
    said = [image.reference(node.settings, node.release), archive, model.revision if model else "", *words]
    return hashlib.sha256("\0".join(said).encode()).hexdigest()[:16]


def group_plan(node: Node, model: ModelConfig, settings: ModelSettings, path: str) -> LaunchPlan:
    """Return the plan of this host's part, as the plan of the whole group has it.

    Args:
        node: the host; all hosts of the group are taken to have the same GPUs.
        model: the model.
        settings: its settings.
        path: where the container finds it.

    Raises:
        MetalserveError: the host is not in its own group.
    """
    engine = node.settings.engine
    group = _group(engine)
    rank, hosts = _rank(node, group), len(group.hosts)
    plan = plan_group(
        node.hardware,
        model,
        engine,
        node.release,
        load_gpus(),
        hosts,
        model_path=path,
        served_name=settings.served_as,
    )
    if not plan.fits:
        return LaunchPlan(fits=False, refused=plan.refused, vllm_version=plan.vllm_version)
    words = list(plan.member_args(rank, group.head_address))
    for option in ("--master-port", "--data-parallel-rpc-port"):
        if option in words:
            words[words.index(option) + 1] = str(group.master_port)
    place = "the head" if rank == 0 else f"rank {rank}"
    return LaunchPlan(
        fits=True,
        replicas=1,
        split=Split(plan.tensor_parallel, plan.pipeline_parallel, plan.data_parallel, plan.expert_parallel),
        gpus_per_replica=(plan.members[rank].gpus,),
        max_model_len=plan.max_model_len,
        gpu_memory_utilization=plan.gpu_memory_utilization,
        kv_tokens=plan.kv_tokens,
        memory=plan.memory,
        vllm_args=tuple(words),
        reasons=(f"{hosts} hosts run one engine together; this one is {place}.", *plan.reasons),
        vllm_version=plan.vllm_version,
        ports=(plan.port,),
    )
