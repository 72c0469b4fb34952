"""Measured tables against the simulator: the statistics on a table of our own, and the errors that a release promises."""

import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import gemvane as gv
from gemvane.cli import app
from gemvane.sim.calibration import load
from gemvane.sim.confidence import kernel_bands
from gemvane.validate import bands, calibrate, compare, tables

OWN = pd.DataFrame([{"op": "gemm", "dtype": "bf16", "M": m, "N": 4096, "K": 4096, "framework": "trtllm"} for m in (1, 64, 1024, 4096)])


def measured(factor: float) -> pd.DataFrame:
    return OWN.assign(latency_us=gv.estimate_kernels(OWN, "h100-sxm").latency_us.to_numpy() / factor)


def test_a_model_that_is_a_tenth_too_slow_has_an_error_of_a_tenth() -> None:
    found = compare.compare(measured(1.1), gv.hardware("h100-sxm"))
    assert found["overall"] == pytest.approx({"mape": 0.1, "median": 0.1, "p90": 0.1, "bias": 0.1})
    assert found["rows"] == 4
    assert {row["regime"] for row in found["by"]} == {"m<=16", "m<=256", "larger"}
    assert {row["bound"] for row in found["by"]} == {"memory", "compute"}
    assert sum(row["rows"] for row in found["by"]) == 4
    assert found["baselines"]["roofline"]["bias"] < 0
    assert found["noise_floor"] is None


def test_two_measurements_of_a_shape_are_the_noise_floor() -> None:
    table = pd.concat([measured(1.0), measured(1.1)])
    assert compare.compare(table, gv.hardware("h100-sxm"))["noise_floor"]["mape"] == pytest.approx(0.095, abs=0.005)


