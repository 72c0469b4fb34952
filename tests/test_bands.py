"""The bands of uncalibrated models, and where they come from."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gemvane.sim import hardware
from gemvane.sim.confidence import judge, spec_only
from gemvane.sim.mapping import choices
from gemvane.sim.schema import WORK_OF
from gemvane.validate.bands import energy_band, spec_only_bands, weighted_quantile


def test_the_gpu_bands_are_what_the_measured_kernels_say(shared_data: Path) -> None:
    pytest.importorskip("pyarrow")
    measured = spec_only_bands(pd.read_parquet(shared_data / "gpu" / "measured_dev.parquet"))
    stated = spec_only().bands["gpu"]
    for work, (low, high) in measured.items():
        band = stated[work]  # type: ignore[index]
        assert band.low[0] == pytest.approx(low, abs=0.01)
        assert band.high[0] == pytest.approx(high, abs=0.02)


def test_the_gpu_energy_band_is_what_the_power_meter_says(shared_data: Path) -> None:
    pytest.importorskip("pyarrow")
    low, high = energy_band(pd.read_parquet(shared_data / "gpu" / "measured_dev.parquet"))
    stated = spec_only().energy["gpu"]
    assert stated.low[0] == pytest.approx(low, abs=0.01)
    assert stated.high[0] == pytest.approx(high, abs=0.01)


def test_every_unit_has_a_band_for_the_work_it_is_given() -> None:
    for name in hardware.names():
        device = hardware.load(name)
        spec = device.spec
        for work, unit in ((work, unit) for work, units in choices(device).items() for unit in units):
            assert WORK_OF.get(work, work) in spec_only().bands[spec.units[unit].kind], (name, work)
            assert spec.units[unit].kind in spec_only().energy, name


def test_a_run_is_as_sure_as_the_work_that_fills_its_time() -> None:
    gemm, decode = (spec_only().bands["gpu"][w] for w in ("matmul", "attention_decode"))
    sure = judge({("gpu", "matmul"): 3.0, ("gpu", "attention_decode"): 1.0})
    assert sure.band[0] == pytest.approx(0.75 * gemm.low[0] + 0.25 * decode.low[0], abs=1e-3)
    assert sure.band[1] == pytest.approx(0.75 * gemm.high[0] + 0.25 * decode.high[0], abs=1e-3)


def test_a_weighted_quantile_counts_weight_not_rows() -> None:
    values, weights = np.array([1.0, 2.0, 3.0]), np.array([8.0, 1.0, 1.0])
    assert weighted_quantile(values, weights, 0.5) == 1.0
    assert weighted_quantile(values, weights, 0.95) == 3.0
