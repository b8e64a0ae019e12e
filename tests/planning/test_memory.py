"""Counting: parameters, bytes, tokens; against published counts and start-up logs of real engines."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalserve.errors import MetalserveError
from metalserve.planning.constraints import split_problem
from metalserve.planning.known import known_model, known_models, published_params
from metalserve.planning.memory import (
    GIB,
    batched_tokens,
    kv_bytes_per_token,
    overhead_parts,
    stage_layers,
    weights_bytes,
)
from metalserve.planning.model import ModelConfig, Quantisation, model_config_from


@pytest.mark.parametrize("name", known_models())
def test_parameters_agree_with_the_catalogue(name: str) -> None:
    assert known_model(name).params / 1e9 == pytest.approx(published_params(name), rel=0.002)


@pytest.mark.parametrize(
    ("model", "tensor", "kib"),
    [
        ("Llama-3.1-8B-Instruct", 1, 128),
        ("Llama-3.3-70B-Instruct", 1, 320),
        ("Llama-3.3-70B-Instruct", 8, 40),
        ("Llama-3.3-70B-Instruct", 16, 40),  # eight KV heads: the sixteenth GPU repeats one
        ("Qwen3-30B-A3B", 1, 96),
        ("DeepSeek-V3", 1, 68.625),
        ("DeepSeek-V3", 8, 68.625),  # the latent vector is on every GPU
        ("gemma-3-27b-it", 1, 80),
        ("gpt-oss-120b", 1, 36),
    ],
)
def test_kv_bytes_per_token(model: str, tensor: int, kib: float) -> None:
    assert kv_bytes_per_token(known_model(model), tensor) / 1024 == pytest.approx(kib)


@pytest.mark.parametrize(
    ("model", "tensor", "total_gib", "utilization", "batched", "weights_gib", "kv_gib"),
    [
        # Start-up logs: weights and KV cache that vLLM printed (before CUDA graphs came into the budget).
        ("Llama-3.3-70B-Instruct", 4, 79.1, 0.9, 8192, 32.85, 36.93),
        ("Qwen2.5-7B-Instruct", 1, 79.1, 0.9, 1024, 14.19, 55.86),
        ("Llama-3.1-8B-Instruct", 1, 23.6, 0.9, 2048, 14.96, 5.29),
    ],
)
def test_start_up_logs(
    model: str, tensor: int, total_gib: float, utilization: float, batched: int, weights_gib: float, kv_gib: float
) -> None:
    config = known_model(model)
    weights = weights_bytes(config, tensor) / GIB
    assert weights == pytest.approx(weights_gib, rel=0.005)
    overhead = overhead_parts(config, tensor, tensor, batched, graphs=False).total / GIB
    assert total_gib * utilization - weights - overhead == pytest.approx(kv_gib, rel=0.03)


def test_fp8_keeps_embeddings_in_bf16() -> None:
    # 67.72 GiB: what a 70B with 8-bit linear layers takes in a start-up log
    model = replace(known_model("Llama-3.3-70B-Instruct"), quantisation=Quantisation("compressed-tensors", 1.0))
    assert weights_bytes(model) / GIB == pytest.approx(67.72, rel=0.002)


def test_mxfp4_is_padded_as_it_is_loaded() -> None:
    assert weights_bytes(known_model("gpt-oss-120b")) / GIB == pytest.approx(64.38, rel=0.005)


def test_shards_add_up_to_the_files() -> None:
    model = replace(known_model("Llama-3.3-70B-Instruct"), weights_bytes=141_107_412_992)
    assert weights_bytes(model) == 141_107_412_992
    assert weights_bytes(model, 8) * 8 == pytest.approx(141_107_412_992, rel=0.001)
    assert weights_bytes(model, 1, 4) > 141_107_412_992 / 4  # the first stage holds the embedding too


@pytest.mark.parametrize(("layers", "stages"), [(80, 4), (80, 3), (61, 8), (7, 7), (28, 1)])
def test_stages_hold_all_layers(layers: int, stages: int) -> None:
    split = stage_layers(layers, stages)
    assert sum(split) == layers
    assert max(split) - min(split) <= 1
    assert split[-1] == min(split)  # the last stage has the output head to hold


def test_batched_tokens_follow_the_memory() -> None:
    assert batched_tokens(46068) == 2048
    assert batched_tokens(81559, "h100-sxm") == 8192
    assert batched_tokens(81920, "a100-sxm-80") == 2048
    assert batched_tokens(183359, "b200") == 16384


def config(**more: object) -> dict[str, object]:
    base: dict[str, object] = {
        "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 8192,
    }  # fmt: skip
    return base | more


def test_config_is_read_where_multimodal_models_keep_it() -> None:
    model = model_config_from({"architectures": ["X"], "text_config": config()})
    assert (model.architecture, model.hidden, model.head_dim) == ("X", 4096, 128)


def test_head_dim_of_the_config_goes_before_the_quotient() -> None:
    assert model_config_from(config(head_dim=256)).head_dim == 256


@pytest.mark.parametrize(
    ("quantization", "bytes_per_param", "block"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 1.000244, 128),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, 0.5195, 128),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 1.0, 1),
        ({"quant_method": "mxfp4"}, 0.53125, 32),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, 0.5625, 16),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 8}}}}, 1.0, 1),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 0.5625, 1),
    ],
)
def test_quantisation_is_read(quantization: dict[str, object], bytes_per_param: float, block: int) -> None:
    found = model_config_from(config(quantization_config=quantization)).quantisation
    assert found is not None
    assert found.bytes_per_param == pytest.approx(bytes_per_param, rel=0.001)
    assert found.block == block


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": "4096"}, "hidden_size must be a positive number, not '4096'"),
        ({"num_hidden_layers": -1}, "num_hidden_layers must be a positive number"),
        ({"quantization_config": {"quant_method": "magic"}}, "quantisation 'magic' is not known"),
    ],
)
def test_configs_that_make_no_sense(change: dict[str, object], words: str) -> None:
    with pytest.raises(MetalserveError, match=words):
        model_config_from(config(**change))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 200_000) | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
KEYS = [
    *config(), "head_dim", "text_config", "quantization_config", "num_local_experts", "moe_intermediate_size",
    "n_shared_experts", "first_k_dense_replace", "moe_layer_freq", "kv_lora_rank", "sliding_window", "layer_types",
    "full_attention_interval", "torch_dtype", "mlp_only_layers", "architectures",
]  # fmt: skip


@settings(max_examples=300)
@given(change=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4))
def test_any_json_is_a_model_or_a_refusal(change: dict[str, object]) -> None:
    try:
        model = model_config_from(config(**change))
    except MetalserveError as error:
        assert "\n" not in str(error)
    else:
        assert weights_bytes(model, 2, 2) > 0
        assert kv_bytes_per_token(model) > 0


@pytest.mark.parametrize(
    ("model", "tensor", "words"),
    [
        (known_model("Llama-3.3-70B-Instruct"), 8, None),
        (known_model("Llama-3.3-70B-Instruct"), 3, "64 attention heads do not divide by 3"),
        (known_model("Qwen2.5-7B-Instruct"), 8, "28 attention heads do not divide by 8"),
        (known_model("phi-4"), 4, "10 key/value heads neither divide by 4 nor into it"),
        (known_model("DeepSeek-V3"), 8, None),
        (known_model("DeepSeek-V3"), 32, "quantisation blocks of 128"),
    ],
)
def test_splits_that_vllm_refuses(model: ModelConfig, tensor: int, words: str | None) -> None:
    found = split_problem(model, tensor, 1)
    assert (found is None) if words is None else (found is not None and words in found)


def test_unknown_model_names_the_nearest() -> None:
    with pytest.raises(MetalserveError, match=r"did you mean meta-llama/Llama-3\.3-70B-Instruct\?"):
        known_model("meta-llama/Llama-3.3-70b-Instrukt")
