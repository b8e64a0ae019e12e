"""`metalserve plan`: how a model would be served on given GPUs, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from metalserve.catalogue.loader import load_gpus
from metalserve.cli.files import json_object
from metalserve.cli.plan_host import LAST_RUN, target_of
from metalserve.cli.plan_print import print_group, print_plan
from metalserve.errors import MetalserveError
from metalserve.planning import ModelConfig, model_config_from, plan_launch
from metalserve.planning.calibration import correction_of, read_corrections
from metalserve.planning.known import known_model
from metalserve.planning.multinode import plan_group
from metalserve.releases import load_release, release_names
from metalserve.settings import EngineSettings


def read_model(text: str) -> tuple[ModelConfig, str]:
    """Return the model of a directory, a config.json, or a catalogue name, and what to call its path."""
    path = Path(text)
    if path.is_dir():
        index = path / "model.safetensors.index.json"
        shards = list(path.glob("*.safetensors"))
        total = sum(shard.stat().st_size for shard in shards) or None
        if total is None and index.is_file():
            total = json_object(index).get("metadata", {}).get("total_size")
        return model_config_from(json_object(path / "config.json"), weights_bytes=total), str(path.absolute())
    if path.is_file():
        return model_config_from(json_object(path)), "MODEL"
    return known_model(text), text


_WORKLOAD = ("prompt_tokens", "answer_tokens", "concurrency", "tpot_ms", "ttft_ms")


def _settings(base: EngineSettings | None, given: dict[str, Any]) -> EngineSettings:
    """Return the engine settings: the inventory's, and over them what the command line says."""
    values = base.model_dump() if base else {}
    workload = {name: given.pop(name) for name in _WORKLOAD}
    values |= {name: value for name, value in given.items() if value is not None}
    values["workload"] = values.get("workload", {}) | {n: v for n, v in workload.items() if v is not None}
    try:
        return EngineSettings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][-1]).replace("_", "-")
        raise MetalserveError(first["msg"], where=option) from None


@click.command("plan")
@click.option("--gpu", metavar="COUNTxGPU", help="The host's GPUs by name, e.g. 8xH100-SXM or 4xL40S.")
@click.option("--host", metavar="NAME", help=f"A host of a report ({LAST_RUN}), or of --inventory.")
@click.option("--inventory", metavar="FILE", help="The host's inventory: it is observed now, with its engine settings.")
@click.option("--report", metavar="FILE", help="A saved report with the host's hardware and measurements.")
@click.option("--nodes", type=click.IntRange(1), default=1, help="Plan one engine over so many equal hosts.")
@click.option(
    "--model", required=True, metavar="MODEL", help="A config.json, a model's directory, or a known model's name."
)
@click.option("--release", "release_name", metavar="NAME", help="The release; default: the host's, else the newest.")
@click.option(
    "--intent", type=click.Choice(["latency", "throughput", "balanced"]), help="What is favoured; default: balanced."
)
@click.option("--prompt-tokens", type=int, help="Tokens of a typical prompt; default: 1024.")
@click.option("--answer-tokens", type=int, help="Tokens of a typical answer; default: 512.")
@click.option("--concurrency", type=int, help="Requests at once on the host; default: as many as pay.")
@click.option("--tpot-ms", type=float, help="Longest time an answer token, milliseconds; default: by the intent.")
@click.option("--ttft-ms", type=float, help="Longest time to the first token without a queue, milliseconds.")
@click.option("--tensor-parallel", type=int, help="As engine.tensor_parallel; default: planned.")
@click.option("--pipeline-parallel", type=int, help="As engine.pipeline_parallel; default: planned.")
@click.option("--replicas", type=int, help="As engine.replicas; default: planned.")
@click.option("--max-model-len", type=int, help="As engine.max_model_len, tokens; default: planned.")
@click.option(
    "--gpu-memory-utilization", type=float, help="As engine.gpu_memory_utilization, 0 to 1; default: planned."
)
@click.option(
    "--calibration", metavar="FILE", type=click.Path(exists=True, dir_okay=False),
    help="Corrections that launches on the host left (JSON, docs/plan-schema.md).",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON (docs/plan-schema.md).")
def command(
    gpu: str | None,
    host: str | None,
    inventory: str | None,
    report: str | None,
    nodes: int,
    model: str,
    release_name: str | None,
    calibration: str | None,
    as_json: bool,
    **engine: Any,
) -> int:
    """Plan the vLLM launch of MODEL: which split, why, and what it will do. Exit status 1 when it does not fit."""
    catalogue = load_gpus()
    target = target_of(gpu, host, inventory, report, catalogue)
    release = load_release(release_name or target.release or sorted(release_names())[-1])
    settings = _settings(target.settings, engine)
    config, path = read_model(model)
    correction = None
    if calibration:
        corrections = read_corrections(Path(calibration).read_text(encoding="utf-8"), calibration)
        correction = correction_of(corrections, target.title, model, release.vllm.version)
    head = {"model": model, "gpu": target.title, "release": release.name, "simulated": target.simulated}
    if target.simulated and not as_json:
        click.echo("simulated: true (a lab host: its GPUs are stand-ins)")
    if nodes > 1:
        group = plan_group(
            target.hardware, config, settings, release, catalogue, nodes,
            model_path=path, measured=target.measured, correction=correction,
        )  # fmt: skip
        if as_json:
            click.echo(json.dumps({**head, **group.as_dict()}, indent=2))
        else:
            print_group(group, release, target.title, model)
        return 0 if group.fits else 1
    plan = plan_launch(
        target.hardware, config, settings, release, catalogue,
        model_path=path, measured=target.measured, correction=correction, read_gb_s=target.read_gb_s,
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps({**head, **plan.as_dict()}, indent=2))
    else:
        print_plan(plan, release, target.title, model)
    return 0 if plan.fits else 1
