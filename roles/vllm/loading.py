"""How the host's engines loaded: in words, held against earlier starts, and what that says of the load format. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from metalserve.catalogue.vllm_check import check_args
from metalserve.catalogue.vllm_flags import normalise
from metalserve.desired.node import Node
from metalserve.errors import MetalserveError
from metalserve.releases import Release
from metalserve.settings import EngineSettings, HostSettings
from metalserve.verify.finding import Finding
from metalserve.weights.loads import Load, faster_format, latest, parse_loads, slower
from roles.storage.chosen import chosen
from roles.storage.fitness import link_of
from roles.vllm import image
from roles.vllm.paths import LOADS

if TYPE_CHECKING:
    from metalserve.planning import LaunchPlan

SECTION: Final = "engine-loads"
COMMAND: Final = f"tail -n 60 {LOADS} 2>/dev/null || :"
"""The newest starts only: an observation is read at every run; the host keeps more."""

PACKAGES_SECTION: Final = "engine-loader"
PACKAGES: Final = {
    "fastsafetensors": "fastsafetensors",
    "runai_streamer": "runai_model_streamer",
    "instanttensor": "instanttensor",
}
"""Load format -> the Python package that vLLM imports for it (vllm/model_executor/model_loader)."""


def watch_commands(settings: HostSettings, release: Release) -> dict[str, str]:
    """Return the commands that read the history, and ask the image for a loader's package where one is named."""
    package = PACKAGES.get(settings.engine.load_format)
    if package is None:
        return {SECTION: COMMAND}
    engine, reference = settings.engine, shlex.quote(image.reference(settings, release))
    look = f"import importlib.util as u; print('there' if u.find_spec('{package}') else 'lacking')"
    ask = (
        f"{engine.runtime} run --rm --pull never --network none --entrypoint python3 {reference} -c {shlex.quote(look)}"
    )
    return {SECTION: COMMAND, PACKAGES_SECTION: f"timeout 60 {ask}"}


def refuse_lacking_loader(node: Node) -> None:
    """Refuse a load format that this vLLM does not know, or whose package the image lacks, before an engine goes.

    Nothing is said of the package while the image is not there, or does not tell.

    Raises:
        MetalserveError: the load format cannot work.
    """
    version, wanted = node.release.vllm.version, node.settings.engine.load_format
    wrong = [p for p in check_args(["MODEL", "--load-format", wanted], version) if p.severity == "error"]
    if wrong:
        raise MetalserveError(
            wrong[0].message, where="engine.load_format", remedy=f"vLLM {version} has others; 'auto' is its default"
        )
    found = node.observed.sections.get(PACKAGES_SECTION)
    if found is not None and found.rc == 0 and found.text.strip() == "lacking":
        raise MetalserveError(
            f"{wanted} needs the Python package {PACKAGES[wanted]}, which the image does not have",
            where="engine.load_format",
            remedy="take an image that has it, or engine.load_format: auto",
        )


def loads(node: Node) -> tuple[Load, ...]:
    """Return the starts that the host's history tells, oldest first."""
    return parse_loads(node.observed.text(SECTION))


def format_for(node: Node, served: str, revision: str, gpus: int) -> tuple[str, str]:
    """Return the load format of an engine, and why.

    Args:
        node: the host.
        served: name under which the model is served.
        revision: commit of the model.
        gpus: GPUs of an engine.
    """
    engine = node.settings.engine
    if engine.load_format != "auto":
        return engine.load_format, "engine.load_format says so"
    if _given(engine):
        return "auto", "engine.extra_args has its own --load-format"
    if engine.group is not None:
        return "auto", "the hosts of a group start alike"
    known = loads(node)
    kind = (served, revision, image.reference(node.settings, node.release), gpus)
    last = next((load.load_format for load in reversed(known) if load.kind == kind), "auto")
    return faster_format(known, kind, last)


def _given(engine: EngineSettings) -> bool:
    return any(normalise(word).partition("=")[0] == "--load-format" for word in engine.extra_args)


def with_format(arguments: Sequence[str], load_format: str) -> tuple[str, ...]:
    """Return an engine's arguments with the load format, where it is not the default one."""
    return (*arguments, "--load-format", load_format) if load_format != "auto" else tuple(arguments)


def carried_gb_s(node: Node) -> float | None:
    """Return what the way to the models' drives carries, GB/s; None when it is not known."""
    if node.settings.storage.device == "none":
        return None
    try:
        drives = chosen(node).drives
    except MetalserveError:
        return None
    links = [link_of(drive.device, node.hardware) for drive in drives]
    return sum(link.gb_s for link in links if link is not None) if links and None not in links else None


def in_words(node: Node, plan: LaunchPlan) -> str:
    """Return the report's line: of each engine how long it took, alike ones together; "" without a record."""
    carried = carried_gb_s(node)
    said: dict[str, list[int]] = {}
    for load in latest(loads(node)):
        if load.replica < plan.replicas:
            said.setdefault(load.in_words(carried), []).append(load.replica)
    return "; ".join(f"engine {', '.join(map(str, numbers))} {words}" for words, numbers in said.items())


def findings(node: Node, plan: LaunchPlan) -> Sequence[Finding]:
    """Return what is said of starts that have become slow; a stand-in's times say nothing."""
    if node.settings.simulated:
        return ()
    known = loads(node)
    found = (slower(known, replica) for replica in range(plan.replicas))
    return tuple(finding for finding in found if finding is not None)
