"""A measured kernel table against the simulator: error by operator, type and regime, beside plain baselines and the noise floor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gemvane.sim.confidence import kernel_bands
from gemvane.sim.estimate import estimate_rows
from gemvane.sim.hardware import Hardware
from gemvane.workloads.kernels import conditions_from_table, rows_from_table
from gemvane.workloads.ops import Rows

from . import tables
from .bands import weighted_quantile
from .calibrate import Rowset
from .energy_fit import metered, power_at
from .tables import Floats

if TYPE_CHECKING:
    import pandas as pd

SHAPE = ("op", "dtype", "kv_dtype", "window", "batch", "M", "N", "K", "heads_q", "heads_kv", "head_dim", "q_len", "kv_len")
SHARES = np.linspace(0.3, 1.0, 15)
"""Shares of the two peaks that the fitted roofline tries."""
FIT_ROWS = 3000


def compare(table: pd.DataFrame, hardware: Hardware) -> dict[str, Any]:
    """Errors of the rows of a kernel table on `hardware`, as shares (the object of `gemvane validate compare --json`).

    overall and by (op, dtype, regime, bound): rows, mape, median, p90, bias (above 0: predicted too slow). baselines: the
    roofline, and a roofline with three fitted numbers an operator and type. noise_floor: how far two measurements of one
    shape lie apart. coverage80: share of rows inside the 80 % band. energy: of rows with a power averaged over 0.9 s or more.
    ValueError for a table that is not one (validate.tables).
    """
    measured = tables.rows_of(table, hardware)
    rows = rows_from_table(measured)
    latency = measured["latency_us"].to_numpy(np.float64)
    tables.check_units(latency, rows, hardware)
    predicted = estimate_rows(rows, hardware, conditions_from_table(measured)).latency_ps / 1e6
    roofline = tables.roofline_us(rows, hardware)
    label, bands = kernel_bands(hardware)
    inside, banded = _inside(latency / predicted, rows, bands)
    out: dict[str, Any] = {
        "hardware": hardware.name,
        "label": label,
        "rows": len(measured),
        "overall": statistics(predicted, latency),
        "by": _by(measured, rows, predicted, latency, hardware),
        "baselines": {"roofline": statistics(roofline, latency),
                      "fitted_roofline": statistics(_fitted_roofline(measured, rows, latency, hardware), latency)},
        "noise_floor": noise_floor(measured),
        "coverage80": float(inside[banded].mean()) if banded.any() else None,
    }
    energy = _energy(table, hardware)
    return out if energy is None else out | {"energy": energy}


def statistics(predicted: Floats, measured: Floats) -> dict[str, float]:
    """Mean, median and 90th percentile of the absolute relative error, and the mean signed one."""
    error = predicted / measured - 1
    size = np.abs(error)
    return {"mape": float(size.mean()), "median": float(np.median(size)), "p90": float(np.quantile(size, 0.9)), "bias": float(error.mean())}


def _by(measured: pd.DataFrame, rows: Rows, predicted: Floats, latency: Floats, hardware: Hardware) -> list[dict[str, Any]]:
    bound = np.where(tables.memory_bound(rows, hardware), "memory", "compute")
    regime = np.array(tables.REGIMES)[tables.regime(rows)]
    framework = np.asarray(measured["framework"]).astype(str) if "framework" in measured else np.full(len(measured), "")
    columns = [np.asarray(measured["op"]).astype(str), np.asarray(measured["dtype"]).astype(str), framework, regime, bound]
    codes = [np.unique(column, return_inverse=True) for column in columns]
    key = np.zeros(len(measured), np.int64)
    for names, code in codes:
        key = key * len(names) + code.reshape(-1)
    out = []
    for value in np.unique(key).tolist():
        here = np.flatnonzero(key == value)
        group = dict(zip(("op", "dtype", "framework", "regime", "bound"), (str(column[here[0]]) for column in columns), strict=True))
        out.append(group | {"rows": int(here.size)} | statistics(predicted[here], latency[here]))
    return out


def _inside(ratio: Floats, rows: Rows, bands: dict[str, tuple[float, float]]) -> tuple[Any, Any]:
    """Whether each row lies in its band, and whether it has one."""
    keys = tables.band_key(rows)
    inside, banded = np.zeros(rows.size, bool), np.zeros(rows.size, bool)
    for key in np.unique(keys).tolist():
        low, high = bands.get(key, bands.get(key.split("-")[0], (np.nan, np.nan)))
        here = keys == key
        inside[here] = (ratio[here] >= low) & (ratio[here] <= high)
        banded[here] = np.isfinite(low)
    return inside, banded


def _fitted_roofline(measured: pd.DataFrame, rows: Rows, latency: Floats, hardware: Hardware) -> Floats:
    """t0 + max(arithmetic / (a peak), bytes / (b bandwidth)), with t0, a and b fitted to each operator and type of this table."""
    memory = rows.memory_bytes / hardware.spec.memory.bandwidth * 1e6
    compute = np.where(tables.memory_bound(rows, hardware), 0.0, tables.roofline_us(rows, hardware))
    kinds = np.char.add(np.char.add(np.asarray(measured["op"]).astype(str), " "), np.asarray(measured["dtype"]).astype(str))
    out = np.empty(rows.size)
    for kind in np.unique(kinds).tolist():
        here = np.flatnonzero(kinds == kind)
        some = here[:: max(1, here.size // FIT_ROWS)]
        best = (np.inf, 1.0, 1.0, 0.0)
        for a in SHARES.tolist():
            for b in SHARES.tolist():
                bound = np.maximum(compute[some] / a, memory[some] / b)
                t0 = max(0.0, weighted_quantile(latency[some] - bound, 1 / latency[some], 0.5))
                error = float(np.mean(np.abs((t0 + bound) / latency[some] - 1)))
                best = min(best, (error, a, b, t0))
        _, a, b, t0 = best
        out[here] = t0 + np.maximum(compute[here] / a, memory[here] / b)
    return out


def noise_floor(measured: pd.DataFrame) -> dict[str, Any] | None:
    """How far two measurements of one 16-bit matmul lie apart, over frameworks, versions and repetitions; None where none comes twice.

    Other operators contain different things in different frameworks, which is no noise.
    """
    measured = measured[(measured["op"].isin(["gemm"]) & measured["dtype"].isin(["bf16", "fp16"])).to_numpy()]
    columns = [column for column in SHAPE if column in measured]
    group = measured.groupby(columns, dropna=False, observed=True)["latency_us"]
    counts = group.transform("size").to_numpy()
    if not (counts > 1).any():
        return None
    middle = group.transform("median").to_numpy(np.float64)
    twice = counts > 1
    error = np.abs(measured["latency_us"].to_numpy(np.float64)[twice] / middle[twice] - 1)
    # Of two rows each lies half their distance from the middle.
    return {"rows": int(twice.sum()), "mape": float(2 * error.mean()), "median": float(2 * np.median(error))}


def _energy(table: pd.DataFrame, hardware: Hardware) -> dict[str, Any] | None:
    """Errors of energy (predicted power x predicted time against measured) and of power at the measured time, by operator and type."""
    rows = metered(table, hardware)
    if rows.empty:
        return None
    operators, conditions = rows_from_table(rows), conditions_from_table(rows)
    found = estimate_rows(operators, hardware, conditions)
    latency, power = rows["latency_us"].to_numpy(np.float64), rows["power_w"].to_numpy(np.float64)
    drawn = power_at(Rowset(operators, conditions, latency, np.zeros(latency.size, np.int64)), hardware)
    drawn = found.energy_pj / found.latency_ps if drawn is None else drawn
    energy, measured = found.energy_pj / 1e6, power * latency
    kinds = np.char.add(np.char.add(np.asarray(rows["op"]).astype(str), " "), np.asarray(rows["dtype"]).astype(str))
    by = [{"op": kind.split()[0], "dtype": kind.split()[1], "rows": int((kinds == kind).sum())}
          | statistics(energy[kinds == kind], measured[kinds == kind])
          | {"power_mape": statistics(drawn[kinds == kind], power[kinds == kind])["mape"]}
          for kind in np.unique(kinds).tolist()]
    constant = float(np.median(power))
    return {"rows": len(rows)} | statistics(energy, measured) | {
        "power": statistics(drawn, power), "constant_power": statistics(np.full(power.size, constant), power), "by": by}
