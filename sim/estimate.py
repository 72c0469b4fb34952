"""Single kernels: a kernel table in, the same rows with predicted latency, energy and bound out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gemvane.workloads.kernels import rows_from_table
from gemvane.workloads.ops import CODE, DTYPES, SHAPE, WORK, Int64s, Rows, derive
from gemvane.workloads.trace import Requests

from . import devices, energy
from .costs import ACTIONS, BOUNDS, Floats
from .devices.precision import Rates, used_for
from .hardware import Hardware
from .mapping import units_for
from .units import cycles_to_ps_all

if TYPE_CHECKING:
    import pandas as pd


NEVER = np.iinfo(np.int64).max


class Estimates(NamedTuple):
    """One entry a row: time in ps, dynamic plus static energy in pJ, index into BOUNDS."""

    latency_ps: Int64s
    energy_pj: Floats
    bound: Int64s


def estimate_rows(rows: Rows, hardware: Hardware) -> Estimates:
    """Each row alone on the unit that the hardware maps it to; the fastest of several."""
    machines = devices.resolve(hardware.spec)
    latency, bound = np.full(rows.size, NEVER), np.zeros(rows.size, np.int64)
    actions = np.zeros((rows.size, len(ACTIONS)), np.int64)
    work = rows.work
    for code in np.unique(work).tolist():
        index = np.flatnonzero(work == code)
        for name in units_for(WORK[code], hardware):
            one = _on_unit(rows.take(index), name, hardware, machines[name])
            faster = one[0] < latency[index]
            for whole, part in zip((latency, actions, bound), one, strict=True):
                whole[index[faster]] = part[faster]
    energy_pj = energy.energy_pj(actions, hardware) + hardware.spec.power.static * latency
    return Estimates(latency, energy_pj, bound)


def _on_unit(rows: Rows, name: str, hardware: Hardware, machine: Any) -> tuple[Int64s, Int64s, Int64s]:
    """Time in ps, counts of actions and bound of each row on one unit."""
    unit = hardware.spec.units[name]
    for rates in (value for value in machine if isinstance(value, Rates)):
        for dtype in np.unique(rows.act_dtype).tolist():
            used_for(DTYPES[dtype], rates, f"{hardware.name}: unit {name}")
    nobody = Requests(np.empty(0, np.int64), np.empty(0, np.int64))
    all_costs = [devices.cost(unit.kind, part, machine, nobody) for part in _parts(rows, unit.kind)]
    latency = sum(cycles_to_ps_all(costs.total_cycles, machine.freq_hz) for costs in all_costs)
    return np.asarray(latency), np.sum([costs.actions for costs in all_costs], axis=0), all_costs[-1].bound


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
