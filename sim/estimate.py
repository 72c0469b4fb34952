"""Single kernels: a kernel table in, the same rows with predicted latency, energy and bound out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gemvane.workloads.kernels import Conditions, conditions_from_table, rows_from_table
from gemvane.workloads.ops import CODE, DTYPES, SHAPE, WORK, Int64s, Rows, derive
from gemvane.workloads.trace import Requests

from . import devices, energy
from .calibration import Activity, energy_of
from .costs import ACTIONS, BOUNDS, Floats
from .devices.pim_channel import key_of, softmax_outside
from .devices.precision import Rates, used_for
from .hardware import Hardware
from .mapping import units_for
from .pimschema import Pim
from .schema import Gpu
from .units import cycles_to_ps_all

if TYPE_CHECKING:
    import pandas as pd


CAP_SHARP = 12
"""Exponent of the p-norm by which power runs into its cap."""
NEVER = np.iinfo(np.int64).max


class Estimates(NamedTuple):
    """One entry a row: time in ps, dynamic plus static energy in pJ, index into BOUNDS."""

    latency_ps: Int64s
    energy_pj: Floats
    bound: Int64s


def estimate_rows(rows: Rows, hardware: Hardware, conditions: Conditions | None = None) -> Estimates:
    """Each row alone on the unit that the hardware maps it to; the fastest of several. Conditions count on a GPU."""
    machines = devices.resolve(hardware.spec)
    latency, bound = np.full(rows.size, NEVER), np.zeros(rows.size, np.int64)
    actions = np.zeros((rows.size, len(ACTIONS)), np.int64)
    work = rows.work
    for code in np.unique(work).tolist():
        index = np.flatnonzero(work == code)
        for name in units_for(WORK[code], hardware):
            given = None if conditions is None else conditions.take(index)
            one = _on_unit(rows.take(index), name, hardware, machines[name], given)
            faster = one[0] < latency[index]
            for whole, part in zip((latency, actions, bound), one, strict=True):
                whole[index[faster]] = part[faster]
    return Estimates(latency, _energy_pj(actions, latency, work, hardware), bound)


def _energy_pj(actions: Int64s, latency_ps: Int64s, work: Int64s, hardware: Hardware) -> Floats:
    """Dynamic plus static energy. A GPU with a fitted meter draws by its operands' activity, and no more than its power cap."""
    dynamic, static = energy.energy_pj(actions, hardware), hardware.spec.power.static * latency_ps
    unit = next((u for u in hardware.spec.units.values() if isinstance(u, Gpu)), None)
    fitted = None if unit is None else energy_of(unit.calibration)
    if fitted is None:
        plain: Floats = dynamic + static
        return plain
    kinds = [fitted.activity.get(name, Activity()) for name in WORK]
    share, active_w = (np.array([getattr(kind, side) for kind in kinds])[work] for side in ("share", "active_w"))
    drawn: Floats = dynamic * share + active_w * latency_ps + static
    if hardware.spec.power.tdp is None:
        return drawn
    cap = hardware.spec.power.tdp * fitted.cap_share * latency_ps
    bent: Floats = drawn / (1 + (drawn / np.maximum(cap, 1)) ** CAP_SHARP) ** (1 / CAP_SHARP)
    return bent


def _on_unit(rows: Rows, name: str, hardware: Hardware, machine: Any, conditions: Conditions | None) -> tuple[Int64s, Int64s, Int64s]:
    """Time in ps, counts of actions and bound of each row on one unit."""
    unit = hardware.spec.units[name]
    for rates in (value for value in machine if isinstance(value, Rates)):
        for dtype in np.unique(rows.act_dtype).tolist():
            used_for(DTYPES[dtype], rates, f"{hardware.name}: unit {name}")
    nobody = Requests(np.empty(0, np.int64), np.empty(0, np.int64))
    all_costs = [devices.cost(unit.kind, part, machine, nobody, conditions) for part in _parts(rows, unit)]
    latency = sum(cycles_to_ps_all(costs.total_cycles, machine.freq_hz) for costs in all_costs)
    return np.asarray(latency), np.sum([costs.actions for costs in all_costs], axis=0), all_costs[-1].bound


def _parts(rows: Rows, unit: Any) -> list[Rows]:
    """PIM runs an attention as two operators where its softmax is the vector unit's (and not in a kernel's time)."""
    decode = rows.kind == CODE["attention_decode"]
    if not isinstance(unit, Pim) or not decode.all() or not softmax_outside(key_of(unit)):
        return [rows]
    shape = {c: getattr(rows, c) for c in SHAPE}
    return [derive(shape | {"kind": np.full(rows.size, CODE[name], np.int64)}) for name in ("attention_score", "attention_value")]


class Kernel(NamedTuple):
    """One kernel alone."""

    latency_us: float
    energy_uj: float
    bound: str


def estimate_kernel(hardware: Hardware, **columns: Any) -> Kernel:
    """One kernel from the columns of a kernel table, each one value: estimate_kernel(h100, op="gemm", dtype="bf16", M=1, N=4096, K=4096).

    The same numbers as a row of `estimate_kernels`, without a table around it. ValueError as there.
    """
    row = {name: np.array([value]) for name, value in columns.items()}
    found = estimate_rows(rows_from_table(row), hardware, conditions_from_table(row))
    return Kernel(float(found.latency_ps[0]) / 1e6, float(found.energy_pj[0]) / 1e6, BOUNDS[found.bound[0]])


def estimate_kernels(table: pd.DataFrame, hardware: Hardware) -> pd.DataFrame:
    """The table again with `latency_us`, `energy_uj` and `bound` predicted (columns of that name are replaced)."""
    estimates = estimate_rows(rows_from_table(table), hardware, conditions_from_table(table))
    return table.assign(latency_us=estimates.latency_ps / 1e6, energy_uj=estimates.energy_pj / 1e6,
                        bound=np.array(BOUNDS, object)[estimates.bound])
