"""Bundled models and HF config.json readers: exact sizes, KV traffic, windows, key names, and what errors say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from gemvane.workloads.catalog import load, names
from gemvane.workloads.families import FAMILIES, read_config
from gemvane.workloads.spec import MLA, Attention, Dense, ModelSpec, MoE, attention_parameters

LLAMA: dict[str, object] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
}


def spec_of(config: Mapping[str, object], **changes: object) -> ModelSpec:
    return read_config({**config, **changes}, "tiny", "tiny/config.json")


def windows(model: ModelSpec) -> list[int | None]:
    return [layer.mixer.window for layer in model.layers]


def bundled(name: str) -> dict[str, object]:
    config = json.loads((resources.files("gemvane.workloads") / "models" / f"{name}.json").read_text(encoding="utf-8"))
    assert isinstance(config, dict)
    return config


def test_every_bundled_model_names_its_source() -> None:
    assert all(bundled(name)["_source"] for name in names())


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        pytest.param(
            {"model_type": "gemma", "hidden_size": 2048, "num_hidden_layers": 18, "num_attention_heads": 8, "num_key_value_heads": 1}
            | {"head_dim": 256, "intermediate_size": 16384, "vocab_size": 256000, "hidden_act": "gelu", "hidden_activation": None},
            2_506_172_416,
            id="gemma-2b",
        ),
        pytest.param(
            {"model_type": "opt", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "ffn_dim": 4096}
            | {"vocab_size": 50272, "max_position_embeddings": 2048, "word_embed_proj_dim": 512, "do_layer_norm_before": False},
            331_196_416,
            id="opt-350m, projected embeddings and no final norm",
        ),
        pytest.param(
            {"model_type": "falcon", "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 32, "vocab_size": 50304}
            | {"multi_query": False, "parallel_attn": False, "alibi": True, "bias": True},
            1_311_625_216,
            id="falcon-rw-1b, multi-head with biases and two norms",
        ),
    ],
)
def test_readers_count_models_that_are_not_bundled(config: Mapping[str, object], parameters: int) -> None:
    assert spec_of(config).parameters == parameters


@pytest.mark.parametrize(
    ("name", "billions"),
    [("mixtral-8x7b", 12.88), ("qwen3-30b-a3b", 3.35), ("qwen3-235b-a22b", 22.2), ("deepseek-v3", 37.6), ("deepseek-v2", 21.4)],
)
def test_a_token_of_a_mixture_meets_only_its_own_experts(name: str, billions: float) -> None:
    assert load(name).active_parameters / 1e9 == pytest.approx(billions, rel=0.005)


def test_mixtral_leaves_six_of_eight_experts_idle() -> None:
    model = load("mixtral-8x7b")
    assert model.parameters - model.active_parameters == 32 * 6 * 3 * 4096 * 14336


def test_every_parameter_of_a_dense_model_is_active() -> None:
    model = load("llama3-8b")
    assert model.active_parameters == model.parameters


@pytest.mark.parametrize(
    ("name", "elements"),
    [
        ("llama3-8b", 2 * 8 * 128 * 32),
        ("llama2-7b", 2 * 32 * 128 * 32),
        ("falcon-7b", 2 * 1 * 64 * 32),
        ("falcon-40b", 2 * 8 * 64 * 60),
        ("palm-540b", 2 * 1 * 256 * 118),
        ("gemma2-27b", 2 * 16 * 128 * 46),
        ("deepseek-v3", (512 + 64) * 61),
        ("deepseek-v2-lite", (512 + 64) * 27),
        ("bert-base", 0),
        ("vit-b16", 0),
    ],
)
def test_kv_elements_of_one_token_over_all_layers(name: str, elements: int) -> None:
    assert load(name).kv_elements_per_token == elements


@pytest.mark.parametrize(
    ("name", "label"), [("llama3-8b", "GQA 32/8"), ("llama2-7b", "MHA 32"), ("falcon-7b", "MQA 71/1"), ("deepseek-v3", "MLA 128")]
)
def test_attention_is_labelled_by_its_kind_and_heads(name: str, label: str) -> None:
    assert load(name).attention_label == label


def test_gemma2_slides_in_every_second_layer_from_the_first() -> None:
    assert windows(load("gemma2-9b")) == [4096, None] * 21


def test_gemma3_has_five_sliding_layers_and_then_a_full_one() -> None:
    assert windows(load("gemma3-4b")) == ([1024] * 5 + [None]) * 5 + [1024] * 4


def test_gpt_oss_slides_in_every_second_layer_with_or_without_layer_types() -> None:
    config = bundled("gpt-oss-20b")
    assert windows(load("gpt-oss-20b")) == [128, None] * 12
    assert spec_of(config, layer_types=None) == spec_of(config)


def test_mistral_slides_in_all_layers_unless_its_window_is_null() -> None:
    config = bundled("mistral-7b")
    assert windows(spec_of(config)) == [4096] * 32
    assert windows(spec_of(config, sliding_window=None)) == [None] * 32
    assert set(windows(load("phi3-mini"))) == {2047}
    assert set(windows(load("mixtral-8x7b"))) == {None}


def test_qwen2_slides_only_when_told_and_only_above_max_window_layers() -> None:
    config = {**bundled("qwen2.5-0.5b"), "max_window_layers": 20, "sliding_window": 1024}
    assert windows(spec_of(config)) == [None] * 24
    assert windows(spec_of(config, use_sliding_window=True)) == [None] * 20 + [1024] * 4


def test_falcon_kv_heads_count_only_in_the_new_architecture() -> None:
    config = bundled("falcon-7b")
    old, new = spec_of(config).layers[0], load("falcon-40b").layers[0]
    assert config["num_kv_heads"] == 71
    assert (old.mixer.kv_elements, old.norms, old.parallel) == (2 * 64, 1, True)
    assert (new.mixer.kv_elements, new.norms, new.parallel) == (2 * 8 * 64, 2, True)
    assert spec_of(config, multi_query=False).attention_label == "MHA 71"


def test_gemma_head_width_is_not_hidden_over_heads() -> None:
    mixer = load("gemma2-9b").layers[0].mixer
    assert isinstance(mixer, Attention)
    assert (mixer.head_dim, 3584 // mixer.heads_q) == (256, 224)
    assert load("gemma2-9b").layers[0].norms == 4


def test_deepseek_starts_with_dense_layers_and_shares_experts_as_one_ffn() -> None:
    lite, v3 = load("deepseek-v2-lite"), load("deepseek-v3")
    assert [isinstance(layer.ffn, Dense) for layer in v3.layers] == [True] * 3 + [False] * 58
    assert isinstance(lite.layers[0].mixer, MLA) and lite.layers[0].mixer.q_lora_rank is None
    moe = lite.layers[1].ffn
    assert isinstance(moe, MoE) and moe.shared == Dense(width=2 * 1408, gated=True, activation="silu")


def test_qwen_moe_keeps_a_dense_ffn_where_the_sparse_step_or_a_list_says_so() -> None:
    config = bundled("qwen3-30b-a3b")
    every_second = spec_of(config, decoder_sparse_step=2).layers
    listed = spec_of(config, mlp_only_layers=[0]).layers
    assert [isinstance(layer.ffn, MoE) for layer in every_second] == [False, True] * 24
    assert [isinstance(layer.ffn, MoE) for layer in listed] == [False] + [True] * 47


def test_qk_norm_weights_are_one_head_wide_or_all_heads_wide() -> None:
    shared = Attention(heads_q=4, heads_kv=2, head_dim=8, qk_norm=True)
    bare = attention_parameters(replace(shared, qk_norm=False), 32)
    assert attention_parameters(shared, 32) - bare == 8 + 8
    assert attention_parameters(replace(shared, qk_norm_shared=False), 32) - bare == 4 * 8 + 2 * 8


def test_encoders_see_every_token_and_have_no_lm_head() -> None:
    bert, vit = load("bert-base"), load("vit-b16")
    assert bert.encoder and vit.encoder
    assert (bert.head, vit.head, vit.num_classes) == ("pooler", "classifier", 1000)
    assert vit.patches is not None and vit.patches.tokens == 197
    assert all(isinstance(layer.mixer, Attention) and not layer.mixer.causal for layer in (*bert.layers, *vit.layers))


def test_vit_counts_its_labels_and_without_labels_has_a_pooler() -> None:
    config = {key: value for key, value in bundled("vit-b16").items() if key != "num_labels"}
    assert spec_of(config, id2label={"0": "cat", "1": "dog"}).num_classes == 2
    assert spec_of(config).parameters == 86_567_656 - 768 * 1000 - 1000 + 768 * 768 + 768


def test_old_and_new_rope_and_dtype_keys_give_equal_specs() -> None:
    old = spec_of(LLAMA, torch_dtype="bfloat16", rope_theta=500000.0, rope_scaling=None)
    new = spec_of(LLAMA, dtype="bfloat16", rope_parameters={"rope_theta": 500000.0, "rope_type": "default"})
    assert old == new == spec_of(LLAMA)


def test_old_and_new_names_of_sizes_give_equal_specs() -> None:
    gpt2 = bundled("gpt2")
    new_gpt2 = {"model_type": "gpt2", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 50257}
    assert spec_of(gpt2) == spec_of(new_gpt2, max_position_embeddings=1024, n_inner=3072, activation_function="gelu_new")
    qwen = bundled("qwen3-30b-a3b")
    assert spec_of(qwen, num_experts=None, num_local_experts=128) == spec_of(qwen)


def test_text_config_is_the_language_model() -> None:
    assert spec_of({"model_type": "some_vlm", "vision_config": {}, "text_config": LLAMA}) == spec_of(LLAMA)


def test_gemma3_text_config_may_leave_out_what_hf_defaults() -> None:
    hub = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024, "model_type": "gemma3_text"}
    sparse = read_config({"model_type": "gemma3", "text_config": hub}, "gemma3-4b", "config.json")
    assert replace(sparse, positions=None) == replace(load("gemma3-4b"), positions=None)
    assert spec_of({"model_type": "gemma3_text"}).parameters / 1e9 == pytest.approx(2.63, rel=0.01)


def test_names_are_found_in_any_case() -> None:
    assert load("Llama3-8B") == load("llama3-8b")


def test_a_model_loads_from_a_file_and_from_its_directory(tmp_path: Path) -> None:
    folder = tmp_path / "my-llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    assert load(str(folder)) == load(str(folder / "config.json"))
    assert replace(load(str(folder)), name="llama3-8b") == load("llama3-8b")
    assert load(str(folder)).name == "my-llama"


def refusal(config: Mapping[str, object], **changes: object) -> str:
    with pytest.raises(ValueError) as caught:
        spec_of(config, **changes)
    return str(caught.value)


def test_an_unknown_architecture_names_the_nearest_and_what_a_spec_needs() -> None:
    message = refusal(LLAMA, model_type="lama")
    assert message.startswith("tiny/config.json: model_type 'lama' is not a known architecture, nearest is llama. A spec needs hidden size")
    assert all(family in message for family in FAMILIES)


def test_a_missing_key_is_named_with_all_that_the_family_needs() -> None:
    config = {key: value for key, value in LLAMA.items() if key != "num_attention_heads"}
    assert refusal(config) == (
        "tiny/config.json: key 'num_attention_heads' is missing (family llama needs hidden_size, num_hidden_layers, "
        "num_attention_heads, intermediate_size, vocab_size)"
    )


def test_a_missing_model_type_is_named() -> None:
    assert refusal(LLAMA, model_type=None).startswith("tiny/config.json: key 'model_type' is missing; want one of bart, bert, ")


def test_an_error_inside_text_config_says_so() -> None:
    assert refusal({"model_type": "gemma3", "text_config": {"hidden_size": 0}}).startswith(
        "tiny/config.json: text_config: key 'hidden_size' = 0"
    )


@pytest.mark.parametrize("value", [0, -32, 32.0, "32", True, [32]])
def test_a_count_that_is_not_a_positive_whole_number_is_refused(value: object) -> None:
    assert refusal(LLAMA, num_hidden_layers=value) == f"tiny/config.json: key 'num_hidden_layers' = {value!r}: want a positive whole number"


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        (
            "llama3-8b",
            {"hidden_size": 4100},
            "key 'hidden_size' = 4100: want a multiple of num_attention_heads = 32, or an explicit head_dim",
        ),
        ("llama3-8b", {"num_key_value_heads": 5}, "key 'num_key_value_heads' = 5: want a divisor of num_attention_heads = 32"),
        ("llama3-8b", {"hidden_act": "tanh"}, "key 'hidden_act' = 'tanh': want one of silu, swish, relu, gelu"),
        ("llama3-8b", {"attention_bias": "no"}, "key 'attention_bias' = 'no': want true or false"),
        ("mixtral-8x7b", {"num_experts_per_tok": 9}, "key 'num_experts_per_tok' = 9: want at most num_local_experts = 8"),
        ("gpt-oss-20b", {"layer_types": ["full_attention"]}, "key 'layer_types' = '1 entries': want num_hidden_layers = 24 entries"),
        ("gpt-oss-20b", {"layer_types": ["linear_attention"]}, "key 'layer_types' = 'linear_attention': want only full_attention"),
        ("gpt-oss-20b", {"layer_types": "full"}, "key 'layer_types' = 'full': want a list"),
        ("deepseek-v3", {"attention_bias": True}, "key 'attention_bias' = True: want false"),
        ("vit-b16", {"patch_size": 15}, "key 'image_size' = 224: want a multiple of patch_size = 15"),
    ],
)
def test_a_bad_value_is_refused_with_key_value_and_wish(base: str, changes: Mapping[str, object], message: str) -> None:
    assert refusal(bundled(base), **changes).startswith(f"tiny/config.json: {message}")


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"^unknown model 'lama3-8b': nearest are llama3-8b, .*; or give a path to a HF config.json$"):
        load("lama3-8b")


def test_a_hub_name_offers_the_nearest_bundled_one() -> None:
    with pytest.raises(ValueError, match=r"unknown model 'google/Gemma-2-9B': nearest are gemma2-9b, "):
        load("google/Gemma-2-9B")


def test_a_name_like_none_lists_what_is_bundled() -> None:
    with pytest.raises(ValueError, match=r"unknown model '%%': bundled are bart-large, bert-base, "):
        load("%%")


def test_a_torch_factory_is_recorded_not_loaded() -> None:
    with pytest.raises(ValueError, match=r"'my.package:build' is recorded, which `gemvane trace` and `gemvane run` do"):
        load("my.package:build")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"model_type": "llama",\n "hidden_size": }', "line 2, column 17: not JSON"),
        (b"[1, 2]", "holds a JSON list: want a mapping"),
        (b"\xff\xfe", "not JSON \\(byte 0 is not UTF-8 text\\)"),
        (b"{}", "key 'model_type' is missing"),
    ],
)
def test_a_file_that_is_no_config_is_named(tmp_path: Path, text: bytes, message: str) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(text)
    with pytest.raises(ValueError, match=f"config.json: {message}"):
        load(str(file))


def test_a_directory_without_a_config_and_a_file_that_is_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"this directory has no config\.json"):
        load(str(tmp_path))
    with pytest.raises(ValueError, match=r"gone.json': no such file"):
        load(str(tmp_path / "gone.json"))
