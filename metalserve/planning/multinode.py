"""One model over several equal hosts: tensor parallel inside a host, pipeline stages across them. Values in and out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from metalserve.catalogue.models import GpuCatalogue
from metalserve.hardware.node import NodeHardware
from metalserve.planning import arguments, explain, placement
from metalserve.planning.allreduce import MeasuredLinks
from metalserve.planning.constraints import split_problem
from metalserve.planning.memory import GIB, Correction, Share
from metalserve.planning.model import ModelConfig
from metalserve.planning.options import Option
from metalserve.planning.prepared import Prepared, prepare
from metalserve.planning.search import Search
from metalserve.planning.work import Split

if TYPE_CHECKING:
    from metalserve.releases import Release
    from metalserve.settings import EngineSettings

HEAD = "{head}"
"""Stands for the address of node 0 in the arguments of a plan: an address is no matter of planning."""

MASTER_PORT = 29501
"""Port on which the nodes of a group meet; vLLM's own default of --master-port."""


@dataclass(frozen=True)
class MemberPlan:
    """What one node of the group runs.

    Attributes:
        node: 0 for the head.
        gpus: nvidia-smi's GPU numbers that the engine of this node uses.
        vllm_args: what follows the image's name; `HEAD` stands for the head's address.
        serves: this node opens the API port; the others have none.
    """

    node: int
    gpus: tuple[int, ...]
    vllm_args: tuple[str, ...]
    serves: bool


@dataclass(frozen=True)
class GroupPlan:
    """How one model is served by `nodes` equal hosts together. When `fits` is false, `refused` says why.

    Attributes:
        tensor_parallel: GPUs that share a layer, all of one host.
        pipeline_parallel: stages over the whole group.
        data_parallel: engines' ranks over the whole group that work on different requests (mixtures), else 1.
        expert_parallel: the experts are laid over all ranks.
        kv_tokens: tokens that the KV cache of the whole group holds, lowered by the plan's own error.
        memory: the fullest GPU, bytes.
        members: one entry a node, in the order of their ranks.
        port: port of the API on the head.
        master_port: port on which the nodes meet; open between the nodes only.
    """

    fits: bool
    nodes: int
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    data_parallel: int = 1
    expert_parallel: bool = False
    max_model_len: int = 0
    gpu_memory_utilization: float = 0.0
    kv_tokens: int = 0
    memory: Share | None = None
    members: tuple[MemberPlan, ...] = ()
    port: int = 0
    master_port: int = MASTER_PORT
    reasons: tuple[str, ...] = ()
    refused: str = ""
    vllm_version: str = ""

    def member_args(self, node: int, head: str) -> tuple[str, ...]:
        """Return the arguments of one node (from 0) with the head's address in its place."""
        return tuple(word.replace(HEAD, head) for word in self.members[node].vllm_args)

    def as_dict(self) -> dict[str, object]:
        """Return the plan for JSON (version 1, docs/plan-schema.md)."""
        return {
            "version": 1,
            "fits": self.fits,
            "refused": self.refused or None,
            "vllm_version": self.vllm_version,
            "nodes": self.nodes,
            "tensor_parallel_size": self.tensor_parallel,
            "pipeline_parallel_size": self.pipeline_parallel,
            "data_parallel_size": self.data_parallel,
            "expert_parallel": self.expert_parallel,
            "max_model_len": self.max_model_len,
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "kv_cache_tokens": self.kv_tokens,
            "port": self.port,
            "master_port": self.master_port,
            "reasons": list(self.reasons),
            "members": [
                {"node": m.node, "gpus": list(m.gpus), "serves": m.serves, "vllm_args": list(m.vllm_args)}
                for m in self.members
            ],
        }


