"""A tiny Llama for the lab: real files of a real format with random weights, a few MB, the same bytes every time."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import struct
from pathlib import Path
from typing import Any

import yaml

from metalserve.lab.engine.archive import file_digest

TINY_MODEL = "metalserve-lab/tiny-llama"
LAYERS, HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 4, 256, 1024, 8, 4, 32, 512
SHARDS = 4

_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "vocab_size": VOCAB,
    "max_position_embeddings": 2048,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 257,
    "eos_token_id": 258,
    "pad_token_id": 256,
    "dtype": "bfloat16",
    "torch_dtype": "bfloat16",
}


def _tensors() -> dict[str, tuple[int, ...]]:
    """Return the tensors of a Llama with the sizes above, in the order of the layers."""
    attention, keys = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN)}
    for layer in range(LAYERS):
        name = f"model.layers.{layer}"
        shapes |= {
            f"{name}.input_layernorm.weight": (HIDDEN,),
            f"{name}.self_attn.q_proj.weight": (attention, HIDDEN),
            f"{name}.self_attn.k_proj.weight": (keys, HIDDEN),
            f"{name}.self_attn.v_proj.weight": (keys, HIDDEN),
            f"{name}.self_attn.o_proj.weight": (HIDDEN, attention),
            f"{name}.post_attention_layernorm.weight": (HIDDEN,),
            f"{name}.mlp.gate_proj.weight": (INTERMEDIATE, HIDDEN),
            f"{name}.mlp.up_proj.weight": (INTERMEDIATE, HIDDEN),
            f"{name}.mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
        }
    return shapes | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCAB, HIDDEN)}


def _bf16(name: str, shape: tuple[int, ...]) -> bytes:
    """Return the tensor's bytes: norms are one, the rest small numbers of both signs (0.008 to 0.03)."""
    count = 1
    for side in shape:
        count *= side
    if name.endswith("norm.weight"):
        return struct.pack("<H", 0x3F80) * count
    data = bytearray(random.Random(name).randbytes(2 * count))  # noqa: S311 - weights, not keys
    # High byte: the sign stays random, exponent and top mantissa bits are fixed, so that no value is large.
    data[1::2] = bytes(data[1::2]).translate(bytes(0x3C | (value & 0x80) for value in range(256)))
    if name == "lm_head.weight":
        # Only tokens of visible ASCII can win, so that a real engine completes with text, not with nothing.
        row = 2 * HIDDEN
        data[: 33 * row] = bytes(33 * row)
        data[127 * row :] = bytes((VOCAB - 127) * row)
    return bytes(data)


def _shard(tensors: dict[str, tuple[int, ...]]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt", "made_by": "metalserve lab, random weights"}}
    body, place = [], 0
    for name, shape in tensors.items():
        data = _bf16(name, shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [place, place + len(data)]}
        place += len(data)
        body.append(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants the tensors aligned
    return struct.pack("<Q", len(text)) + text + b"".join(body)


def _tokenizer() -> dict[str, Any]:
    """Return a byte-level BPE tokenizer without merges: one token a byte."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, extra = {byte: chr(byte) for byte in visible}, 0
    for byte in range(256):
        if byte not in letters:
            letters[byte], extra = chr(256 + extra), extra + 1
    special = {"<pad>": 256, "<s>": 257, "</s>": 258}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, "content": word, **flags} for word, number in special.items()],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "vocab": {letters[byte]: byte for byte in range(256)} | special,
            "merges": [],
        },
    }


def _files() -> dict[str, bytes]:
    """Return all files of the repository, name -> content."""
    names = list(_tensors().items())
    total = sum(len(_bf16(name, shape)) for name, shape in names)
    shards: list[dict[str, tuple[int, ...]]] = [{} for _ in range(SHARDS)]
    filled, size = 0, 0
    for name, shape in names:
        length = len(_bf16(name, shape))
        if size + length // 2 > total * (filled + 1) / SHARDS and filled < SHARDS - 1:
            filled += 1
        shards[filled][name] = shape
        size += length
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant: "
    values: dict[str, Any] = {
        "config.json": _CONFIG,
        "generation_config.json": {"bos_token_id": 257, "eos_token_id": 258, "pad_token_id": 256},
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "pad_token": "<pad>",
            "model_max_length": 2048,
            "chat_template": template,
        },
        "model.safetensors.index.json": {
            "metadata": {"total_size": total},
            "weight_map": {name: _shard_name(number) for number, part in enumerate(shards) for name in part},
        },
    }
    files = {name: json.dumps(value, indent=1).encode() + b"\n" for name, value in values.items()}
    return files | {_shard_name(number): _shard(part) for number, part in enumerate(shards)}


def _shard_name(number: int) -> str:
    return f"model-{number + 1:05}-of-{SHARDS:05}.safetensors"


def build_model(target_dir: Path) -> Path:
    """Write the tiny model as a model hub serves it, and its manifest.

    The files lie in `target_dir/models/metalserve-lab/tiny-llama/resolve/REVISION/`; the revision follows from their
    content. What is already there and right is left alone.

    Returns:
        The manifest, `target_dir/models/metalserve-lab/tiny-llama/manifest.yaml`.
    """
    files = _files()
    digest = hashlib.sha1(usedforsecurity=False)
    for name, content in sorted(files.items()):
        digest.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
    revision = digest.hexdigest()
    home = target_dir / "models" / TINY_MODEL
    place = home / "resolve" / revision
    if not all((place / name).is_file() and file_digest(place / name) == _sha(files[name]) for name in files):
        building = place.with_name(f".{revision}.new")
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        for name, content in files.items():
            (building / name).write_bytes(content)
        shutil.rmtree(place, ignore_errors=True)
        building.rename(place)
    manifest = {
        "repository": TINY_MODEL,
        "revision": revision,
        "files": [{"path": name, "size": len(data), "sha256": _sha(data)} for name, data in sorted(files.items())],
    }
    target = home / "manifest.yaml"
    temporary = target.with_name(".manifest.yaml.new")
    temporary.write_text(yaml.safe_dump(manifest, sort_keys=False))
    temporary.replace(target)
    return target


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
