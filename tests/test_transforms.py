"""Transforms of number types, caches and decoding: what each changes, and what it leaves as it was."""

from __future__ import annotations

import json

import numpy as np
import pytest

import gemvane as gv
from gemvane.sim import memory
from gemvane.sim.hardware import load as load_hardware
from gemvane.workloads import catalog, lower, specfile
from gemvane.workloads.ops import CODE, DTYPES
from gemvane.workloads.scenario import Scenario
from gemvane.workloads.spec import ModelSpec
from gemvane.workloads.trace import Trace
from gemvane.workloads.transforms import TRANSFORMS, applied, parse
from gemvane.workloads.transforms.decoding import expected_tokens

GENERATION = ("quantise", "quantise:weights=int4,kv=int8", "llm_int8", "kv_evict:keep=0.25", "kv_evict:tokens=64,wide=0.5", "loki:keep=0.5",
              "yoco:window=64", "latent", "speculative:draft=llama3.2-1b", "blockwise", "multi_token", "multi_token:vocabulary=false",
              "non_autoregressive:passes=2", "elastic", "elastic_draft", "early_exit")
"""Of one request to a decoder-only model."""
MODEL = "llama3-8b"
ONE = Scenario(batch=1, prompt=256, output=33)


def made(transform: str, scenario: Scenario = ONE, model: str = MODEL) -> tuple[ModelSpec, Scenario]:
    spec, changed, _ = applied(catalog.load(model), scenario.but(transforms=(transform,)))
    return spec, changed


def prefill(transform: str, scenario: Scenario = ONE, model: str = MODEL) -> Trace:
    return lower.prefill(*made(transform, scenario, model))


def step(transform: str, scenario: Scenario = ONE, generated: int = 1, model: str = MODEL) -> Trace:
    return lower.decode_step(*made(transform, scenario, model), generated)


def plain() -> ModelSpec:
    return catalog.load(MODEL)


def of_kind(trace: Trace, kind: str, column: str) -> int:
    return int(getattr(trace.rows, column)[trace.rows.kind == CODE[kind]].sum())


@pytest.mark.parametrize("transform", GENERATION)
@pytest.mark.parametrize("hardware", ["h100-sxm", "tpu-v5e", "neupims"])
def test_each_runs_and_says_what_it_changes(transform: str, hardware: str) -> None:
    result = gv.run("llama3.2-3b", hardware, batch=1, prompt=96, output=5, transforms=(transform,))
    said = result.to_dict()
    assert [str(parse(text)) for text in said["scenario"]["transforms"]] == [str(parse(transform))]
    assert all(one.changes.endswith(".") for one in result.run.transforms)
    assert said["assumptions"] == [f"{one.NAME}: {one.assumes}" for one in result.run.transforms if one.assumes]
    assert result.tokens >= 5
    assert result.latency_s == pytest.approx(result.ttft_s + result.tpot_s * (result.tokens - 1), rel=0.05)


@pytest.mark.parametrize("transform", GENERATION)
def test_a_grown_step_is_the_step_lowered_anew(transform: str) -> None:
    scenario = Scenario(batch=1 if transform == "early_exit" else 3, prompt=90 if transform == "early_exit" else (400, 120, 7), output=33)
    first = step(transform, scenario)
    base = int(first.rows.generated.max())
    grown = lower.grow(first.rows, first.requests, base + np.array([0, 5, 31]))
    for i, more in enumerate((0, 5, 31)):
        anew = step(transform, scenario, 1 + more).rows
        for column, values in grown.take(np.arange(i * first.size, (i + 1) * first.size))._asdict().items():
            assert (values == getattr(anew, column)).all(), (more, column)


# Number types


