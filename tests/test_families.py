"""Families beyond the decoder and the encoder: published sizes, transformers' own modules as the oracle, and what each phase computes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from typing import Any

import numpy as np
import pytest

from gemvane.workloads.catalog import load
from gemvane.workloads.families import read_config
from gemvane.workloads.lower import check, decode_step, generation, lower, prefill, prompt_lengths
from gemvane.workloads.ops import CODE, KINDS
from gemvane.workloads.scenario import Scenario
from gemvane.workloads.spec import Attention, Chain, Layer, ModelSpec
from gemvane.workloads.trace import Trace

CLASSES = {
    "whisper-small": "WhisperForConditionalGeneration", "t5-base": "T5ForConditionalGeneration",
    "bart-large": "BartForConditionalGeneration", "mamba-130m": "MambaForCausalLM", "mamba2-130m": "Mamba2ForCausalLM",
    "rwkv-4-169m": "RwkvForCausalLM", "fnet-base": "FNetModel", "swin-t": "SwinForImageClassification",
    "pvt-v2-b0": "PvtV2ForImageClassification", "clip-vit-b32": "CLIPModel", "wav2vec2-conformer-large": "Wav2Vec2ConformerModel",
}
NEW = (*CLASSES, "jamba-v0.1", "qwen3-next-80b-a3b", "gla-1.3b", "delta-net-1.3b", "llava-1.5-7b", "dit-xl-2", "sd1.5-unet", "v-moe-b16")
MULTIPLIED = {
    "t5-base": (64, {"input_ids": (1, 64), "decoder_input_ids": (1, 1)}),
    "bart-large": (64, {"input_ids": (1, 64), "decoder_input_ids": (1, 1)}),
    "whisper-small": (4, {"input_features": (1, 80, 3000), "decoder_input_ids": (1, 4)}),
    "swin-t": (1, {"pixel_values": (1, 3, 224, 224)}),
    "pvt-v2-b0": (1, {"pixel_values": (1, 3, 224, 224)}),
}
"""Prompt, and the shapes that transformers' module takes."""
SMALL = {
    "jamba": {"num_hidden_layers": 8, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
              "vocab_size": 100, "num_experts": 4, "num_experts_per_tok": 2, "mamba_dt_rank": 4, "mamba_d_state": 16,
              "attn_layer_period": 8, "expert_layer_period": 2, "tie_word_embeddings": False},
    "qwen3_next": {"num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
                   "vocab_size": 100, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
                   "shared_expert_intermediate_size": 32, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
                   "linear_key_head_dim": 16, "linear_value_head_dim": 16, "intermediate_size": 128, "tie_word_embeddings": False},
}


def bundled(name: str) -> dict[str, Any]:
    config = json.loads((resources.files("gemvane.workloads") / "models" / f"{name}.json").read_text(encoding="utf-8"))
    return {key: value for key, value in config.items() if key != "_source"}


def tokens(trace: Trace, name: str) -> list[int]:
    """Rows m of the operators of a name, in order."""
    return trace.rows.m[trace.rows.name == trace.names.index(name)].tolist()


def rows_of(trace: Trace, kind: str) -> Any:
    return trace.rows.take(np.flatnonzero(trace.rows.kind == CODE[kind]))


