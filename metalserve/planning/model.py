"""What a model is, as far as memory and parallelism are concerned: read from its config.json, pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from metalserve.errors import MetalserveError

_DTYPE_BYTES = {"float32": 4.0, "float": 4.0, "bfloat16": 2.0, "float16": 2.0, "half": 2.0}


@dataclass(frozen=True)
class Quantisation:
    """How the weights of the checkpoint are stored.

    Attributes:
        method: as config.json names it (`fp8`, `awq`, `gptq`, `compressed-tensors`, `modelopt`, `mxfp4` ...).
        bytes_per_param: bytes of a quantised weight, scales included.
        block: weights that share a scale along a split dimension; a shard must hold whole blocks. 1 when free.
        experts_only: only the experts are quantised (gpt-oss).
        pad: the experts' width is filled up to a multiple of this on the GPU.
    """

    method: str
    bytes_per_param: float
    block: int = 1
    experts_only: bool = False
    pad: int = 1


@dataclass(frozen=True)
class Experts:
    """The mixture-of-experts layers: `count` routed experts each, `per_token` of them used."""

    count: int
    per_token: int
    intermediate: int
    shared_intermediate: int
    layers: int


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention (DeepSeek, Kimi, GLM-5): one latent vector a token instead of keys and values.

    `index_dim` is the width of the sparse-attention index's keys, 0 without one.
    """

    kv_rank: int
    q_rank: int | None
    rope_dim: int
    nope_dim: int
    value_dim: int
    index_dim: int = 0


@dataclass(frozen=True)
class ModelConfig:
    """A decoder, counted.

    Attributes:
        full_layers: layers whose KV cache grows with the context; the others hold at most `window` tokens.
        weights_bytes: bytes of the weight files, when known: exact, else computed from the shapes.
        rough: why the count is only approximate; empty when it is exact.
    """

    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    max_position: int
    dtype: str = "bfloat16"
    tied: bool = False
    full_layers: int = 0
    window: int = 0
    experts: Experts | None = None
    latent: Latent | None = None
    quantisation: Quantisation | None = None
    weights_bytes: int | None = None
    rough: str = ""

    @property
    def dtype_bytes(self) -> float:
        """Bytes of a weight that is not quantised."""
        return _DTYPE_BYTES.get(self.dtype, 2.0)

    @property
    def is_moe(self) -> bool:
        """The model has experts."""
        return self.experts is not None

    def attention_params(self, tensor_parallel: int = 1) -> float:
        """Parameters of one layer's attention on each GPU; KV projections repeat beyond kv_heads."""
        if self.latent:
            part = self.latent
            q_in = part.q_rank or self.hidden
            split = q_in * self.heads * (part.nope_dim + part.rope_dim)
            split += part.kv_rank * self.heads * (part.nope_dim + part.value_dim)
            split += self.heads * part.value_dim * self.hidden
            whole = self.hidden * (part.q_rank or 0) + self.hidden * (part.kv_rank + part.rope_dim)
            return split / tensor_parallel + whole
        own_kv = max(1.0, self.kv_heads / tensor_parallel)
        return 2 * self.hidden * self.heads * self.head_dim / tensor_parallel + 2 * self.hidden * own_kv * self.head_dim

    def layer_params(self, tensor_parallel: int = 1) -> tuple[float, float, float]:
        """Return (attention, MLP that every token passes, routed experts) of all layers, parameters a GPU.

        Experts that every token passes (shared ones) count as MLP.
        """
        attention = self.layers * self.attention_params(tensor_parallel)
        sparse = self.experts.layers if self.experts else 0
        dense = (self.layers - sparse) * 3 * self.hidden * self.intermediate / tensor_parallel
        if not self.experts:
            return attention, dense, 0.0
        e = self.experts
        dense += sparse * 3 * self.hidden * e.shared_intermediate / tensor_parallel
        return attention, dense, sparse * e.count * 3 * self.hidden * e.intermediate / tensor_parallel

    @property
    def embedding_params(self) -> int:
        """Parameters of the input embedding; the output head has as many unless it is tied."""
        return self.vocab * self.hidden

    @property
    def params(self) -> float:
        """All parameters, computed; norms and biases are left out (under 0.1 %)."""
        router = self.experts.layers * self.experts.count * self.hidden if self.experts else 0
        return sum(self.layer_params()) + router + self.embedding_params * (1 if self.tied else 2)


