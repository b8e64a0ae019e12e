"""Which environment variables a vLLM release reads, as its own `vllm/envs.py` says.

Only some releases were sampled (`environment.json`): of a release between two of them nothing is said about a
variable that only one of the two has.
"""

from __future__ import annotations

import difflib
import json
import re
from functools import cache
from typing import Any

from metalserve.catalogue.vllm_arguments import ArgProblem
from metalserve.catalogue.vllm_flags import version_key
from metalserve.paths import CATALOGUE

SECRET_NAME = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIALS)$|PASSWORD", re.IGNORECASE)
"""Names of variables whose value is a secret."""

NAMES_OF_OLD = {"HUGGING_FACE_HUB_TOKEN": "HF_TOKEN", "TRANSFORMERS_CACHE": "HF_HOME"}
"""Variables of huggingface_hub and transformers that have a newer name (their environment pages)."""

_INSTALLATION = frozenset({"CUDA_HOME", "LD_LIBRARY_PATH", "LOCAL_RANK", "CUDA_VISIBLE_DEVICES", "MAX_JOBS"})


@cache
def _data() -> dict[str, Any]:
    data: dict[str, Any] = json.loads((CATALOGUE / "vllm/environment.json").read_text(encoding="utf-8"))
    return data


def _around(release: str) -> tuple[list[str], bool]:
    """Return the sampled releases that speak for a release, and whether it was sampled itself or is beyond them."""
    sampled: list[str] = _data()["sampled"]
    here = version_key(release)
    below = [name for name in sampled if version_key(name) <= here]
    above = [name for name in sampled if version_key(name) >= here]
    return [*below[-1:], *above[:1]], not (below and above) or below[-1] == above[0]


def check_variable(name: str, value: str | None, release: str, *, strict: bool = False) -> ArgProblem | None:
    """Return what is wrong with an environment variable for a release, None when nothing is known to be.

    Args:
        name: the variable.
        value: its value; None where it is not known (`-e NAME`, a shell expansion).
        release: the vLLM release.
        strict: `--fail-on-environ-validation` is given: vLLM does not start with a name that it does not know.
    """
    if name in NAMES_OF_OLD:
        message = f"{name} is the old name"
        return ArgProblem("environment", name, message, f"use {NAMES_OF_OLD[name]}", "warning")
    row = _data()["variables"].get(name)
    around, certain = _around(release)
    if row is None:
        if not name.startswith("VLLM_"):
            return None
        near = difflib.get_close_matches(name, list(_data()["variables"]), n=1, cutoff=0.8)
        remedy = f"did you mean {near[0]}?" if near else "drop it"
        severity = "error" if strict else "warning"
        return ArgProblem("environment", name, f"no known vLLM reads {name}", remedy, severity)  # type: ignore[arg-type]
    if certain and not set(around) & set(row["seen"]) and name.startswith("VLLM_"):
        older = version_key(row["seen"][-1]) < version_key(release)
        instead = row.get("instead")
        message = f"vLLM {release} does not read {name}" + (" any more" if older else " yet")
        remedy = f"use {instead}" if instead and not instead.startswith("nothing") else "drop it"
        reason = f" ({instead.removeprefix('nothing: ')})" if instead and instead.startswith("nothing") else ""
        severity = "error" if strict else "warning"
        return ArgProblem("environment", name, message + reason, remedy, severity)  # type: ignore[arg-type]
    if value is None or name in _INSTALLATION or not set(around) <= set(row["seen"]):
        return None
    return _check_value(name, value, row)


def _check_value(name: str, value: str, row: dict[str, Any]) -> ArgProblem | None:
    """Return what is wrong with a value that vLLM would convert when it starts."""
    wanted = row.get("type")
    try:
        if wanted in {"int", "0 or 1"}:
            int(value)
        elif wanted == "float":
            float(value)
    except ValueError:
        words = {"int": "a whole number", "float": "a number"}.get(str(wanted), wanted)
        return ArgProblem("environment", name, f"{name} needs {words}: vLLM does not start with anything else")
    choices = row.get("choices")
    if choices and (value.lower() if row.get("folded") else value) not in choices:
        return ArgProblem("environment", name, f"{name} must be one of {', '.join(choices)}")
    return None
