"""AttAcc: the model of sim/dram/attacc.py against a table of command counts and cycles that its simulator has cached."""

from __future__ import annotations

from typing import Any

import pandas as pd

from gemvane.sim.dram.attacc import Level, counts, cycles, shape

from .report import Compared, SkipError, Watch, need, number, walk, whole

__all__ = ["COLUMNS", "Level", "compare", "counts", "cycles", "shape"]
COLUMNS = ("mac", "softmax", "mvgb", "mvsb", "wrgb")


def compare(table: pd.DataFrame, watch: Watch | None = None) -> dict[str, Any]:
    """Counts and clocks over a table like attacc_pim_cycles.csv; the errors are of the clocks, a row is exact in its counts."""
    need(table, ("L", "nhead", "dhead", "dbyte", "pim_type", "power_constraint", "cycle", *COLUMNS))
    result = walk("attacc", table, _row, watch)
    errors = pd.Series([abs(row["error"]) for row in result["detail"]], dtype=float)
    return {**result, "median_error": float(errors.median()) if len(errors) else None}


def _row(at: int, row: dict[str, Any]) -> Compared:
    level, limited = row["pim_type"], str(row["power_constraint"])
    if level not in ("BA", "BG", "BUFFER"):
        raise SkipError(f"pim_type is {level!r}, not BA, BG or BUFFER")
    if limited not in ("True", "False"):
        raise SkipError(f"power_constraint is {limited!r}, not True or False")
    heads, element_bytes = whole(row, "nhead"), whole(row, "dbyte")
    try:
        one = shape(whole(row, "L"), whole(row, "dhead"), element_bytes, level)
    except ValueError as error:
        raise SkipError(f"dbyte: {error}") from None
    ours = dict(zip(COLUMNS, counts(one, heads), strict=True))
    equal = {name: ours[name] == number(row, name) for name in COLUMNS}
    group = f"{level}, {'power-limited' if limited == 'True' else 'no limit'}"
    clocks = cycles(one, heads, limited=limited == "True")
    return Compared(at, group, number(row, "cycle"), clocks, equal, all(equal.values()), ours)
