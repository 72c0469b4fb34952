"""The file that a calibration leaves: values with their intervals, where the rows came from, errors on both halves, bands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gemvane.sim.calibration import read
from gemvane.sim.hardware import Hardware
from gemvane.sim.schema import Gpu
from gemvane.workloads.ops import WORK

from . import tables
from .bands import INSIDE, weighted_quantile
from .calibrate import EAGER, Fit, Result, Rowset, predicted_us, sections

if TYPE_CHECKING:
    import pandas as pd

MOST_TESTED = 5000
LEAST_IN_BAND = 30


def save(final: Result, tested: Result, table: pd.DataFrame, hardware: Hardware, path: Path,
         energy: dict[str, Any] | None = None) -> dict[str, Any]:
    """Write the calibration file, whole or not at all, after reading it back; return its data.

    Values are those of `final`, fitted to all rows; errors and bands those of `tested`, which has seen half of them.
    """
    data = content(final, tested, table, hardware)
    if energy is not None:
        data["energy"] = energy
    text = "\n".join(_lines(data, 0))
    head = ("# Fitted by `gemvane validate calibrate` to all rows: value, and the 95 % confidence interval from low to high.\n"
            "# Errors and bands are those of a fit to half of the shapes: on that half (train), and on the other (held_out).\n")
    text = f"{head}{text}\n"
    read(text, str(path))
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return data


def content(result: Result, tested: Result, table: pd.DataFrame, hardware: Hardware) -> dict[str, Any]:
    """The file as plain data."""
    unit = next(u for u in hardware.spec.units.values() if isinstance(u, Gpu))
    held_out = tested.rows.where(tested.rows.half == 1)
    return {
        "schema_version": 1,
        "name": hardware.name,
        "sources": {"rows": {"cite": _cite(table, result.rows), "confidence": "measured"}},
        "machine": {"num_sms": unit.num_sms, "peak": max(unit.tensor_peak.values()), "bandwidth": hardware.spec.memory.bandwidth},
        "physics": _fit(result.physics),
        "conditions": {framework: {section: {key: _fit(fit) for key, fit in keys.items()} for section, keys in parts.items()}
                       for framework, parts in result.conditions.items()},
        "errors": errors(tested),
        "bands": bands(held_out, tested),
        "run_bands": run_bands(held_out, tested),
    }


def _cite(table: pd.DataFrame, rows: Rowset) -> str:
    repos = sorted(set(table["source_repo"].dropna().astype(str))) if "source_repo" in table else []
    return f"{rows.measured_us.size:,} measured kernels" + (f" of {', '.join(repos)}" if repos else "")


def _fit(fit: Fit) -> dict[str, Any]:
    return {name: {"value": _short(value), "low": _short(low), "high": _short(high)} for name, (value, low, high) in fit.values.items()}


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def errors(result: Result) -> list[dict[str, Any]]:
    """Mean absolute relative error by framework, operator and type, on the half that was fitted and on the other."""
    both = [{(f, s, k): part for f, s, k, part in sections(result.rows.where(result.rows.half == side), MOST_TESTED)} for side in (0, 1)]
    out = []
    for (framework, section, key), part in both[0].items():
        other = both[1].get((framework, section, key))
        if other is not None:
            train, held_out = (float(np.mean(np.abs(predicted_us(p, result.gpu) / p.measured_us - 1))) for p in (part, other))
            out.append({"op": section, "dtype": key or "any", "framework": framework or "any", "rows": int(other.measured_us.size),
                        "train": _short(train), "held_out": _short(held_out)})
    return out


def ratios(rows: Rowset, result: Result) -> tuple[Any, Any]:
    """Measured over predicted time, and the predicted time in us, of rows whose condition was fitted."""
    predicted = predicted_us(rows, result.gpu)
    return rows.measured_us / predicted, predicted


def bands(held_out: Rowset, result: Result) -> dict[str, dict[str, float]]:
    """Class of work and regime -> the middle 80 % of measured over predicted time of held-out rows."""
    rows = held_out.where(held_out.conditions.launch != EAGER)
    ratio, _ = ratios(rows, result)
    keys = tables.band_key(rows.rows)
    out = {}
    for key in np.unique(keys).tolist():
        here = ratio[keys == key]
        if here.size >= LEAST_IN_BAND:
            low, high = np.quantile(here, INSIDE)
            out[str(key)] = {"low": _short(float(low)), "high": _short(float(high))}
    return out


def run_bands(held_out: Rowset, result: Result) -> dict[str, dict[str, float]]:
    """Class of work -> the middle 80 % of the time."""
    rows = held_out.where(held_out.conditions.launch != EAGER)
    ratio, weight = ratios(rows, result)
    out = {}
    for code in np.unique(rows.rows.work).tolist():
        here = rows.rows.work == code
        low, high = (weighted_quantile(ratio[here], weight[here], q) for q in INSIDE)
        out[WORK[code]] = {"low": _short(low), "high": _short(high)}
    return out


def _lines(node: Any, depth: int) -> list[str]:
    """YAML of plain data: one line a number or a list entry."""
    pad = "  " * depth
    out = []
    for key, value in node.items():
        if isinstance(value, list):
            out.append(f"{pad}{key}:")
            out += [f"{pad}  - {_flow(entry)}" for entry in value]
        elif isinstance(value, dict) and value and any(isinstance(v, dict) for v in value.values()):
            out.append(f"{pad}{_key(key)}:")
            out += _lines(value, depth + 1)
        elif isinstance(value, dict):
            out.append(f"{pad}{_key(key)}: {_flow(value)}")
        else:
            out.append(f"{pad}{_key(key)}: {_scalar(value)}")
    return out


def _flow(entry: dict[str, Any]) -> str:
    return "{" + ", ".join(f"{_key(key)}: {_scalar(value)}" for key, value in entry.items()) + "}"


def _key(key: str) -> str:
    return f'"{key}"' if key == "" or "<" in key else key


def _scalar(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)
