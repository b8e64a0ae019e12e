"""The reasons of a plan, in sentences with numbers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace

from metalserve.catalogue.loader import load_speeds
from metalserve.planning import placement
from metalserve.planning.allreduce import nvlink_curve, pcie_generation
from metalserve.planning.choice import LATENCY_GAIN, Candidate, rank
from metalserve.planning.constraints import split_problem
from metalserve.planning.memory import GIB
from metalserve.planning.model import ModelConfig
from metalserve.planning.options import Host, Option
from metalserve.planning.speed import Range, Speed, compute_of
from metalserve.planning.work import Split
from metalserve.planning.workload import INTENTS, LATENCY_CONCURRENCY, Intent, Workload


def links(host: Host) -> list[str]:
    """Return how the GPUs reach each other."""
    return [f"Links: {placement.describe(host.hardware, host.gpus)}."]


def between(values: Range, digits: int = 0) -> str:
    """Return `1,200 (900 to 1,600)`."""
    return f"{values.value:,.{digits}f} ({values.low:,.{digits}f} to {values.high:,.{digits}f})"


def choice(
    chosen: Candidate, options: Sequence[Option], model: ModelConfig, workload: Workload, intent: Intent
) -> list[str]:
    """Return why this option: what it is made for, the memory, the speed, the links."""
    option = chosen.option
    one = next((o for o in options if o.size == 1), None)
    if option.size == 1:
        said = [
            f"The model fits one GPU ({option.share.weights / GIB:.1f} GiB of weights, "
            f"{option.share.kv_bytes / GIB:.1f} GiB for the KV cache), so every GPU gets a replica of its own, "
            f"{len(option.groups)} in all: no all-reduces."
        ]
    else:
        said = _why_split(option, one, options, model)
    if chosen.estimate is None:
        return [
            *said,
            "The catalogue has no rates of this GPU: speed was not estimated, the smallest useful split is taken.",
        ]
    return [
        _workload(workload, intent),
        *said,
        *_speed(chosen, workload, intent),
        *_link_notes(chosen, model, workload),
    ]


def _workload(workload: Workload, intent: Intent) -> str:
    said = f"Planned for prompts of {workload.prompt:,} and answers of {workload.answer:,} tokens"
    said += " (assumed: engine.workload says otherwise)" if workload.assumed else ""
    if workload.concurrency:
        said += f", {workload.concurrency:,} requests at once"
    elif intent == "latency":
        said += f", {LATENCY_CONCURRENCY} requests at once"
    limit = workload.limit(intent)
    if limit is not None:
        said += f", at most {limit:g} ms a token"
        said += " (less cannot be kept here)" if workload.relaxed else ""
    if workload.ttft_ms is not None:
        said += f", at most {workload.ttft_ms:g} ms to the first"
    return f"{said}."


def _why_split(option: Option, one: Option | None, options: Sequence[Option], model: ModelConfig) -> list[str]:
    said = []
    if one is not None:
        weights, budget = one.share.weights / GIB, one.share.budget / GIB
        tokens = one.share.kv_tokens
        state = "does not fit" if tokens == 0 else f"leaves {tokens:,} tokens of KV cache on"
        said.append(f"The model ({weights:.1f} GiB of weights) {state} one GPU ({budget:.1f} GiB usable).")
    split = option.split
    if split.data > 1:
        said.append(
            f"The attention stands {split.data} times and works on different requests, the experts lie over all "
            f"{split.data * split.tensor} GPUs: the KV cache of {option.share.kv_tokens:,} tokens is not repeated."
        )
    elif split.tensor > 1:
        smaller = [o for o in options if o.split.pipeline == 1 == o.split.data and 1 < o.split.tensor < split.tensor]
        if smaller:
            near = max(smaller, key=lambda o: o.split.tensor)
            said.append(
                f"Tensor parallel {near.split.tensor} would leave {near.share.kv_tokens:,} tokens of KV cache, "
                f"tensor parallel {split.tensor} leaves {option.share.kv_tokens:,}."
            )
        over = "NVLink" if option.linked else "PCIe"
        said.append(
            f"Each layer is shared by {split.tensor} GPUs over {over} ({2 * model.layers} all-reduces a token)."
        )
    if split.pipeline > 1:
        said.append(
            f"The layers are laid over {split.pipeline} pipeline stages: only one small transfer a stage and token "
            f"passes between them; a lone request is no faster for it."
        )
    if split.expert and split.data == 1:
        said.append("Whole experts are laid over the GPUs: split, they would be no whole quantisation blocks.")
    return said


def _speed(chosen: Candidate, workload: Workload, intent: Intent) -> list[str]:
    estimate = chosen.estimate
    assert estimate is not None
    who = "Each engine" if chosen.engines > 1 else "The engine"
    said = [
        f"{who} does {between(estimate.tokens_s)} tokens/s with {estimate.running:.0f} requests at once: "
        f"{between(estimate.tpot_ms, 1)} ms a token, first token after {estimate.ttft_ms[0]:,.0f} ms without a queue, "
        f"{estimate.ttft_ms[1]:,.0f} ms under full load; limited by {estimate.tpot.limited_by}."
    ]
    if estimate.running < estimate.asked and chosen.keeps:
        said.append(
            f"Of {estimate.asked:.0f} requests asked of an engine {estimate.running:.0f} run at once, by its KV cache "
            "or the limit: the others wait."
        )
    if not chosen.keeps:
        said.append("No split keeps the limit; this one has the shortest time a token.")
    if intent == "latency":
        said.append(f"For latency, each doubling of the GPUs of an engine had to bring {100 * LATENCY_GAIN:.0f} %.")
    return said


def _link_notes(chosen: Candidate, model: ModelConfig, workload: Workload) -> list[str]:
    option, estimate, speed = chosen.option, chosen.estimate, chosen.option.speed
    assert estimate is not None
    assert speed is not None
    curve = speed.curve
    if curve is None or curve.nvlink:
        return []
    small = model.hidden * 2 * max(1.0, estimate.running / option.split.pipeline)
    said = [
        f"One all-reduce of {small / 1024:,.0f} KiB takes {curve.seconds(small) * 1e6:,.0f} us over PCIe "
        f"({curve.source}); all-reduces are {100 * estimate.tpot.all_reduce / estimate.tpot.total:.0f} % of the time "
        "a token."
    ]
    if option.split.pipeline == 1:
        other = copy(speed)
        other.curve = nvlink_curve(None, option.split.tensor)
        linked = other.estimate(estimate.asked, workload).tokens_s.value
        lost = linked - estimate.tokens_s.value
        said.append(
            f"PCIe costs {lost * chosen.busy:,.0f} tokens/s on this host: NVLink of the H100's kind between the same "
            f"GPUs would give {linked * chosen.busy:,.0f} instead of {chosen.host_tokens_s:,.0f}."
        )
    if option.split.tensor > 2:
        said.append("vLLM turns its own all-reduce off over more than two PCIe GPUs and takes NCCL; so does the plan.")
        if not curve.sure:
            said.append(
                "Measure this host's links (deploys/verify.py): with like cards, NCCL's settings and the topology "
                "alone changed their bandwidth by 1.9."
            )
    elif curve.custom:
        said.append(
            "vLLM's own all-reduce between two PCIe GPUs needs peer-to-peer; where ACS or an IOMMU is in the way it "
            "hangs or gives wrong sums, so the host's PCIe checks must pass first."
        )
    return said


def pipeline_note(host: Host, chosen: Candidate, workload: Workload) -> list[str]:
    """Return what stages cost where NVLink between the same GPUs would have let them share each layer."""
    option, estimate, speed = chosen.option, chosen.estimate, chosen.option.speed
    split, compute = option.split, compute_of(host.spec)
    if split.pipeline == 1 or estimate is None or speed is None or compute is None or host.spec is None:
        return []
    wide = Split(split.tensor * split.pipeline)
    if placement.joined_by_nvlink(host.hardware, option.groups[0]) or split_problem(speed.model, wide.tensor, 1):
        return []
    other = Speed(
        speed.model,
        wide,
        host.spec,
        compute,
        nvlink_curve(None, wide.tensor),
        kv_tokens=speed.kv_tokens,
        batched=speed.batched,
        most_at_once=speed.most_at_once,
        kv_element_bytes=speed.work.kv_element_bytes,
    )
    tokens = other.estimate(estimate.running, workload).tokens_s.value
    lost = (tokens - estimate.tokens_s.value) * chosen.busy
    return [
        f"PCIe costs {lost:,.0f} tokens/s on this host: with NVLink of the H100's kind between all {wide.tensor} GPUs, "
        f"tensor parallel {wide.tensor} would give {tokens * chosen.busy:,.0f} instead of {chosen.host_tokens_s:,.0f} "
        "with as many requests."
    ]


def placement_notes(host: Host, option: Option) -> list[str]:
    """Return what is to be said of the GPUs that were taken: uneven links, NUMA nodes crossed."""
    hardware, wide = host.hardware, option.split.tensor * option.split.data
    said = []
    for group in option.groups:
        for stage in (group[place : place + wide] for place in range(0, len(group), wide)):
            if wide > 1 and placement.uneven(hardware, stage):
                numbers = ", ".join(map(str, stage))
                said.append(f"GPUs {numbers} are linked unevenly: their all-reduce runs at the slowest pair.")
            nodes = {hardware.numa_nodes.get(gpu) for gpu in stage}
            if (
                len(stage) > 1
                and len(nodes) > 1
                and None not in nodes
                and not placement.joined_by_nvlink(hardware, stage)
            ):
                numbers = ", ".join(map(str, stage))
                said.append(
                    f"GPUs {numbers} lie on NUMA nodes {', '.join(sorted(map(str, nodes)))}: their sums cross sockets."
                )
    return said


def numa_of(host: Host, group: Sequence[int]) -> list[str]:
    """Return the NUMA nodes of a group's GPUs as `topo -m` prints them; empty when they are not known."""
    return sorted({host.hardware.numa_nodes[gpu] for gpu in group if gpu in host.hardware.numa_nodes})