def plan_group(
    hardware: NodeHardware,
    model: ModelConfig,
    engine: EngineSettings,
    release: Release,
    catalogue: GpuCatalogue,
    nodes: int,
    *,
    model_path: str = "MODEL",
    served_name: str | None = None,
    measured: MeasuredLinks | None = None,
    correction: Correction | None = None,
) -> GroupPlan:
    """Plan one engine over `nodes` equal hosts.

    Two ways are looked at: tensor parallel inside each host and one or more pipeline stages in each; and, for mixtures
    on hosts with NVLink between all GPUs, attention on different requests in each rank with the experts laid over all.
    The first needs little of the network between the hosts, the second a fast one (RDMA), so it is taken only where the
    first does not fit, or when engine.intent is `throughput`.

    Args:
        hardware: one of the hosts; all are taken to be like it.
        model: the model.
        engine: the engine settings; tensor_parallel and pipeline_parallel (of the whole group) are taken as said.
        release: the release; its vLLM version decides defaults and flags.
        catalogue: GPUs.
        nodes: hosts, 2 or more.
        model_path: where the container finds the model, on each host.
        served_name: the name that clients ask for; the path when None.
        measured: all-reduces measured inside such a host.
        correction: what earlier launches taught.

    Raises:
        MetalserveError: the release's vLLM is not in the flag catalogue.
    """
    version = release.vllm.version
    if nodes < 2:
        return GroupPlan(fits=False, nodes=nodes, refused="a group has two nodes or more", vllm_version=version)
    ready = prepare(hardware, model, engine, release, catalogue, measured=measured, correction=correction)
    if isinstance(ready, str):
        return GroupPlan(fits=False, nodes=nodes, refused=ready, vllm_version=version)
    if "--nnodes" not in ready.flags.by_name:
        refused = f"vLLM {version} has no --nnodes: a group of hosts needs a newer release"
        return GroupPlan(fits=False, nodes=nodes, refused=refused, vllm_version=version)
    search = Search(ready.host, ready.model, engine, ready.terms)
    ways = [*_pipelines(search, nodes), *_expert_ways(search, nodes)]
    possible = [way for way in ways if not _problem(search, way)]
    if not possible:
        why = next(
            (said for way in ways if (said := _problem(search, way))), "no split of the GPUs of a host is possible"
        )
        return GroupPlan(fits=False, nodes=nodes, refused=why, vllm_version=version)
    shares = {way: search.options.share(way) for way in possible}
    fitting = [way for way in possible if shares[way].kv_tokens >= search.needed_of(way)]
    if not fitting:
        best = max(possible, key=lambda way: (shares[way].kv_tokens, shares[way].kv_bytes))
        share = shares[best]
        refused = (
            f"{ready.model.architecture} needs {share.weights / GIB:.1f} GiB of weights and "
            f"{share.overhead / GIB:.1f} GiB overhead on each of {best.gpus} {ready.host.name} ({nodes} hosts), of "
            f"{share.budget / GIB:.1f} GiB usable; the KV cache holds {share.kv_tokens:,} tokens, "
            f"{search.needed_of(best):,} are needed"
        )
        return GroupPlan(fits=False, nodes=nodes, refused=refused, vllm_version=version)
    split = _chosen(fitting, engine)
    return _group(ready, search, split, shares[split], nodes, engine, model_path, served_name)


def _pipelines(search: Search, nodes: int) -> list[Split]:
    """Return splits with stages over the hosts, widest tensor parallel first; every host uses the same GPUs."""
    engine, count = search.engine, len(search.host.gpus)
    widest = max(1, search.options.widest)
    sizes = [engine.tensor_parallel] if engine.tensor_parallel else [n for n in (16, 8, 4, 2, 1) if n <= widest]
    found = []
    for tensor in sizes:
        stages = count // tensor if tensor <= count else 0
        for each in range(1, stages + 1):
            if engine.pipeline_parallel in {None, each * nodes}:
                found.append(Split(tensor, each * nodes))
    return found


