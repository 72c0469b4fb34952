"""Measured kernels of a CPU -> a hardware file of it in which the shares that are really reached stand."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gemvane.sim.devices import cpu as cpu_model
from gemvane.sim.devices.cpu import ResolvedCpu
from gemvane.sim.dram.stream import bytes_per_s
from gemvane.sim.hardware import Hardware, load
from gemvane.sim.schema import Cpu
from gemvane.sim.units import cycles_to_ps_all
from gemvane.workloads.kernels import rows_from_table
from gemvane.workloads.ops import DTYPES, Rows

from . import tables
from .calibrate import Fit, least_squares
from .kernels import UNFUSED
from .kerneltable import Shape

Floats = NDArray[np.float64]

SHARES = {"vector_sustained": (0.0, 1.0), "memory.sustained": (0.0, 1.0), "overlap": (0.0, 1.0)}
OVERHEAD = {"op_overhead_us": (0.0, 1000.0)}
LEAST_ROWS = 12
LEAST_OF_A_TYPE = 2
"""Matmuls of a number type from which on its own share is fitted; another type keeps what the file says."""


class CpuFit(NamedTuple):
    """What a fit found: the parameters, the number of rows, the mean absolute relative errors on both halves (as shares)."""

    fit: Fit
    rows: int
    train: float
    held_out: float


def calibrate(table: pd.DataFrame, hardware: Hardware) -> CpuFit:
    """The shares of peak, vector rate and memory bandwidth and the overhead of an operator, by least squares on log time.

    Half of the shapes is fitted, the other half tells the held-out error. Operators that ran as several kernels are left
    out. ValueError for rows that are too few or wrong, or a parameter that they do not determine.
    """
    machine = _machine(hardware)
    measured = tables.rows_of(table, hardware)
    if "notes" in measured:
        measured = measured[~measured["notes"].astype(str).str.contains(UNFUSED)].reset_index(drop=True)
    if len(measured) < 2 * LEAST_ROWS:
        raise ValueError(f"{len(measured)} rows are kernels of one operator each. Expected at least {2 * LEAST_ROWS}, of which half are "
                         "held out.")
    rows, latency, half = rows_from_table(measured), measured["latency_us"].to_numpy(np.float64), _half(measured)
    tables.check_units(latency, rows, hardware)
    train = np.flatnonzero(half == 0)
    if train.size < LEAST_ROWS or train.size == half.size:
        raise ValueError(f"{train.size} of {half.size} rows fall into the half that is fitted. Expected at least {LEAST_ROWS}, "
                         "and some in the other: more shapes.")
    part, seen = rows.take(train), latency[train]
    used = machine.matrix.used[part.act_dtype[part.work == 0]]
    types = [dtype for code, dtype in enumerate(DTYPES) if (used == code).sum() >= LEAST_OF_A_TYPE]
    free = {f"sustained.{dtype}": (0.0, 1.0) for dtype in types} | SHARES | OVERHEAD
    fit = least_squares(lambda x: np.log(predicted_us(part, machine, hardware, x) / seen), free, _start(free, hardware), hardware.name)
    error = np.abs(predicted_us(rows, machine, hardware, fit.plain) / latency - 1)
    return CpuFit(fit, len(measured), float(error[half == 0].mean()), float(error[half == 1].mean()))


def _machine(hardware: Hardware) -> ResolvedCpu:
    for name, unit in hardware.spec.units.items():
        if isinstance(unit, Cpu):
            return cpu_model.resolve(name, unit, hardware.spec)
    raise ValueError(f"{hardware.name} has no unit of kind cpu.")


def _start(free: dict[str, tuple[float, float]], hardware: Hardware) -> dict[str, float]:
    """What the hardware file says of each parameter."""
    unit = next(u for u in hardware.spec.units.values() if isinstance(u, Cpu))
    memory = hardware.spec.memory
    said = {"vector_sustained": unit.vector_sustained, "memory.sustained": bytes_per_s(memory) / memory.bandwidth, "overlap": unit.overlap,
            "op_overhead_us": unit.op_overhead / 1e6} | {f"sustained.{dtype}": share for dtype, share in unit.sustained.items()}
    return {name: said.get(name, 1.0) for name in free}


def _half(table: pd.DataFrame) -> NDArray[np.int64]:
    """0 for rows to fit, 1 for rows held out: every second shape of an operator and number type, in the order of a hash.

    A CPU's table is small: pure chance would leave a type out of one half.
    """
    cells = zip(*(table[column] for column in Shape._fields if column in table), strict=True)
    hashes = pd.Series([zlib.crc32(" ".join(map(str, row)).encode()) for row in cells])
    rank = hashes.groupby([table["op"].to_numpy(), table["dtype"].to_numpy()]).rank(method="dense")
    return np.asarray(rank, np.int64) % 2


def predicted_us(rows: Rows, machine: ResolvedCpu, hardware: Hardware, x: dict[str, float]) -> Floats:
    """Time of each row with the parameters of a fit over the hardware's own."""
    unit = next(u for u in hardware.spec.units.values() if isinstance(u, Cpu))
    own = {str(dtype): share for dtype, share in unit.sustained.items()}
    share = np.array([x.get(f"sustained.{dtype}", own.get(dtype, 1.0)) for dtype in DTYPES])
    peak = machine.matrix
    lanes = peak.macs_per_cycle[DTYPES.index("fp32")] * x["vector_sustained"]
    memory = hardware.spec.memory.bandwidth * x["memory.sustained"] / machine.freq_hz
    fitted = machine._replace(
        sustained=peak._replace(macs_per_cycle=peak.macs_per_cycle * share[peak.used]), lanes=float(lanes), overlap=x["overlap"],
        memory_bytes_per_cycle=memory, overhead_cycles=x["op_overhead_us"] * machine.freq_hz / 1e6)
    return cycles_to_ps_all(cpu_model.cost(rows, fitted).total_cycles, machine.freq_hz) / 1e6