def test_types_change_bytes_and_no_work() -> None:
    before, after = lower.prefill(plain(), ONE), prefill("quantise:weights=int4,kv=int8")
    assert after.rows.macs.tolist() == before.rows.macs.tolist()
    assert after.rows.weight_bytes.sum() == before.rows.weight_bytes.sum() // 4
    assert after.rows.kv_write_bytes.sum() == before.rows.kv_write_bytes.sum() // 2
    assert made("quantise:weights=int4")[0].parameters == plain().parameters


def test_split_products_multiply_each_input_once() -> None:
    before, after = lower.prefill(plain(), ONE), prefill("llm_int8:outliers=7")
    assert after.rows.macs.sum() == before.rows.macs.sum()
    assert after.rows.weight_bytes.sum() == before.rows.weight_bytes.sum() // 2
    assert made("llm_int8")[0].parameters == plain().parameters
    gemm = after.rows.take(np.flatnonzero(after.rows.kind == CODE["gemm"]))
    narrow = gemm.act_dtype == DTYPES.index("int8")
    assert set(gemm.k[~narrow].tolist()) == {7}
    assert gemm.macs[~narrow].sum() * 4096 <= 7 * gemm.macs.sum()
    # One pass before each product and one after it.
    products = int(narrow.sum()) + int((after.rows.kind == CODE["gemv"]).sum()) // 2
    assert (after.rows.kind == CODE["quantize"]).sum() == products == (after.rows.kind == CODE["dequantize"]).sum()


def test_without_outliers_there_is_one_product() -> None:
    after = prefill("llm_int8:outliers=0")
    assert not any(name.endswith("_outliers") for name in after.names)
    assert after.rows.macs.sum() == lower.prefill(plain(), ONE).rows.macs.sum()


# What the cache keeps


