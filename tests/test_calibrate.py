"""Calibration: a machine whose numbers are known gives them back, and a bad table changes nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import gemvane as gv
from gemvane.sim.calibration import Physics, load, read
from gemvane.sim.confidence import label_of
from gemvane.sim.devices import gpu as gpu_model
from gemvane.validate import calibrate, calibration_file, tables
from gemvane.workloads.kernels import conditions_from_table, rows_from_table

A100 = gv.hardware("a100-80g")
TRUE = {"floor_us": 3.3, "tensor_factor": 0.9, "read_factor": 0.8, "write_factor": 0.7, "l2_factor": 0.9, "resident_share": 0.5,
        "overlap": 2.0, "epilogue_clocks": 3000.0, "split_us": 2.0, "wave_loss": 0.5}


def made(noise: float = 0.01) -> pd.DataFrame:
    """Matmuls as an A100 with the numbers TRUE would run them, with some noise."""
    sizes = [(m, n, k) for m in (1, 16, 48, 128, 384, 1024, 4096) for n in (64, 256, 1024, 4096, 12288) for k in (128, 512, 2048, 8192)]
    table = pd.DataFrame(sizes, columns=["M", "N", "K"]).assign(op="gemm", dtype="bf16", framework="trtllm 1.0.0", weight_copies=3.0)
    unit = gpu_model.resolve("gpu", A100.spec.units["gpu"], A100.spec)  # type: ignore[arg-type]
    parts = gpu_model.estimate(rows_from_table(table), unit._replace(physics=Physics(**TRUE), conditions=()), conditions_from_table(table))
    jitter = np.exp(np.random.default_rng(1).normal(0, noise, len(table)))
    return table.assign(latency_us=(parts.fixed + parts.busy) * jitter)


@pytest.fixture(scope="module")
def fitted() -> calibrate.Result:
    pytest.importorskip("scipy")
    return calibrate.calibrate(made(), A100)


def test_known_numbers_come_back(fitted: calibrate.Result) -> None:
    for name in ("floor_us", "tensor_factor", "read_factor", "split_us", "wave_loss"):
        assert fitted.physics.plain[name] == pytest.approx(TRUE[name], rel=0.15), name


def test_every_number_lies_in_its_interval(fitted: calibrate.Result) -> None:
    for name, (value, low, high) in fitted.physics.values.items():
        assert low <= value <= high, name


def test_the_file_says_what_was_fitted_and_how_well(fitted: calibrate.Result, tmp_path: Path) -> None:
    data = calibration_file.save(fitted, fitted, made(), A100, tmp_path / "mine.yaml")
    back = read((tmp_path / "mine.yaml").read_text(encoding="utf-8"), "mine.yaml")
    assert back.physics.floor_us == data["physics"]["floor_us"]["value"]
    assert back.errors[0].held_out < 0.05
    assert label_of(A100.replace({"units.gpu.calibration": str(tmp_path / "mine.yaml")}))[0] == "measured-calibrated"


def faulty(change: Any) -> pd.DataFrame:
    table = made()
    return change(table)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("change", "message"), [
    (lambda t: t.drop(columns="latency_us"), "column 'latency_us' is missing"),
    (lambda t: t.assign(latency_us=t.latency_us.where(t.index != 5, 0.0)), "row 5: latency_us is 0. Expected a number above zero"),
    (lambda t: t.assign(latency_us=t.latency_us / 1000), "is latency_us in microseconds"),
    (lambda t: t.assign(latency_us=t.latency_us * 1000), "is latency_us in microseconds"),
    (lambda t: t.head(20), "rows are matmuls in bf16 or fp16 from a CUDA graph. Expected at least 40"),
    (lambda t: t.assign(op="allreduce", bytes=1024.0, tp=2.0), "no row is a kernel of one device"),
    (lambda t: t.assign(gpu=np.where(t.index % 2, "H100-SXM", "L40S")), "none of a100-80g"),
    (lambda t: t.assign(latency_us=t.latency_us + 50), "floor_us ran to its bound, 12 of 0.5 to 12"),
])
def test_a_bad_table_is_refused_in_one_sentence(change: Any, message: str) -> None:
    pytest.importorskip("scipy")
    with pytest.raises(ValueError, match=message):
        calibrate.calibrate(faulty(change), A100)


def test_hardware_without_a_gpu_cannot_be_calibrated() -> None:
    with pytest.raises(ValueError, match="has no unit of kind gpu"):
        calibrate.calibrate(made(), gv.hardware("tpu-v4"))


def test_a_failed_fit_leaves_the_old_file(tmp_path: Path) -> None:
    from gemvane.commands import calibrate as command

    file, table = tmp_path / "old.yaml", tmp_path / "bad.csv"
    file.write_text("old", encoding="utf-8")
    made().head(10).to_csv(table, index=False)
    with pytest.raises(ValueError, match=r"bad\.csv: \d+ rows are matmuls"):
        command.calibrate(table, "a100-80g", file, json=True)
    assert file.read_text(encoding="utf-8") == "old"


def test_a_gpu_without_rows_borrows_from_a_relative_and_says_so() -> None:
    assert label_of(gv.hardware("h200"))[0] == "measured-calibrated"
    assert label_of(gv.hardware("l40s"))[0] == "extrapolated"
    assert label_of(gv.hardware("b200"))[0] == "extrapolated"
    assert label_of(gv.hardware("mi300x"))[0] == "spec-only"
    assert label_of(gv.hardware("h100-sxm").replace({"memory.bandwidth": "4 TB/s"}))[0] == "extrapolated"


@pytest.mark.parametrize("name", ["a100-80g", "h100-sxm", "h200"])
def test_a_bundled_calibration_is_within_its_own_bounds(name: str) -> None:
    known = load(name)
    assert known is not None
    for key, (low, high) in calibrate.PHYSICS.items():
        assert getattr(known.physics, key) == np.clip(getattr(known.physics, key), low, high)


def test_halves_keep_a_shape_together() -> None:
    table = made()
    half = tables.half(table)
    assert {0, 1} == set(half.tolist())
    pairs = set(zip(table.N, table.K, strict=True))
    assert all(len(set(half[(n == table.N) & (k == table.K)].tolist())) == 1 for n, k in pairs)
    np.testing.assert_array_equal(half, tables.half(table.astype({"N": float, "K": float})))
