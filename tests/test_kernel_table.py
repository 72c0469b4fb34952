"""A kernel table as operator rows: the same as the model lowering gives, and errors that name row and column."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from gemvane.workloads import catalog, lower
from gemvane.workloads.emit import visible_pairs
from gemvane.workloads.kernels import KERNEL_KINDS, rows_from_table
from gemvane.workloads.ops import CODE, DERIVED, DTYPES, KINDS, Rows
from gemvane.workloads.scenario import Scenario
from gemvane.workloads.trace import Trace

GEMMS: dict[str, Any] = {"op": ["gemm", "gemm"], "dtype": ["bf16", "bf16"], "M": [1, 2], "N": [3, 4], "K": [5, 6]}
ATTENTION: dict[str, Any] = {"op": ["attention_prefill"], "dtype": ["bf16"], "batch": [2], "heads_q": [8], "heads_kv": [2],
                             "head_dim": [64], "q_len": [16], "kv_len": [16]}


def refusal(table: Any) -> str:
    with pytest.raises(ValueError) as caught:
        rows_from_table(table)
    return str(caught.value)


def attention_of(trace: Trace, window: int) -> Rows:
    rows = trace.rows
    return rows.take(np.flatnonzero((rows.heads_q > 0) & (rows.window == window))[:1])


def same_work(table: Rows, lowered: Rows) -> None:
    for column in (*DERIVED, "batch", "m", "n", "k", "pairs", "q_len", "kv_len", "heads_q", "heads_kv", "head_dim", "kv_width", "window"):
        assert getattr(table, column).tolist() == getattr(lowered, column).tolist(), column


def test_a_gemm_of_the_table_is_the_gemm_that_a_model_lowers_to() -> None:
    trace = lower.prefill(catalog.load("llama3-8b"), Scenario(batch=4, prompt=128))
    rows = trace.rows.take(np.flatnonzero(trace.rows.kind == CODE["gemm"]))
    table = rows_from_table({"op": ["gemm"] * rows.size, "dtype": ["bf16"] * rows.size, "M": rows.m, "N": rows.n, "K": rows.k})
    same_work(table, rows)


@pytest.mark.parametrize(("model", "window"), [("llama3-8b", 0), ("gpt-oss-20b", 128), ("gpt-oss-20b", 0), ("falcon-7b", 0)])
@pytest.mark.parametrize("op", ["attention_prefill", "attention_decode"])
@pytest.mark.parametrize("kv_dtype", ["bf16", "fp8"])
def test_attention_of_the_table_is_the_attention_that_a_model_lowers_to(model: str, window: int, op: str, kv_dtype: str) -> None:
    scenario = Scenario(batch=3, prompt=300, kv_dtype=kv_dtype)
    step = lower.prefill if op == "attention_prefill" else lower.decode_step
    rows = attention_of(step(catalog.load(model), scenario), window)
    mixer = next(layer.mixer for layer in catalog.load(model).layers if (layer.mixer.window or 0) == window)
    q_len, kv_len = (300, 300) if op == "attention_prefill" else (1, 301)
    heads = {"heads_q": [mixer.heads_q], "heads_kv": [rows.heads_kv[0]], "head_dim": [rows.head_dim[0]]}
    table = rows_from_table({"op": [op], "dtype": ["bf16"], "kv_dtype": [kv_dtype], "window": [window or None], "batch": [3], **heads,
                             "q_len": [q_len], "kv_len": [kv_len]})
    same_work(table, rows)


@pytest.mark.parametrize("window", [0, 1, 5, 16, 40])
@pytest.mark.parametrize(("q_len", "kv_len"), [(16, 16), (1, 16), (4, 16), (7, 8)])
def test_visible_pairs_of_queries_at_the_end_of_the_keys_are_counted_one_by_one(q_len: int, kv_len: int, window: int) -> None:
    pairs = sum(min(position, window or position) for position in range(kv_len - q_len + 1, kv_len + 1))
    rows = rows_from_table({**ATTENTION, "batch": [1], "q_len": [q_len], "kv_len": [kv_len], "window": [window]})
    assert rows.pairs.tolist() == [pairs]
    if q_len == kv_len:
        assert pairs == visible_pairs(np.array([kv_len]), window or None, causal=True, full_square=False)


def test_llama3_decode_at_2049_reads_two_times_eight_heads_of_128() -> None:
    rows = rows_from_table({"op": ["attention_decode"], "dtype": ["bf16"], "batch": [1], "heads_q": [32], "heads_kv": [8],
                            "head_dim": [128], "q_len": [1], "kv_len": [2049]})
    assert rows.kv_read_bytes.tolist() == [2049 * 2 * 8 * 128 * 2]
    assert rows.macs.tolist() == [2049 * 32 * 2 * 128]


@pytest.mark.parametrize(
    ("dtype", "arithmetic", "weight_bytes"),
    [("bf16", "bf16", 48), ("fp8_block", "fp8", 24), ("sq", "int8", 24), ("int8_wo", "bf16", 24), ("int4_wo", "bf16", 12)],
)
def test_a_table_type_names_arithmetic_and_weights(dtype: str, arithmetic: str, weight_bytes: int) -> None:
    rows = rows_from_table({"op": ["gemm"], "dtype": [dtype], "M": [2], "N": [4], "K": [6]})
    assert (DTYPES[rows.act_dtype[0]], rows.weight_bytes[0]) == (arithmetic, weight_bytes)


def test_a_collective_moves_its_bytes_between_tp_devices() -> None:
    rows = rows_from_table({"op": ["allreduce"], "dtype": ["fp16"], "bytes": [1 << 20], "tp": [8]})
    assert (rows.link_bytes[0], rows.peers[0]) == (1 << 20, 8)


def test_a_row_operator_has_m_rows_of_n_and_one_column_where_n_is_empty() -> None:
    rows = rows_from_table({"op": ["rmsnorm", "gelu"], "dtype": ["bf16", "bf16"], "M": [3, 15], "N": [5, None]})
    assert rows.input_bytes.tolist() == [30, 30]


@pytest.mark.parametrize("op", KERNEL_KINDS)
def test_every_op_of_the_table_has_a_kind(op: str) -> None:
    sizes = {key: [4] for key in ("M", "N", "K", "heads_q", "heads_kv", "head_dim", "q_len", "kv_len", "bytes", "tp")}
    assert KINDS[rows_from_table({"op": [op], "dtype": ["bf16"], **sizes}).kind[0]].name == KERNEL_KINDS[op]


@pytest.mark.parametrize("empty", [None, float("nan"), "", pd.NA])
def test_a_cell_that_is_not_used_may_be_empty_in_any_way(empty: object) -> None:
    table = {**GEMMS, "heads_q": [empty, empty], "kv_dtype": [empty, empty]}
    assert rows_from_table(table).macs.tolist() == rows_from_table(GEMMS).macs.tolist() == [15, 48]


def test_floats_texts_and_nullable_integers_are_read_alike() -> None:
    for cells in ([1.0, 2.0], ["1", "2"], pd.array([1, 2], "Int64")):
        assert rows_from_table(pd.DataFrame({**GEMMS, "M": cells})).m.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"M": [1, None]}, "row 1: M is missing or 0, which a kernel of kind gemm needs."),
        ({"M": [1, float("nan")]}, "row 1: M is missing or 0, which a kernel of kind gemm needs."),
        ({"K": [0, 6]}, "row 0: K is missing or 0, which a kernel of kind gemm needs."),
        ({"M": [1, -2]}, "row 1: M is -2. Expected a whole number of at least 0, or an empty cell."),
        ({"M": [1, 1.5]}, "row 1: M is 1.5. Expected a whole number of at least 0, or an empty cell."),
        ({"M": [1, float("inf")]}, "row 1: M is inf. Expected a whole number of at least 0, or an empty cell."),
        ({"M": [1, 1e30]}, "row 1: M is 1e+30. Expected a whole number of at least 0, or an empty cell."),
        ({"M": [1, "x"]}, "row 1: M is x. Expected a whole number of at least 0, or an empty cell."),
        ({"M": [1]}, "column 'M' has 1 cells. Expected 2, one a row."),
        ({"op": ["gemm", "gem"]}, "row 1: op 'gem' is unknown. Expected one of gemm, gemv, bmm, "),
        ({"op": ["gemm", None]}, "row 1: op 'None' is unknown. Expected one of gemm, "),
        ({"dtype": ["int5", "bf16"]}, "row 0: dtype 'int5' is unknown. Expected one of fp32, "),
        ({"kv_dtype": ["bf16", "int5"]}, "row 1: kv_dtype 'int5' is unknown. Expected one of fp32, "),
    ],
)
def test_a_bad_cell_is_named_by_row_and_column(changes: dict[str, Any], message: str) -> None:
    assert refusal({**GEMMS, **changes}).startswith(f"kernel table: {message}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_len": [4]}, "row 0: q_len is 16 but kv_len is 4. Expected at least one key a query."),
        ({"heads_kv": [3]}, "row 0: heads_q is 8. Expected a multiple of heads_kv, which is 3."),
        ({"head_dim": [None]}, "row 0: head_dim is missing or 0, which a kernel of kind attention_prefill needs."),
    ],
)
def test_attention_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    assert refusal({**ATTENTION, **changes}) == f"kernel table: {message}"


def test_a_table_without_op_or_dtype_says_what_it_has() -> None:
    assert refusal({"dtype": ["bf16"], "M": [1]}) == "kernel table: column 'op' is missing. It has dtype, M."
    assert refusal({"op": ["gemm"]}) == "kernel table: column 'dtype' is missing. It has op."
    assert refusal(pd.DataFrame()) == "kernel table: column 'op' is missing. It has no columns."


def test_a_table_without_rows_gives_no_rows() -> None:
    assert rows_from_table(pd.DataFrame(GEMMS).iloc[:0]).size == 0


def test_a_hundred_thousand_rows_are_each_the_one_that_they_repeat() -> None:
    many = rows_from_table(pd.concat([pd.DataFrame(GEMMS)] * 50_000))
    assert many.size == 100_000
    assert many.macs.sum() == 50_000 * (15 + 48)


def test_measured_rows_have_the_flops_that_their_source_states(shared_data: Any) -> None:
    columns = ["op", "dtype", "kv_dtype", "window", "batch", "M", "N", "K", "heads_q", "heads_kv", "head_dim", "q_len", "kv_len", "flops"]
    table = pd.read_parquet(shared_data / "gpu" / "measured_dev.parquet", columns=columns)
    table = table[table["op"].isin(["gemm", "attention_prefill", "attention_decode"]) & table["flops"].notna()]
    # The source counts a windowed prefill as queries x window, more than its queries see.
    table = table[~((table["op"] == "attention_prefill") & (table["window"] > 0))].iloc[::50]
    assert (2 * rows_from_table(table).macs == table["flops"].to_numpy()).all()


def test_what_is_measured_can_be_predicted() -> None:
    from gemvane.validate.kernels import KERNELS

    assert {kernel.op for kernel in KERNELS} <= set(KERNEL_KINDS)


@pytest.mark.parametrize(("op", "read", "written"), [("copy", 60, 60), ("embedding", 60, 60), ("topk", 60, 0), ("silu", 60, 60)])
def test_rows_move_what_they_read_and_write(op: str, read: int, written: int) -> None:
    rows = rows_from_table({"op": [op], "dtype": ["bf16"], "M": [6], "N": [10], "K": [8]})
    assert (rows.weight_bytes + rows.input_bytes).tolist() == [2 * read]
    assert rows.output_bytes.tolist() == [2 * written]
