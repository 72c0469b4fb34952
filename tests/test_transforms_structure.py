"""Transforms of attention, layers, tokens, arithmetic and devices: what each changes, and what it leaves as it was."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gemvane as gv
from gemvane.sim import memory
from gemvane.workloads import catalog, lower
from gemvane.workloads.ops import CODE
from gemvane.workloads.scenario import Scenario
from gemvane.workloads.spec import ModelSpec
from gemvane.workloads.trace import Trace
from gemvane.workloads.transforms import applied, parse

DECODER, ENCODER = "llama3.2-1b", "bert-base"
OF_DECODERS = ("window:tokens=64", "block_sparse", "linear_attention", "state_space", "unprojected", "drop_attention", "global_local",
               "active_neurons", "low_rank", "resize:layers=8", "context:attention=ring,devices=4")
OF_ENCODERS = ("window:tokens=64", "block_sparse", "nearest_keys", "low_rank_keys", "linear_attention:bits=16", "fourier",
               "fourier:dense=true", "monarch", "unprojected:dropped=2", "drop_attention", "reduce_tokens", "reduce_tokens:merge=true",
               "active_neurons", "lookup_tables", "shift_add", "shift_add:multiplied=0", "low_rank", "rms_norm", "resize:layers=6")
ONE = Scenario(batch=1, prompt=256, output=3)


def made(transform: str, model: str, scenario: Scenario = ONE) -> tuple[ModelSpec, Scenario]:
    spec, changed, _ = applied(catalog.load(model), scenario.but(transforms=(transform,) if transform else ()))
    return spec, changed


def prefill(transform: str, model: str, scenario: Scenario = ONE) -> Trace:
    return lower.prefill(*made(transform, model, scenario))


def step(transform: str, model: str = DECODER, scenario: Scenario = ONE) -> Trace:
    return lower.decode_step(*made(transform, model, scenario))


def parameters(transform: str, model: str) -> int:
    return made(transform, model)[0].parameters


def total(trace: Trace, column: str, *names: str) -> int:
    """Sum of a column over the rows of some names, or over all."""
    chosen = np.isin(trace.rows.name, [trace.names.index(name) for name in names]) if names else slice(None)
    return int(getattr(trace.rows, column)[chosen].sum())


def size(model: str) -> tuple[int, int]:
    spec = catalog.load(model)
    return len(spec.layers), spec.hidden


@pytest.mark.parametrize("hardware", ["a100-80g", "tpu-v5e", "neupims"])
@pytest.mark.parametrize(("model", "transform"), [*((DECODER, t) for t in OF_DECODERS), *((ENCODER, t) for t in OF_ENCODERS)])
def test_each_runs_and_says_what_it_changes(model: str, transform: str, hardware: str) -> None:
    result = gv.run(model, hardware, batch=2, prompt=128, output=3, transforms=(transform,))
    (only,) = result.run.transforms
    assert only.changes.endswith(".")
    assert str(parse(str(only))) == str(only)
    assert result.latency_s > 0


@pytest.mark.parametrize("transform", ["window:tokens=64", "block_sparse", "nearest_keys:projections=1", "active_neurons"])
def test_what_only_computes_less_keeps_every_weight(transform: str) -> None:
    layers = size(ENCODER)[0]
    beside = layers * 64 if "nearest" in transform else 0  # one direction of 64 elements a layer
    assert parameters(transform, ENCODER) == catalog.load(ENCODER).parameters + beside


def test_a_window_bounds_pairs_and_the_cache() -> None:
    layers = size(DECODER)[0]
    pairs = 64 * 65 // 2 + (256 - 64) * 64
    assert total(prefill("window:tokens=64", DECODER), "pairs", "attention") == layers * pairs
    assert total(step("window:tokens=64,full_every=4"), "n", "attention") == layers // 4 * (3 * 64 + 257)


def test_block_sparse_attention_computes_its_share_and_the_scores_of_pieces() -> None:
    layers, _ = size(DECODER)
    full, some = prefill("", DECODER), prefill("block_sparse:density=0.25,stride=16", DECODER)
    assert total(some, "pairs", "attention") == layers * round(0.25 * 256 * 257 / 2)
    assert total(some, "macs", "block_scores") == layers * 32 * 16 * 8 * (16 * 64)  # 32 heads, 16 pieces, half of which meet
    linear = ("qkv_proj", "o_proj", "gate_up", "down")
    assert total(some, "macs", *linear) == total(full, "macs", *linear)
    assert total(some, "kv_read_bytes", "attention") == total(full, "kv_read_bytes", "attention")
    assert step("block_sparse").rows.macs.tolist() == step("").rows.macs.tolist()


def test_scores_of_pieces_are_shared_out_by_heads() -> None:
    both = [total(prefill("block_sparse", DECODER, ONE.but(tp=tp)), "macs", "block_scores") for tp in (1, 4)]
    assert both[0] == 4 * both[1]


def test_nearest_keys_reads_its_candidates_from_scattered_places() -> None:
    trace = prefill("nearest_keys:keys=32,candidates=100", ENCODER)
    layers, heads, d = 12, 12, 64
    assert total(trace, "pairs", "attention") == layers * 256 * 32
    assert total(trace, "input_bytes", "candidate_scores") == layers * 256 * heads * 100 * d * 2


def test_low_rank_keys_grow_linearly_and_add_their_projection() -> None:
    rows, layers = 64, 12
    short, long = (prefill("low_rank_keys:rows=64", ENCODER, ONE.but(prompt=length)) for length in (256, 512))
    assert total(long, "macs") - total(long, "macs", "pooler") == 2 * (total(short, "macs") - total(short, "macs", "pooler"))
    assert total(short, "macs", "key_projection") == layers * 2 * 768 * 256 * rows
    assert parameters("low_rank_keys:rows=64", ENCODER) == catalog.load(ENCODER).parameters + layers * rows * 256


@pytest.mark.parametrize("bits", [0, 16])
def test_linear_attention_keeps_parameters_and_grows_linearly(bits: int) -> None:
    text = f"linear_attention:bits={bits}"
    short, long = (prefill(text, ENCODER, ONE.but(prompt=length)) for length in (256, 512))
    assert total(long, "macs") - total(long, "macs", "pooler") == 2 * (total(short, "macs") - total(short, "macs", "pooler"))
    hashes = 12 * bits * 64  # a matrix of 64 x bits in each layer
    assert parameters(text, ENCODER) == catalog.load(ENCODER).parameters + hashes


def test_binary_attention_adds_where_it_multiplied() -> None:
    trace = prefill("linear_attention:bits=16", ENCODER)
    assert total(trace, "macs", "keys_values", "queries_state") == 12 * 2 * 256 * 12 * 64 * 16
    plain, eco = (gv.run("pvt-v2-b0", "v100", dtype="fp16", transforms=(text,)) for text in ("all_pairs", "linear_attention:bits=16"))
    assert eco.energy_by_component_j["mac"] < 0.5 * plain.energy_by_component_j["mac"]


def test_all_pairs_undoes_reduced_keys() -> None:
    reduced, plain = prefill("", "pvt-v2-b0"), prefill("all_pairs", "pvt-v2-b0")
    tokens = [56**2, 28**2, 14**2, 7**2]
    assert total(plain, "pairs", "attention") == 2 * sum(t**2 for t in tokens)
    assert total(reduced, "pairs", "attention") == 2 * 49 * sum(tokens)
    assert parameters("all_pairs", "pvt-v2-b0") < parameters("", "pvt-v2-b0")


def test_state_space_layers_have_no_cache_that_grows() -> None:
    layers = size(DECODER)[0]
    assert made("state_space", DECODER)[0].kv_elements_per_token == 0
    half = made("state_space:keep_every=2", DECODER)[0]
    assert half.kv_elements_per_token == catalog.load(DECODER).kv_elements_per_token // 2
    short, long = (step("state_space", scenario=ONE.but(prompt=length)) for length in (256, 4096))
    assert short.rows.memory_bytes.sum() == long.rows.memory_bytes.sum()
    heads, keys, d = 32, 8, 64
    state = heads * d * d + 3 * (heads + 2 * keys) * d
    spec, scenario = made("state_space", DECODER)
    assert memory.kv_cache_bytes(spec, scenario) == layers * state * 2


def test_fourier_mixing_has_no_parameters_either_way() -> None:
    attention = 12 * 4 * (768 * 768 + 768)
    for text in ("fourier", "fourier:dense=true"):
        assert parameters(text, ENCODER) == catalog.load(ENCODER).parameters - attention
        assert total(prefill(text, ENCODER), "macs", "up", "down") == total(prefill("", ENCODER), "macs", "up", "down")
    assert total(prefill("fourier:dense=true", ENCODER), "macs", "dft_hidden") == 12 * 256 * 768 * 2 * 768
    assert total(prefill("fourier:dense=true", ENCODER), "macs", "dft_tokens") == 12 * 2 * 768 * 256 * 256


def test_monarch_blocks_divide_the_feed_forward_products() -> None:
    one, four = (prefill(f"monarch:blocks={blocks}", ENCODER) for blocks in (1, 4))
    assert total(one, "macs", "gate_up", "down") == 4 * total(four, "macs", "gate_up", "down") == 12 * 256 * 3 * 768 * 3072
    assert total(one, "weight_bytes", "down") == 4 * total(four, "weight_bytes", "down")
    # 256 tokens go in blocks of 16: four matrices for each element, complex times complex, in two convolutions.
    assert total(four, "macs", "long_conv") == 12 * 2 * 256 * 768 * 4 * 4 * 16
    assert total(four, "input_bytes", "long_conv") < 12 * 2 * 1.2 * 256 * 768 * 2


@pytest.mark.parametrize(("dropped", "left"), [(1, 3), (2, 2)])
def test_attention_without_projections_of_values_and_keys(dropped: int, left: int) -> None:
    text = f"unprojected:dropped={dropped}"
    assert catalog.load(ENCODER).parameters - parameters(text, ENCODER) == 12 * dropped * (768 * 768 + 768)
    trace = prefill(text, ENCODER)
    assert total(trace, "macs", "qkv_proj", "o_proj") == 12 * left * 256 * 768 * 768
    assert total(trace, "macs", "attention") == total(prefill("", ENCODER), "macs", "attention")


def test_dropped_attention_takes_its_norm_and_its_cache_along() -> None:
    spec, plain = made("drop_attention:share=0.5", DECODER)[0], catalog.load(DECODER)
    d, kv, layers = 2048, 512, 8
    assert plain.parameters - spec.parameters == layers * (2 * d * d + 2 * d * kv + d)
    assert spec.kv_elements_per_token == plain.kv_elements_per_token // 2
    trace = step("drop_attention:share=0.5")
    assert total(trace, "macs", "gate_up", "down") == total(step(""), "macs", "gate_up", "down")
    kept = np.flatnonzero(trace.rows.kind == CODE["attention_decode"])
    assert trace.rows.layer[kept].tolist() == list(range(8))


def test_global_layers_run_once_a_block_and_local_ones_see_a_block() -> None:
    scenario = Scenario(batch=8, prompt=256, output=9)
    trace = step("global_local:block=4", scenario=scenario)
    attention = trace.rows.take(np.flatnonzero(trace.rows.kind == CODE["attention_decode"]))
    low, high = attention.take(np.flatnonzero(attention.layer < 8)), attention.take(np.flatnonzero(attention.layer >= 8))
    assert set(low.m.tolist()) == {2}
    assert set(low.kv_len.tolist()) == {math.ceil((256 + 4) / 4)}
    assert set(high.m.tolist()) == {8}
    assert set(high.kv_len.tolist()) == {6}
    first = prefill("global_local:block=4", DECODER, scenario)
    assert set(first.rows.m[first.rows.name == first.names.index("gate_up")].tolist()) == {8 * 64, 8 * 6}
    spec, _ = made("global_local:block=4", DECODER)
    assert spec.parameters == catalog.load(DECODER).parameters + 2 * 2048 * 2048
    each = 2 * 8 * 64 * 2
    assert memory.kv_cache_bytes(spec, scenario) == 8 * each * (8 * math.ceil(264 / 4) + 8 * 6)


def test_the_cache_of_global_layers_does_not_grow_step_by_step() -> None:
    scenario = Scenario(batch=4, prompt=64, output=17, phase="decode", transforms=("global_local",))
    result = gv.run(DECODER, "a100-80g", batch=4, prompt=64, output=17, transforms=("global_local",))
    assert result.tokens == 4 * scenario.output
    decode = result.run.decode
    assert decode is not None
    rows = decode.trace.rows
    entry = decode.alike[np.flatnonzero((rows.kind == CODE["attention_decode"]) & (rows.layer == 0))[0]]
    assert np.unique(decode.duration_ps[:, entry]).size == 1


def test_reduced_tokens_shrink_the_later_layers() -> None:
    trace = prefill("reduce_tokens:keep=0.5,stages=2", ENCODER)
    assert trace.rows.m[trace.rows.name == trace.names.index("up")].tolist() == [256] * 4 + [128] * 4 + [64] * 4
    assert parameters("reduce_tokens:keep=0.5,stages=2", ENCODER) == catalog.load(ENCODER).parameters + 2 * 768
    merged = prefill("reduce_tokens:keep=0.5,stages=2,merge=true", ENCODER)
    assert total(merged, "macs", "up", "down") == total(trace, "macs", "up", "down")


def test_padding_brings_every_request_to_the_longest() -> None:
    ragged = Scenario(batch=3, prompt=(100, 200, 300))
    packed, padded = (prefill(text, ENCODER, ragged) for text in ("", "pad"))
    assert total(padded, "macs", "up") * 600 == total(packed, "macs", "up") * 900
    assert total(padded, "pairs", "attention") == 12 * 3 * 300**2
    assert made("pad:to=512", ENCODER, ragged)[1].lengths.tolist() == [512] * 3


def test_a_batch_reads_the_union_of_its_active_neurons() -> None:
    one, two = (step("active_neurons:share=0.1", scenario=ONE.but(batch=batch)) for batch in (1, 2))
    width, layers = 8192, 16
    assert total(one, "k", "down") == layers * math.ceil(0.1 * width)
    assert total(two, "k", "down") == layers * math.ceil((1 - 0.9**2) * width)
    assert parameters("active_neurons", DECODER) == catalog.load(DECODER).parameters


def test_look_up_tables_hold_a_row_for_each_pattern_of_signs() -> None:
    spec, plain = made("lookup_tables:bits=4", ENCODER)[0], catalog.load(ENCODER)
    tables = (768 // 4) * 16 * (3 * 768 + 3072) + (3072 // 4) * 16 * 768
    gone = 3 * (768 * 768 + 768) + 2 * 768 * 3072 + 768 + 3072
    assert spec.parameters - plain.parameters == 12 * (tables - gone)
    trace = prefill("lookup_tables:bits=4", ENCODER)
    assert total(trace, "weight_bytes", "up_tables") == 12 * 256 * (768 // 4) * 3072 * 2
    assert total(trace, "macs", "up_tables", "down_tables", "qkv_tables") == 0
    assert total(trace, "macs", "attention", "o_proj") == total(prefill("", ENCODER), "macs", "attention", "o_proj")


def test_shifts_and_products_of_a_mixture_share_the_tokens_out() -> None:
    trace, plain = prefill("shift_add:multiplied=0.25", ENCODER), prefill("", ENCODER)
    shifted, multiplied = total(trace, "macs", "shift_up", "shift_down"), total(trace, "macs", "multiply_up", "multiply_down")
    assert shifted == 3 * multiplied
    assert shifted + multiplied == total(plain, "macs", "up", "down")
    before, after = (gv.run(ENCODER, "a100-80g", prompt=256, transforms=text) for text in ((), ("shift_add:multiplied=0",)))
    assert after.energy_by_component_j["mac"] < 0.25 * before.energy_by_component_j["mac"]


def test_factors_have_the_rank_between() -> None:
    rank, d, wide = 192, 768, 3072
    each = rank * (d + 3 * d) + 3 * d + rank * 2 * d + d + 2 * rank * (d + wide) + d + wide
    layer = 4 * (d * d + d) + 2 * d * wide + d + wide
    assert parameters("low_rank:rank=0.25", ENCODER) == catalog.load(ENCODER).parameters - 12 * (layer - each)
    trace = prefill("low_rank:rank=0.25", ENCODER)
    assert total(trace, "macs", "qkv_proj", "qkv_proj_down") == 12 * 256 * rank * 4 * d
    assert total(trace, "macs", "attention") == total(prefill("", ENCODER), "macs", "attention")


def test_an_encoder_alone_can_be_factored() -> None:
    plain, low = catalog.load("whisper-small"), made("low_rank:encoder=true", "whisper-small")[0]
    assert low.layers == plain.layers
    assert low.towers[0].parameters < plain.towers[0].parameters


def test_root_mean_square_norms_lose_their_biases_alone() -> None:
    assert catalog.load(ENCODER).parameters - parameters("rms_norm", ENCODER) == 25 * 768
    plain, rms = prefill("", ENCODER), prefill("rms_norm", ENCODER)
    assert total(plain, "macs") == total(rms, "macs")
    assert total(plain, "vector_ops") - total(rms, "vector_ops") == 25 * 256 * 768 * (7 - 4)


def test_gpt2_resized_to_xl_is_xl() -> None:
    small, large = made("resize:layers=48,hidden=1600,heads=25,ffn=6400", "gpt2")[0], catalog.load("gpt2-xl")
    assert small.parameters == large.parameters
    assert small.layers == large.layers


DECODING = Scenario(batch=2, prompt=1000, phase="decode", output=2)


def test_tree_attention_reads_a_piece_and_reduces_little() -> None:
    trace, plain = step("context:devices=8,attention=tree", scenario=DECODING), step("", scenario=DECODING)
    assert trace.devices == 8
    assert total(trace, "n", "attention") == 16 * 2 * (125 + 1)
    sent = 2 * (32 + 32 * (64 + 1)) * 2
    assert total(trace, "link_bytes") == 16 * sent
    linear = ("qkv_proj", "o_proj", "gate_up", "down", "lm_head")
    assert total(trace, "macs", *linear) == total(plain, "macs", *linear)


def test_a_ring_sends_all_keys_on_but_once() -> None:
    trace = step("context:devices=8,attention=ring", scenario=DECODING)
    layer, kv = 16, 2 * 8 * 64
    assert total(trace, "link_bytes") == layer * 7 * 2 * (125 + 1) * kv * 2
    assert total(trace, "n", "attention") == 8 * layer * 2 * (125 + 1)


def test_pieces_of_a_causal_prefill_add_up_to_its_triangle() -> None:
    ring, plain = prefill("context:devices=4,attention=ring", DECODER, ONE.but(prompt=1024)), prefill("", DECODER, ONE.but(prompt=1024))
    assert 4 * total(ring, "macs", "qkv_proj") == total(plain, "macs", "qkv_proj")
    assert 4 * total(ring, "pairs", "attention") == pytest.approx(total(plain, "pairs", "attention"), rel=0.01)


def test_devices_of_a_context_count_in_memory_and_energy() -> None:
    one, four = (gv.run(DECODER, "h100-sxm", prompt=4096, output=2, phase="decode", transforms=text)
                 for text in ((), ("context:devices=4",)))
    assert (one.devices, four.devices) == (1, 4)
    assert four.run.memory.kv_cache_bytes == pytest.approx(one.run.memory.kv_cache_bytes / 4, rel=0.01)
    assert four.run.memory.weights_bytes == one.run.memory.weights_bytes
    assert four.energy_j > 2 * one.energy_j


def test_experts_apart_multiply_as_much_and_read_as_many_weights() -> None:
    scenario = Scenario(batch=64, prompt=64, tp=4, routing="balanced")
    pieces, apart = (step(text, "mixtral-8x7b", scenario) for text in ("", "expert_parallel"))
    products = ("experts_gate_up", "experts_down")
    assert total(apart, "macs", *products) == total(pieces, "macs", *products)
    assert total(apart, "weight_bytes", *products) == total(pieces, "weight_bytes", *products)
    assert total(apart, "link_bytes", "dispatch", "return") == 32 * 2 * 16 * 2 * 4096 * 2
    assert total(apart, "macs", "qkv_proj", "o_proj") == total(pieces, "macs", "qkv_proj", "o_proj")
    assert made("expert_parallel", "mixtral-8x7b", scenario)[0] == catalog.load("mixtral-8x7b")
