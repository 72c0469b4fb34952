"""From a model and a scenario to operators: FLOPs to the last digit, cache traffic, shards, steps, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemvane.workloads import catalog, lower
from gemvane.workloads.emit import visible_pairs
from gemvane.workloads.families import read_config
from gemvane.workloads.ops import CODE, PHASES, SHAPE, Rows
from gemvane.workloads.scenario import Scenario
from gemvane.workloads.spec import Dense, MoE
from gemvane.workloads.trace import Trace

PAPERS = Scenario(prompt=2048, full_square=True, all_logits=True)
"""As most papers count: one prompt, attention as a full square, logits at every position."""
RAGGED = Scenario(batch=4, prompt=(5, 300, 17, 60), kv_dtype="fp8")
MATMUL, ATTENTION = (0,), (1, 2)
SPECS = {name: catalog.load(name) for name in catalog.names()}
CACHED = [name for name, spec in SPECS.items() if not (spec.encoder or spec.towers or spec.state_elements)]  # keys and values alone
KINDS_OF_MODEL = ("llama3-8b", "gemma2-9b", "gpt-oss-20b", "deepseek-v2-lite", "mixtral-8x7b", "falcon-7b", "qwen1.5-moe-a2.7b", "gpt2")


def flops(trace: Trace, work: tuple[int, ...]) -> int:
    return 2 * int(trace.rows.macs[np.isin(trace.rows.work, work)].sum())


def of(rows: Rows, column: str, *kinds: str) -> int:
    return int(getattr(rows, column)[np.isin(rows.kind, [CODE[kind] for kind in kinds])].sum())


def prefill(model: str, scenario: Scenario) -> Trace:
    return lower.prefill(catalog.load(model), scenario)


def decode(model: str, scenario: Scenario, generated: int = 1) -> Trace:
    return lower.decode_step(catalog.load(model), scenario, generated)


def predecessors(trace: Trace) -> list[list[int]]:
    return [part.tolist() for part in np.split(trace.preds_idx, trace.preds_ptr[1:-1])]


# FLOPs, against recordings of the real modules (reference: exact counts, full square, all logits)

def test_llama2_7b_prefill_of_2048_is_27_t_of_matmul_and_2_2_t_of_attention() -> None:
    layer = 4 * 4096**2 + 3 * 4096 * 11008
    matmul, attention = 2 * 2048 * (32 * layer + 4096 * 32000), 4 * 2048**2 * 4096 * 32
    assert (matmul, attention) == (27_062_588_932_096, 2_199_023_255_552)
    trace = prefill("llama2-7b", PAPERS)
    assert (flops(trace, MATMUL), flops(trace, ATTENTION)) == (matmul, attention)
    assert trace.flops == matmul + attention


def test_llama2_7b_decode_at_2050_is_14_289_g() -> None:
    layer = 4 * 4096**2 + 3 * 4096 * 11008
    expected = 2 * (32 * layer + 4096 * 32000) + 4 * 2050 * 4096 * 32
    assert round(expected / 1e9, 3) == 14.289
    assert decode("llama2-7b", Scenario(prompt=2049)).flops == expected


@pytest.mark.parametrize(
    ("model", "layers", "heads", "layer", "head", "tera"),
    [
        # q, o, k, v; gate, up, down (times experts a token); router
        ("llama3-8b", 32, 32 * 128, 2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336, 4096 * 128256, 32.938),
        ("mixtral-8x7b", 32, 32 * 128, 2 * 4096**2 + 2 * 4096 * 1024 + 2 * 3 * 4096 * 14336 + 4096 * 8, 4096 * 32000, 54.417),
        ("qwen3-30b-a3b", 48, 32 * 128, 2 * 2048 * 4096 + 2 * 2048 * 512 + 8 * 3 * 2048 * 768 + 2048 * 128, 2048 * 151936, 15.757),
    ],
)
def test_prefill_of_2048_tokens(model: str, layers: int, heads: int, layer: int, head: int, tera: float) -> None:
    expected = 2 * 2048 * (layers * layer + head) + 4 * 2048**2 * heads * layers
    assert round(expected / 1e12, 3) == tera
    assert prefill(model, PAPERS).flops == expected


def test_bert_base_at_512_is_96_6368_g_and_a_pooler() -> None:
    encoder = 2 * 512 * 12 * (4 * 768**2 + 2 * 768 * 3072) + 4 * 512**2 * 768 * 12
    assert (encoder, round((encoder + 2 * 768**2) / 1e9, 4)) == (96_636_764_160, 96.6379)
    assert prefill("bert-base", Scenario(prompt=512)).flops == encoder + 2 * 768**2


def test_vit_b16_is_33_464_g_of_linear_1_4307_of_attention_and_0_2312_of_convolution() -> None:
    tokens = (224 // 16) ** 2 + 1
    linear, attention = 2 * tokens * 12 * (4 * 768**2 + 2 * 768 * 3072), 4 * tokens**2 * 768 * 12
    patches = 2 * 196 * 768 * (16 * 16 * 3)
    assert (round(linear / 1e9, 3), round(attention / 1e9, 4), round(patches / 1e9, 4)) == (33.464, 1.4307, 0.2312)
    rows = prefill("vit-b16", Scenario()).rows
    assert 2 * of(rows, "macs", "conv") == patches
    assert 2 * of(rows, "macs", "attention_prefill") == attention
    assert 2 * of(rows, "macs", "gemm", "gemv") == linear + 2 * 768 * 1000  # and its classifier


def test_causal_attention_counts_the_triangle_unless_told() -> None:
    assert flops(prefill("llama2-7b", Scenario(prompt=2048)), ATTENTION) == 4 * (2048 * 2049 // 2) * 4096 * 32


def test_an_encoder_sees_the_square_however_it_is_counted() -> None:
    assert prefill("bert-base", Scenario(prompt=512)).flops == prefill("bert-base", Scenario(prompt=512, full_square=True)).flops


def test_prefill_computes_the_logits_of_each_last_position_unless_told() -> None:
    every, last = prefill("llama3-8b", Scenario(batch=3, prompt=100, all_logits=True)), prefill("llama3-8b", Scenario(batch=3, prompt=100))
    assert flops(every, MATMUL) - flops(last, MATMUL) == 2 * 3 * 99 * 4096 * 128256


@given(st.integers(1, 60), st.one_of(st.none(), st.integers(1, 70)), st.booleans(), st.booleans())
def test_visible_pairs_are_those_that_a_mask_would_leave(length: int, window: int | None, causal: bool, full_square: bool) -> None:
    query, key = np.mgrid[:length, :length]
    triangle = (key <= query) & (key > query - (window or length))
    square = key < min(length, window or length)  # so many keys for each query
    mask = triangle if causal and not full_square else square
    assert visible_pairs(np.array([length]), window, causal, full_square) == mask.sum()


# The cache

@pytest.mark.parametrize("model", CACHED)
def test_a_decode_step_reads_what_each_layer_sees_of_each_request_once(model: str) -> None:
    spec = catalog.load(model)
    expected = sum(min(length + 3, layer.mixer.window or length + 3) * layer.mixer.kv_elements
                   for layer in spec.layers for length in RAGGED.lengths.tolist())
    rows = decode(model, RAGGED, generated=3).rows
    assert rows.kv_read_bytes.sum() == expected  # fp8: one byte an element
    assert rows.kv_write_bytes.sum() == 4 * spec.kv_elements_per_token


@pytest.mark.parametrize(
    ("model", "elements"),
    [("llama3-8b", 2 * 8 * 128), ("falcon-7b", 2 * 1 * 64), ("deepseek-v3", 512 + 64), ("llama2-7b", 2 * 32 * 128)],
    ids=["GQA", "MQA", "MLA", "MHA"],
)
def test_one_cached_token_is_so_many_elements_a_layer(model: str, elements: int) -> None:
    rows = decode(model, Scenario(batch=2, prompt=99)).rows
    requests, layers = 2, len(catalog.load(model).layers)
    assert rows.kv_write_bytes.sum() == requests * elements * layers * 2
    assert rows.kv_read_bytes.sum() == 100 * rows.kv_write_bytes.sum()


def test_a_sliding_layer_of_gpt_oss_reads_128_tokens_and_a_full_one_all() -> None:
    rows = decode("gpt-oss-20b", Scenario(prompt=999)).rows
    read = rows.kv_len[rows.kind == CODE["attention_decode"]].tolist()
    assert read == [128, 1000] * 12


@pytest.mark.parametrize("model", CACHED)
def test_a_prefill_writes_every_token_into_the_cache_once(model: str) -> None:
    assert prefill(model, RAGGED).rows.kv_write_bytes.sum() == (5 + 300 + 17 + 60) * catalog.load(model).kv_elements_per_token


def test_an_encoder_writes_no_cache() -> None:
    assert prefill("bert-base", Scenario(batch=2)).rows.kv_write_bytes.sum() == 0


# Weights

def matmul_parameters(model: str) -> int:
    """Every weight that multiplies: all parameters of a model without biases, but its norms and an embedding only looked up."""
    spec = catalog.load(model)
    bare = replace(spec, final_norm=False, tied_embeddings=True, layers=tuple(replace(layer, norms=0) for layer in spec.layers))
    extra = 0
    for layer in spec.layers:
        mixer, ffn = layer.mixer, layer.ffn
        extra += getattr(mixer, "kv_lora_rank", 0) + (getattr(mixer, "q_lora_rank", 0) or 0)  # the norms of MLA's latents
        extra += ffn.experts if isinstance(ffn, MoE) and ffn.router_correction else 0
        if getattr(mixer, "qk_norm", False):
            extra += 2 * getattr(mixer, "head_dim")  # noqa: B009
    return bare.parameters - extra


UNBIASED = ["llama2-7b", "llama3-8b", "mistral-7b", "mixtral-8x7b", "qwen3-8b", "qwen3-30b-a3b", "gemma2-9b", "deepseek-v2-lite",
            "deepseek-v3", "falcon-7b", "command-r"]


@pytest.mark.parametrize("model", UNBIASED)
def test_a_decode_step_of_a_large_batch_reads_every_matmul_weight_once(model: str) -> None:
    rows = decode(model, Scenario(batch=20_000, prompt=1)).rows
    assert rows.weight_bytes[rows.work == 0].sum() == 2 * matmul_parameters(model)


def test_one_token_of_mixtral_reads_two_of_eight_experts() -> None:
    rows = decode("mixtral-8x7b", Scenario()).rows
    assert of(rows, "weight_bytes", "grouped_gemm") == 32 * 2 * (3 * 4096 * 14336) * 2


def test_opt_350m_projects_in_and_out_of_its_narrow_embedding() -> None:
    config = {"model_type": "opt", "hidden_size": 1024, "word_embed_proj_dim": 512, "num_hidden_layers": 24, "num_attention_heads": 16,
              "ffn_dim": 4096, "vocab_size": 50272, "max_position_embeddings": 2048}
    trace = lower.decode_step(read_config(config, "opt-350m", "config.json"), Scenario(batch=4))
    assert trace.flops - flops(trace, ATTENTION) == 2 * 4 * (24 * 12 * 1024**2 + 2 * 1024 * 512 + 512 * 50272)


# GEMM and GEMV

@pytest.mark.parametrize("model", ["llama3-8b", "deepseek-v2-lite", "mixtral-8x7b", "gpt2"])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_gemv_is_exactly_where_one_row_multiplies_a_weight(model: str, batch: int) -> None:
    for trace in (prefill(model, Scenario(batch=batch, prompt=7)), decode(model, Scenario(batch=batch, prompt=7))):
        rows = trace.rows
        dense = np.isin(rows.kind, [CODE["gemm"], CODE["gemv"]])
        assert ((rows.kind == CODE["gemv"]) == (dense & (rows.m == 1))).all()
        assert (rows.kind == CODE["gemv"]).any() == (batch == 1)


# Batches, parts and shards

@pytest.mark.parametrize("model", KINDS_OF_MODEL)
@pytest.mark.parametrize("step", [lower.prefill, lower.decode_step], ids=["prefill", "decode"])
def test_a_ragged_batch_is_the_sum_of_its_requests(model: str, step: Callable[..., Trace]) -> None:
    spec = catalog.load(model)
    together = step(spec, RAGGED).rows
    alone = [step(spec, RAGGED.but(batch=1, prompt=(length,))).rows for length in RAGGED.lengths.tolist()]
    for column in ("macs", "kv_read_bytes", "kv_write_bytes", "vector_ops"):
        assert getattr(together, column).sum() == sum(getattr(rows, column).sum() for rows in alone), column


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(KINDS_OF_MODEL), st.lists(st.integers(1, 5000), min_size=1, max_size=9), st.integers(1, 4), st.booleans())
def test_sub_batches_conserve_multiplications_and_cache_traffic(model: str, lengths: list[int], parts: int, decoding: bool) -> None:
    spec, scenario = catalog.load(model), Scenario(batch=len(lengths), prompt=tuple(lengths))
    step = lower.decode_step if decoding else lower.prefill
    whole, cut = (step(spec, scenario, sub_batches=n) for n in (1, parts))
    for column in ("macs", "kv_read_bytes", "kv_write_bytes"):
        assert getattr(whole.rows, column).sum() == getattr(cut.rows, column).sum(), column
    assert cut.rows.sub_batch.max() + 1 == min(parts, len(lengths))


def test_sub_batches_get_neighbours_in_length() -> None:
    trace = lower.decode_step(catalog.load("gpt2"), Scenario(batch=4, prompt=(10, 90, 100, 20)), sub_batches=2)
    assert trace.requests.sub_batch.tolist() == [1, 1, 0, 0]  # 100 and 20; 90 and 10


@pytest.mark.parametrize(("model", "tp"), [("llama2-7b", 4), ("llama3-8b", 8), ("gemma2-9b", 8), ("gpt2", 4)])
@pytest.mark.parametrize("decoding", [False, True], ids=["prefill", "decode"])
def test_the_shards_of_a_dense_model_add_up_to_it(model: str, tp: int, decoding: bool) -> None:
    spec, scenario = catalog.load(model), Scenario(batch=3, prompt=50)
    spec = replace(spec, vocab=spec.vocab - spec.vocab % tp)  # else each shard pads its share of the vocabulary
    step = lower.decode_step if decoding else lower.prefill
    whole, shard = (step(spec, scenario.but(tp=n)) for n in (1, tp))
    assert shard.devices == tp
    for column in ("macs", "kv_read_bytes", "kv_write_bytes"):
        assert tp * getattr(shard.rows, column).sum() == getattr(whole.rows, column).sum(), column


def test_more_devices_than_kv_heads_each_keep_one() -> None:
    whole, shard = (decode("llama3-8b", Scenario(tp=tp)).rows for tp in (1, 16))
    assert 16 * shard.kv_read_bytes.sum() == 2 * whole.kv_read_bytes.sum()


def test_tensor_parallel_layers_reduce_twice_and_gather_the_logits_once() -> None:
    rows = decode("llama3-8b", Scenario(batch=5, tp=4)).rows
    reduce, gather = rows.kind == CODE["allreduce"], rows.kind == CODE["allgather"]
    assert np.bincount(rows.layer[reduce]).tolist() == [2] * 32
    assert set(rows.link_bytes[reduce].tolist()) == {5 * 4096 * 2}
    assert rows.link_bytes[gather].tolist() == [5 * 128256 * 2]
    assert set(rows.peers[reduce | gather].tolist()) == {4}


def test_one_device_speaks_to_nobody() -> None:
    assert prefill("llama3-8b", Scenario()).rows.link_bytes.sum() == 0


@pytest.mark.parametrize(("pp", "sub_batches"), [(2, 1), (4, 2), (32, 1)])
def test_pipeline_stages_share_the_layers_evenly_and_send_once_between(pp: int, sub_batches: int) -> None:
    spec, scenario = catalog.load("llama3-8b"), Scenario(batch=4, prompt=10)
    trace, alone = lower.prefill(spec, scenario.but(pp=pp), sub_batches), lower.prefill(spec, scenario, sub_batches)
    sends = trace.rows.kind == CODE["send"]
    assert sends.sum() == (pp - 1) * sub_batches
    assert trace.rows.link_bytes.sum() == (pp - 1) * 4 * 10 * 4096 * 2
    layers_of = [set(trace.rows.layer[(trace.rows.stage == stage) & (trace.rows.kind == CODE["attention_prefill"])]) for stage in range(pp)]
    assert [len(layers) for layers in layers_of] == [32 // pp] * pp
    assert trace.rows.macs.sum() == alone.rows.macs.sum()
    assert trace.devices == pp


# Steps

@pytest.mark.parametrize("model", ["llama3-8b", "gemma2-9b", "deepseek-v2-lite", "mixtral-8x7b", "gpt-oss-20b"])
@pytest.mark.parametrize("sub_batches", [1, 2])
def test_a_grown_step_is_the_step_lowered_anew(model: str, sub_batches: int) -> None:
    spec, scenario = catalog.load(model), Scenario(batch=3, prompt=(4090, 120, 7))
    steps = [1, 2, 7, 8, 9, 200]
    first = lower.decode_step(spec, scenario, 1, sub_batches)
    grown = lower.grow(first.rows, first.requests, np.array(steps))
    for i, generated in enumerate(steps):
        anew = lower.decode_step(spec, scenario, generated, sub_batches).rows
        for column, values in grown.take(np.arange(i * first.size, (i + 1) * first.size))._asdict().items():
            assert (values == getattr(anew, column)).all(), (generated, column)


def test_a_generation_is_the_prefill_and_each_decode_step() -> None:
    spec, scenario = catalog.load("gemma2-9b"), Scenario(batch=2, prompt=(4094, 5), output=5)
    whole, first = lower.generation(spec, scenario), lower.prefill(spec, scenario)
    steps = [lower.decode_step(spec, scenario, generated) for generated in (1, 2, 3, 4)]
    assert whole.size == first.size + sum(step.size for step in steps)
    assert whole.flops == first.flops + sum(step.flops for step in steps)
    assert [whole.names[i] for i in whole.rows.name] == [t.names[i] for t in (first, *steps) for i in t.rows.name]
    for column in SHAPE[1:]:
        assert (getattr(whole.rows, column) == np.concatenate([getattr(t.rows, column) for t in (first, *steps)])).all(), column


@pytest.mark.parametrize("model", [*KINDS_OF_MODEL, "bert-base", "vit-b16"])
@pytest.mark.parametrize("parallel", [{}, {"tp": 2}, {"pp": 3}], ids=["one", "tp2", "pp3"])
def test_every_row_waits_only_for_rows_before_it_and_nothing_waits_for_nothing(model: str, parallel: dict[str, int]) -> None:
    spec, scenario = catalog.load(model), Scenario(batch=2, prompt=9, output=4)
    if model == "falcon-7b" and "tp" in parallel:
        parallel = {"tp": 71}
    trace = lower.generation(spec, scenario.but(**parallel))
    before = predecessors(trace)
    assert all(0 <= p < row for row, preds in enumerate(before) for p in preds)
    assert [row for row, preds in enumerate(before) if not preds] == [0]
    awaited = {p for preds in before for p in preds}
    assert set(range(trace.size)) - awaited == {trace.size - 1}


def test_sub_batches_wait_only_for_themselves() -> None:
    trace = lower.decode_step(catalog.load("mixtral-8x7b"), Scenario(batch=4), sub_batches=2)
    part = trace.rows.sub_batch
    assert all(part[p] == part[row] for row, preds in enumerate(predecessors(trace)) for p in preds)
    assert [int(part[row]) for row, preds in enumerate(predecessors(trace)) if not preds] == [0, 1]


def test_the_phase_of_the_scenario_picks_the_trace() -> None:
    spec, scenario = catalog.load("gpt2"), Scenario(prompt=9, output=3)
    sizes = {phase: lower.lower(spec, scenario.but(phase=phase)).size for phase in ("prefill", "decode", "both")}
    assert sizes["both"] == sizes["prefill"] + 2 * sizes["decode"]
    for phase in PHASES:
        rows = lower.lower(spec, scenario.but(phase=phase)).rows
        assert {PHASES[p] for p in rows.phase.tolist()} == {phase}


def test_an_encoder_and_one_token_of_output_are_a_prefill_alone() -> None:
    for model, scenario in (("bert-base", Scenario(prompt=9)), ("gpt2", Scenario(prompt=9, output=1))):
        assert lower.generation(catalog.load(model), scenario).size == prefill(model, scenario).size


def test_expert_work_follows_top_k_and_its_weights_the_routing() -> None:
    spec = catalog.load("mixtral-8x7b")
    even, drawn, skewed = (lower.decode_step(spec, Scenario(batch=4, routing=r)).rows for r in ("balanced", "uniform", "zipf"))
    assert of(even, "macs", "grouped_gemm") == of(skewed, "macs", "grouped_gemm") == 32 * 4 * 2 * 3 * 4096 * 14336
    groups = [int(rows.batch[rows.kind == CODE["grouped_gemm"]][0]) for rows in (even, drawn, skewed)]
    assert groups[0] == 8 and groups == sorted(groups, reverse=True)


# What cannot be

@pytest.mark.parametrize(
    ("model", "scenario", "message"),
    [
        ("llama3-8b", Scenario(tp=3), "--tp 3: llama3-8b has 32 attention heads, which 3 devices cannot share evenly."),
        ("qwen2.5-7b", Scenario(tp=14), "--tp 14: qwen2.5-7b has 4 KV heads, which 14 devices can neither share nor repeat evenly."),
        ("llama3-8b", Scenario(pp=33), "--pp 33: llama3-8b has 32 layers. Expected at most one stage a layer."),
        ("bert-base", Scenario(phase="decode"), "bert-base is an encoder and has no decode phase. Use --phase prefill."),
    ],
)
def test_a_model_that_cannot_be_cut_or_run_so_is_told_why(model: str, scenario: Scenario, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        lower.check(catalog.load(model), scenario)
    assert str(caught.value) == message


@pytest.mark.parametrize("ffn", [Dense(width=100, gated=True, activation="silu"),
                                 MoE(experts=4, top_k=2, width=64, shared=Dense(width=100, gated=True, activation="silu"))])
def test_a_feed_forward_width_that_devices_cannot_share_is_named_also_of_a_shared_expert(ffn: Dense | MoE) -> None:
    spec = catalog.load("llama3-8b")
    odd = replace(spec, name="odd", layers=tuple(replace(layer, ffn=ffn) for layer in spec.layers))
    with pytest.raises(ValueError, match=r"^--tp 8: odd has a feed-forward width of 100, which 8 devices cannot share evenly\.$"):
        lower.check(odd, Scenario(tp=8))


def test_an_encoder_has_no_decode_step() -> None:
    with pytest.raises(ValueError, match="bert-base is an encoder and has no decode phase"):
        decode("bert-base", Scenario())


@pytest.mark.parametrize(
    ("model", "scenario", "reach"),
    [
        ("gpt2", Scenario(prompt=1024, output=1), None),
        ("gpt2", Scenario(prompt=1024, output=2), 1025),
        ("gpt2", Scenario(prompt=1025, phase="prefill"), 1025),
        ("gpt2", Scenario(batch=2, prompt=(1, 2000), phase="prefill"), 2000),
        ("bert-base", Scenario(prompt=513, output=100), 513),
        ("vit-b16", Scenario(prompt=10**6), None),
    ],
)
def test_a_run_beyond_the_models_positions_is_a_warning_that_says_how_far(model: str, scenario: Scenario, reach: int | None) -> None:
    positions = catalog.load(model).positions
    warned = [] if reach is None else [f"{model} was made for {positions} positions; this run reaches {reach}."]
    assert lower.check(catalog.load(model), scenario) == warned


def test_an_image_model_takes_its_patches_for_the_prompt() -> None:
    assert prefill("vit-b16", Scenario(batch=2, prompt=7)).requests.prompt.tolist() == [197, 197]
