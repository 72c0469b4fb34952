"""Tables of what a fit has not seen, on a small table of a machine that is known."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from gemvane.sim.estimate import estimate_kernels
from gemvane.sim.hardware import load
from gemvane.validate import holdout, tables

H200 = load("h200")


def made(gpu: str = "H200-SXM", framework: str = "trtllm 1.3") -> pd.DataFrame:
    """Matmuls as the bundled model predicts them: its own rows have no error."""
    sizes = [(m, n, k) for m in (1, 64, 256, 1024, 4096) for n in (256, 1024, 4096) for k in (512, 2048, 8192)]
    rows = pd.DataFrame(sizes, columns=["M", "N", "K"]).assign(gpu=gpu, op="gemm", dtype="bf16", framework=framework, weight_copies=3.0)
    return rows.assign(latency_us=estimate_kernels(rows, load(tables.HARDWARE[gpu])).latency_us)


def test_a_framework_left_out_is_run_as_another() -> None:
    pd_rows = pd.concat([made(), made(framework="sglang 0.5")], ignore_index=True)
    found = holdout.frameworks_left_out(pd_rows, H200).set_index("framework")
    assert set(found.index) == {"trtllm", "sglang"}
    assert (found["own"] < 1e-3).all()
    assert (found["left_out"] > 0.005).all() and (found["left_out"] < 0.1).all()


def test_carried_numbers_are_judged_on_the_other_gpus_rows() -> None:
    found = holdout.carried(pd.concat([made(), made("H100-SXM")], ignore_index=True))
    assert set(zip(found.source, found.target, strict=True)) == {("a100-80g", "h200"), ("h100-sxm", "h200"), ("a100-80g", "h100-sxm"),
                                                                 ("h200", "h100-sxm")}
    near = found[(found.source == "h100-sxm") & (found.target == "h200")].mape.iloc[0]
    far = found[(found.source == "a100-80g") & (found.target == "h200")].mape.iloc[0]
    assert 0 < near < far < 0.3


def test_another_salt_is_another_half() -> None:
    rows = made()
    assert (tables.half(rows) != tables.half(rows, "other")).any()
    assert (tables.half(rows, "half") == tables.half(rows)).all()


def test_splits_fit_both_ways() -> None:
    pytest.importorskip("scipy")
    found = holdout.splits(pd.concat([made()] * 4, ignore_index=True), H200)
    assert found["split"].tolist() == ["half", "other"]
    assert (found["held_out"] < 0.02).all()


def test_energy_needs_a_meter() -> None:
    with pytest.raises(ValueError, match="no row of h200 has a power"):
        holdout.energy(made(), H200)


def test_energy_of_the_measured_kernels(shared_data: Path) -> None:
    pytest.importorskip("pyarrow")
    rows = pd.read_parquet(shared_data / "gpu" / "measured_dev.parquet", filters=[("gpu", "==", "H200-SXM"), ("op", "==", "gemm"),
                                                                                 ("framework", "==", "vllm 0.22.0")])
    found = holdout.energy(rows, H200).set_index("dtype")
    assert found.loc["bf16", "median"] < 0.02  # most rows; the rest still show what ran before
    assert found.loc["bf16", "at_measured_time"] < found.loc["bf16", "constant_power"]
    assert found.loc["bf16", "at_measured_time"] < 0.095
