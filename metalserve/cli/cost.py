"""`metalserve cost`: what a million tokens costs, bare metal, cloud, owned or bought, side by side."""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import click
import yaml

from metalserve.catalogue.loader import load_gpus, load_prices
from metalserve.catalogue.models import GpuSpec
from metalserve.cli.cost_print import print_figures, print_result
from metalserve.cli.files import json_object, printer, write_out
from metalserve.economics.bench import from_bench
from metalserve.economics.build import build, known_figures
from metalserve.economics.comparison import Comparison, compare
from metalserve.economics.config import CostConfig, read_config
from metalserve.economics.page import html_page
from metalserve.economics.throughput import Throughput, from_plan, with_planned_share
from metalserve.economics.verdict import verdict, warnings
from metalserve.errors import MetalserveError
from metalserve.planning import hardware_by_name

_Step = tuple[float | None, int | None]
"""Load of a bench file, and the nodes behind the address; None: what the file says."""


@click.command("cost")
@click.option("--config", "config_file", metavar="FILE", help="Your figures: see files/cost/example.yaml.")
@click.option("--gpu", metavar="COUNTxGPU", help="The hosts' GPUs, e.g. 8xH100-SXM.")
@click.option(
    "--model", metavar="MODEL", help="A known model's name or a config.json: planned where nothing is measured."
)
@click.option("--bench", metavar="FILE", help="The node's measured rate: JSON of `metalserve bench`.")
@click.option("--plan", metavar="FILE", help="The planner's range: JSON of `metalserve plan --json`.")
@click.option("--concurrency", type=float, metavar="N", help="The load of the bench file to take; default: its knee.")
@click.option(
    "--bench-nodes", type=click.IntRange(1), metavar="N", help="Nodes behind the benched address; default: 1."
)
@click.option("--nodes", type=click.IntRange(1), metavar="N", help="Nodes that serve, redundancy on top; default: 1.")
@click.option("--utilisation", metavar="PROFILE", help="flat, office, consumer, batch, or a file of 24 or 168 shares.")
@click.option(
    "--price", "figures", multiple=True, metavar="NAME=VALUE", help="A price or any figure of your own; repeatable."
)
@click.option(
    "--sensitivity", type=click.FloatRange(1, 90), metavar="PERCENT", help="How far figures are moved; default: 20."
)
@click.option("--list-prices", is_flag=True, help="List every figure that can be given, and the catalogue's prices.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--html", metavar="OUT", help="Write one HTML page with plots that needs no network; - for stdout.")
def command(
    config_file: str | None,
    figures: tuple[str, ...],
    concurrency: float | None,
    bench_nodes: int | None,
    list_prices: bool,
    as_json: bool,
    html: str | None,
    **flags: Any,
) -> None:
    """Compare what a million tokens costs: bare-metal rental, cloud (on demand, reserved, spot), on premises, an API.

    The rate is a measured one (--bench), or the planner's range (--model, or --plan FILE). Every figure stands in the
    result with its source; those of the catalogue are dated, and old prices are told.
    """
    if list_prices:
        print_figures(known_figures().values(), load_prices(), printer())
        return
    if as_json and html == "-":
        raise click.UsageError("only one of --json and --html - can go to stdout")
    today = datetime.now(UTC).date()
    result = _result(config_file, flags, figures, (concurrency, bench_nodes), today)
    if html:
        write_out(html, html_page(result).encode(), "cost page")
    if as_json:
        said = {"verdict": verdict(result), "warnings": warnings(result)}
        click.echo(json.dumps({**result.as_dict(), **said}, indent=1))
    elif not html:
        print_result(result, printer())


def _result(
    config_file: str | None, flags: dict[str, Any], figures: tuple[str, ...], step: _Step, today: date
) -> Comparison:
    source = config_file or "command line"
    data: Any = _yaml(config_file) if config_file else {}
    if isinstance(data, dict) or data is None:
        data = dict(data or {}) | _over(flags)
    config = read_config(data, source=source)
    name = config.gpu
    through, from_file = _throughput(config, step)
    if name is None:
        name = from_file
    if name is None:
        raise MetalserveError("which GPUs?", where="metalserve cost", remedy="give --gpu, such as --gpu 8xH100-SXM")
    spec, gpus = _gpu(name)
    built = build(
        config, spec=spec, gpus=gpus, throughput=through, flags=dict(map(_figure, figures)), source=source
    )  # fmt: skip
    return compare(built, config.chosen(), share=config.sensitivity_percent / 100, today=today)


