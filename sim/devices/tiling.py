"""Tiles of a matmul under an array: an exact search over blocks in a double-buffered scratchpad with one DRAM port.

What may be chosen: the dataflow, tm x tn x tk (multiples of the array along the dimensions that lie on it, any size along the one that
streams), the order of the three loops, and whether the operand that is stationary in the array is held as a whole tile or streamed one
array tile at a time. What is least: the larger of the array's and the DRAM port's time, then DRAM bytes (or the other way round).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..costs import Floats, Int64s
from ..kernels import tiling as kernel
from ..schema import least_tiles

DATAFLOWS = ("ws", "os", "is")
OBJECTIVES = ("time", "bytes")
ORDERS = ("mnk", "mkn", "nmk", "kmn", "nkm", "knm")
"""Loops from outside in, by number of order."""
UNLIMITED = 2**62
LARGEST = 2.0**62
"""Counts up to here are exact in 64 bits."""


class Scratchpad(NamedTuple):
    """An array and what lies under it, for the search. Sizes in bytes; UNLIMITED where an operand has no buffer of its own."""

    rows: int
    cols: int
    arrays: int = 1
    double_buffer: bool = True
    accumulators: int = 0
    """0: partial sums lie in the scratchpad, four bytes each."""
    most_input: int = UNLIMITED
    most_weight: int = UNLIMITED
    most_output: int = UNLIMITED
    dataflows: tuple[str, ...] = ("ws",)
    least: str = "time"


class Matmuls(NamedTuple):
    """`products` alike of O[m, n] = A[m, k] x W[k, n] in each row; `space` bytes of scratchpad for their tiles."""

    m: Int64s
    n: Int64s
    k: Int64s
    input_bits: Int64s
    weight_bits: Int64s
    output_bits: Int64s
    input_in_dram: Int64s
    output_in_dram: Int64s
    space: Int64s
    products: Int64s


class Plans(NamedTuple):
    """The best tiles of each row. Bytes are of one product, cycles of all of them.

    `streaming`: cycles of `issue` in which vectors stream; the rest waits for the next stationary tile.
    """

    dataflow: Int64s
    """Index into DATAFLOWS."""
    tm: Int64s
    tn: Int64s
    tk: Int64s
    order: Int64s
    by_array_tile: Int64s
    """1 where the operand that is stationary in the array is streamed one array tile at a time."""
    input_bytes: Int64s
    weight_bytes: Int64s
    output_bytes: Int64s
    used_bytes: Int64s
    fill: Int64s
    issue: Int64s
    drain: Int64s
    streaming: Int64s
    chunks: Int64s
    """Pieces into which the streamed dimension is cut."""
    first_bytes: Int64s
    """What must come from DRAM before the first multiply-add."""

    @property
    def moved_bytes(self) -> Int64s:
        """Between DRAM and scratchpad, of one product."""
        return self.input_bytes + self.weight_bytes + self.output_bytes


def least_space(pad: Scratchpad, input_bits: int, weight_bits: int) -> int:
    """Bytes of scratchpad in which every matmul has some tile."""
    return min(sum(least_tiles(pad.rows, pad.cols, flow, input_bits, weight_bits)) for flow in pad.dataflows)


def search(matmuls: Matmuls, pad: Scratchpad, bytes_per_cycle: float, macs_per_cell: Floats) -> Plans:
    """The best plan of each row; `macs_per_cell` [row] multiply-adds of a cell in a cycle.

    Raises ValueError for sizes below 1, an unknown dataflow or objective, no bandwidth, a scratchpad in which no tile fits, and
    counts beyond 2^62.
    """
    for name in ("m", "n", "k", "products"):
        column = getattr(matmuls, name)
        if column.size and column.min() < 1:
            row = int(np.argmin(column))
            raise ValueError(f"matmul {row}: {name} is {column[row]}. Expected 1 or more.")
    unknown = [flow for flow in pad.dataflows if flow not in DATAFLOWS]
    if unknown or not pad.dataflows:
        raise ValueError(f"dataflows are {', '.join(pad.dataflows) or 'none'}. Expected some of {', '.join(DATAFLOWS)}.")
    if pad.least not in OBJECTIVES:
        raise ValueError(f"least = {pad.least!r} is unknown. Expected one of {', '.join(OBJECTIVES)}.")
    if not bytes_per_cycle > 0 or min(pad.rows, pad.cols, pad.arrays) < 1:
        raise ValueError(f"{pad.arrays} arrays of {pad.rows} x {pad.cols} and {bytes_per_cycle} bytes a cycle: want all above zero.")
    _fits_64_bits(matmuls, pad)
    table = np.stack(matmuls, axis=1).astype(np.int64)
    keyed = np.column_stack([table, np.ascontiguousarray(macs_per_cell, np.float64).view(np.int64)])
    distinct, first, alike = np.unique(keyed, axis=0, return_index=True, return_inverse=True)
    machine = np.array([pad.rows, pad.cols, pad.arrays, pad.double_buffer, pad.accumulators, pad.most_input, pad.most_weight,
                        pad.most_output, sum(1 << DATAFLOWS.index(flow) for flow in set(pad.dataflows)), OBJECTIVES.index(pad.least)])
    plans = np.zeros((len(distinct), kernel.PLAN_COLUMNS), np.int64)
    rates = macs_per_cell[first].astype(np.float64)
    kernel.search_kernel(np.ascontiguousarray(table[first]), machine, rates, float(bytes_per_cycle), plans)
    too_small = np.flatnonzero(plans[alike.reshape(-1), kernel.FLOW] == kernel.NOTHING_FITS)
    if too_small.size:
        row = int(too_small[0])
        least = least_space(pad, int(matmuls.input_bits[row]), int(matmuls.weight_bits[row]))
        raise ValueError(f"matmul {row}: no tile fits into {matmuls.space[row]} bytes of scratchpad under an array of {pad.rows} x "
                         f"{pad.cols}. The least that works is {least} bytes.")
    return Plans(*plans[alike.reshape(-1)].T)


def _fits_64_bits(matmuls: Matmuls, pad: Scratchpad) -> None:
    """ValueError naming the row whose bits or cycles are beyond 2^62."""
    m, n, k, products = (np.asarray(c, np.float64) for c in (matmuls.m, matmuls.n, matmuls.k, matmuls.products))
    bits = np.maximum.reduce([m * k, k * n, m * n]) * kernel.PARTIAL_BITS
    folds = np.minimum.reduce([(k / pad.rows + 1) * (n / pad.cols + 1) * m, (k / pad.rows + 1) * (m / pad.cols + 1) * n])
    beyond = np.flatnonzero(np.maximum(bits, folds) * products * 4 > LARGEST)
    if beyond.size:
        row = int(beyond[0])
        raise ValueError(f"matmul {row}: {matmuls.m[row]} x {matmuls.n[row]} x {matmuls.k[row]}, {matmuls.products[row]} times, "
                         "is more than 64 bits can count. Split it.")
