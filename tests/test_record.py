"""The recorder against the config reader, operator by operator, and against totals that follow from the models' formulas."""

import json
from collections import Counter
from importlib.resources import files
from typing import Any

import numpy as np
import pytest

from gemvane.workloads import catalog, lower
from gemvane.workloads.ops import DERIVED, SHAPE
from gemvane.workloads.record import Recording, record
from gemvane.workloads.scenario import Scenario
from gemvane.workloads.trace import Trace

torch = pytest.importorskip("torch", reason="recording needs torch")
transformers = pytest.importorskip("transformers", reason="these models are those of transformers")

HEAVY = ("matmul", "attention_prefill", "attention_decode", "move")
SIZES = [c for c in (*SHAPE, *DERIVED) if c not in ("name", "layer", "sub_batch", "stage", "vector_ops")]
ENCODERS = ("bert-base", "vit-b16")
MODELS = ("llama3-8b", "mixtral-8x7b", "qwen3-30b-a3b", "gemma3-1b", "gpt-oss-20b", "phi3-mini", "whisper-small", "gpt2", "t5-base",
          "mamba-130m", "mamba2-130m")


def config_of(name: str, **changes: Any) -> Any:
    """The transformers config of a bundled model."""
    values = json.loads((files("gemvane.workloads") / "models" / f"{name}.json").read_text(encoding="utf-8"))
    values = {**values.get("text_config", values), **changes}
    if name.startswith("vit"):
        values["architectures"] = ["ViTForImageClassification"]
    return transformers.AutoConfig.for_model(**{key: value for key, value in values.items() if key != "_source"})


def operators(trace: Trace) -> Counter[tuple[Any, ...]]:
    """Kind, sizes, types, work and bytes of every product, attention and move."""
    frame = trace.to_frame()
    frame["macs"] = trace.rows.macs
    return Counter(frame[frame.work.isin(HEAVY)][SIZES].itertuples(index=False, name=None))


@pytest.mark.parametrize("name", (*MODELS, *ENCODERS))
def test_the_recorder_and_the_config_reader_give_the_same_operators(name: str) -> None:
    scenario = Scenario(batch=2, prompt=197 if name.startswith("vit") else 300, output=2, all_logits=True)
    recording, spec = record(config_of(name), scenario=scenario), catalog.load(name)
    assert recording.parameters == spec.parameters
    assert recording.first is not None
    assert operators(recording.first) == operators(lower.prefill(spec, scenario))
    assert (recording.step is None) == (name in ENCODERS)
    if recording.step is not None:
        assert operators(recording.step) == operators(lower.decode_step(spec, scenario))


WHOLE = {"full_square": True, "all_logits": True}
"""As papers count: every pair of causal attention, logits of every position."""


def config(kind: str, **values: Any) -> Any:
    return getattr(transformers, f"{kind}Config")(**values)


@pytest.mark.parametrize(
    ("made", "prompt", "tflop"),
    [
        # 2 S (P - embeddings - norms) + 4 S^2 d L; what an operator counter that knows no grouped product gives stands behind
        (config("Llama"), 2048, 29.2616),
        (config_of("llama3-8b"), 2048, 32.938),
        (config("Mixtral"), 2048, 54.417),  # 8.238
        (config_of("qwen3-30b-a3b"), 2048, 15.757),  # 8.335
        (config("Gemma3Text"), 2048, 11.659),
        (config("Phi3"), 2048, 16.896),
        (config_of("bert-base"), 512, 0.0966379),
        (config_of("vit-b16", architectures=["ViTModel"]), 197, 0.03346407 + 0.0014307 + 0.0002312 + 2 * 768 * 768 * 1e-12),
    ],
    ids=["llama2-7b", "llama3-8b", "mixtral", "qwen3-30b-a3b", "gemma3-2.6b", "phi3", "bert", "vit"],
)
def test_totals_of_a_prefill(made: Any, prompt: int, tflop: float) -> None:
    if made.model_type == "vit":
        made.architectures = None  # the bare model, with its pooler
    total = record(made, scenario=Scenario(phase="prefill", prompt=prompt, **WHOLE)).trace(Scenario(phase="prefill")).flops
    assert total / 1e12 == pytest.approx(tflop, rel=5e-5)


