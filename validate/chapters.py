"""Chapters of docs/validation.md on what a fit has not seen: the tables of `holdout` in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gemvane.sim.calibration import energy_of
from gemvane.sim.schema import Gpu

from . import holdout
from .bands import HARDWARE, LEAST_WINDOW_S
from .energy_fit import metered
from .page import Evaluation, Machine, table_head, table_row

if TYPE_CHECKING:
    import pandas as pd

LEAST = 100
"""Rows of a group that is shown; fewer say little."""


def carried(evaluation: Evaluation) -> list[str]:
    """One GPU's numbers on another: what to expect of a GPU that nobody measured."""
    import pandas as pd

    machines = [one for one in evaluation.machines if one.gpu in HARDWARE]
    if len(machines) < 2:
        return []
    found = holdout.carried(pd.concat([one.found.measured for one in machines], ignore_index=True))
    found = found[found["rows"] >= LEAST]
    pairs = list(dict.fromkeys(zip(found["source"], found["target"], strict=True)))
    out = ["## Numbers carried to another GPU", "",
           "The fitted numbers of one GPU on the data sheet of another, whose own are left out: what to expect of a GPU that nobody has",
           "measured. Mean error in percent over all rows of all frameworks.", "",
           *table_head(("operator", "type"), [f"{source} -> {target}" for source, target in pairs])]
    for (op, dtype), group in found.groupby(["op", "dtype"], sort=True):
        cells = [group[(group["source"] == source) & (group["target"] == target)] for source, target in pairs]
        out.append(table_row(op, dtype, *(_mean(part, "mape") for part in cells)))
    return out


def frameworks(evaluation: Evaluation) -> list[str]:
    """Every framework predicted with what is known of the others."""
    out = []
    for one in _calibrated(evaluation):
        found = holdout.frameworks_left_out(one.found.measured, one.found.hardware)
        found = found[(found["rows"] >= LEAST) & (found["op"] != "vector")]
        if found["framework"].nunique() > 1:
            out += ["", f"### {one.gpu}, left out", "", *table_head(("framework", "operator", "type"), ("rows", "own", "left out"))]
            out += [table_row(row.framework, row.op, row.dtype, f"{row.rows:,}", _percent(row.own), _percent(row.left_out))
                    for row in found.itertuples()]
    head = ["## A framework left out", "",
            "Each framework's rows with its own numbers, and with those of the other frameworks alone: what to expect of a framework that",
            "nobody has measured. What its clock covers beside the kernel (quantisation, cache append, rotary embedding) is then unknown,",
            "and so is which kernels it runs. Mean error in percent."]
    return [*head, *out] if out else []


def energy(evaluation: Evaluation) -> list[str]:
    """Energy of held-out rows, at the measured time and at the predicted one."""
    found = [(one, holdout.energy(one.found.measured, one.found.hardware)) for one in _calibrated(evaluation) if _has_energy(one)]
    if not found:
        return []
    out = ["## Energy", "",
           f"Held-out kernels whose power was averaged over {LEAST_WINDOW_S} s or more; shorter ones show what ran before.",
           "Error in percent: at the measured time, which is that of power alone, its mean and median; at the predicted time; and of a",
           "constant power, the middle one of the fitted half for each operator and type, at the measured time.", "",
           *table_head(("machine", "operator", "type"), ("rows", "at measured time", "median", "at predicted time", "constant power"))]
    for one, table in found:
        out += [table_row(one.gpu, row.op, row.dtype, f"{row.rows:,}",
                          *(_percent(share) for share in (row.at_measured_time, row.median, row.at_predicted_time, row.constant_power)))
                for row in table.itertuples()]
    return out


ALL = (carried, frameworks, energy)


def _calibrated(evaluation: Evaluation) -> list[Machine]:
    return [one for one in evaluation.machines if one.gpu in HARDWARE]


def _has_energy(one: Machine) -> bool:
    unit = next(u for u in one.found.hardware.spec.units.values() if isinstance(u, Gpu))
    return energy_of(unit.calibration) is not None and not metered(one.found.measured, one.found.hardware).empty


def _mean(part: pd.DataFrame, column: str) -> str:
    return "-" if part.empty else _percent(float(np.average(part[column], weights=part["rows"])))


def _percent(share: Any) -> str:
    return f"{100 * share:.1f}"
