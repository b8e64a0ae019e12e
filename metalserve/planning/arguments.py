"""The arguments of `vllm serve` that a plan stands for, and what users may add to them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from metalserve.catalogue.vllm_arguments import ArgProblem, read_args
from metalserve.catalogue.vllm_check import FIRST_POSITIONAL_RELEASE, check_args
from metalserve.catalogue.vllm_flags import FlagCatalogue, normalise, version_key
from metalserve.planning.model import ModelConfig
from metalserve.planning.profile import Workload, against, profile_arguments

if TYPE_CHECKING:
    from metalserve.settings import EngineSettings

# Options that settings own: given twice, the last one would win unseen.
_OWNED = {
    "--model": "model",
    "--served-model-name": "model.served_name",
    "--host": "engine.host",
    "--port": "engine.port",
    "--api-key": "engine.api_key",
    "--hf-token": "model.hf_token",
    "--tensor-parallel-size": "engine.tensor_parallel",
    "--pipeline-parallel-size": "engine.pipeline_parallel",
    "--max-model-len": "engine.max_model_len",
    "--gpu-memory-utilization": "engine.gpu_memory_utilization",
    "--shutdown-timeout": "engine.stop_timeout_s",
}


def value_of(args: Sequence[str], *names: str) -> str | None:
    """Return the value of an option in a list of arguments, None when it is not there."""
    for place, word in enumerate(map(normalise, args)):
        name, equals, value = word.partition("=")
        if name in names:
            return value if equals else args[place + 1] if place + 1 < len(args) else ""
    return None


def extra_problem(extra: Sequence[str], flags: FlagCatalogue) -> str | None:
    """Return what is wrong with engine.extra_args: an option that another setting owns, under any spelling."""
    owners = {spelling: (name, key) for name, key in _OWNED.items() if name in flags.by_name
              for spelling in flags.by_name[name].names}  # fmt: skip
    for word in map(normalise, extra):
        name = word.partition("=")[0]
        matches = [name] if name in flags.by_name else [known for known in flags.by_name if known.startswith(name)]
        if name.startswith("-") and len(matches) == 1 and matches[0] in owners:
            full, key = owners[matches[0]]
            return f"engine.extra_args sets {full}, which is {key}'s: set it there"
    return None


def vllm_args(
    flags: FlagCatalogue,
    *,
    model_path: str,
    served_name: str | None,
    engine: EngineSettings,
    port: int,
    tensor_parallel: int,
    pipeline_parallel: int,
    max_model_len: int,
    utilization: float,
    dtype: str | None,
    model: ModelConfig | None = None,
    workload: Workload | None = None,
) -> list[str]:
    """Return what follows the image's name; secrets are not among it, they come by environment file.

    The profile's arguments stand before engine.extra_args, which take their place where both have one.
    """
    serve = version_key(flags.release) >= FIRST_POSITIONAL_RELEASE
    words = [model_path] if serve else ["--model", model_path]
    if served_name:
        words += ["--served-model-name", served_name]
    words += ["--host", engine.host, "--port", str(port), "--tensor-parallel-size", str(tensor_parallel)]
    if pipeline_parallel > 1:
        words += ["--pipeline-parallel-size", str(pipeline_parallel)]
    words += ["--max-model-len", str(max_model_len), "--gpu-memory-utilization", f"{utilization:g}"]
    if dtype:
        words += ["--dtype", dtype]
    if "--shutdown-timeout" in flags.by_name:  # whoever stops the engine must wait longer than this
        words += ["--shutdown-timeout", str(engine.stop_timeout_s)]
    for added, _ in _of_profile(flags, engine, model, workload):
        words += added
    return [*words, *engine.extra_args]


def _of_profile(
    flags: FlagCatalogue, engine: EngineSettings, model: ModelConfig | None, workload: Workload | None
) -> list[tuple[tuple[str, ...], str]]:
    """Return the profile's arguments that engine.extra_args do not set themselves."""
    given = {each.flag.dest for each in read_args(["MODEL", *engine.extra_args], flags.release) if each.flag}
    added = profile_arguments(engine.profile, flags, model, workload)
    return [(words, reason) for words, reason in added if flags.by_name[words[0]].dest not in given]


def profile_reasons(
    flags: FlagCatalogue, engine: EngineSettings, model: ModelConfig | None, workload: Workload | None = None
) -> list[str]:
    """Return why the profile's arguments are there, and what of engine.extra_args works against it."""
    reasons = [reason for _, reason in _of_profile(flags, engine, model, workload)]
    return reasons + against(engine.profile, engine.extra_args, flags)


def first_error(words: Sequence[str], version: str) -> ArgProblem | None:
    """Return the first thing that keeps this release from starting with these arguments."""
    return next((problem for problem in check_args(words, version) if problem.severity == "error"), None)