@pytest.mark.parametrize("keep", [0.1, 0.5, 1.0])
def test_eviction_keeps_its_share_of_the_cache_and_the_work_of_a_prefill(keep: float) -> None:
    spec, scenario = made(f"kv_evict:keep={keep}")
    kept = -(-keep * 288 // 1)
    assert memory.kv_cache_bytes(spec, scenario) == kept * plain().kv_elements_per_token * 2
    assert spec.parameters == plain().parameters
    assert lower.prefill(spec, scenario).rows.macs.sum() == lower.prefill(plain(), ONE).rows.macs.sum()
    late = lower.decode_step(spec, scenario, 32)
    assert of_kind(late, "attention_decode", "kv_read_bytes") == kept * plain().kv_elements_per_token * 2
    assert of_kind(late, "kv_append", "kv_write_bytes") == plain().kv_elements_per_token * 2


def test_a_prompt_within_the_budget_is_not_evicted() -> None:
    assert of_kind(prefill("kv_evict:tokens=256"), "kv_evict", "m") == 0
    assert of_kind(prefill("kv_evict:tokens=100"), "kv_evict", "m") == 100 * 32


def test_two_budgets_have_the_mean_that_was_asked_for() -> None:
    spec, _ = made("kv_evict:keep=0.1,wide=0.25,ratio=4")
    budgets = [part.budget for part in spec.cached_parts]
    assert budgets[:8] == [budgets[0]] * 8 and budgets[8:] == [budgets[8]] * 24
    assert budgets[0] == pytest.approx(4 * budgets[8], abs=4)
    assert sum(budgets) / 32 == pytest.approx(0.1 * 288, abs=1)


def test_loki_reads_part_of_every_key_and_the_whole_of_few() -> None:
    spec, scenario = made("loki:rank=32,keep=0.25")
    assert memory.kv_cache_bytes(spec, scenario) == memory.kv_cache_bytes(plain(), ONE)
    assert spec.parameters - plain().parameters == 32 * 8 * 128 * 128
    trace = lower.decode_step(spec, scenario)
    assert of_kind(trace, "attention_score", "kv_read_bytes") == 32 * 8 * 32 * 257 * 2
    assert of_kind(trace, "attention_decode", "kv_read_bytes") == 32 * 2 * 8 * 128 * 72 * 2
    assert of_kind(trace, "topk", "vector_ops") == 32 * 32 * 257 * 8


def test_one_cache_is_read_by_half_of_the_layers() -> None:
    spec, scenario = made("yoco:window=64")
    token = 2 * 8 * 128
    assert memory.kv_cache_bytes(spec, scenario) == 2 * token * (16 * 64 + 288)
    assert plain().parameters - spec.parameters == 15 * token * 4096
    first = lower.prefill(spec, scenario)
    assert of_kind(first, "kv_append", "m") == 17 * 256
    assert sorted(set(first.rows.m[first.rows.kind == CODE["attention_decode"]].tolist())) == [1]
    late = lower.decode_step(spec, scenario, 32)
    assert of_kind(late, "attention_decode", "kv_read_bytes") == 2 * token * (16 * 64 + 16 * 288)
    assert of_kind(late, "kv_append", "m") == 17


def test_pim_scores_keys_by_part_of_their_elements() -> None:
    tables = [gv.run("gpt3-7b", hardware, batch=4, prompt=512, output=2, phase="decode", transforms=("loki:rank=32,keep=0.25",)).ops_table()
              for hardware in ("neupims", "cent")]
    for table in tables:
        times = {row["name"]: row["time_s"] for row in table}
        rest = sum(times.get(name, 0) for name in ("attention", "attention_score", "attention_value"))
        assert 0 < times["key_scores"] < 2 * rest


def test_a_latent_cache_holds_one_vector_a_token() -> None:
    spec, scenario = made("latent:rank=512,rope=64")
    assert memory.kv_cache_bytes(spec, scenario) == 32 * 576 * 288 * 2


# Several tokens a step


def test_expected_tokens_are_the_sum_of_a_geometric_series() -> None:
    assert expected_tokens(0.8, 4) == pytest.approx((1 - 0.8**5) / (1 - 0.8))
    assert (expected_tokens(0.0, 4), expected_tokens(1.0, 4)) == (1, 5)


@pytest.mark.parametrize("transform", ["non_autoregressive", "blockwise:block=4,accepted=4", "elastic"])
def test_the_cache_ends_with_the_tokens_that_came_out(transform: str) -> None:
    assert memory.kv_cache_bytes(*made(transform)) == memory.kv_cache_bytes(plain(), ONE)


def test_all_tokens_at_once_are_the_work_of_one_after_another() -> None:
    spec, scenario = made("non_autoregressive")
    once = lower.decode_step(spec, scenario)
    one_by_one = [lower.decode_step(plain(), ONE, generated) for generated in range(1, 33)]
    assert once.rows.macs.sum() == sum(trace.rows.macs.sum() for trace in one_by_one)
    assert of_kind(once, "kv_append", "m") == sum(of_kind(trace, "kv_append", "m") for trace in one_by_one) == 32 * 32
    # Weights are read once, and so is the cache.
    assert of_kind(once, "gemm", "weight_bytes") == of_kind(one_by_one[0], "gemv", "weight_bytes")
    assert of_kind(once, "attention_decode", "kv_read_bytes") == of_kind(one_by_one[-1], "attention_decode", "kv_read_bytes")


def test_windows_hold_for_each_of_several_queries() -> None:
    scenario = Scenario(batch=1, prompt=100, output=33, transforms=("window:tokens=64", "multi_token:heads=2"))
    spec, changed, _ = applied(plain(), scenario)
    trace = lower.decode_step(spec, changed, 1)
    attention = trace.rows.kind == CODE["attention_decode"]
    assert set(trace.rows.pairs[attention].tolist()) == {3 * 64}
    assert set(trace.rows.n[attention].tolist()) == {64 + 2}


@pytest.mark.parametrize(("transform", "queries", "accepted"), [
    ("speculative:draft=llama3.2-1b,gamma=4,acceptance=1", 5, 5.0), ("speculative:draft=llama3.2-1b,gamma=2,acceptance=0.5", 3, 1.75),
    ("elastic_draft:gamma=3,acceptance=0", 4, 1.0), ("blockwise:block=8,accepted=2.5", 8, 2.5),
    ("multi_token:heads=3,acceptance=1", 4, 4.0), ("non_autoregressive:passes=4", 32, 8.0),
])  # fmt: skip
def test_steps_and_tokens_are_counted(transform: str, queries: int, accepted: float) -> None:
    spec, _ = made(transform)
    assert (spec.decoding.queries, spec.decoding.accepted) == (queries, accepted)
    result = gv.run(MODEL, "h100-sxm", batch=1, prompt=256, output=33, transforms=(transform,))
    assert result.run.decode is not None and result.tpot_s is not None
    assert result.run.decode.steps == -(-32 // accepted)
    assert result.run.decode.tokens >= 32 > result.run.decode.tokens - accepted
    assert result.tpot_s * result.run.decode.tokens == pytest.approx(result.run.decode.latency_ps / 1e12)
    generated = result.run.decode.grown(np.arange(result.run.decode.steps))
    assert generated.tolist() == [queries + int(accepted * number) for number in range(result.run.decode.steps)]


def test_a_draft_runs_step_by_step_before_the_model() -> None:
    little, spec = catalog.load("llama3.2-1b"), made("speculative:draft=llama3.2-1b,gamma=3")[0]
    assert spec.parameters == plain().parameters + little.parameters
    trace = step("speculative:draft=llama3.2-1b,gamma=3")
    attention = np.flatnonzero(trace.rows.kind == CODE["attention_decode"])
    assert attention.size == 3 * 16 + 32
    assert trace.rows.n[attention].tolist() == [257] * 16 + [258] * 16 + [259] * 16 + [260] * 32
    assert trace.rows.q_len[attention].tolist() == [1] * 48 + [4] * 32
    assert prefill("speculative:draft=llama3.2-1b").flops == lower.prefill(plain(), ONE).flops + lower.prefill(little, ONE).flops
    # 11 steps of 2.952 tokens: the last one starts with 29 and looks at four more, of which the drafter has no more than come out.
    spec, scenario = made("speculative:draft=llama3.2-1b,gamma=3")
    caches = (256 + 29 + 4) * plain().kv_elements_per_token * 2 + 288 * little.kv_elements_per_token * 2
    assert memory.kv_cache_bytes(spec, scenario) == caches


def test_a_nested_draft_has_no_weights_of_its_own() -> None:
    spec, _ = made("elastic_draft:ffn=0.25")
    assert spec.parameters == plain().parameters
    assert spec.decoding.drafter is not None and spec.decoding.drafter.parameters == made("elastic:ffn=0.25")[0].parameters


def test_later_heads_have_a_map_each_and_share_the_vocabulary_or_not() -> None:
    width, vocab = 4096, 128256
    assert made("blockwise:block=4,accepted=2")[0].parameters - plain().parameters == 3 * (width * width + width)
    assert made("multi_token:heads=3")[0].parameters - plain().parameters == 3 * (width * width + width + vocab * width)


def test_a_little_model_that_hands_over_after_each_fifth_token() -> None:
    spec, _ = made("big_little:little=t5-base,fallback=0.2,rollback=0.1", model="flan-t5-xl")
    assert (spec.decoding.drafts, spec.decoding.queries) == (5, 6)
    assert spec.decoding.accepted == pytest.approx(5 * 0.9 + 1)
    first = prefill("big_little:little=t5-base", model="flan-t5-xl")
    assert first.flops == sum(lower.prefill(catalog.load(model), ONE).flops for model in ("flan-t5-xl", "t5-base"))


def test_a_verification_on_pim_takes_a_pass_for_each_query() -> None:
    rows = [gv.run("gpt3-7b", "neupims", batch=4, prompt=256, output=2, phase="decode", transforms=transforms).ops_table()
            for transforms in ((), ("blockwise:block=4,accepted=1",))]
    score = [next(row["time_s"] for row in table if row["kind"] == "attention_score") for table in rows]
    assert 3 < score[1] / score[0] < 5


# Less of a model


def test_an_elastic_width_changes_the_feed_forward_parts_alone() -> None:
    spec, scenario = made("elastic:ffn=0.5")
    assert plain().parameters - spec.parameters == 32 * 3 * 4096 * 7168
    assert memory.kv_cache_bytes(spec, scenario) == memory.kv_cache_bytes(plain(), ONE)


def test_layers_behind_the_exit_make_keys_and_values_alone() -> None:
    spec, _ = made("early_exit:layer=8,share=0.5")
    assert [layer.idle for layer in spec.layers] == [False] * 20 + [True] * 12
    assert prefill("early_exit:layer=8,share=0.5").rows.macs.tolist() == lower.prefill(plain(), ONE).rows.macs.tolist()
    before, after = lower.decode_step(plain(), ONE), step("early_exit:layer=8,share=0.5")
    assert of_kind(after, "kv_append", "kv_write_bytes") == of_kind(before, "kv_append", "kv_write_bytes")
    assert of_kind(after, "attention_decode", "macs") * 32 == of_kind(before, "attention_decode", "macs") * 20
    deep = after.rows.layer >= 20
    layer = deep & (after.rows.layer < 32)
    assert after.rows.macs[layer].sum() == 12 * 2 * 8 * 128 * 4096
    assert step("early_exit:layer=8,share=0").rows.macs.sum() == before.rows.macs.sum()


# Bad input


@pytest.mark.parametrize(("transforms", "wanted"), [
    (("quantise", "llm_int8"), "quantise and llm_int8 contradict each other"),
    (("kv_evict", "loki"), "kv_evict and loki contradict each other"),
    (("yoco", "latent"), "yoco and latent contradict each other"),
    (("speculative", "blockwise"), "speculative and blockwise contradict each other"),
    (("elastic_draft", "multi_token"), "elastic_draft and multi_token contradict each other"),
    (("loki", "elastic", "elastic"), "elastic and elastic contradict each other"),
])  # fmt: skip
def test_two_that_contradict_each_other_are_refused(transforms: tuple[str, ...], wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        applied(plain(), ONE.but(transforms=transforms))


@pytest.mark.parametrize(("text", "wanted"), [
    ("quantise:weights=int3", "weights is 'int3'. Expected one of fp32"), ("quantise:weights=", "weights is ''. Expected a type"),
    ("llm_int8:outliers=-1", "outliers is -1. Expected a number of inputs"), ("kv_evict:keep=0", "keep is 0.0. Expected a share above 0"),
    ("kv_evict:tokens=-1", "tokens is -1. Expected 0 for a share"), ("kv_evict:wide=1", "wide is 1.0. Expected a share of the layers"),
    ("kv_evict:ratio=0.5", "ratio is 0.5. Expected at least 1"), ("loki:rank=0", "rank is 0. Expected at least 1"),
    ("loki:keep=1", "keep is 1.0. Expected a share between"), ("yoco:window=0", "window is 0. Expected at least 1"),
    ("latent:rank=0", "rank is 0. Expected at least 1"), ("speculative:gamma=0", "gamma is 0. Expected at least 1 drafted token"),
    ("speculative:acceptance=1.1", "acceptance is 1.1. Expected a share"), ("big_little:fallback=0", "fallback is 0.0. Expected a share"),
    ("big_little:rollback=1", "rollback is 1.0. Expected less than all"), ("blockwise:block=1", "block is 1. Expected at least 2"),
    ("blockwise:accepted=9", "accepted is 9.0. Expected from 1 to the 8"), ("multi_token:heads=0", "heads is 0. Expected at least 1"),
    ("non_autoregressive:passes=0", "passes is 0. Expected at least 1"), ("non_autoregressive:upsample=0.5", "upsample is 0.5. Expected"),
    ("elastic:ffn=0", "ffn is 0.0. Expected a share"), ("elastic_draft:ffn=1", "ffn is 1.0. Expected a share between"),
    ("elastic_draft:gamma=0", "gamma is 0. Expected at least 1"), ("early_exit:layer=0", "layer is 0. Expected at least 1"),
    ("early_exit:share=2", "share is 2.0. Expected a share"), ("speculative:vocabulary=maybe", "parameter 'vocabulary' is unknown"),
    ("multi_token:vocabulary=maybe", "vocabulary is 'maybe'. Expected true or false"),
])  # fmt: skip
def test_a_parameter_out_of_its_range_is_named(text: str, wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        parse(text)


@pytest.mark.parametrize(("text", "model", "changes", "wanted"), [
    ("llm_int8", MODEL, {"dtype": "fp8"}, "activations are in fp8 already"),
    ("llm_int8", MODEL, {"weight_sparsity": "2:4"}, "weights are pruned to 2:4"),
    ("llm_int8:outliers=4096", MODEL, {}, "fewer than the 4096 elements of width"),
    ("kv_evict", "bert-base", {}, "is an encoder and has no cache"),
    ("kv_evict", "mamba-130m", {}, "has no softmax attention over its own tokens"),
    ("loki", "deepseek-v2-lite", {}, "has no softmax attention over its own tokens"),
    ("loki:rank=128", MODEL, {}, "fewer than the 128 elements of a key"),
    ("yoco", "t5-base", {}, "Expected attention in every layer"),
    ("yoco", MODEL, {"all_logits": True}, "so there are no other logits"),
    ("latent", "jamba-v0.1", {}, "has layers without softmax attention"),
    ("speculative", "vit-b16", {}, "generates no tokens in this run"),
    ("speculative", MODEL, {"phase": "prefill"}, "generates no tokens in this run"),
    ("speculative", MODEL, {"pp": 2}, "a drafter is not cut into pipeline stages"),
    ("speculative:draft=gpt2", MODEL, {}, "a model of 50257 tokens and cannot draft for"),
    ("speculative:draft=bert-base", MODEL, {}, "is an encoder and cannot draft for"),
    ("speculative:draft=llama9", MODEL, {}, "llama9"),
    ("big_little:little=t5-base", MODEL, {}, "with an encoder and cannot draft for"),
    ("blockwise", "mamba-130m", {}, "layers with a state, which cannot take back tokens"),
    ("non_autoregressive:passes=40", MODEL, {}, "no more than the 32 tokens that come out"),
    ("elastic", "mixtral-8x7b", {}, "has no dense feed-forward part"),
    ("early_exit", MODEL, {"batch": 2}, "a batch waits for the token that leaves last"),
    ("early_exit:layer=32", MODEL, {}, "fewer than the 32 layers"),
    ("early_exit", "t5-base", {}, "Expected attention over the model's own tokens"),
    ("early_exit", MODEL, {"phase": "prefill"}, "has no decode step in this run"),
])  # fmt: skip
def test_what_it_does_not_apply_to_is_refused(text: str, model: str, changes: dict[str, object], wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        applied(catalog.load(model), ONE.but(transforms=(text,), **changes))


def test_a_draft_must_fit_the_memory_too() -> None:
    spec, scenario = made("speculative:draft=llama3-8b", model="llama3-70b")
    with pytest.raises(ValueError, match="KV cache"):
        memory.check(spec, scenario, load_hardware("h200"))


@pytest.mark.parametrize("transform", GENERATION)
def test_a_changed_model_survives_its_file(transform: str) -> None:
    spec, _ = made(transform)
    assert specfile.from_data(json.loads(json.dumps(specfile.to_data(spec)))) == spec


def test_every_one_has_a_source() -> None:
    assert all(kind.SOURCE for kind in TRANSFORMS.values())
