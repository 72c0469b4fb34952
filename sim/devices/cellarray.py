"""A small systolic array with every register clocked: real products, and the cycles that the closed forms claim.

Each cell multiplies and adds once a cycle and hands its operands on by one hop. Row r of the array is fed one cycle after row
r - 1, column c one cycle after column c - 1. Partial sums pass all R rows. Nothing here knows a formula of `systolic.gemm_cycles`:
the sequencer starts a tile when the registers that it needs are free.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..costs import Int64s
from ..kernels import cellarray as kernels
from .tiling import DATAFLOWS

MOST_CELL_CYCLES = 10**9
REGISTERS = ("x", "flags", "y", "hops", "held", "sum", "out", "ready")
"""Operand that moves right and its flags (1 valid, 2 first of its tile, 4 last); operand that moves down (with stationary weights:
the shadow register) and the rows that a weight still has to go; stationary weight; partial sum or accumulator; shift-out register of
outputs and whether it is full."""


class Multiplied(NamedTuple):
    """A product, the cycles from the first operand to the last sum, and the registers after each of the first cycles."""

    product: Int64s
    cycles: int
    registers: dict[str, Int64s]


def multiply(a: Int64s, b: Int64s, *, rows: int, cols: int, dataflow: str = "ws", mode: str = "pipelined",
             weight_double_buffer: bool = True, record_cycles: int = 0) -> Multiplied:
    """a [M, K] x b [K, N] on a rows x cols array: product [M, N] in int64, its cycles, registers [cycle, rows, cols] by name.

    `pipelined`: a tile loads into shadow registers while the one before streams (outputs leave through a second register while
    the next tile accumulates); without `weight_double_buffer` a cell has one register and the tiles' streams only follow one
    another. `scalesim`: a tile loads, streams and drains at the array's full size before the next one begins.
    Raises ValueError for operands that are no matrices of whole numbers or do not fit each other, sizes under 1, an unknown
    dataflow or mode, and more than a billion cell cycles.
    """
    a, b = (np.asarray(operand) for operand in (a, b))
    for name, operand in (("a", a), ("b", b)):
        if operand.ndim != 2 or min(operand.shape) < 1 or operand.dtype.kind not in "iu":
            raise ValueError(f"{name} is {operand.dtype} of shape {operand.shape}. Expected a matrix of whole numbers, at least 1 x 1.")
    if a.shape[1] != b.shape[0]:
        raise ValueError(f"a of shape {a.shape} and b of shape {b.shape} have no product. Expected [M, K] and [K, N].")
    if min(rows, cols) < 1:
        raise ValueError(f"rows and cols must be at least 1, got an array of {rows} x {cols}.")
    if dataflow not in DATAFLOWS:
        raise ValueError(f"dataflow {dataflow!r} is unknown. Expected one of {', '.join(DATAFLOWS)}.")
    if mode not in ("pipelined", "scalesim"):
        raise ValueError(f"mode {mode!r} is unknown. Expected pipelined or scalesim.")
    if record_cycles < 0:
        raise ValueError(f"record_cycles is {record_cycles}. Expected at least 0.")
    stream, other = {"ws": (a, b), "is": (b.T, a.T), "os": (a.T, b)}[dataflow]
    sr, sc = stream.shape[1], other.shape[1]
    _check_size(stream.shape[0], -(-sr // rows) * -(-sc // cols), rows, cols)

    out = np.zeros((sr if dataflow == "os" else stream.shape[0], sc), np.int64)
    record = np.zeros((record_cycles, len(REGISTERS), rows, cols), np.int64)
    schedule = kernels.SERIAL if mode == "scalesim" else kernels.PIPELINED if weight_double_buffer else kernels.SINGLE
    cell = np.zeros(record.shape[1:], np.int64)
    stream, other = (np.ascontiguousarray(operand, np.int64) for operand in (stream, other))
    cycles = kernels.cell_array_kernel(stream, other, dataflow != "os", schedule, out, cell, record)
    registers = {name: record[:cycles, number] for number, name in enumerate(REGISTERS)}
    return Multiplied(out.T if dataflow == "is" else out, int(cycles), registers)


def _check_size(streamed: int, tiles: int, rows: int, cols: int) -> None:
    """ValueError where no one would wait for every cell of every cycle."""
    work = tiles * (streamed + 2 * rows + cols) * rows * cols
    if work > MOST_CELL_CYCLES:
        raise ValueError(f"{tiles} tiles of {streamed} vectors on a {rows} x {cols} array take up to {work:,} cell cycles. Expected at "
                         f"most {MOST_CELL_CYCLES:,}: `systolic.gemm_cycles` counts them without clocking every cell.")