def _expert_ways(search: Search, nodes: int) -> list[Split]:
    engine, count = search.engine, len(search.host.gpus)
    if not search.model.experts or engine.pipeline_parallel not in {None, 1}:
        return []
    if placement.largest_nvlink_group(search.host.hardware, search.host.gpus) < count or count < 2:
        return []
    sizes = [engine.tensor_parallel] if engine.tensor_parallel else [n for n in (1, 2, 4, 8) if count % n == 0]
    return [Split(tensor, 1, count // tensor * nodes, expert=True) for tensor in sizes if tensor <= count]


def _problem(search: Search, split: Split) -> str | None:
    return split_problem(search.model, split.tensor, split.pipeline, split.expert_ranks)


def _chosen(fitting: list[Split], engine: EngineSettings) -> Split:
    """Return the split to take: fewest stages and then fewest GPUs, or experts over all for throughput."""
    stages = [way for way in fitting if not way.expert]
    spread = [way for way in fitting if way.expert]
    if spread and (engine.intent == "throughput" or not stages):
        return min(spread, key=lambda way: way.tensor)
    return min(stages, key=lambda way: (way.pipeline, -way.tensor))


def _group(
    ready: Prepared,
    search: Search,
    split: Split,
    share: Share,
    nodes: int,
    engine: EngineSettings,
    model_path: str,
    served_name: str | None,
) -> GroupPlan:
    hardware, count = ready.host.hardware, len(ready.host.gpus)
    inside = split.gpus // nodes
    if split.data > 1:
        gpus = ready.host.gpus[:inside]
    else:
        parts = placement.groups_of(hardware, ready.host.gpus, split.tensor)[: split.pipeline // nodes]
        gpus = tuple(gpu for part in parts for gpu in part)
    option = Option(split, (gpus,), share, True)
    context, context_said = search.context(option)
    members, wrong = [], ""
    for node in range(nodes):
        words = arguments.vllm_args(
            ready.flags, model_path=model_path, served_name=served_name, engine=engine, port=engine.port,
            tensor_parallel=split.tensor, pipeline_parallel=split.pipeline, max_model_len=context,
            utilization=ready.terms.utilization, dtype="half" if ready.half else None,
        )  # fmt: skip
        place = len(words) - len(engine.extra_args)
        words[place:place] = _member_words(split, node, nodes, inside)
        problem = arguments.first_error([word.replace(HEAD, "192.0.2.1") for word in words], ready.flags.release)
        wrong = wrong or (str(problem) if problem else "")
        members.append(MemberPlan(node, gpus, tuple(words), serves=node == 0))
    if wrong:
        refused = f"vLLM {ready.flags.release} would not start: {wrong}"
        return GroupPlan(fits=False, nodes=nodes, refused=refused, vllm_version=ready.flags.release)
    reasons = [*ready.said, *explain.links(ready.host), *_reasons(ready, split, share, nodes), context_said]
    if inside < count:
        reasons.append(f"{count - inside} of {count} GPUs of each host stay idle.")
    return GroupPlan(
        fits=True,
        nodes=nodes,
        tensor_parallel=split.tensor,
        pipeline_parallel=split.pipeline,
        data_parallel=split.data,
        expert_parallel=split.expert,
        max_model_len=context,
        gpu_memory_utilization=ready.terms.utilization,
        kv_tokens=share.kv_tokens,
        memory=share,
        members=tuple(members),
        port=engine.port,
        reasons=tuple(reasons),
        vllm_version=ready.flags.release,
    )


def _member_words(split: Split, node: int, nodes: int, inside: int) -> list[str]:
    """Return what one node is told of the group (vLLM's native ways: --nnodes, and data parallel over hosts)."""
    if split.data > 1:
        local = inside // split.tensor
        words = ["--data-parallel-size", str(split.data), "--data-parallel-size-local", str(local)]
        words += ["--data-parallel-start-rank", str(node * local)] if node else []
        words += ["--data-parallel-address", HEAD, "--data-parallel-rpc-port", str(MASTER_PORT)]
        words += ["--enable-expert-parallel"]
    else:
        words = ["--nnodes", str(nodes), "--node-rank", str(node)]
        words += ["--master-addr", HEAD, "--master-port", str(MASTER_PORT)]
    return words if node == 0 else [*words, "--headless"]


def _reasons(ready: Prepared, split: Split, share: Share, nodes: int) -> list[str]:
    model = ready.model
    usable = f"{share.weights / GIB:.1f} GiB of weights on a GPU, of {share.budget / GIB:.1f} GiB usable"
    if split.data > 1:
        return [
            f"{split.data} ranks of attention on {nodes} hosts work on different requests, the experts lie over all "
            f"{split.gpus} GPUs ({usable}): the KV cache of {share.kv_tokens:,} tokens is not repeated.",
            "Each layer's tokens pass between the hosts: that needs RDMA; over plain Ethernet take a pipeline.",
        ]
    stage = split.tensor * split.pipeline // nodes
    token = 2 * 2 * model.hidden / 1024
    return [
        f"Each layer stays inside a host (tensor parallel {split.tensor}), the layers lie over {split.pipeline} "
        f"stages, {stage // split.tensor} in each of {nodes} hosts ({usable}).",
        f"Between hosts pass {token:.0f} KiB a token and step: a lone request goes through one stage after the other.",
    ]
