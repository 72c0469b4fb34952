"""Power of a GPU from what its kernels do: static power, and factors on the price table, fitted to rows with a power meter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gemvane.sim.calibration import PRICED, Activity, energy_of
from gemvane.sim.costs import ACTIONS
from gemvane.sim.devices import gpu as gpu_model
from gemvane.sim.estimate import CAP_SHARP
from gemvane.sim.hardware import Hardware, price_table
from gemvane.sim.schema import Gpu
from gemvane.workloads.ops import WORK

from . import tables
from .bands import INSIDE, LEAST_WINDOW_S, power_window_s, weighted_quantile
from .calibrate import LEAST_ROWS, SEED, Fit, Rowset, least_squares, rowset

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

FREE = {"mac": (0.0, 40.0), "sram": (0.0, 60.0), "dram": (0.0, 40.0), "cap_share": (0.5, 1.1)}
ACTIVITY = {"share": (0.0, 3.0), "active_w": (0.0, 600.0)}
START = {"mac": 2.0, "sram": 2.0, "dram": 1.0, "cap_share": 0.98, "share": 0.2, "active_w": 200.0}
"""Below the cap, where the rows still tell."""
MOST_ROWS = 4000
SCALE = 0.02
"""The meter's outliers are history, not power: residuals beyond 2 % count linearly, which fits the middle of the rows."""


def metered(table: pd.DataFrame, hardware: Hardware) -> pd.DataFrame:
    """Rows with a power that was averaged over at least 0.9 s: the meter shows about the last second."""
    if "power_w" not in table:
        return table.iloc[:0]
    rows = tables.rows_of(table, hardware)
    rows = rows[rows["power_w"].notna()].reset_index(drop=True)
    return rows[power_window_s(rows) >= LEAST_WINDOW_S].reset_index(drop=True)


def fit(table: pd.DataFrame, hardware: Hardware) -> dict[str, Any] | None:
    """The section `energy` of a calibration file; None where fewer than LEAST_ROWS rows have a usable power."""
    rows = metered(table, hardware)
    if len(rows) < LEAST_ROWS:
        return None
    measured = rowset(rows)
    power = rows["power_w"].to_numpy(np.float64)
    groups = dynamic_w(measured, hardware)
    tdp = hardware.spec.power.tdp or float(power.max())
    static = hardware.spec.power.static
    work = measured.rows.work

    def fitted(where: Any, free: dict[str, tuple[float, float]], fixed: dict[str, float]) -> Fit:
        chosen = np.random.default_rng(SEED).permutation(np.flatnonzero(where & (measured.half == 0)))[:MOST_ROWS]
        part = {k: v[chosen] for k, v in groups.items()}

        def residual(x: dict[str, float]) -> Floats:
            out: Floats = np.log(power_w(part, fixed | x, static, tdp) / power[chosen])
            return out

        return least_squares(residual, free, {name: START[name] for name in free}, "energy", SCALE)

    prices = fitted((work == 0) & np.isin(measured.conditions.dtype, ("bf16", "fp16")), FREE, {})
    activity = {WORK[code]: fitted(work == code, ACTIVITY, prices.plain) for code in np.unique(work).tolist()
                if code > 0 and ((work == code) & (measured.half == 0)).sum() >= LEAST_ROWS}
    shares = {side: np.full(work.size, default) for side, default in (("share", 1.0), ("active_w", 0.0))}
    for name, one in activity.items():
        for side, column in shares.items():
            column[work == WORK.index(name)] = one.plain[side]
    drawn = power_w(groups, prices.plain | shares, static, tdp)
    error = np.abs(drawn / power - 1)
    tested = np.flatnonzero(measured.half == 1)
    low, high = (weighted_quantile((power / drawn)[tested], (drawn * measured.measured_us)[tested], q) for q in INSIDE)
    value = {name: _short(found) for name, found in prices.values.items()}
    return {"factors": {name: value[name] for name in PRICED},
            "activity": {name: {side: _short(found) for side, found in one.values.items()} for name, one in activity.items()},
            "cap_share": value["cap_share"], "rows": len(rows), "train": float(f"{error[measured.half == 0].mean():.4g}"),
            "held_out": float(f"{error[tested].mean():.4g}"), "median": float(f"{np.median(error[tested]):.4g}"),
            "band": {"low": float(f"{low:.4g}"), "high": float(f"{high:.4g}")}}


def _short(found: tuple[float, float, float]) -> dict[str, float]:
    return {side: float(f"{x:.4g}") for side, x in zip(("value", "low", "high"), found, strict=True)}


def dynamic_w(measured: Rowset, hardware: Hardware) -> dict[str, Floats]:
    """Power in W that each group of actions would draw at the price table's prices, over the measured time."""
    name, unit = next((n, u) for n, u in hardware.spec.units.items() if isinstance(u, Gpu))
    machine = gpu_model.resolve(name, unit, hardware.spec)
    actions = gpu_model.cost(measured.rows, machine, measured.conditions).actions
    prices = price_table(hardware.spec.energy.table).prices
    each = np.array([prices.get(a, 0.0) * (8 if a.endswith("_bytes") else 1) for a in ACTIONS]) * actions
    return {group: each[:, [i for i, a in enumerate(ACTIONS) if a.startswith(prefixes)]].sum(axis=1) / (measured.measured_us * 1e6)
            for group, prefixes in PRICED.items()}


def power_at(measured: Rowset, hardware: Hardware) -> Floats | None:
    """Power in W over the measured time, by the hardware's own energy fit; None where it has none."""
    unit = next((u for u in hardware.spec.units.values() if isinstance(u, Gpu)), None)
    fitted = None if unit is None else energy_of(unit.calibration)
    if fitted is None or hardware.spec.power.tdp is None:
        return None
    kinds = [fitted.activity.get(name, Activity()) for name in WORK]
    shares = {side: np.array([getattr(kind, side) for kind in kinds])[measured.rows.work] for side in ("share", "active_w")}
    x: dict[str, Any] = {str(group): factor for group, factor in fitted.factors.items()} | shares | {"cap_share": fitted.cap_share}
    return power_w(dynamic_w(measured, hardware), x, hardware.spec.power.static, hardware.spec.power.tdp)


def power_w(groups: dict[str, Floats], x: dict[str, Any], static: float, tdp: float) -> Floats:
    """Static plus dynamic power, bent under the cap: there the clock gives way, not the meter."""
    power = static + x.get("active_w", 0.0) + x.get("share", 1.0) * sum(x[name] * watts for name, watts in groups.items())
    cap = x["cap_share"] * tdp
    out: Floats = power / (1 + (power / cap) ** CAP_SHARP) ** (1 / CAP_SHARP)
    return out
