"""`metalserve plan`: how a model would be served on given GPUs, and why."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError
from rich.console import Console

from metalserve.catalogue.loader import load_gpus
from metalserve.errors import MetalserveError
from metalserve.planning import LaunchPlan, ModelConfig, hardware_by_name, model_config_from, plan_launch
from metalserve.planning.known import known_model
from metalserve.planning.memory import GIB
from metalserve.releases import Release, load_release, release_names
from metalserve.settings import EngineSettings


def read_model(text: str) -> tuple[ModelConfig, str]:
    """Return the model of a directory, a config.json, or a catalogue name, and what to call its path."""
    path = Path(text)
    if path.is_dir():
        index = path / "model.safetensors.index.json"
        shards = list(path.glob("*.safetensors"))
        total = sum(shard.stat().st_size for shard in shards) or None
        if total is None and index.is_file():
            total = _json(index).get("metadata", {}).get("total_size")
        return model_config_from(_json(path / "config.json"), weights_bytes=total), str(path.absolute())
    if path.is_file():
        return model_config_from(_json(path)), "MODEL"
    return known_model(text), text


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MetalserveError(str(error), where=str(path)) from None
    if not isinstance(value, dict):
        raise MetalserveError("is not a JSON object", where=str(path))
    return value


def _bar(plan: LaunchPlan) -> str:
    """Return the memory of the fullest GPU as a stacked bar of 50 characters with its figures."""
    memory = plan.memory
    if memory is None:
        return ""
    parts = {"weights": memory.weights, "overhead": memory.overhead, "KV cache": memory.kv_bytes}
    letters = "".join(mark * round(50 * size / memory.budget) for mark, size in zip("█▒░", parts.values(), strict=True))
    figures = ", ".join(
        f"{mark} {name} {size / GIB:.1f}" for mark, (name, size) in zip("█▒░", parts.items(), strict=True)
    )
    return f"{letters} {memory.budget / GIB:.1f} GiB a GPU: {figures}"


def _command(plan: LaunchPlan, release: Release, replica: int) -> str:
    devices = ",".join(map(str, plan.gpus_per_replica[replica]))
    words = ["docker", "run", "--gpus", f'"device={devices}"', "--ipc=host", "--network", "host"]
    words += ["--env-file", "/etc/metalserve/vllm.env", "-v", "/srv/models:/srv/models:ro", release.image]
    return shlex.join([*words, *plan.replica_args(replica)])


@click.command("plan")
@click.option("--gpu", required=True, metavar="COUNTxGPU", help="The host's GPUs, e.g. 8xH100-SXM or 4xL40S.")
@click.option(
    "--model", required=True, metavar="MODEL", help="A config.json, a model's directory, or a known model's name."
)
@click.option("--release", "release_name", metavar="NAME", help="The release; default: the newest.")
@click.option(
    "--intent", type=click.Choice(["latency", "throughput", "balanced"]), default="balanced", show_default=True
)
@click.option("--tensor-parallel", type=int, help="As engine.tensor_parallel; default: planned.")
@click.option("--pipeline-parallel", type=int, help="As engine.pipeline_parallel; default: planned.")
@click.option("--replicas", type=int, help="As engine.replicas; default: planned.")
@click.option("--max-model-len", type=int, help="As engine.max_model_len, tokens; default: planned.")
@click.option(
    "--gpu-memory-utilization", type=float, help="As engine.gpu_memory_utilization, 0 to 1; default: planned."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(gpu: str, model: str, release_name: str | None, as_json: bool, **engine: Any) -> int:
    """Plan the vLLM launch of MODEL on GPUs, without a host. Exit status 1 when it does not fit."""
    release = load_release(release_name or sorted(release_names())[-1])
    try:
        settings = EngineSettings(**engine)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).replace("_", "-")
        raise MetalserveError(first["msg"], where=option) from None
    config, path = read_model(model)
    catalogue = load_gpus()
    plan = plan_launch(hardware_by_name(gpu, catalogue), config, settings, release, catalogue, model_path=path)
    if as_json:
        click.echo(json.dumps({"model": model, "gpu": gpu, "release": release.name, **plan.as_dict()}, indent=2))
    else:
        _print(plan, release, gpu, model)
    return 0 if plan.fits else 1


def _print(plan: LaunchPlan, release: Release, gpu: str, model: str) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{model} on {gpu}, vLLM {plan.vllm_version} (release {release.name})", markup=False)
    if not plan.fits:
        console.print(f"refused: {plan.refused}", markup=False)
    else:
        console.print(
            f"{plan.replicas} replica{'' if plan.replicas == 1 else 's'}, tensor parallel {plan.tensor_parallel}, "
            f"pipeline parallel {plan.pipeline_parallel}, context {plan.max_model_len:,} tokens, "
            f"KV cache {plan.kv_tokens:,} tokens a replica",
            markup=False,
        )
        console.print(_bar(plan), markup=False)
    for reason in plan.reasons:
        console.print(f"- {reason}", markup=False)
    if plan.fits:
        console.print(_command(plan, release, 0), markup=False)
