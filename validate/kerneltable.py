"""Kernel tables as files: the schema's columns, reading with checks, whole-file writing, rooflines of rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd


class Shape(NamedTuple):
    """What a kernel computes: the columns of a kernel table that say so. Sizes that a kernel does not have are 0."""

    op: str
    dtype: str
    kv_dtype: str = ""
    window: int = 0
    batch: int = 1
    M: int = 0
    N: int = 0
    K: int = 0
    heads_q: int = 0
    heads_kv: int = 0
    head_dim: int = 0
    q_len: int = 0
    kv_len: int = 0
    bytes: int = 0
    tp: int = 0


COLUMNS = ("gpu", *Shape._fields, "latency_us", "power_w", "weight_copies", "framework", "kernel", "notes", "source_repo", "source_path",
           "licence")
"""Of every kernel table; an importer leaves cells empty that its source does not have."""
MEASURED = ("launch", "iqr_us", "energy_uj", "sm_clock_mhz", "memory_clock_mhz", "temperature_c")
"""Further columns of a table that `validate measure` wrote."""
SUFFIXES = (".csv", ".parquet")


def check_name(path: Path, option: str = "-o") -> None:
    """ValueError where a table of that name cannot be written: an unknown suffix, a parquet file without pyarrow."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{option} {path}: a kernel table is a {' or '.join(SUFFIXES)} file, not {path.suffix or 'without a suffix'!r}.")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise ValueError(f"{option} {path}: parquet files need pyarrow: pip install 'gemvane[parquet]', or name a .csv file.") from None


def read(path: Path) -> pd.DataFrame:
    """The kernel table of a file, checked; the machine record, where there is one, in `attrs["machine"]`.

    Raises ValueError naming the file, the row and the column for a table that cannot be read, lacks a column, has no
    rows or has a latency that is not above zero.
    """
    import pandas as pd

    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: a kernel table is read from {' or '.join(SUFFIXES)}, not {path.suffix or 'without a suffix'!r}.")
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file.")
    try:
        table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as a table ({' '.join(str(error).split())}).") from None
    check(table, str(path))
    beside = record_path(path)
    if "machine" not in table.attrs and beside.is_file():
        table.attrs["machine"] = json.loads(beside.read_text(encoding="utf-8"))
    return table


def check(table: pd.DataFrame, where: str) -> None:
    """ValueError where a table lacks a column, has no rows, or has a latency that is not above zero."""
    missing = [column for column in ("gpu", "op", "dtype", "latency_us") if column not in table]
    if missing:
        raise ValueError(f"{where}: column {missing[0]!r} is missing. A kernel table has {', '.join(COLUMNS)}.")
    if table.empty:
        raise ValueError(f"{where}: the table has no rows.")
    latency = _numbers(table["latency_us"])
    bad = np.flatnonzero(~((latency > 0) & np.isfinite(latency)))
    if bad.size:
        cell = table["latency_us"].iloc[bad[0]]
        raise ValueError(f"{where}: row {bad[0]}: latency_us is {cell}. Expected a time above zero, in microseconds.")


def _numbers(values: pd.Series[Any]) -> NDArray[np.float64]:
    import pandas as pd

    return pd.to_numeric(values, errors="coerce").to_numpy(np.float64)


def record_path(path: Path) -> Path:
    """Where the machine record of a table lies: beside it."""
    return path.with_suffix(".machine.json")


def write(table: pd.DataFrame, path: Path, record: dict[str, Any]) -> None:
    """A table and its machine record, each whole or not at all; a parquet file has the record in its metadata too."""
    table.attrs["machine"] = record
    partial, beside = path.with_name(path.name + ".partial"), record_path(path)
    partial_record = beside.with_name(beside.name + ".partial")
    try:
        if path.suffix == ".csv":
            table.to_csv(partial, index=False, float_format="%.6g")
        else:
            table.to_parquet(partial, index=False)
        if record:
            partial_record.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            partial_record.replace(beside)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
        partial_record.unlink(missing_ok=True)