def lost(other: Candidate, chosen: Candidate, intent: Intent, workload: Workload) -> str:
    """Return in a few words why a runner-up was not taken."""
    if other.estimate is None or chosen.estimate is None:
        return "more GPUs an engine than needed" if other.option.size > chosen.option.size else "less room"
    limit = workload.limit(intent)
    if not other.keeps and chosen.keeps:
        if limit is not None and other.estimate.tpot_ms.value > limit:
            return f"{other.estimate.tpot_ms.value:.0f} ms a token even with {other.estimate.running:.0f} requests"
        return f"first token after {other.estimate.ttft_ms[0]:,.0f} ms"
    if intent == "latency":
        mine, its = chosen.estimate.tpot_ms.value, other.estimate.tpot_ms.value
        if other.value > chosen.value:
            return f"{its:.1f} against {mine:.1f} ms a token: not enough for {other.option.size} GPUs an engine"
        return f"{its:.1f} against {mine:.1f} ms a token"
    share = other.value / chosen.value - 1
    if share > 0:
        why = "its speed is less certain" if other.option.split.data > 1 or other.option.split.pipeline > 1 else "wider"
        return f"{100 * share:.0f} % more tokens/s, but not enough: {why}"
    return f"{-100 * share:.0f} % fewer tokens/s, limited by {other.estimate.tpot.limited_by}"