def test_totals_of_llama2_follow_from_its_parameters() -> None:
    made = config("Llama")
    both = record(made, scenario=Scenario(prompt=2049, output=2, **WHOLE))
    assert both.first is not None
    assert both.step is not None
    p, d, layers, vocab = both.parameters, 4096, 32, 32000
    linear = p - vocab * d - (2 * layers + 1) * d
    assert both.first.flops == 2 * 2049 * linear + 4 * 2049**2 * d * layers
    assert both.step.flops == 2 * linear + 4 * 2050 * d * layers == 14_288_945_152


def step_of(recording: Recording) -> Any:
    assert recording.step is not None
    return recording.step.to_frame()


def first_of(recording: Recording) -> Any:
    assert recording.first is not None
    return recording.first.to_frame()


def test_an_attention_call_is_one_row_with_its_own_heads_and_type() -> None:
    recording = record(config_of("llama3-8b", num_hidden_layers=2), scenario=Scenario(prompt=2048, output=2))
    first, step = (f[f.work.str.startswith("attention")] for f in (first_of(recording), step_of(recording)))
    assert first[["q_len", "kv_len", "heads_q", "heads_kv", "head_dim"]].to_numpy().tolist() == [[2048, 2048, 32, 8, 128]] * 2
    assert step[["q_len", "kv_len", "heads_q", "heads_kv", "head_dim"]].to_numpy().tolist() == [[1, 2049, 32, 8, 128]] * 2
    assert set(first.act_dtype) == set(step.kv_dtype) == {"bf16"}
    assert set(first.name) == {"model.layers.*.self_attn.attention"}


def test_an_append_writes_the_new_tokens_alone() -> None:
    step = step_of(record(config_of("llama3-8b", num_hidden_layers=2), scenario=Scenario(batch=3, prompt=2048, output=2)))
    assert step[step.kind == "kv_append"].kv_write_bytes.tolist() == [3 * 2 * 8 * 128 * 2] * 2


def test_a_sliding_layer_reads_its_window() -> None:
    step = step_of(record(config_of("gpt-oss-20b", num_hidden_layers=2, layer_types=None), scenario=Scenario(prompt=2048, output=2)))
    assert step[step.kind == "attention_decode"].kv_len.tolist() == [128, 2049]


def test_latent_attention_as_transformers_runs_it() -> None:
    made = config("DeepseekV3", num_hidden_layers=1)
    first = first_of(record(made, scenario=Scenario(phase="prefill", prompt=64)))
    attention, append = first[first.kind == "attention_prefill"].iloc[0], first[first.kind == "kv_append"].iloc[0]
    assert (attention.head_dim, attention.value_dim, append.n) == (192, 128, 512 + 64)


def test_whisper_attends_three_times_a_decoder_layer_and_reads_its_cross_cache_once_made() -> None:
    recording = record(config_of("whisper-small"), scenario=Scenario(prompt=4, output=2))
    first, step = first_of(recording), step_of(recording)
    assert (first.kind == "attention_prefill").sum() == 36
    assert (step.kind == "attention_decode").sum() == 24
    assert step[step.cross == 1].kv_len.tolist() == [1500] * 12
    assert (step.kind == "kv_append").sum() == 12  # of the decoder's own tokens: the encoder's are there


def test_falcon_that_chooses_its_attention_itself_is_recorded_at_torchs_function() -> None:
    first = first_of(record(config("Falcon", num_hidden_layers=1), scenario=Scenario(phase="prefill", prompt=64)))
    row = first[first.kind == "attention_prefill"].iloc[0]
    assert (row.heads_q, row.heads_kv, row.act_dtype) == (71, 1, "bf16")
    assert row.pairs == 64 * 65 // 2


