"""Which files of a repository are the model, and which are the same weights once more. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from metalserve.weights.sources.origin import Found

DIRECTORIES = ("original", "onnx", "openvino", "coreml", "metal", "gguf", "runs", "checkpoint-*")
"""Directories at the top of repositories with the weights in the form of another engine, or logs of the training."""

DUPLICATES = (
    "*.bin", "*.pth", "*.pt", "*.ckpt", "*.gguf", "*.ggml", "*.onnx", "*.onnx_data", "*.h5", "*.msgpack", "*.tflite",
    "*.ot", "*.mlmodel", "*.engine", "*.nemo", "pytorch_model.bin.index.json",
)  # fmt: skip
"""The same weights in other forms, where safetensors are there."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which files to take. `*` in a pattern stands for slashes too.

    Attributes:
        include: patterns; when given, just what fits one of them is taken and nothing is left out by default.
        exclude: patterns of what is left out in any case.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was chosen.

    Attributes:
        files: to be taken, in the order of their paths.
        left_out: reason -> paths.
        notes: what the user should know.
    """

    files: list[Found]
    left_out: dict[str, list[str]]
    notes: list[str]


def choose(files: Sequence[Found], selection: Selection) -> Chosen:
    """Return which of the files are taken, and why the others are not."""
    safetensors = any(found.path.endswith(".safetensors") for found in files)
    taken: list[Found] = []
    left_out: dict[str, list[str]] = {}
    for found in sorted(files, key=lambda each: each.path):
        reason = _reason(found.path, selection, safetensors)
        if reason:
            left_out.setdefault(reason, []).append(found.path)
        else:
            taken.append(found)
    return Chosen(taken, left_out, _notes(taken, safetensors))


def _reason(path: str, selection: Selection, safetensors: bool) -> str:
    if _fits(path, selection.exclude):
        return "--exclude"
    if selection.include:
        return "" if _fits(path, selection.include) else "not in --include"
    parts = PurePosixPath(path).parts
    # "." and ".." are no hidden files: they are to be refused, not passed over
    if any(part.startswith(".") and part not in (".", "..") for part in parts):
        return "hidden"
    if len(parts) > 1 and _fits(parts[0], DIRECTORIES):
        return "for other engines, or logs"
    if safetensors and _fits(path, DUPLICATES):
        return "safetensors are there"
    return ""


def _notes(taken: Sequence[Found], safetensors: bool) -> list[str]:
    weights = [found.path for found in taken if found.path.endswith(".safetensors")]
    if safetensors and len({path.startswith("consolidated") for path in weights}) == 2:
        return ["consolidated*.safetensors and others are there, probably the same weights twice: see --exclude"]
    if taken and not weights and not any(_fits(found.path, DUPLICATES) for found in taken):
        return ["no file looks like weights"]
    return []


def _fits(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)