def load(option: Option, read_gb_s: float | None) -> tuple[float | None, str]:
    """Return (seconds, sentence) of loading the weights of all engines from the drive, which they share.

    Args:
        option: the split.
        read_gb_s: rate of the drive, GB/s; None when it was not measured.
    """
    size = option.share.weights * option.size
    said = f"The weights are loaded as they lie in their files (--load-format auto), {size / GIB:.0f} GiB an engine"
    if not read_gb_s:
        return None, f"{said}."
    # the second engine finds them in the page cache where that holds them; the plan does not count on it
    seconds = len(option.groups) * size / (read_gb_s * 1e9)
    return seconds, f"{said}: {seconds:,.0f} s in all at the {read_gb_s:.1f} GB/s that the drive gave, unless cached."


def offload(host: Host, chosen: Candidate, workload: Workload) -> list[str]:
    """Return what came of considering the host's memory for weights or KV cache."""
    estimate, spec = chosen.estimate, host.spec
    if estimate is None or spec is None or not spec.memory.bandwidth_gb_s:
        return []
    if chosen.option.share.kv_tokens >= estimate.asked * workload.context:
        return []  # the KV cache holds what is asked of it
    pcie = load_speeds().links.pcie_gb_s.get(pcie_generation(spec), 25.6)
    slower = spec.memory.bandwidth_gb_s / pcie
    return [
        f"Offload to the host's memory was considered: PCIe reads {slower:.0f} times slower than the GPU's memory, "
        "so the KV cache of running requests stays on the GPU; --kv-offloading-size pays where long prompts come again."
    ]


def would_change(candidates: Sequence[Candidate], workload: Workload, intent: Intent) -> list[str]:
    """Return what would make another option the choice: the same ones asked with other workloads."""
    chosen = candidates[0]
    if chosen.estimate is None:
        return []
    fitting = [one.option for one in candidates]
    said = []
    others: dict[str, tuple[Workload, Intent]] = {
        "one request at a time": (replace(workload, concurrency=1), intent),
        "256 requests at once": (replace(workload, concurrency=256), intent),
        "prompts four times as long": (replace(workload, prompt=workload.prompt * 4), intent),
        "answers four times as long": (replace(workload, answer=workload.answer * 4), intent),
    }
    own = replace(workload, tpot_ms=None, relaxed=False) if workload.relaxed else workload
    others |= {f"intent {name}": (own, name) for name in INTENTS if name != intent}
    for words, (other, aim) in others.items():
        best = rank(fitting, other, aim, chosen.option.speed.model, 0, None)[0] if chosen.option.speed else chosen
        if best.option.split != chosen.option.split:
            said.append(f"{words}: {best.option.words}")
    return said