def module(model_type: str, config: Mapping[str, object], class_name: str) -> Any:
    """transformers' own module, without weights."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    made = transformers.AutoConfig.for_model(model_type, **config)
    made._attn_implementation = "eager"
    with torch.device("meta"):
        return getattr(transformers, class_name)(made).eval()


def count(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", sorted(CLASSES.keys() - MULTIPLIED))
def test_transformers_counts_the_same_parameters(name: str) -> None:
    config = bundled(name)
    assert count(module(config.pop("model_type"), config, CLASSES[name])) == load(name).parameters


@pytest.mark.parametrize(("model_type", "class_name"), [("jamba", "JambaForCausalLM"), ("qwen3_next", "Qwen3NextForCausalLM")])
def test_transformers_counts_the_same_parameters_of_a_small_hybrid(model_type: str, class_name: str) -> None:
    spec = read_config({"model_type": model_type, **SMALL[model_type]}, "tiny", "tiny/config.json")
    assert count(module(model_type, SMALL[model_type], class_name)) == spec.parameters


@pytest.mark.parametrize("name", MULTIPLIED)
def test_transformers_multiplies_as_often_to_the_flop(name: str) -> None:
    prompt, shapes = MULTIPLIED[name]
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    config = bundled(name)
    model = module(config.pop("model_type"), config, CLASSES[name])
    assert count(model) == load(name).parameters
    inputs = {key: torch.zeros(shape, dtype=torch.long if key.endswith("ids") else None, device="meta") for key, shape in shapes.items()}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs)
    scenario = Scenario(batch=1, prompt=prompt, full_square=True, all_logits=True)
    assert prefill(load(name), scenario).flops == counter.get_total_flops()


# --- encoder and decoder


def test_the_encoder_runs_once_and_its_keys_and_values_are_computed_once() -> None:
    spec, scenario = load("t5-base"), Scenario(batch=2, prompt=(30, 50), output=4)
    first, step = prefill(spec, scenario), decode_step(spec, scenario)
    assert tokens(first, "kv_proj") == [80] * 12
    assert "kv_proj" not in step.names
    assert tokens(first, "qkv_proj") == [80] * 12 + [2] * 12  # the encoder reads the prompts, the decoder its two first tokens
    assert tokens(step, "qkv_proj") == [2] * 12
    assert [tokens(first, "kv_append").count(m) for m in (80, 2)] == [12, 12]
    assert tokens(step, "kv_append") == [2] * 12


def test_cross_attention_reads_the_encoded_tokens_and_does_not_grow() -> None:
    spec, scenario = load("whisper-small"), Scenario(batch=2, prompt=4, output=6)
    decode = rows_of(generation(spec, scenario), "attention_decode")
    assert decode.size == 5 * 2 * 12
    assert set(decode.n[decode.cross == 1].tolist()) == {2 * 1500}
    assert np.unique(decode.n[decode.cross == 0]).tolist() == [2 * (4 + g) for g in range(1, 6)]


def test_whisper_has_36_attentions_in_a_prefill_and_24_in_a_step() -> None:
    scenario = Scenario(batch=1, prompt=4)
    assert rows_of(prefill(load("whisper-small"), scenario), "attention_prefill").size == 36
    assert rows_of(decode_step(load("whisper-small"), scenario), "attention_decode").size == 24


def test_whispers_first_convolution_has_two_rows_a_token_and_reads_its_spectrum_once() -> None:
    conv = rows_of(prefill(load("whisper-small"), Scenario(batch=1, prompt=1)), "conv")
    assert (conv.m.tolist(), conv.k.tolist()) == ([3000, 1500], [3 * 80, 3 * 768])
    assert conv.input_bytes.tolist() == [3000 * 80 * 2, 3000 * 768 * 2]


def test_the_prompt_of_whisper_is_the_decoders_and_of_t5_the_encoders() -> None:
    scenario = Scenario(batch=3, prompt=7)
    assert prompt_lengths(load("whisper-small"), scenario).tolist() == [7, 7, 7]
    assert prompt_lengths(load("t5-base"), scenario).tolist() == [1, 1, 1]
    warnings = check(load("whisper-small"), Scenario(prompt=440, output=20))
    assert warnings == ["whisper-small was made for 448 positions; this run reaches 459."]


# --- states instead of caches


@pytest.mark.parametrize(("name", "elements"), [
    ("mamba-130m", 24 * 1536 * (16 + 3)),
    ("mamba2-130m", 24 * (24 * 64 * 128 + 3 * (1536 + 2 * 128))),
    ("qwen3-next-80b-a3b", 36 * (32 * 128 * 128 + 3 * (2 * 2048 + 4096))),
    ("rwkv-4-169m", 12 * (3 * 768 + 2 * 768)),
])
def test_a_state_is_as_large_however_long_the_prompt(name: str, elements: int) -> None:
    assert load(name).state_elements == elements


def test_a_mamba_step_reads_and_writes_its_state_and_caches_nothing() -> None:
    spec = load("mamba-130m")
    short, long = (decode_step(spec, Scenario(batch=4, prompt=prompt)) for prompt in (10, 10_000))
    assert spec.kv_elements_per_token == 0
    assert short.rows.memory_bytes.tolist() == long.rows.memory_bytes.tolist()
    state = 4 * spec.state_elements * 2
    assert int(short.rows.kv_read_bytes.sum()) == int(short.rows.kv_write_bytes.sum()) == state


def test_a_scan_over_a_prompt_grows_with_its_tokens_and_writes_the_state_once() -> None:
    spec = load("mamba2-130m")
    one, two = (rows_of(prefill(spec, Scenario(prompt=prompt)), "scan") for prompt in (512, 1024))
    assert (2 * one.macs == two.macs).all()
    assert (one.kv_write_bytes == two.kv_write_bytes).all()


def test_jamba_attends_in_one_layer_of_eight_and_qwen3_next_in_one_of_four() -> None:
    for name, period, offset in (("jamba-v0.1", 8, 4), ("qwen3-next-80b-a3b", 4, 3)):
        attends = [isinstance(layer.mixer, Attention) for layer in load(name).layers]
        assert attends == [i % period == offset for i in range(len(attends))]


def test_a_triangle_is_solved_in_a_prefill_alone() -> None:
    spec, scenario = load("delta-net-1.3b"), Scenario(prompt=128)
    assert "trisolve" in prefill(spec, scenario).names
    assert "trisolve" not in decode_step(spec, scenario).names
    assert rows_of(decode_step(spec, scenario), "delta_step").size == 24


@pytest.mark.parametrize("name", ["t5-base", "whisper-small", "mamba-130m", "mamba2-130m", "jamba-v0.1", "qwen3-next-80b-a3b", "gla-1.3b",
                                  "delta-net-1.3b", "llava-1.5-7b"])
def test_a_prefill_writes_tokens_states_and_encoded_tokens_once(name: str) -> None:
    spec, scenario = load(name), Scenario(batch=3, prompt=(5, 300, 17))
    own = int(prompt_lengths(spec, scenario).sum()) * spec.kv_elements_per_token
    crossed = {"t5-base": 322 * 12 * 2 * 768, "whisper-small": 3 * 1500 * 12 * 2 * 768}.get(name, 0)
    assert prefill(spec, scenario).rows.kv_write_bytes.sum() == 2 * (own + 3 * spec.state_elements + crossed)


# --- images, tokens that change along the layers


def test_swins_tokens_shrink_and_widen_from_stage_to_stage() -> None:
    trace = prefill(load("swin-t"), Scenario(batch=2))
    attention = rows_of(trace, "attention_prefill")
    assert attention.m.tolist() == [2 * side**2 for side, depth in ((56, 2), (28, 2), (14, 6), (7, 2)) for _ in range(depth)]
    assert set(attention.kv_len.tolist()) == {49}
    assert (attention.pairs == attention.m * 49).all()


def test_a_model_of_images_takes_no_notice_of_the_prompt() -> None:
    for name in ("swin-t", "dit-xl-2", "sd1.5-unet", "v-moe-b16"):
        short, long = (prefill(load(name), Scenario(batch=2, prompt=prompt)) for prompt in (1, 900))
        assert short.flops == long.flops


def test_llava_puts_576_image_tokens_before_the_prompt() -> None:
    trace = prefill(load("llava-1.5-7b"), Scenario(batch=2, prompt=10))
    assert tokens(trace, "projector_1") == [2 * 576]
    assert set(tokens(trace, "gate_up")) == {2 * (576 + 10)}
    assert decode_step(load("llava-1.5-7b"), Scenario(prompt=10)).rows.kv_len.max() == 576 + 10 + 1


def test_clip_encodes_an_image_and_a_text_in_one_pass() -> None:
    trace = prefill(load("clip-vit-b32"), Scenario(batch=3, prompt=20))
    assert tokens(trace, "qkv_proj") == [3 * 50] * 12 + [3 * 20] * 12
    with pytest.raises(ValueError, match="is an encoder and has no decode phase"):
        lower(load("clip-vit-b32"), Scenario(phase="decode"))


def test_a_unet_reads_the_text_by_cross_attention_and_a_video_has_attention_over_its_frames() -> None:
    image = rows_of(prefill(load("sd1.5-unet"), Scenario()), "attention_prefill")
    assert set(image.kv_len[image.cross == 1].tolist()) == {77}
    video = read_config({**bundled("sd1.5-unet"), "num_frames": 16}, "video", "video.json")
    clip = rows_of(prefill(video, Scenario()), "attention_prefill")
    over_time = clip.kv_len == 16
    assert (clip.m[over_time] == clip.pairs[over_time] // 16).all()
    assert int(over_time.sum()) == int((image.cross == 1).sum()) == 16
    still = (clip.cross == 0) & ~over_time
    assert (clip.macs[still] == 16 * image.macs[image.cross == 0]).all()


def test_half_of_a_unets_multiply_adds_are_convolutions() -> None:
    rows = prefill(load("sd1.5-unet"), Scenario()).rows
    assert 0.45 < rows.macs[rows.kind == CODE["conv"]].sum() / rows.macs.sum() < 0.55
    assert rows.macs.sum() / 1e9 == pytest.approx(402, rel=0.01)  # 804 GFLOP an image and step, as profilers of the U-Net report


def test_fnet_transforms_along_the_width_and_along_the_tokens() -> None:
    fft = rows_of(prefill(load("fnet-base"), Scenario(batch=2, prompt=128)), "fft")
    assert set(zip(fft.m.tolist(), fft.n.tolist(), strict=True)) == {(2 * 128, 768), (2 * 768, 128)}


def test_a_layer_may_have_its_own_width_and_keep_a_share_of_the_tokens() -> None:
    spec = load("vit-b16")
    merged = replace(spec, layers=(*spec.layers[:6], *(replace(layer, keep=0.5) for layer in spec.layers[6:])))
    assert tokens(prefill(merged, Scenario(batch=2)), "qkv_proj") == [2 * 197] * 6 + [2 * 99] * 6


def test_a_chain_may_be_a_monarch_mixer() -> None:
    """Two products with block-diagonal weights and a transposition between (arXiv 2310.12109, section 3): 2 n^1.5 multiply-adds a token."""
    from gemvane.workloads.spec import Step

    block = Step(name="blocks", kind="gemm", batch=32, n=32, k=32)
    mixer = Chain(label="Monarch 1024", steps=(block, Step(name="transpose", kind="permute", n=1024), block))
    spec = ModelSpec(name="m2", family="m2", hidden=1024, layers=(Layer(mixer=mixer, ffn=None, norms=1),), vocab=10, norm="layernorm")
    trace = prefill(spec, Scenario(prompt=64))
    assert trace.rows.macs[trace.rows.kind == CODE["gemm"]].sum() == 2 * 64 * 1024 * 32
    assert sum(step.parameters for step in mixer.steps) == 2 * 1024 * 32


# --- parallelism and errors


def test_tensor_parallelism_shares_a_chain_out() -> None:
    spec = load("mamba-130m")
    one, two = (prefill(spec, Scenario(prompt=64, tp=tp)) for tp in (1, 2))
    whole, half = (int(trace.rows.macs[trace.rows.name == trace.names.index("in_proj")].sum()) for trace in (one, two))
    assert whole == 2 * half
    with pytest.raises(ValueError, match=r"--tp 5: mamba-130m has 3072 n in in_proj, which 5 devices cannot share evenly"):
        prefill(spec, Scenario(tp=5))


@pytest.mark.parametrize(("name", "changes", "message"), [
    ("t5-base", {"feed_forward_proj": "elu"}, "key 'feed_forward_proj' = 'elu': want relu, gated-gelu or gated-silu"),
    ("whisper-small", {"encoder_attention_heads": 7}, "key 'd_model' = 768: want a multiple of encoder_attention_heads = 7"),
    ("mamba2-130m", {"num_heads": 23}, "key 'num_heads' = 23: want expand x hidden_size / head_dim = 24"),
    ("qwen3-next-80b-a3b", {"layer_types": ["full_attention"]}, "key 'layer_types' = '1 entries': want full_attention or linear_attention"),
    ("gla-1.3b", {"expand_k": 0}, "key 'expand_k' = 0: want a positive number"),
    ("swin-t", {"depths": [2, 2]}, "key 'num_heads' = '4 entries': want as many as depths has, 2"),
    ("swin-t", {"num_heads": [5, 6, 12, 24]}, "key 'num_heads' = [5, 6, 12, 24]: want divisors of the widths of the stages"),
    ("pvt-v2-b0", {"depths": "2"}, "key 'depths' = '2': want a list"),
    ("pvt-v2-b0", {"depths": [0, 2, 2, 2]}, "key 'depths' = [0, 2, 2, 2]: want a list of positive whole numbers"),
    ("clip-vit-b32", {"vision_config": None}, "key 'vision_config' is missing"),
    ("clip-vit-b32", {"vision_config": 3}, "key 'vision_config' = 3: want a mapping"),
    ("dit-xl-2", {"sample_size": 33}, "key 'sample_size' = 33: want a multiple of patch_size = 2"),
    ("sd1.5-unet", {"sample_size": 60}, "key 'sample_size' = 60: want a multiple of 8, for 3 halvings"),
])
def test_a_bad_value_is_refused_with_key_value_and_wish(name: str, changes: Mapping[str, object], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_config({**bundled(name), **changes}, "tiny", "tiny/config.json")
    assert str(caught.value).startswith(f"tiny/config.json: {message}")


def test_a_diffusers_file_names_a_class_instead_of_a_model_type() -> None:
    config = bundled("dit-xl-2")
    del config["model_type"]
    assert read_config({**config, "_class_name": "DiTTransformer2DModel"}, "dit-xl-2", "x") == load("dit-xl-2")


@pytest.mark.parametrize("name", NEW)
def test_every_operator_of_a_family_does_something(name: str) -> None:
    spec = load(name)
    for trace in [prefill(spec, Scenario(prompt=16)), *([] if spec.encoder else [decode_step(spec, Scenario(prompt=16))])]:
        moved = trace.rows.memory_bytes + trace.rows.link_bytes
        assert (moved > 0).all(), [trace.names[i] for i in trace.rows.name[moved == 0]]
        assert (trace.rows.macs >= 0).all()
        assert {KINDS[code].name for code in np.unique(trace.rows.kind)} & {"gemm", "gemv", "conv"}