def _positive(text: Mapping[str, Any], *names: str, default: int | None = None) -> int:
    for name in names:
        value = text.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 1 <= value < 2**40:
            return int(value)
        if value is not None and value != 0:
            raise MetalserveError(f"{name} must be a positive number, not {value!r}", where="config.json")
    if default is None:
        raise MetalserveError(f"{names[0]} is missing", where="config.json", remedy="give the model's own config.json")
    return default


def model_config_from(config: Mapping[str, Any], *, weights_bytes: int | None = None) -> ModelConfig:
    """Return the model of a Hugging Face config.json.

    Args:
        config: the parsed config.json; multimodal ones are read at their `text_config`.
        weights_bytes: sum of the weight files, bytes, when known (manifest or safetensors index).

    Raises:
        MetalserveError: a size is missing or makes no sense.
    """
    try:
        return _model(config, weights_bytes)
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        raise MetalserveError(f"makes no sense to the planner: {error}", where="config.json") from error


def _model(config: Mapping[str, Any], weights_bytes: int | None) -> ModelConfig:
    nested = config.get("text_config")
    text: dict[str, Any] = {**config, **nested} if isinstance(nested, Mapping) else dict(config)
    names = config.get("architectures") or text.get("architectures") or ["unknown"]
    heads = _positive(text, "num_attention_heads", "n_head")
    hidden = _positive(text, "hidden_size", "n_embd")
    layers = _positive(text, "num_hidden_layers", "n_layer")
    latent = _latent(text)
    moe = _experts(text, layers)
    full, window, rough = _attention_kinds(text, layers)
    dtype = text.get("dtype") or text.get("torch_dtype") or "bfloat16"
    # Some mixtures give the size of their dense layers apart (Llama 4), some have no dense layer at all.
    intermediate = _positive(text, "intermediate_size_mlp", "intermediate_size", "n_inner", default=4 * hidden)
    return ModelConfig(
        architecture=str(names[0]),
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=_positive(text, "num_key_value_heads", default=heads),
        head_dim=_positive(text, "head_dim", default=max(1, hidden // heads)),
        intermediate=intermediate,
        vocab=_positive(text, "vocab_size"),
        max_position=_positive(text, "max_position_embeddings", "n_positions", "max_seq_len", default=2048),
        dtype=str(dtype).removeprefix("torch."),
        tied=bool(text.get("tie_word_embeddings", False)),
        full_layers=full,
        window=window,
        experts=moe,
        latent=latent,
        quantisation=_quantisation(config.get("quantization_config") or text.get("quantization_config")),
        weights_bytes=weights_bytes,
        rough=rough,
    )


def _latent(text: Mapping[str, Any]) -> Latent | None:
    if not text.get("kv_lora_rank"):
        return None
    return Latent(
        kv_rank=_positive(text, "kv_lora_rank"),
        q_rank=_positive(text, "q_lora_rank") if text.get("q_lora_rank") else None,
        rope_dim=_positive(text, "qk_rope_head_dim", default=64),
        nope_dim=_positive(text, "qk_nope_head_dim", default=128),
        value_dim=_positive(text, "v_head_dim", default=128),
        index_dim=_positive(text, "index_head_dim", default=128) if text.get("index_topk") else 0,
    )


def _experts(text: Mapping[str, Any], layers: int) -> Experts | None:
    names = ("num_local_experts", "n_routed_experts", "num_experts")
    count = next((int(text[name]) for name in names if text.get(name)), 0)
    if count <= 1:
        return None
    each = _positive(text, "moe_intermediate_size", "intermediate_size")
    shared = int(text.get("shared_expert_intermediate_size") or int(text.get("n_shared_experts") or 0) * each)
    first_dense = int(text.get("first_k_dense_replace") or 0)
    step = int(
        text.get("moe_layer_freq") or text.get("interleave_moe_layer_step") or text.get("decoder_sparse_step") or 1
    )
    sparse = (layers - first_dense) // step - len(text.get("mlp_only_layers") or ())
    if text.get("interleave_moe_layer_step") and not shared:
        shared = each  # Llama 4 has one shared expert of the same size in every sparse layer
    per_token = _positive(text, "num_experts_per_tok", "experts_per_token", "moe_topk", default=1)
    return Experts(count, per_token, each, shared, max(0, sparse))


def _attention_kinds(text: Mapping[str, Any], layers: int) -> tuple[int, int, str]:
    """Return (layers that see everything, window of the others in tokens, why the count is rough)."""
    window = int(text.get("sliding_window") or 0)
    if text.get("use_sliding_window") is False:
        window = 0
    kinds = text.get("layer_types")
    if isinstance(kinds, list) and kinds:
        full = sum(kind == "full_attention" for kind in kinds)
        other = {str(kind) for kind in kinds} - {"full_attention", "sliding_attention"}
        rough = f"layers of kind {', '.join(sorted(other))} are not counted exactly" if other else ""
        return max(1, full), window, rough
    interval = int(text.get("full_attention_interval") or 0)
    if interval > 1:
        return max(1, layers // interval), 0, "linear-attention layers are not counted exactly"
    defaults = {"gemma3_text": 6, "gemma3": 6, "gpt_oss": 2}  # the classes' own, where config.json is silent
    pattern = int(text.get("sliding_window_pattern") or defaults.get(str(text.get("model_type")), 0))
    if window and pattern > 1:
        return max(1, layers // pattern), window, ""
    if window and window < int(text.get("max_position_embeddings") or 0) and text.get("model_type") == "mistral":
        return layers, 0, "the sliding window is not counted: the plan reserves memory as if every layer saw everything"
    return layers, 0, ""


def _quantisation(config: object) -> Quantisation | None:
    """Return the storage of the weights; bytes per weight from the formats' own layouts (weight bits plus scales)."""
    if not isinstance(config, Mapping):
        return None
    method = str(config.get("quant_method") or config.get("quant_algo") or "unknown").lower()
    if method == "mxfp4":
        # 2880 becomes 3072 in gpt-oss: 64.4 GiB loaded for 60.8 GiB of files (vllm-project/vllm#33155)
        return Quantisation(method, 0.5 + 1 / 32, block=32, experts_only=True, pad=256)
    if method == "fp8":
        block = config.get("weight_block_size")
        side = int(block[0]) if isinstance(block, (list, tuple)) and block else 1
        return Quantisation(method, 1 + (4 / side**2 if side > 1 else 0), block=side)
    if method in {"awq", "gptq", "gptq_marlin", "awq_marlin"}:
        return _grouped(method, int(config.get("bits", 4)), int(config.get("group_size", 128)))
    if method == "bitsandbytes":
        return Quantisation(method, 0.5 + 4 / 64 if config.get("load_in_4bit") else 1.0)
    if method == "modelopt":
        algorithm = str(config.get("quant_algo", "")).upper()
        return Quantisation(method, 0.5 + 1 / 16, block=16) if "FP4" in algorithm else Quantisation(method, 1.0)
    if method == "compressed-tensors":
        groups = config.get("config_groups")
        first: Mapping[str, Any] = next(iter(groups.values()), {}) if isinstance(groups, Mapping) else {}
        weights = first.get("weights") or {}
        bits, group = int(weights.get("num_bits") or 8), int(weights.get("group_size") or 0)
        if group <= 0 and bits == 8:
            return Quantisation(method, 1.0)
        return _grouped(method, bits, group)
    raise MetalserveError(
        f"quantisation '{method}' is not known to the planner",
        where="config.json: quantization_config",
        remedy="set engine.tensor_parallel and engine.max_model_len yourself",
    )


def _grouped(method: str, bits: int, group: int) -> Quantisation:
    """Integer weights in groups: each group has a 16-bit scale and a zero point of the weights' own width."""
    scales = (2 + bits / 8) / group if group > 0 else 0.0
    return Quantisation(method, bits / 8 + scales, block=max(1, group))


def quantised_online(model: ModelConfig, kind: Literal["fp8"] = "fp8") -> ModelConfig:
    """Return the model as `--quantization fp8` serves it: linear layers in FP8 with one scale a tensor."""
    return replace(model, quantisation=Quantisation(kind, 1.0), weights_bytes=None)
