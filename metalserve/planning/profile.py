"""What a profile adds to the arguments of an engine, each with its reason; what works against it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metalserve.catalogue.vllm_arguments import read_args
from metalserve.catalogue.vllm_flags import FlagCatalogue, version_key
from metalserve.catalogue.vllm_profiles import Avoided, ProfileFlag, load_profile
from metalserve.planning.model import ModelConfig

LEAST_CHUNK = 512
"""Tokens of prompt a step, below which a GPU reads all weights to compute almost nothing: vLLM's old default."""


@dataclass(frozen=True)
class Workload:
    """What is expected of an engine; None is not known.

    Attributes:
        concurrency: requests of one replica at the same time.
    """

    concurrency: int | None = None


def profile_arguments(
    profile: str, flags: FlagCatalogue, model: ModelConfig | None, workload: Workload | None = None
) -> list[tuple[tuple[str, ...], str]]:
    """Return the arguments of a profile for a release, each as its words and the reason.

    Args:
        profile: "default", which adds nothing, or a name in the catalogue.
        flags: the release's flags; what it does not have is left out.
        model: the model, whose context bounds a chunk; None when it is not known.
        workload: what is expected; None when nothing is known.

    Raises:
        MetalserveError: there is no such profile.
    """
    if profile == "default":
        return []
    found: list[tuple[tuple[str, ...], str]] = []
    for each in load_profile(profile).arguments:
        if each.flag not in flags.by_name or not _in_range(each, flags.release):
            continue
        value = _value(each, model, workload or Workload())
        words = (each.flag,) if value is None else (each.flag, value)
        found.append((words, f"{' '.join(words)}: {each.reason.replace('{value}', value or '')}."))
    return found


def against(profile: str, extra: Sequence[str], flags: FlagCatalogue) -> list[str]:
    """Return, in sentences, which of the settings' own arguments work against the profile."""
    if profile == "default":
        return []
    said = []
    for argument in read_args(["MODEL", *extra], flags.release):
        for rule in load_profile(profile).avoid:
            if argument.name == rule.flag and not argument.problem and _breaks(rule, argument.values):
                said.append(f"engine.extra_args works against the {profile} profile: {rule.flag}: {rule.reason}.")
    return said


def _breaks(rule: Avoided, values: Sequence[str]) -> bool:
    value = values[0] if values else ""
    if rule.value is not None:
        return value == rule.value
    if rule.above is None:
        return True
    try:
        return float(value) > rule.above
    except ValueError:
        return value[-1:] in "kKmM" and float(value[:-1] or 0) * 1000 > rule.above


def _in_range(each: ProfileFlag, release: str) -> bool:
    here = version_key(release)
    return (each.since is None or here >= version_key(each.since)) and (
        each.until is None or here < version_key(each.until)
    )


def _value(each: ProfileFlag, model: ModelConfig | None, workload: Workload) -> str | None:
    if each.value is None:
        return None
    if each.rule == "concurrency" and workload.concurrency is not None:
        return str(workload.concurrency)
    if each.rule == "chunk":
        # A step holds a token of each running request and a chunk of prompt; no chunk is longer than the context.
        chunk = int(each.value) if model is None else min(int(each.value), max(model.max_position, LEAST_CHUNK))
        return str(max(chunk, LEAST_CHUNK, 2 * (workload.concurrency or 0)))
    return each.value
