"""Layers as blocks of operators: what tensor parallelism, shared-out requests and extreme lengths do to them."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import gemvane as gv
from gemvane.cli import app
from gemvane.sim import memory
from gemvane.workloads import catalog, lower
from gemvane.workloads.ops import CODE, WORK, Rows
from gemvane.workloads.scenario import Scenario
from gemvane.workloads.trace import Trace

CACHES = ("palm-540b-padded", "llama3.2-1b", "gpt2", "gemma3-1b", "deepseek-v2-lite")
"""One KV head, groups, as many as queries, windows, a latent."""
EVEN = Scenario(batch=8, prompt=700, kv_dtype="fp8", tp=4, attention_parallel="batch")
RAGGED = Scenario(batch=5, prompt=(40, 900, 7, 300, 61), tp=2, attention_parallel="batch")
STEPS = pytest.mark.parametrize("decoding", [False, True], ids=["prefill", "decode"])


def step(model: str, scenario: Scenario, decoding: bool = True) -> Trace:
    return (lower.decode_step if decoding else lower.prefill)(catalog.load(model), scenario)


def total(rows: Rows, column: str, *kinds: str) -> int:
    return int(getattr(rows, column)[np.isin(rows.kind, [CODE[kind] for kind in kinds])].sum())


def test_a_layer_with_attention_beside_its_ffn_sums_once_over_its_devices() -> None:
    falcon = lower.decode_step(catalog.load("falcon-40b"), Scenario(batch=4, tp=4)).rows
    llama = lower.decode_step(catalog.load("llama3-8b"), Scenario(batch=4, tp=4)).rows
    assert (falcon.kind == CODE["allreduce"]).sum() == 60
    assert (llama.kind == CODE["allreduce"]).sum() == 2 * 32


def test_a_prompt_beyond_64_bit_counts_is_refused() -> None:
    with pytest.raises(ValueError, match="a prompt of 1000000000000 tokens"):
        lower.prefill(catalog.load("llama3-8b"), Scenario(prompt=10**12))


# Attention shared out by requests

@pytest.mark.parametrize("model", CACHES)
def test_decode_attention_and_cache_of_all_devices_add_up_to_those_of_one(model: str) -> None:
    alone, shared = step(model, EVEN.but(tp=1)).rows, step(model, EVEN).rows
    for column in ("macs", "vector_ops", "kv_read_bytes", "kv_write_bytes", "input_bytes", "output_bytes"):
        assert 4 * total(shared, column, "attention_decode", "kv_append") == total(alone, column, "attention_decode", "kv_append"), column


@pytest.mark.parametrize("model", CACHES)
def test_each_prompt_is_cached_on_one_device_and_read_by_heads(model: str) -> None:
    alone, shared, by_heads = (step(model, s, decoding=False).rows for s in (EVEN.but(tp=1), EVEN, EVEN.but(attention_parallel="heads")))
    assert 4 * total(shared, "kv_write_bytes", "kv_append") == total(alone, "kv_write_bytes", "kv_append")
    for column in ("macs", "kv_read_bytes"):
        assert total(shared, column, "attention_prefill") == total(by_heads, column, "attention_prefill")


@pytest.mark.parametrize("model", CACHES)
@STEPS
def test_who_keeps_the_cache_changes_no_matmul(model: str, decoding: bool) -> None:
    shared, by_heads = (step(model, EVEN.but(attention_parallel=spread), decoding).rows for spread in ("batch", "heads"))
    for column in ("macs", "weight_bytes"):
        matmuls = [getattr(rows, column)[rows.work == WORK.index("matmul")].sum() for rows in (shared, by_heads)]
        assert matmuls[0] == matmuls[1], column


@pytest.mark.parametrize(
    ("model", "layers", "inward", "prompt_inward", "outward"),
    [
        ("palm-540b-padded", 118, 64 * 256, 0, 64 * 256),  # the one KV head is computed everywhere
        ("llama3.2-1b", 16, (32 + 2 * 8) * 64, 2 * 8 * 64, 32 * 64),
        ("gpt2", 12, (12 + 2 * 12) * 64, 2 * 12 * 64, 12 * 64),
        ("deepseek-v2-lite", 27, 16 * (512 + 64), 0, 16 * 512),  # absorbed queries; the latent is computed everywhere
    ],
)
def test_two_all_to_alls_a_layer_move_every_query_in_and_every_output_back(
    model: str, layers: int, inward: int, prompt_inward: int, outward: int
) -> None:
    rows, prompt = step(model, EVEN).rows, step(model, EVEN, decoding=False).rows
    assert (rows.kind == CODE["alltoall"]).sum() == 2 * layers
    assert 4 * total(rows, "link_bytes", "alltoall") == 8 * (inward + outward) * 2 * layers
    assert 4 * total(prompt, "link_bytes", "alltoall") == 8 * 700 * prompt_inward * 2 * layers


@pytest.mark.parametrize("model", CACHES)
@STEPS
def test_one_device_shares_nothing_out(model: str, decoding: bool) -> None:
    by_heads, alone = (step(model, EVEN.but(tp=1, attention_parallel=spread), decoding).rows for spread in ("heads", "batch"))
    assert all((a == b).all() for a, b in zip(by_heads, alone, strict=True))


def test_an_odd_request_goes_to_the_device_that_is_modelled() -> None:
    trace = step("llama3.2-1b", RAGGED)
    attention = trace.rows.take(np.flatnonzero(trace.rows.kind == CODE["attention_decode"]))
    assert trace.requests.prompt.tolist() == [900, 7, 61]  # every second of 900, 300, 61, 40, 7
    assert set(attention.batch.tolist()) == {3}
    assert set(attention.n.tolist()) == {900 + 61 + 7 + 3}


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=40), st.sampled_from([1, 2, 4, 8]))
def test_the_modelled_device_keeps_the_most_requests_and_tokens_of_all(lengths: list[int], tp: int) -> None:
    scenario = Scenario(batch=len(lengths), prompt=tuple(lengths), tp=tp, attention_parallel="batch")
    held = scenario.held(scenario.lengths)
    assert held.size == -(-len(lengths) // tp)
    assert scenario.lengths[held].sum() * tp >= sum(lengths)
    assert held.tolist() == sorted(set(held.tolist()))


@pytest.mark.parametrize("model", CACHES)
@pytest.mark.parametrize("sub_batches", [1, 2])
def test_a_grown_step_is_the_step_lowered_anew(model: str, sub_batches: int) -> None:
    first = lower.decode_step(catalog.load(model), RAGGED, 1, sub_batches)
    grown = lower.grow(first.rows, first.requests, np.array([1, 30]))
    anew = lower.decode_step(catalog.load(model), RAGGED, 30, sub_batches).rows
    for column, values in grown.take(np.arange(first.size, 2 * first.size))._asdict().items():
        assert (values == getattr(anew, column)).all(), column


@pytest.mark.parametrize(("model", "heads_kv"), [("palm-540b-padded", 1), ("llama3-70b", 8)])
def test_each_request_takes_room_on_one_device_only(model: str, heads_kv: int) -> None:
    spec, scenario = catalog.load(model), Scenario(batch=128, prompt=1984, output=65, tp=64)
    one = 2048 * spec.kv_elements_per_token * 2
    by_heads, shared = (memory.kv_cache_bytes(spec, scenario.but(attention_parallel=spread)) for spread in ("heads", "batch"))
    assert shared == 128 // 64 * one
    assert by_heads == 128 * one // heads_kv  # one head of every request on each device


def test_64_times_as_many_requests_of_palm_fit_when_each_is_kept_once() -> None:
    most = {}
    for spread in ("heads", "batch"):
        with pytest.raises(ValueError, match=r"--batch \d+ or less") as caught:
            gv.run("palm-540b-padded", "tpu-v4", batch=2500, prompt=2047, output=1, kv_dtype="fp32", tp=64, attention_parallel=spread)
        most[spread] = int(str(caught.value).split("--batch ")[1].split(" ")[0])
    assert most["batch"] == 64 * most["heads"]


@pytest.mark.parametrize(("model", "hardware", "tp", "faster"), [
    ("palm-540b-padded", "tpu-v4", 64, True),
    ("llama2-7b", "h100-sxm", 8, False),  # heads enough for all: nothing is repeated, and moving queries costs
    ("gpt3-7b", "neupims", 4, False),
])
def test_a_shared_cache_makes_a_step_faster_where_heads_would_repeat_it(model: str, hardware: str, tp: int, faster: bool) -> None:
    scenario = Scenario(batch=64, prompt=1500, output=3, phase="decode", tp=tp)
    steps = [gv.run(model, hardware, **asdict(scenario.but(attention_parallel=spread))).tpot_s for spread in ("heads", "batch")]
    assert steps[0] is not None and steps[1] is not None
    assert (steps[1] < steps[0]) == faster


def test_an_encoder_has_no_cache_to_share_out() -> None:
    with pytest.raises(ValueError) as caught:
        gv.run("bert-base", "h100-sxm", attention_parallel="batch")
    assert str(caught.value) == "--attention-parallel batch: bert-base is an encoder and has no cache to share out. Use heads."


def test_the_command_line_asks_for_it_and_says_so() -> None:
    words = ["run", "falcon-7b", "--hw", "h100-sxm", "--tp", "71", "--output", "2", "--attention-parallel"]
    done, wrong = (CliRunner().invoke(app, [*words, word]) for word in ("batch", "requests"))
    assert "attention shared out by requests" in " ".join(done.stdout.split())
    assert (wrong.exit_code, wrong.stderr) == (2, "error: attention_parallel is 'requests'. Expected one of heads, batch.\n")


@pytest.mark.parametrize("word", ["requests", "Heads", None])
def test_an_unknown_way_to_share_attention_is_named(word: str | None) -> None:
    with pytest.raises(ValueError) as caught:
        gv.run("gpt2", "h100-sxm", attention_parallel=word)
    assert str(caught.value) == f"attention_parallel is {word!r}. Expected one of heads, batch."
