"""Single kernels: a kernel table in, the same rows with predicted latency, energy and bound out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gemvane.workloads.kernels import rows_from_table
from gemvane.workloads.ops import CODE, DTYPES, SHAPE, WORK, Int64s, Rows, derive
from gemvane.workloads.trace import Requests

from . import devices, energy
from .costs import ACTIONS, BOUNDS, Floats
from .devices.precision import Rates, used_for
from .hardware import Hardware
from .mapping import unit_for
from .units import cycles_to_ps_all

if TYPE_CHECKING:
    import pandas as pd


class Estimates(NamedTuple):
    """One entry a row: time in ps, dynamic plus static energy in pJ, index into BOUNDS."""

    latency_ps: Int64s
    energy_pj: Floats
    bound: Int64s


def estimate_rows(rows: Rows, hardware: Hardware) -> Estimates:
    """Each row alone on the unit that the hardware maps it to."""
    machines = devices.resolve(hardware.spec)
    latency = np.zeros(rows.size, np.int64)
    bound = latency.copy()
    actions = np.zeros((rows.size, len(ACTIONS)), np.int64)
    work = rows.work
    nobody = Requests(np.empty(0, np.int64), np.empty(0, np.int64))
    for code in np.unique(work).tolist():
        name = unit_for(WORK[code], hardware)
        unit = hardware.spec.units[name]
        index = np.flatnonzero(work == code)
        for rates in (value for value in machines[name] if isinstance(value, Rates)):
            for dtype in np.unique(rows.act_dtype[index]).tolist():
                used_for(DTYPES[dtype], rates, f"{hardware.name}: unit {name}")
        for part in _parts(rows.take(index), unit.kind):
            costs = devices.cost(unit.kind, part, machines[name], nobody)
            latency[index] += cycles_to_ps_all(costs.total_cycles, machines[name].freq_hz)
            actions[index] += costs.actions
            bound[index] = costs.bound
    energy_pj = energy.energy_pj(actions, hardware) + hardware.spec.power.static * latency
    return Estimates(latency, energy_pj, bound)


def _parts(rows: Rows, kind: str) -> list[Rows]:
    """PIM runs an attention as two operators (its softmax, on the vector unit, is not in a kernel's time)."""
    decode = rows.kind == CODE["attention_decode"]
    if kind != "pim" or not decode.all():
        return [rows]
    shape = {c: getattr(rows, c) for c in SHAPE}
    return [derive(shape | {"kind": np.full(rows.size, CODE[name], np.int64)}) for name in ("attention_score", "attention_value")]


def estimate_kernels(table: pd.DataFrame, hardware: Hardware) -> pd.DataFrame:
    """The table again with `latency_us`, `energy_uj` and `bound` predicted (columns of that name are replaced)."""
    estimates = estimate_rows(rows_from_table(table), hardware)
    return table.assign(latency_us=estimates.latency_ps / 1e6, energy_uj=estimates.energy_pj / 1e6,
                        bound=np.array(BOUNDS, object)[estimates.bound])
