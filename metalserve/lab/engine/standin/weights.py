"""Reading the staged model as a loader would: every byte of every shard, so that damaged weights are found."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BYTES = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "I32": 4, "I64": 8}
_BLOCK = 1 << 20


class LoadError(Exception):
    """The weights cannot be loaded; `str()` is the line vLLM would end with."""


@dataclass
class Model:
    """What was read: the config, and the bytes and tensors of the weights."""

    path: Path
    config: dict[str, Any]
    bytes_read: int = 0
    tensors: set[str] = field(default_factory=set)
    shards: list[Path] = field(default_factory=list)

    @property
    def architecture(self) -> str:
        """The class name that config.json gives."""
        names = self.config.get("architectures") or ["UnknownForCausalLM"]
        return str(names[0])

    @property
    def derived_max_model_len(self) -> int:
        """The context length of the config, in tokens."""
        text = self.config.get("text_config", self.config)
        return int(text.get("max_position_embeddings", 2048))


def open_model(path: str) -> Model:
    """Return the model of a directory, weights not yet read; raises LoadError as vLLM would end."""
    directory = Path(path)
    if not directory.is_dir():
        if path.startswith(("/", ".")):
            raise LoadError(
                "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or "
                f"'namespace/repo_name': '{path}'. Use `repo_type` argument if needed."
            )
        raise LoadError(
            "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them in "
            f"the cached files ('{path}'; SIMULATED: the stand-in never downloads)."
        )
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("not an object")
    except FileNotFoundError:
        raise LoadError(
            f"ValueError: Invalid repository ID or local directory specified: '{path}'. Please verify that a "
            "`config.json` is present."
        ) from None
    except (ValueError, OSError) as error:
        raise LoadError(
            f"OSError: It looks like the config file at '{path}/config.json' is not valid: {error}"
        ) from None
    shards = sorted(directory.glob("*.safetensors"))
    return Model(directory, config, shards=shards)


def read_weights(model: Model) -> None:
    """Read all shards; raises LoadError when one is missing, truncated or not a safetensors file."""
    if not model.shards:
        raise LoadError(f"RuntimeError: Cannot find any model weights with `{model.path}`")
    for shard in model.shards:
        model.tensors |= _read_shard(shard)
        model.bytes_read += shard.stat().st_size
    index = model.path / "model.safetensors.index.json"
    if not index.is_file():
        return
    try:
        wanted = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise LoadError(f"OSError: {index} is not valid: {error!r}") from None
    lost = sorted(set(wanted) - model.tensors)
    if lost:
        shards = sorted({wanted[name] for name in lost})
        raise LoadError(
            f"ValueError: Following weights were not initialized from checkpoint: {set(lost[:3])} "
            f"({len(lost)} in all, of {', '.join(shards[:3])})"
        )


def _read_shard(shard: Path) -> set[str]:
    prefix = f"safetensors_rust.SafetensorError: Error while deserializing header of {shard.name}:"
    size = shard.stat().st_size
    with shard.open("rb") as stream:
        start = stream.read(8)
        if len(start) < 8:
            raise LoadError(f"{prefix} HeaderTooSmall")
        (length,) = struct.unpack("<Q", start)
        if length > size - 8:
            raise LoadError(f"{prefix} InvalidHeaderLength")
        try:
            header = json.loads(stream.read(length))
            end = _covered(header, prefix)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError):
            raise LoadError(f"{prefix} InvalidHeaderDeserialization") from None
        if end != size - 8 - length:
            raise LoadError(f"{prefix} MetadataIncompleteBuffer (incomplete metadata, file not fully covered)")
        while stream.read(_BLOCK):
            pass
    return {name for name in header if name != "__metadata__"}


def _covered(header: dict[str, Any], prefix: str) -> int:
    """Return the byte where the tensors end; they must follow each other without gaps and have their shape's size."""
    end = 0
    tensors = [(name, value) for name, value in header.items() if name != "__metadata__"]
    for name, tensor in sorted(tensors, key=lambda item: item[1]["data_offsets"][0]):
        begin, stop = tensor["data_offsets"]
        count = 1
        for side in tensor["shape"]:
            count *= side
        if begin != end or stop - begin != count * _BYTES.get(tensor["dtype"], 0):
            raise LoadError(f"{prefix} TensorInvalidInfo ({name})")
        end = stop
    return end
