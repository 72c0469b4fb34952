"""The shape of every comparison with another simulator's table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import pandas as pd

Watch = Callable[[list[dict[Any, Any]]], Iterable[dict[Any, Any]]]
"""Passes the rows on, one by one, and may show how far it is."""


class Compared(NamedTuple):
    """One row that was reproduced."""

    row: int
    """From 0, below the header."""
    group: str
    theirs: float
    """The headline number, which the errors are about."""
    ours: float
    equal: dict[str, bool]
    """Column of the table -> same in ours."""
    exact: bool
    values: dict[str, Any]
    """Further columns of the per-row detail."""

    @property
    def error(self) -> float:
        """Ours against theirs, as a fraction with sign."""
        if self.theirs:
            return self.ours / self.theirs - 1
        return 0.0 if self.ours == self.theirs else float(self.ours > self.theirs) or -1.0


class SkipError(Exception):
    """Why a row cannot be reproduced."""


def need(table: pd.DataFrame, columns: Iterable[str]) -> None:
    """ValueError for the first column that a table lacks."""
    for column in columns:
        if column not in table.columns:
            shown = [*map(str, table.columns[:8]), *(["..."] if len(table.columns) > 8 else [])]
            raise ValueError(f"column {column!r} is missing. The table has {', '.join(shown) or 'no columns'}.")


def number(row: dict[str, Any], column: str) -> float:
    """A number of a row; SkipError where there is none."""
    try:
        value = float(row[column])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise SkipError(f"{column} is {row[column]!r}, not a number")
    return value


def whole(row: dict[str, Any], column: str, *, least: int = 1) -> int:
    """A whole number of a row; SkipError where there is none."""
    value = number(row, column)
    if not (value.is_integer() and value >= least):
        raise SkipError(f"{column} is {row[column]!r}, not a whole number of at least {least}")
    return int(value)


def walk(oracle: str, table: pd.DataFrame, compare_row: Callable[[int, dict[str, Any]], Compared],
         watch: Watch | None = None) -> dict[str, Any]:
    """Compare row by row; what raises SkipError is listed with its reason."""
    compared: list[Compared] = []
    skipped: list[dict[str, Any]] = []
    rows = table.to_dict("records")
    for i, row in enumerate(rows if watch is None else watch(rows)):
        try:
            compared.append(compare_row(i, {str(key): value for key, value in row.items()}))
        except SkipError as reason:
            skipped.append({"row": i, "reason": str(reason)})
    return answer(oracle, len(table), compared, skipped)


def answer(oracle: str, rows: int, compared: Sequence[Compared], skipped: list[dict[str, Any]]) -> dict[str, Any]:
    """The object of `gemvane validate oracles --json`, and under "detail" one record for each compared row.

    `columns` counts the equal rows of each compared column, and `exact` the rows that are equal in all that must be.
    """
    groups: dict[str, list[Compared]] = {}
    columns: dict[str, int] = {}
    for row in compared:
        groups.setdefault(row.group, []).append(row)
        for column, same in row.equal.items():
            columns[column] = columns.get(column, 0) + same
    by = [{"group": name, "rows": len(members), **_errors(members)} for name, members in groups.items()]
    detail = [{"row": c.row, "group": c.group, "theirs": c.theirs, "ours": c.ours, "error": c.error, "exact": c.exact, **c.values,
               "different": " ".join(name for name, same in c.equal.items() if not same)} for c in compared]
    return {"oracle": oracle, "rows": rows, "compared": len(compared), **_errors(compared), "columns": columns, "by": by,
            "skipped": skipped, "detail": detail}


def _errors(rows: Sequence[Compared]) -> dict[str, Any]:
    errors = [abs(row.error) for row in rows]
    return {"exact": sum(row.exact for row in rows), "mape": sum(errors) / len(errors) if errors else None,
            "max_error": max(errors, default=None)}
