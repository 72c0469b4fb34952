"""A measured kernel table against the simulator: error by operator, type and regime, beside plain baselines and the noise floor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemvane.sim.confidence import kernel_bands
from gemvane.sim.estimate import estimate_rows
from gemvane.sim.hardware import Hardware
from gemvane.workloads.kernels import conditions_from_table, rows_from_table
from gemvane.workloads.ops import Rows

from . import tables
from .bands import weighted_quantile
from .calibrate import Rowset
from .energy_fit import metered, power_at
from .kernels import UNFUSED
from .tables import Floats

if TYPE_CHECKING:
    import pandas as pd

SHAPE = ("op", "dtype", "kv_dtype", "window", "batch", "M", "N", "K", "heads_q", "heads_kv", "head_dim", "q_len", "kv_len")
SHARES = np.linspace(0.3, 1.0, 15)
"""Shares of the two peaks that the fitted roofline tries."""
FIT_ROWS = 3000


class Compared(NamedTuple):
    """The kernels of a table on one hardware, row by row; times in us."""

    hardware: Hardware
    table: pd.DataFrame
    """All of it; `measured` are the rows that can be compared."""
    measured: pd.DataFrame
    rows: Rows
    measured_us: Floats
    predicted_us: Floats
    roofline_us: Floats
    unfused: NDArray[np.bool_]
    """Rows whose `notes` say that the operator ran as several kernels: their time is not one kernel's."""

    def where(self, index: NDArray[np.int64]) -> Compared:
        """The rows at `index`."""
        return Compared(self.hardware, self.table, self.measured.iloc[index].reset_index(drop=True), self.rows.take(index),
                        self.measured_us[index], self.predicted_us[index], self.roofline_us[index], self.unfused[index])


def predict(table: pd.DataFrame, hardware: Hardware) -> Compared:
    """Every row of a kernel table beside its prediction on `hardware`. ValueError for a table that is not one (validate.tables)."""
    measured = tables.rows_of(table, hardware)
    rows = rows_from_table(measured)
    latency = measured["latency_us"].to_numpy(np.float64)
    tables.check_units(latency, rows, hardware)
    predicted = estimate_rows(rows, hardware, conditions_from_table(measured)).latency_ps / 1e6
    notes = np.asarray(measured["notes"]).astype(str) if "notes" in measured else np.full(rows.size, "")
    roofline, unfused = tables.roofline_us(rows, hardware), np.char.find(notes, UNFUSED) >= 0
    return Compared(hardware, table, measured, rows, latency, predicted, roofline, unfused)


def compare(table: pd.DataFrame, hardware: Hardware) -> dict[str, Any]:
    """Errors of the rows of a kernel table on `hardware`, as shares: `report` of what `predict` finds."""
    return report(predict(table, hardware))


def report(found: Compared) -> dict[str, Any]:
    """The object of `gemvane validate compare --json`; errors are shares of the measured time.

    overall and by (op, dtype, framework, regime, bound): rows, mape, median, p90, bias (above 0: predicted too slow), of rows that
    ran as one kernel (of all, where none did). unfused: the same of the others; None without such rows. baselines: the roofline,
    and a roofline with three fitted numbers an operator and type. noise_floor: how far two measurements of one shape lie apart.
    coverage80: share of rows inside the 80 % band. energy: of rows with a power averaged over 0.9 s or more.
    """
    apart = found.where(np.flatnonzero(found.unfused)) if found.unfused.any() and not found.unfused.all() else None
    one = found if apart is None else found.where(np.flatnonzero(~found.unfused))
    label, _ = kernel_bands(one.hardware)
    out: dict[str, Any] = {
        "hardware": one.hardware.name,
        "label": label,
        "rows": one.rows.size,
        "overall": statistics(one.predicted_us, one.measured_us),
        "by": _by(one),
        "unfused": None if apart is None else {"rows": apart.rows.size} | statistics(apart.predicted_us, apart.measured_us)
        | {"by": _by(apart)},
        "baselines": {"roofline": statistics(one.roofline_us, one.measured_us),
                      "fitted_roofline": statistics(fitted_roofline(one), one.measured_us)},
        "noise_floor": noise_floor(one.measured),
        "coverage80": coverage(one),
    }
    energy = energy_report(one)
    return out if energy is None else out | {"energy": energy}


