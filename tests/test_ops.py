"""What each kind of operator computes and moves, by hand arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemvane.workloads.ops import CODE, DERIVED, DTYPE_BITS, DTYPES, KINDS, SHAPE, WORK, Kind, Rows, concatenate, derive

BF16, FP8, INT4, FP4 = (DTYPES.index(d) for d in ("bf16", "fp8", "int4", "fp4"))
DEFAULT = {"batch": 1, "peers": 1, "weight_dtype": BF16, "act_dtype": BF16, "kv_dtype": BF16}


def rows(*shapes: dict[str, int | str]) -> Rows:
    filled = [{**dict.fromkeys(SHAPE, 0), **DEFAULT, **s, "kind": CODE[str(s["kind"])]} for s in shapes]
    return derive({c: np.array([s[c] for s in filled], np.int64) for c in SHAPE})


def row(kind: str, **shape: int) -> dict[str, int]:
    """The derived columns of one row that are not 0."""
    one = rows({"kind": kind, **shape})
    return {c: int(getattr(one, c)[0]) for c in DERIVED if getattr(one, c)[0]}


def test_a_gemm_multiplies_m_n_k_and_moves_each_operand_once() -> None:
    assert row("gemm", m=3, n=5, k=7) == {
        "macs": 3 * 5 * 7, "weight_bytes": 5 * 7 * 2, "input_bytes": 3 * 7 * 2, "output_bytes": 3 * 5 * 2}


def test_a_gemv_is_a_gemm_of_one_row() -> None:
    assert row("gemv", m=1, n=5, k=7) == row("gemm", m=1, n=5, k=7)


def test_one_weight_a_head_is_read_for_each_head() -> None:
    assert row("gemm", batch=4, m=3, n=5, k=7) == {
        "macs": 4 * 3 * 5 * 7, "weight_bytes": 4 * 5 * 7 * 2, "input_bytes": 4 * 3 * 7 * 2, "output_bytes": 4 * 3 * 5 * 2}


def test_the_second_operand_of_a_bmm_is_an_input() -> None:
    assert row("bmm", batch=4, m=3, n=5, k=7) == {
        "macs": 4 * 3 * 5 * 7, "input_bytes": (4 * 3 * 7 + 4 * 5 * 7) * 2, "output_bytes": 4 * 3 * 5 * 2}


def test_a_grouped_gemm_shares_its_rows_out_and_reads_every_group_once() -> None:
    assert row("grouped_gemm", batch=4, m=6, n=5, k=7) == {
        "macs": 6 * 5 * 7, "weight_bytes": 4 * 5 * 7 * 2, "input_bytes": 6 * 7 * 2, "output_bytes": 6 * 5 * 2}


def test_weights_and_activations_each_have_their_type() -> None:
    assert row("gemm", m=3, n=5, k=8, weight_dtype=FP8, act_dtype=BF16) == {
        "macs": 120, "weight_bytes": 40, "input_bytes": 3 * 8 * 2, "output_bytes": 30}


@pytest.mark.parametrize("dtype", [INT4, FP4])
def test_four_bit_operands_round_up_to_a_whole_byte(dtype: int) -> None:
    odd = row("gemm", m=3, n=5, k=7, weight_dtype=dtype, act_dtype=dtype)
    assert (odd["weight_bytes"], odd["input_bytes"], odd["output_bytes"]) == (18, 11, 8)  # 35, 21 and 15 elements


def test_attention_multiplies_visible_pairs_twice_and_reads_the_cache_once() -> None:
    heads = {"heads_q": 8, "heads_kv": 2, "head_dim": 64, "value_dim": 64, "kv_width": 256}
    assert row("attention_decode", batch=2, m=2, n=30, pairs=30, kv_dtype=FP8, **heads) == {
        "macs": 30 * 8 * (64 + 64),
        "vector_ops": 30 * 8 * 8,  # softmax: 4 and an exponential of 4 a score
        "input_bytes": 2 * 8 * 64 * 2,
        "output_bytes": 2 * 8 * 64 * 2,
        "kv_read_bytes": 30 * 256,
    }


@pytest.mark.parametrize("shape", [
    {"heads_q": 8, "heads_kv": 2, "head_dim": 64, "value_dim": 64, "kv_width": 2 * 2 * 64},
    {"heads_q": 8, "heads_kv": 8, "head_dim": 192, "value_dim": 128, "kv_width": 8 * (192 + 128)},
])
def test_score_and_value_together_are_the_attention_that_they_split(shape: dict[str, int]) -> None:
    common = {"m": 2, "n": 30, "pairs": 30, **shape}
    whole, score, value = (row(kind, **common) for kind in ("attention_decode", "attention_score", "attention_value"))
    assert score["macs"] + value["macs"] == whole["macs"]
    assert score["kv_read_bytes"] + value["kv_read_bytes"] == whole["kv_read_bytes"]
    assert score["output_bytes"] == value["input_bytes"] == 30 * 8 * 2
    assert (score["input_bytes"], value["output_bytes"]) == (whole["input_bytes"], whole["output_bytes"])


def test_split_latent_attention_reads_the_latent_for_the_scores_and_again_for_the_values() -> None:
    common = {"m": 2, "n": 30, "pairs": 30, "heads_q": 8, "heads_kv": 1, "head_dim": 576, "value_dim": 512, "kv_width": 576}
    read = [row(kind, **common)["kv_read_bytes"] for kind in ("attention_decode", "attention_score", "attention_value")]
    assert read == [30 * 576 * 2, 30 * 576 * 2, 30 * 512 * 2]


@pytest.mark.parametrize(
    ("kind", "ops", "reads", "writes"),
    [("add", 1, 2, 1), ("rmsnorm", 4, 1, 1), ("layernorm", 7, 1, 1), ("silu_mul", 11, 2, 1), ("relu", 1, 1, 1), ("softmax", 8, 1, 1),
     ("rope", 3, 1, 1)],
)
def test_vector_work_is_so_many_operations_reads_and_writes_an_element(kind: str, ops: int, reads: int, writes: int) -> None:
    assert row(kind, m=3, n=5) == {"vector_ops": 15 * ops, "input_bytes": 15 * reads * 2, "output_bytes": 15 * writes * 2}


@pytest.mark.parametrize("kind", ["topk", "argmax"])
def test_a_choice_writes_next_to_nothing(kind: str) -> None:
    assert "output_bytes" not in row(kind, m=3, n=5)


def test_combine_sums_the_rows_of_a_tokens_experts_into_one() -> None:
    assert row("combine", m=6, n=5, k=2) == {"vector_ops": 6 * 5 * 2, "input_bytes": 6 * 5 * 2, "output_bytes": 3 * 5 * 2}


def test_an_embedding_reads_one_weight_row_a_token() -> None:
    assert row("embedding", m=3, n=5, weight_dtype=FP8) == {"weight_bytes": 15, "output_bytes": 30}


def test_an_append_reads_activations_and_writes_the_cache_in_its_type() -> None:
    assert row("kv_append", m=3, n=6, kv_dtype=INT4) == {"input_bytes": 36, "kv_write_bytes": 9}


@pytest.mark.parametrize("kind", ["allreduce", "allgather", "send"])
def test_a_collective_moves_its_message_over_links_only(kind: str) -> None:
    assert row(kind, m=3, n=5, peers=4) == {"link_bytes": 30}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_does_something_and_never_less_than_nothing(kind: Kind) -> None:
    shape = {"m": 3, "n": 5, "k": 7, "pairs": 9, "heads_q": 2, "heads_kv": 1, "head_dim": 4, "value_dim": 4, "kv_width": 8, "peers": 2}
    one = row(kind.name, **shape)
    assert one and min(one.values()) > 0


@given(st.sampled_from([kind.name for kind in KINDS]), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.sampled_from(DTYPES))
def test_twice_the_rows_never_compute_or_move_less(kind: str, tokens: int, n: int, k: int, dtype: str) -> None:
    m = tokens * k  # whole groups of k rows, which `combine` sums
    code = DTYPES.index(dtype)
    types = {"weight_dtype": code, "act_dtype": code, "kv_dtype": code}
    heads = {"heads_q": 2, "heads_kv": 1, "head_dim": 4, "value_dim": 4, "kv_width": 8}
    common: dict[str, int | str] = {"kind": kind, "n": n, "k": k, **heads, **types}
    both = rows({**common, "m": m, "pairs": m * n}, {**common, "m": 2 * m, "pairs": 2 * m * n})
    for column in DERIVED:
        once, twice = getattr(both, column)
        assert once <= twice <= 2 * once + 1
    assert 2 * both.macs[0] == both.macs[1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_are_bits_over_eight(dtype: str) -> None:
    assert row("gemm", m=8, n=8, k=8, weight_dtype=DTYPES.index(dtype))["weight_bytes"] == 64 * DTYPE_BITS[dtype] // 8


def test_memory_bytes_are_every_operand_once_and_no_link() -> None:
    one = rows({"kind": "gemm", "m": 3, "n": 5, "k": 7}, {"kind": "allreduce", "m": 3, "n": 5})
    assert one.memory_bytes.tolist() == [70 + 42 + 30, 0]


def test_every_kind_has_a_class_of_work_and_no_name_stands_twice() -> None:
    assert {kind.work for kind in KINDS} == set(WORK)
    assert len({kind.name for kind in KINDS}) == len(KINDS)


def test_taking_and_joining_rows_keeps_them() -> None:
    three = rows(*({"kind": "gemm", "m": m, "n": 5, "k": 7} for m in (1, 2, 3)))
    turned = three.take(np.array([2, 0]))
    assert (turned.m.tolist(), turned.size) == ([3, 1], 2)
    assert concatenate([three, turned]).macs.tolist() == [35, 70, 105, 105, 35]
