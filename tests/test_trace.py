"""A trace in a file and back, and what a file says that is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gemvane.workloads import catalog, lower
from gemvane.workloads.ops import DERIVED, SHAPE, Rows
from gemvane.workloads.scenario import Scenario
from gemvane.workloads.trace import Block, Trace, load

TINY = Scenario(batch=3, prompt=(5, 9, 7), output=3, dtype="bf16", weight_dtype="int4", kv_dtype="fp8")
TRACES = {
    "gpt2 whole": lower.generation(catalog.load("gpt2"), TINY),
    "mixtral in halves": lower.decode_step(catalog.load("mixtral-8x7b"), TINY, sub_batches=2),
    "deepseek on 8": lower.prefill(catalog.load("deepseek-v2-lite"), TINY.but(tp=4, pp=2)),
    "deepseek in 27 stages": lower.prefill(catalog.load("deepseek-v2-lite"), TINY.but(pp=27)),
    "bert": lower.prefill(catalog.load("bert-base"), TINY),
}
GPT2 = TRACES["gpt2 whole"]
HEAD = "# requests prompt=[5, 9, 7] sub_batch=[0, 0, 0] devices=1\n"


def assert_same(a: Trace, b: Trace) -> None:
    for column in Rows._fields:
        if column != "name":  # numbered in order of appearance; the texts are compared below
            x, y = getattr(a.rows, column), getattr(b.rows, column)
            assert (x.dtype, x.tobytes()) == (y.dtype, y.tobytes()), column
    assert [a.names[i] for i in a.rows.name] == [b.names[i] for i in b.rows.name]
    for x, y in ((a.preds_ptr, b.preds_ptr), (a.preds_idx, b.preds_idx), *zip(a.requests, b.requests, strict=True)):
        assert (x.dtype, x.tobytes()) == (y.dtype, y.tobytes())
    assert a.devices == b.devices
    pd.testing.assert_frame_equal(a.to_frame(), b.to_frame())


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize("name", TRACES)
def test_a_trace_comes_back_byte_for_byte(name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"trace{suffix}"
    TRACES[name].save(path)
    assert_same(load(path), TRACES[name])
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_saving_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        GPT2.save(tmp_path / name)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_the_frame_has_words_for_codes_and_two_flops_a_mac() -> None:
    frame = GPT2.to_frame()
    assert list(frame.columns[:3]) == ["name", "kind", "work"]
    assert (frame["flops"] == 2 * GPT2.rows.macs).all()
    assert int(frame["flops"].sum()) == GPT2.flops
    assert set(frame["phase"]) == {"prefill", "decode"}
    assert (set(frame["weight_dtype"]), set(frame["act_dtype"])) == ({"int4"}, {"bf16"})
    assert set(frame["kv_dtype"][frame["kind"].isin(["kv_append", "attention_decode"])]) == {"fp8"}
    assert set(frame["kv_dtype"][frame["kind"] == "attention_prefill"]) == {"bf16"}  # it reads what it has just computed
    assert frame["preds"].iloc[:2].tolist() == ["", "0"]


def written(tmp_path: Path, head: str = HEAD, **changes: Any) -> Path:
    """The trace as CSV with some cells of some columns changed: column=(row, value)."""
    frame = GPT2.to_frame().astype(object)
    for column, (row, value) in changes.items():
        frame.loc[row, column] = value
    path = tmp_path / "my.csv"
    path.write_text(head + frame.to_csv(index=False))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ValueError) as caught:
        load(path)
    return str(caught.value)


def test_an_unchanged_copy_loads(tmp_path: Path) -> None:
    assert_same(load(written(tmp_path)), GPT2)


def test_a_name_may_hold_a_number_sign(tmp_path: Path) -> None:
    assert load(written(tmp_path, name=(2, "qkv #1"))).to_frame()["name"].iloc[2] == "qkv #1"


def test_work_and_bytes_are_computed_anew_from_the_shape(tmp_path: Path) -> None:
    loaded = load(written(tmp_path, macs=(2, 1), m=(2, 40)))
    assert loaded.rows.macs[2] == 40 * loaded.rows.n[2] * loaded.rows.k[2]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": (3, "gem")}, "kind 'gem' is unknown. Expected one of gemm, gemv, "),
        ({"phase": (3, "prefil")}, "phase 'prefil' is unknown. Expected one of prefill, decode."),
        ({"kv_dtype": (3, "q4")}, "kv_dtype 'q4' is unknown. Expected one of fp32, "),
        ({"m": (3, "x")}, "row 3: m is 'x'. Expected a whole number of at least 0."),
        ({"m": (3, "")}, "row 3: m is ''. Expected a whole number of at least 0."),
        ({"n": (3, 1.5)}, "row 3: n is '1.5'. Expected a whole number of at least 0."),
        ({"k": (3, -1)}, "row 3: k is '-1'. Expected a whole number of at least 0."),
        ({"layer": (3, -2)}, "row 3: layer is '-2'. Expected a whole number of at least -1."),
        ({"preds": (3, "3")}, "row 3: preds has '3'. Expected numbers of rows before it."),
        ({"preds": (3, "1 99999")}, "row 3: preds has '99999'. Expected numbers of rows before it."),
        ({"preds": (3, "-1")}, "row 3: preds has '-1'. Expected numbers of rows before it."),
        ({"preds": (3, "two")}, "row 3: preds has 'two'. Expected numbers of rows before it."),
    ],
)
def test_a_bad_cell_is_named(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = written(tmp_path, **changes)
    assert refusal(path).startswith(f"{path}: {said}")


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_missing_column_is_named_with_all_that_a_trace_has(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"my{suffix}"
    frame = GPT2.to_frame().drop(columns="heads_q")
    frame.attrs = {"prompt": [1], "sub_batch": [0], "devices": 1}
    if suffix == ".csv":
        path.write_text(HEAD + frame.to_csv(index=False))
    else:
        frame.to_parquet(path)
    assert refusal(path) == f"{path}: column 'heads_q' is missing. A trace has {', '.join(SHAPE)}, preds."


def test_a_csv_without_its_first_line_says_what_is_lost(tmp_path: Path) -> None:
    path = written(tmp_path, head="")
    assert refusal(path) == f"{path}: has no prompt, sub_batch, devices, which `Trace.save` writes in a CSV file's first line."


@pytest.mark.parametrize("name", ["trace.json", "trace", "trace.csv.gz"])
def test_only_parquet_and_csv_are_written_and_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    assert refusal(path) == f"{path}: a trace is read from .parquet or .csv, not {path.suffix!r}."
    with pytest.raises(ValueError) as caught:
        GPT2.save(path)
    assert str(caught.value) == f"{path}: a trace is saved as .parquet or .csv, not {path.suffix!r}."
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize("content", [None, b"", b"hello", b"\xff\xfe\x00"])
def test_a_file_that_is_no_trace_is_named(content: bytes | None, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"my{suffix}"
    if content is not None:
        path.write_bytes(content)
    assert refusal(path).startswith(f"{path}: ")


@pytest.mark.parametrize(("suffix", "writer"), [(".csv", "to_csv"), (".parquet", "to_parquet")])
def test_a_full_disk_leaves_the_old_file_and_nothing_half_written(
    suffix: str, writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"my{suffix}"
    GPT2.save(path)
    before = path.read_bytes()

    def fill(frame: pd.DataFrame, out: Any, **_: Any) -> None:
        (out if isinstance(out, Path) else Path(out.name)).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(pd.DataFrame, writer, fill)
    with pytest.raises(OSError, match="No space left"):
        TRACES["bert"].save(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_a_block_numbers_its_rows_and_names() -> None:
    block = Block()
    first = block.add("norm", "rmsnorm", Block.INPUT, m=2, n=4)
    second = block.add("up", "gemm", first, m=2, n=8, k=4)
    block.add("norm", "rmsnorm", first, second, m=2, n=8)
    assert (first, second) == (0, 1)
    assert block.preds == [(-1,), (0,), (0, 1)]
    assert block.names == {"norm": 0, "up": 1}
    assert set(block.shape[0]) == set(SHAPE)


def test_columns_are_int64_and_equally_long() -> None:
    for trace in TRACES.values():
        assert {(column.dtype, column.size) for column in trace.rows} == {(np.dtype(np.int64), trace.size)}
        assert trace.preds_ptr.size == trace.size + 1
        assert trace.preds_ptr[-1] == trace.preds_idx.size
        assert set(DERIVED) < set(trace.rows._fields)