@pytest.mark.parametrize(
    ("made", "prefill", "decode"),
    [
        (config("Mamba", num_hidden_layers=1), {"dwconv", "selective_scan"}, {"dwconv", "selective_scan"}),
        (config("Mamba2", num_hidden_layers=1), {"dwconv", "scan"}, {"dwconv", "scan_step"}),
        (config("Qwen3Next", num_hidden_layers=4), {"dwconv", "delta_scan"}, {"dwconv", "delta_step"}),
        (config("Rwkv", num_hidden_layers=1, hidden_size=256), {"wkv"}, {"wkv"}),
    ],
    ids=["mamba", "mamba2", "qwen3-next", "rwkv"],
)
def test_a_recurrent_mixer_is_a_row(made: Any, prefill: set[str], decode: set[str]) -> None:
    recording = record(made, scenario=Scenario(prompt=2048, output=2))
    assert prefill <= set(first_of(recording).kind)
    assert decode <= set(step_of(recording).kind)
    assert len(first_of(recording)) < 100  # the fallback in Python has thousands


def test_a_decode_step_meets_only_the_experts_that_are_chosen() -> None:
    step = step_of(record(config_of("mixtral-8x7b", num_hidden_layers=1), scenario=Scenario(batch=1, prompt=16, output=2)))
    assert step[step.kind == "grouped_gemm"].batch.tolist() == [2, 2]


def test_element_wise_work_is_folded_as_the_config_reader_has_it() -> None:
    scenario = Scenario(phase="prefill", prompt=64)
    ours = first_of(record(config_of("llama3-8b", num_hidden_layers=1), scenario=scenario))
    kinds = ["embedding", "rmsnorm", "gemm", "rope", "kv_append", "attention_prefill", "gemm", "add", "rmsnorm", "gemm", "silu_mul", "gemm",
             "add", "rmsnorm", "gemv"]
    assert ours.kind.tolist() == kinds
    theirs = lower.lower(catalog.load("llama3-8b"), scenario).to_frame()
    assert ours.vector_ops[:13].tolist() == theirs.vector_ops[:13].tolist()


def test_the_whole_generation_is_the_prefill_and_steps_that_grow() -> None:
    scenario = Scenario(prompt=16, output=4)
    recording = record(config_of("llama3-8b", num_hidden_layers=1), scenario=scenario)
    frame = recording.trace(scenario).to_frame()
    assert frame[frame.kind == "attention_decode"].kv_len.tolist() == [17, 18, 19]
    assert recording.step is not None
    assert np.array_equal(frame[frame.generated == 1].m, recording.step.rows.m)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"tp": 2}, "tp is 2: a recorded model runs on one device, with dense weights."),
        ({"weight_sparsity": "2:4"}, "weight_sparsity is '2:4': a recorded model runs on one device, with dense weights."),
        ({"batch": 2, "prompt": (3, 4)}, "prompt has several lengths: a recorded model runs with one length for all requests."),
    ],
)
def test_what_a_recording_cannot_follow_is_said_first(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        record(object(), scenario=Scenario(**changes))


def test_an_encoder_has_no_decode_phase() -> None:
    with pytest.raises(ValueError, match=r"BertModel is no decoder and has no decode phase\. Use --phase prefill\."):
        record(config_of("bert-base", num_hidden_layers=1), scenario=Scenario(phase="decode"))


def test_a_model_of_sound_needs_example_inputs() -> None:
    with pytest.raises(ValueError, match=r"Wav2Vec2Model is called with 'input_values': give example inputs beside the model\."):
        record(config("Wav2Vec2", num_hidden_layers=1))


def test_a_model_of_transformers_is_left_as_it_was() -> None:
    model = transformers.LlamaForCausalLM(config("Llama", hidden_size=32, intermediate_size=64, num_hidden_layers=1, vocab_size=50,
                                                 num_attention_heads=4))
    before = (model.config._attn_implementation, model.training, [p.device.type for p in model.parameters()])
    record(model, scenario=Scenario(prompt=8, output=2))
    assert (model.config._attn_implementation, model.training, [p.device.type for p in model.parameters()]) == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert model(torch.zeros(1, 4, dtype=torch.long)).logits.shape == (1, 4, 50)