def kinds_of(rows: pd.DataFrame) -> NDArray[Any]:
    """Operator and type of each row, as one word and another."""
    return np.char.add(np.char.add(np.asarray(rows["op"]).astype(str), " "), np.asarray(rows["dtype"]).astype(str))


def statistics(predicted: Floats, measured: Floats) -> dict[str, float]:
    """Mean, median and 90th percentile of the absolute relative error, and the mean signed one."""
    error = predicted / measured - 1
    size = np.abs(error)
    return {"mape": float(size.mean()), "median": float(np.median(size)), "p90": float(np.quantile(size, 0.9)), "bias": float(error.mean())}


def _by(found: Compared) -> list[dict[str, Any]]:
    measured = found.measured
    bound = np.where(tables.memory_bound(found.rows, found.hardware), "memory", "compute")
    regime = np.array(tables.REGIMES)[tables.regime(found.rows)]
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
        out.append(group | {"rows": int(here.size)} | statistics(found.predicted_us[here], found.measured_us[here]))
    return out


def coverage(found: Compared) -> float | None:
    """Share of the rows that lie in the 80 % band of their class of work; None where no class has one."""
    _, bands = kernel_bands(found.hardware)
    keys, ratio = tables.band_key(found.rows), found.measured_us / found.predicted_us
    inside, banded = np.zeros(ratio.size, bool), np.zeros(ratio.size, bool)
    for key in np.unique(keys).tolist():
        low, high = bands.get(key, bands.get(key.split("-")[0], (np.nan, np.nan)))
        here = keys == key
        inside[here] = (ratio[here] >= low) & (ratio[here] <= high)
        banded[here] = np.isfinite(low)
    return float(inside[banded].mean()) if banded.any() else None


def fitted_roofline(found: Compared) -> Floats:
    """t0 + max(arithmetic / (a peak), bytes / (b bandwidth)), with t0, a and b fitted to each operator and type of this table."""
    rows, latency, kinds = found.rows, found.measured_us, kinds_of(found.measured)
    memory = rows.memory_bytes / found.hardware.spec.memory.bandwidth * 1e6
    compute = np.where(tables.memory_bound(rows, found.hardware), 0.0, found.roofline_us)
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


def energy_report(compared: Compared) -> dict[str, Any] | None:
    """Errors of energy (predicted power x predicted time against measured) and of power at the measured time, by operator and type.

    Of rows with a power that was averaged over 0.9 s or more; None without any.
    """
    hardware = compared.hardware
    rows = metered(compared.table, hardware)
    if rows.empty:
        return None
    operators, conditions = rows_from_table(rows), conditions_from_table(rows)
    found = estimate_rows(operators, hardware, conditions)
    latency, power = rows["latency_us"].to_numpy(np.float64), rows["power_w"].to_numpy(np.float64)
    drawn = power_at(Rowset(operators, conditions, latency, np.zeros(latency.size, np.int64)), hardware)
    drawn = found.energy_pj / found.latency_ps if drawn is None else drawn
    energy, measured = found.energy_pj / 1e6, power * latency
    kinds = kinds_of(rows)
    by = [{"op": kind.split()[0], "dtype": kind.split()[1], "rows": int((kinds == kind).sum())}
          | statistics(energy[kinds == kind], measured[kinds == kind])
          | {"power_mape": statistics(drawn[kinds == kind], power[kinds == kind])["mape"]}
          for kind in np.unique(kinds).tolist()]
    constant = float(np.median(power))
    return {"rows": len(rows)} | statistics(energy, measured) | {
        "power": statistics(drawn, power), "constant_power": statistics(np.full(power.size, constant), power), "by": by}
