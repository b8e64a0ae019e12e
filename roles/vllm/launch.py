"""From the host's hardware and the staged model to the launch of its engines: pure."""

from __future__ import annotations

import json

from metalserve.catalogue.loader import load_gpus
from metalserve.catalogue.vllm_check import check_args
from metalserve.desired.model import NotYetKnown
from metalserve.desired.node import Node
from metalserve.errors import MetalserveError
from metalserve.planning import LaunchPlan, model_config_from, plan_launch
from metalserve.settings import ModelSettings
from metalserve.weights.store import place_of
from roles.vllm.group import group_plan
from roles.weights.desired import manifest_of, store_state

CONFIG_SECTION = "model-config"


def refuse_wrong_arguments(node: Node) -> None:
    """Refuse `engine.extra_args` that the release's vLLM would not start with, before the host is touched.

    Raises:
        MetalserveError: with the first of them and what to write instead.
    """
    version = node.release.vllm.version
    problems = [p for p in check_args(["MODEL", *node.settings.engine.extra_args], version) if p.severity == "error"]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise MetalserveError(
            f"{problems[0].message}{more}",
            where="engine.extra_args",
            remedy=problems[0].remedy or f"metalserve vllm check --release {version} -- FLAGS tells all of them",
        )


def container_path(model: ModelSettings) -> str:
    """Return where a container finds the model; the name shows in vLLM's log."""
    return f"/models/{model.name.replace('/', '--')}"


def planned(node: Node, model: ModelSettings) -> LaunchPlan:
    """Return the launch plan of the host.

    Raises:
        NotYetKnown: the driver or the model is not there yet.
        MetalserveError: the model cannot be served on this host, and why.
    """
    node.need_driver("launch plan")
    state = store_state(node, model)
    if state.state != "published":
        raise NotYetKnown(
            f"launch plan: known only after {model.name} is staged (now: {state.what or state.state})",
            remedy="run roles.weights first",
        )
    config = model_config_from(_config(node, model), weights_bytes=_weights_bytes(model))
    if node.settings.engine.group is not None:
        plan = group_plan(node, config, model, container_path(model))
    else:
        plan = plan_launch(
            node.hardware,
            config,
            node.settings.engine,
            node.release,
            load_gpus(),
            model_path=container_path(model),
            served_name=model.served_as,
        )
    if not plan.fits:
        raise MetalserveError(
            f"{model.name} cannot be served on this host: {plan.refused}",
            remedy="`metalserve plan` shows what would fit",
        )
    return plan


def _config(node: Node, model: ModelSettings) -> dict[str, object]:
    text = node.observed.text(CONFIG_SECTION)
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        place = place_of(node.settings.storage.mount, model)
        raise MetalserveError(
            f"is no JSON object; it begins with {text[:60]!r}",
            where=f"{place.published}/config.json",
            remedy="see that the manifest names the model's config.json",
        )
    return found


def _weights_bytes(model: ModelSettings) -> int | None:
    # Some repositories carry the weights twice (consolidated*.safetensors); vLLM reads what the index names.
    sizes = [
        file.size
        for file in manifest_of(model).files
        if file.path.endswith(".safetensors") and not file.path.startswith("consolidated") and "/" not in file.path
    ]
    return sum(sizes) or None