def test_the_command_prints_one_object(tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    measured(1.0).to_csv(file, index=False)
    said = CliRunner().invoke(app, ["validate", "compare", str(file), "--hw", "h100-sxm", "--json"])
    assert json.loads(said.stdout)["overall"]["mape"] < 1e-4
    shown = CliRunner().invoke(app, ["validate", "compare", str(file), "--hw", "h100-sxm"])
    assert "fitted roofline" in shown.stdout


def test_operators_that_ran_as_several_kernels_stand_apart() -> None:
    table = pd.concat([measured(1.0), measured(2.0).assign(notes="unfused; spread 11 %")], ignore_index=True)
    found = compare.compare(table, gv.hardware("h100-sxm"))
    assert found["rows"] == 4
    assert found["overall"]["mape"] < 1e-4
    assert found["unfused"]["rows"] == sum(row["rows"] for row in found["unfused"]["by"]) == 4
    assert found["unfused"]["mape"] == pytest.approx(1.0, abs=1e-3)
    assert compare.compare(measured(1.0), gv.hardware("h100-sxm"))["unfused"] is None
    alone = compare.compare(measured(2.0).assign(notes="unfused"), gv.hardware("h100-sxm"))
    assert (alone["rows"], alone["unfused"]) == (4, None)


def test_the_command_plots_what_it_compares(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file, plots = tmp_path / "own.csv", [tmp_path / name for name in ("a.svg", "b.svg")]
    pd.concat([measured(1.1), measured(2.0).assign(notes="unfused")]).to_csv(file, index=False)
    for plot in plots:
        said = CliRunner().invoke(app, ["validate", "compare", str(file), "--hw", "h100-sxm", "--plot", str(plot)])
        assert said.exit_code == 0, said.output
        assert "gemm, unfused" in said.stdout
    drawn = plots[0].read_text()
    assert drawn == plots[1].read_text()
    assert all(text in drawn for text in ("measured, us", "predicted, us", ">gemm<", "<image"))
    wrong = CliRunner().invoke(app, ["validate", "compare", str(file), "--hw", "h100-sxm", "--plot", "a.png"])
    assert wrong.exit_code == 2
    assert "written as .svg" in wrong.stderr


def test_a_table_without_latencies_is_refused() -> None:
    with pytest.raises(ValueError, match="column 'latency_us' is missing"):
        compare.compare(OWN, gv.hardware("h100-sxm"))


def test_a_hundred_thousand_rows_are_compared_in_seconds() -> None:
    table = pd.concat([measured(1.05)] * 25_000, ignore_index=True)
    started = time.perf_counter()
    compare.compare(table, gv.hardware("h100-sxm"))
    assert time.perf_counter() - started < 10


@pytest.fixture(scope="module")
def rows(shared_data: Path) -> pd.DataFrame:
    """Every eighth row of the held-out half of the three calibrated GPUs; the bundled numbers are fitted to both halves."""
    pytest.importorskip("pyarrow")
    kernels = ["gemm", "attention_prefill", "attention_decode"]
    table = pd.read_parquet(shared_data / "gpu" / "measured_dev.parquet", filters=[("op", "in", kernels)])
    table = table[table["gpu"].isin(list(bands.HARDWARE)) & (table["framework"] != "LLMCompass")].iloc[::4].reset_index(drop=True)
    return table[tables.half(table) == 1].iloc[::2].reset_index(drop=True)


def error(rows: pd.DataFrame, gpu: str, **asked: str) -> float:
    part = rows[rows["gpu"] == gpu]
    for column, value in asked.items():
        part = part[part[column].astype(str).str.startswith(value) if column == "framework" else part[column].astype(str) == value]
    predicted = gv.estimate_kernels(part, tables.HARDWARE[gpu]).latency_us.to_numpy()
    return float(np.mean(np.abs(predicted / part["latency_us"].to_numpy() - 1)))


@pytest.mark.parametrize(("name", "framework", "op", "dtype", "most"), [
    ("h100-sxm", "trtllm", "gemm", "bf16", 0.06), ("h200", "trtllm", "gemm", "bf16", 0.06), ("a100-80g", "sglang", "gemm", "bf16", 0.08),
    ("a100-80g", "trtllm", "gemm", "bf16", 0.09), ("h100-sxm", "sglang", "gemm", "bf16", 0.07), ("h200", "sglang", "gemm", "bf16", 0.085),
    ("h100-sxm", "trtllm", "gemm", "fp8", 0.06), ("h200", "trtllm", "gemm", "fp8", 0.06), ("h100-sxm", "trtllm", "gemm", "fp8_block", 0.1),
    ("h100-sxm", "trtllm", "attention_prefill", "bf16", 0.075), ("h200", "trtllm", "attention_prefill", "bf16", 0.075),
    ("a100-80g", "trtllm", "attention_prefill", "bf16", 0.09), ("h100-sxm", "trtllm", "attention_prefill", "fp8", 0.07),
    ("h100-sxm", "sglang", "attention_decode", "bf16", 0.12), ("h200", "sglang", "attention_decode", "bf16", 0.12),
    ("a100-80g", "trtllm", "attention_decode", "bf16", 0.08), ("a100-80g", "sglang", "attention_decode", "bf16", 0.09),
    ("h100-sxm", "trtllm", "attention_decode", "bf16", 0.085), ("h200", "trtllm", "attention_decode", "bf16", 0.085),
    ("h100-sxm", "trtllm", "attention_decode", "bf16-fp8", 0.085), ("h200", "trtllm", "attention_decode", "bf16-fp8", 0.085),
    ("h100-sxm", "sglang", "attention_decode", "bf16-fp8", 0.09), ("h200", "sglang", "attention_decode", "bf16-fp8", 0.09),
    ("h100-sxm", "trtllm", "attention_prefill", "bf16-fp8", 0.075), ("h200", "trtllm", "attention_prefill", "bf16-fp8", 0.075),
    ("h100-sxm", "sglang", "attention_prefill", "bf16", 0.09), ("h200", "sglang", "attention_prefill", "bf16", 0.09),
    ("h100-sxm", "sglang", "attention_prefill", "fp8", 0.09), ("h200", "sglang", "attention_prefill", "fp8", 0.09),
    ("h200", "vllm", "attention_decode", "bf16", 0.12), ("h200", "vllm", "attention_decode", "bf16-fp8", 0.12),
    ("h200", "vllm", "attention_prefill", "bf16", 0.11), ("h200", "vllm", "attention_prefill", "bf16-fp8", 0.11),
])
def test_a_calibration_holds_on_shapes_that_it_has_not_seen(name: str, framework: str, op: str, dtype: str, most: float) -> None:
    known = load(name)
    assert known is not None
    found = next(e for e in known.errors if (e.op, e.dtype, e.framework) == (op, dtype, framework))
    assert found.held_out <= most


@pytest.mark.parametrize(("gpu", "asked", "most"), [
    ("H100-SXM", {"op": "gemm", "framework": "trtllm", "dtype": "bf16"}, 0.06),
    ("H200-SXM", {"op": "gemm", "framework": "trtllm", "dtype": "bf16"}, 0.06),
    ("A100-SXM4-80GB", {"op": "gemm", "dtype": "bf16"}, 0.085),
    ("H100-SXM", {"op": "gemm", "framework": "trtllm", "dtype": "fp8"}, 0.06),
    ("A100-SXM4-80GB", {"op": "attention_prefill"}, 0.09), ("H100-SXM", {"op": "attention_prefill", "framework": "trtllm"}, 0.09),
    ("H200-SXM", {"op": "attention_prefill", "framework": "sglang", "kernel": "fa3"}, 0.09),
    ("A100-SXM4-80GB", {"op": "attention_decode"}, 0.12),
    ("H100-SXM", {"op": "attention_decode", "framework": "sglang", "kernel": "fa3"}, 0.12),
    ("H100-SXM", {"op": "attention_decode", "framework": "trtllm"}, 0.09),
    ("H200-SXM", {"op": "attention_decode", "framework": "trtllm"}, 0.09),
    ("H100-SXM", {"op": "attention_prefill", "framework": "sglang"}, 0.095),
    ("H200-SXM", {"op": "attention_prefill", "framework": "sglang"}, 0.095),
])
def test_measured_kernels(rows: pd.DataFrame, gpu: str, asked: dict[str, str], most: float) -> None:
    assert error(rows, gpu, **asked) <= most


@pytest.mark.parametrize(("source", "gpu", "most"), [("a100-80g", "H100-SXM", 0.12), ("h100-sxm", "H200-SXM", 0.07)])
def test_matmuls_with_the_numbers_of_another_gpu(rows: pd.DataFrame, source: str, gpu: str, most: float) -> None:
    matmul = (rows["gpu"] == gpu) & (rows["op"] == "gemm") & (rows["dtype"] == "bf16")
    part = rows[matmul & rows["framework"].astype(str).str.startswith("trtllm")]
    measured_rows = calibrate.rowset(part.reset_index(drop=True))
    predicted = calibrate.predicted_us(measured_rows, bands.carried_machine(source, tables.HARDWARE[gpu]))
    assert float(np.mean(np.abs(predicted / measured_rows.measured_us - 1))) <= most


def test_eager_operators_of_an_a100_are_nearer_than_llmcompass(shared_data: Path) -> None:
    """PrincetonUniversity/LLMCompass predicts its own measurements with a constant an operator; here it is one launch path."""
    pytest.importorskip("pyarrow")
    table = pd.read_parquet(shared_data / "gpu" / "measured_dev.parquet", filters=[("framework", "==", "LLMCompass")])
    theirs = pd.read_csv(shared_data / "gpu" / "llmcompass_a100.csv")
    for op in ("gemm", "softmax", "layernorm", "gelu"):
        part = table[table["op"] == op]
        predicted = gv.estimate_kernels(part, "a100-80g").latency_us.to_numpy()
        assert np.mean(np.abs(predicted / part["latency_us"].to_numpy() - 1)) < theirs[theirs["op"] == op]["ape_pct"].mean() / 100, op


def test_power_of_held_out_matmuls(shared_data: Path) -> None:
    """H200, rows whose power was averaged over 0.9 s or more: nearer than the constant power of the power cap."""
    pytest.importorskip("pyarrow")
    rows = [("gpu", "==", "H200-SXM"), ("op", "==", "gemm"), ("dtype", "==", "bf16"), ("framework", "==", "vllm 0.22.0")]
    table = pd.read_parquet(shared_data / "gpu" / "measured_dev.parquet", filters=rows)
    energy = compare.compare(table[tables.half(table) == 1], gv.hardware("h200"))["energy"]
    assert energy["power"]["median"] < 0.02
    assert energy["power"]["mape"] < 0.09  # one row in ten shows what ran before it
    assert energy["power"]["mape"] < energy["constant_power"]["mape"]


@pytest.mark.parametrize("gpu", list(bands.HARDWARE))
def test_eighty_percent_bands_hold_eighty_percent(rows: pd.DataFrame, gpu: str) -> None:
    hardware = gv.hardware(tables.HARDWARE[gpu])
    assert kernel_bands(hardware)[0] == "measured-calibrated"
    assert 0.75 <= compare.compare(rows[rows["gpu"] == gpu], hardware)["coverage80"] <= 0.85