def _over(flags: dict[str, Any]) -> dict[str, Any]:
    """Return what the command line says, under the names of the file."""
    given = {name: value for name, value in flags.items() if value is not None and name != "sensitivity"}
    if flags.get("sensitivity") is not None:
        given["sensitivity_percent"] = flags["sensitivity"]
    profile = given.get("utilisation")
    if profile is not None and profile not in load_prices().profile_names:
        given["utilisation"] = _shares(profile)
    return given


def _shares(file: str) -> list[float]:
    path = Path(file)
    if not path.is_file():
        names = ", ".join(load_prices().profile_names)
        raise MetalserveError(
            f"{file!r} is no profile and no file", where="--utilisation", remedy=f"give {names}, or a file"
        )
    try:
        return [float(word) for word in re.split(r"[\s,;\[\]]+", path.read_text(encoding="utf-8")) if word]
    except (OSError, ValueError) as error:
        raise MetalserveError(f"is no list of shares: {error}", where=file) from None


def _figure(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise MetalserveError(f"{text!r} is not NAME=VALUE", where="--price") from None


def _gpu(name: str) -> tuple[GpuSpec, int]:
    hardware = hardware_by_name(name, load_gpus())
    first = hardware.gpus[0]
    spec = load_gpus().find(first.device_id, first.name)
    if spec is None:
        raise MetalserveError("is not in the catalogue", where=f"--gpu {name}")
    return spec, len(hardware.gpus)


def _throughput(config: CostConfig, step: _Step) -> tuple[Throughput | None, str | None]:
    """Return the rate and, where its file says them, the GPUs."""
    if config.bench is not None:
        found = from_bench(json_object(Path(config.bench)), where=config.bench, concurrency=step[0], nodes=step[1])
        return _divided(config, found), None
    if config.plan is not None:
        data = json_object(Path(config.plan))
        gpu = data.get("gpu")
        return from_plan(data, where=config.plan), gpu if isinstance(gpu, str) and re.match(r"\d+x", gpu) else None
    wanted = {"throughput.output_tok_s", "throughput.input_per_output"}
    if config.model is None or config.gpu is None or wanted <= set(config.assumptions):
        return None, None
    return from_plan(_planned(config.gpu, config.model), where="metalserve plan"), None


def _divided(config: CostConfig, found: Throughput) -> Throughput:
    """Return a measured rate with the planner's division of the cost, where model and GPUs are known."""
    if config.model is None or config.gpu is None:
        return found
    ratio = next(row.value for row in load_prices().assumptions if row.name == "allocation.cached_ratio")
    try:
        planned = from_plan(_planned(config.gpu, config.model, found.lengths), where="metalserve plan")
    except MetalserveError:  # without a plan the cost is not divided, and that is said
        return found
    return with_planned_share(found, planned, ratio)


def _planned(gpu: str, model: str, lengths: tuple[int, int] | None = None) -> dict[str, Any]:
    from metalserve.cli.plan import read_model
    from metalserve.planning import plan_launch
    from metalserve.releases import load_release, release_names
    from metalserve.settings import EngineSettings

    workload = {"prompt_tokens": lengths[0], "answer_tokens": lengths[1]} if lengths else {}
    engine = EngineSettings.model_validate({"workload": workload})
    config, path = read_model(model)
    release = load_release(sorted(release_names())[-1])
    catalogue = load_gpus()
    plan = plan_launch(hardware_by_name(gpu, catalogue), config, engine, release, catalogue, model_path=path)
    return {**plan.as_dict(), "gpu": gpu, "model": model}


def _yaml(file: str) -> Any:
    try:
        return yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise MetalserveError(f"cannot be read: {error.strerror}", where=file) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MetalserveError(f"is no YAML: {error}", where=file) from error