FILE = """\
# {base} with what its kernels really reached: fitted to a table of `gemvane validate measure`.
extends: {extends}
schema_version: 1
name: {name}
description: {description}, calibrated
sources:
  fit: {{cite: "{cite}", confidence: measured}}
memory:
  sustained: {memory}
units:
  {unit}:
{sustained}    vector_sustained: {vector}
    overlap: {overlap}
    op_overhead: {overhead}
"""


def save(found: CpuFit, hardware: Hardware, extends: str, name: str, path: Path) -> Hardware:
    """Write the hardware file that holds the fit, whole or not at all, and load it: it says no more than what changes in `extends`.

    Each number comes with its 95 % confidence interval in a note.
    """
    values = found.fit.values
    unit = next(name for name, unit in hardware.spec.units.items() if isinstance(unit, Cpu))
    own = {key.removeprefix("sustained."): fit for key, fit in values.items() if key.startswith("sustained.")}
    sustained = "    sustained:\n" + "".join(f"      {dtype}: {_share(fit)}\n" for dtype, fit in own.items()) if own else ""
    value, low, high = values["op_overhead_us"]
    text = FILE.format(
        base=hardware.name, extends=extends, name=name, unit=unit, sustained=sustained, memory=_share(values["memory.sustained"]),
        description=hardware.spec.description, vector=_share(values["vector_sustained"]), overlap=_share(values["overlap"]),
        overhead=f'{{value: "{value:.4g} us", source: fit, note: "{low:.3g} to {high:.3g}"}}',
        cite=f"{found.rows} measured kernels; mean error {100 * found.train:.1f} % where fitted, {100 * found.held_out:.1f} % held out")
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        load(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return load(path)


def _share(fit: tuple[float, float, float]) -> str:
    value, low, high = (100 * number for number in fit)
    return f'{{value: "{max(value, 0.1):.4g} %", source: fit, note: "{low:.3g} to {high:.3g} %"}}'
