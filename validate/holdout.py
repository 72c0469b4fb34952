"""What a fit has not seen: another split of the shapes, a framework left out, another GPU's numbers, a power meter. One table each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gemvane.sim.devices.gpu_machine import ResolvedGpu
from gemvane.sim.hardware import Hardware, load

from . import tables
from .bands import HARDWARE, carried_machine
from .calibrate import Rowset, calibrate, machine_of, predicted_us, rowset, sections
from .calibration_file import errors
from .energy_fit import metered, power_at

if TYPE_CHECKING:
    import pandas as pd

MOST = 20000
"""Rows of one framework, operator and type that are judged."""


def splits(table: pd.DataFrame, hardware: Hardware, salts: tuple[str, ...] = ("half", "other")) -> pd.DataFrame:
    """Errors of fits to different halves of the shapes: split, op, dtype, framework, rows, train, held_out (shares).

    Fits the GPU once a salt. ValueError as of `calibrate`.
    """
    import pandas as pd

    return pd.DataFrame([{"split": salt} | row for salt in salts for row in errors(calibrate(table, hardware, salt=salt))])


def frameworks_left_out(table: pd.DataFrame, hardware: Hardware) -> pd.DataFrame:
    """Errors of each framework's rows with its own conditions (`own`) and with those of the others alone (`left_out`).

    Columns framework, op, dtype, rows, own, left_out (shares). The bundled calibration is used; nothing is fitted.
    """
    import pandas as pd

    rows, gpu = rowset(tables.rows_of(table, hardware)), machine_of(hardware)
    out = []
    for framework, section, key, part in sections(rows, MOST):
        others = tuple({name: one for name, one in known.items() if name != framework} for known in gpu.conditions)
        out.append({"framework": framework or "any", "op": section, "dtype": key, "rows": int(part.measured_us.size),
                    "own": _mape(part, gpu), "left_out": _mape(part, gpu._replace(conditions=others))})
    return pd.DataFrame(out)


def carried(table: pd.DataFrame) -> pd.DataFrame:
    """Errors of a GPU's rows with the numbers of another, on its own specification: source, target, framework, op, dtype, rows,
    mape, bias (shares; bias above 0: predicted too slow). Every pair of bands.HARDWARE that the table has rows of."""
    import pandas as pd

    out = []
    named = table["gpu"].astype(str).map(HARDWARE)
    for target in (name for name in HARDWARE.values() if (named == name).any()):
        rows = rowset(tables.rows_of(table[(named == target).to_numpy()], load(target)))
        for source in (name for name in HARDWARE.values() if name != target):
            gpu = carried_machine(source, target)
            for framework, section, key, part in sections(rows, MOST):
                error = predicted_us(part, gpu) / part.measured_us - 1
                out.append({"source": source, "target": target, "framework": framework or "any", "op": section, "dtype": key,
                            "rows": int(error.size), "mape": float(np.abs(error).mean()), "bias": float(error.mean())})
    return pd.DataFrame(out)


def energy(table: pd.DataFrame, hardware: Hardware) -> pd.DataFrame:
    """Errors of energy a kernel on held-out rows with a power averaged over 0.9 s or more, by op and dtype.

    Columns op, dtype, rows, at_measured_time and its median, at_predicted_time, constant_power: the middle power of the fitted
    half for every row, over the measured time. The bundled energy fit, which has seen the other half alone. ValueError where the
    table has no such row or the hardware no energy fit.
    """
    import pandas as pd

    found = metered(table, hardware)
    if found.empty:
        raise ValueError(f"no row of {hardware.name} has a power that was averaged over 0.9 s.")
    measured = rowset(found)
    drawn = power_at(measured, hardware)
    if drawn is None:
        raise ValueError(f"{hardware.name} has no energy fit.")
    power = found["power_w"].to_numpy(np.float64)
    time = predicted_us(measured, machine_of(hardware)) / measured.measured_us
    kinds = (found["op"].astype(str) + " " + found["dtype"].astype(str)).to_numpy()
    out: list[dict[str, Any]] = []
    for kind in np.unique(kinds).tolist():
        here = (kinds == kind) & (measured.half == 1)
        if here.any():
            constant = float(np.median(power[(kinds == kind) & (measured.half == 0)]))
            size = np.abs(drawn / power - 1)[here]
            out.append({"op": kind.split()[0], "dtype": kind.split()[1], "rows": int(here.sum()),
                        "at_measured_time": float(size.mean()), "median": float(np.median(size)),
                        "at_predicted_time": float(np.abs(drawn * time / power - 1)[here].mean()),
                        "constant_power": float(np.abs(constant / power - 1)[here].mean())})
    return pd.DataFrame(out)


def _mape(part: Rowset, gpu: ResolvedGpu) -> float:
    return float(np.abs(predicted_us(part, gpu) / part.measured_us - 1).mean())
