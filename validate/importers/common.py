"""What importers share: reading a source's file with its columns checked, and the units gate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gemvane.sim.hardware import load
from gemvane.workloads.kernels import KERNEL_KINDS, TABLE_DTYPES, rows_from_table

from .. import tables

if TYPE_CHECKING:
    import pandas as pd

OFF = 10.0
"""Times off the roofline at which a column's unit must be wrong."""
FRAMEWORK_US = 100.0
"""What a framework may add to a kernel before it counts as slow."""
MOST_FAST, MOST_SLOW = 0.1, 0.5
"""Shares of rows that may lie beyond: a few find their operands in a cache, many have sizes that no GPU is good at."""


class Part(NamedTuple):
    """Rows of one file of a source."""

    table: pd.DataFrame
    file: Path
    column: str
    """The source's column that `latency_us` was made from."""


def read_file(file: Path, *needed: str, names: list[str] | None = None) -> pd.DataFrame:
    """A .csv or .parquet file with all `needed` columns (or, without a header line, with these names)."""
    import pandas as pd

    try:
        if file.suffix == ".parquet":
            table = pd.read_parquet(file)
        else:
            table = pd.read_csv(file, names=names, header=None if names else "infer", skipinitialspace=True)
    except (ValueError, OSError, ImportError) as error:
        raise ValueError(f"{file}: cannot be read as a table ({' '.join(str(error).split())}).") from None
    for column in needed:
        if column not in table:
            raise ValueError(f"{file}: column {column!r} is missing. It has {', '.join(map(str, table.columns))}.")
    return table


def checked(part: Part) -> pd.DataFrame:
    """The rows of a part. ValueError naming file and column where they lie ten times off the roofline, or are no times at all."""
    table = part.table
    latency = table["latency_us"].to_numpy(np.float64)
    bad = np.flatnonzero(~((latency > 0) & np.isfinite(latency)))
    if bad.size:
        raise ValueError(f"{part.file}: column {part.column!r}: {latency[bad[0]]:g} us of a kernel of kind {table['op'].iloc[bad[0]]}. "
                         "Expected a time above zero.")
    ours = table["op"].isin(list(KERNEL_KINDS)) & ~table["op"].isin(list(tables.COLLECTIVES)) & table["dtype"].isin(list(TABLE_DTYPES))
    for gpu, op in table.loc[ours & table["gpu"].isin(list(tables.HARDWARE)), ["gpu", "op"]].drop_duplicates().itertuples(index=False):
        index = np.flatnonzero(ours & (table["gpu"] == gpu) & (table["op"] == op))
        _gate(part, str(gpu), str(op), index, latency[index])
    return table


def _gate(part: Part, gpu: str, op: str, index: Any, latency: Any) -> None:
    least = tables.roofline_us(rows_from_table(part.table.iloc[index]), load(tables.HARDWARE[gpu]))
    for what, far, most in (("faster", latency * OFF < least, MOST_FAST), ("slower", latency > OFF * (least + FRAMEWORK_US), MOST_SLOW)):
        if far.mean() > most:
            row = int(np.flatnonzero(far)[0])
            raise ValueError(f"{part.file}: column {part.column!r}: {100 * far.mean():.0f} % of the {op} rows are over ten times {what} "
                             f"than the roofline of {tables.HARDWARE[gpu]}, the first {latency[row]:.3g} us against {least[row]:.3g} us. "
                             "Expected another unit.")


def clone_path(file: Path, folder: Path) -> str:
    """Where a file lies in the clone."""
    return file.relative_to(folder).as_posix()
