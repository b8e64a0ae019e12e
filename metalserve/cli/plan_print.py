"""A plan on the terminal: the choice, the memory as a stacked bar, the runners-up, the reasons, the commands."""

from __future__ import annotations

import shlex

from rich.console import Console

from metalserve.planning import LaunchPlan
from metalserve.planning.memory import GIB, Share
from metalserve.planning.multinode import GroupPlan
from metalserve.planning.plan_json import MOST_RUNNERS_UP
from metalserve.releases import Release

WIDTH = 60
_MARKS = {"weights": "█", "context": "▓", "NCCL": "╳", "activations": "▒", "CUDA graphs": "┼", "KV cache": "░"}


def bar(memory: Share) -> str:
    """Return the memory of the fullest GPU as a stacked bar with its figures, GiB."""
    parts = {
        "weights": memory.weights,
        "context": memory.parts.context,
        "NCCL": memory.parts.nccl,
        "activations": memory.parts.activations,
        "CUDA graphs": memory.parts.graphs,
        "KV cache": memory.kv_bytes + memory.window,
    }
    letters, filled, reached = "", 0.0, 0
    for name, size in parts.items():  # rounded as they add up, so that the bar is as long as it should be
        filled += max(0.0, size)
        upto = round(WIDTH * filled / memory.budget)
        letters += _MARKS[name] * (upto - reached)
        reached = upto
    figures = ", ".join(f"{_MARKS[name]} {name} {size / GIB:.1f}" for name, size in parts.items() if size > 0)
    return f"{letters}\n{figures}: {memory.budget / GIB:.1f} GiB usable of a GPU"


def container_command(gpus: tuple[int, ...], arguments: tuple[str, ...], release: Release) -> str:
    """Return the command that starts an engine by hand; the role writes a unit of the same."""
    devices = ",".join(map(str, gpus))
    words = ["docker", "run", "--gpus", f'"device={devices}"', "--ipc=host", "--network", "host"]
    words += ["--env-file", "/etc/metalserve/vllm.env", "-v", "/srv/models:/srv/models:ro", release.image]
    return shlex.join([*words, *arguments])


def print_plan(plan: LaunchPlan, release: Release, title: str, model: str) -> None:
    """Print a plan of one host."""
    console = Console(highlight=False, soft_wrap=True)

    def say(text: str) -> None:
        console.print(text, markup=False)

    say(f"{model} on {title}, vLLM {plan.vllm_version} (release {release.name})")
    if not plan.fits:
        say(f"refused: {plan.refused}")
        for reason in plan.reasons:
            say(f"- {reason}")
        return
    split = plan.split
    shape = f"tensor parallel {split.tensor}, pipeline parallel {split.pipeline}"
    shape += f", data parallel {split.data} inside the engine" if split.data > 1 else ""
    shape += ", expert parallel" if split.expert else ""
    say(
        f"{plan.replicas} replica{'' if plan.replicas == 1 else 's'}, {shape}, context {plan.max_model_len:,} tokens, "
        f"KV cache {plan.kv_tokens:,} tokens a replica"
    )
    if plan.memory:
        say(bar(plan.memory))
    for reason in plan.reasons:
        say(f"- {reason}")
    if plan.runners_up:
        say("Runners-up:")
    for other in plan.runners_up[:MOST_RUNNERS_UP]:
        one = other.candidate
        speed = (
            f"{one.host_tokens_s:>9,.0f} tokens/s, {one.estimate.tpot_ms.value:6.1f} ms a token" if one.estimate else ""
        )
        say(f"  {one.option.words:16} {speed}  lost: {other.why}")
    if plan.would_change:
        say(f"Another choice for {'; '.join(plan.would_change)}.")
    for replica, gpus in enumerate(plan.gpus_per_replica):
        say(container_command(gpus, plan.replica_args(replica), release))


def print_group(plan: GroupPlan, release: Release, title: str, model: str) -> None:
    """Print a plan of several hosts together."""
    console = Console(highlight=False, soft_wrap=True)

    def say(text: str) -> None:
        console.print(text, markup=False)

    say(f"{model} on {plan.nodes} hosts of {title}, vLLM {plan.vllm_version} (release {release.name})")
    if not plan.fits:
        say(f"refused: {plan.refused}")
        return
    say(
        f"one engine, tensor parallel {plan.tensor_parallel}, pipeline parallel {plan.pipeline_parallel}, "
        f"data parallel {plan.data_parallel}, context {plan.max_model_len:,} tokens, KV cache {plan.kv_tokens:,} tokens"
    )
    if plan.memory:
        say(bar(plan.memory))
    for reason in plan.reasons:
        say(f"- {reason}")
    for member in plan.members:
        say(f"node {member.node}:")
        say(container_command(member.gpus, plan.member_args(member.node, "HEAD"), release))
