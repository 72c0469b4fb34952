"""SCALE-Sim's whole report of one matmul: cycles, utilisations, SRAM and DRAM counts, its memory's stalls (v2 and v3).

Utilisations and SRAM counts are closed forms over arrays of matmuls. The memory is SCALE-Sim's own algorithm, quirks
included, run over every request of one matmul; it is not what a chip's memory does.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..costs import Floats, Int64s
from ..kernels import scalesim as kernels
from .systolic import fold, gemm_cycles

MOST_ELEMENTS = 10**9


class Counts(NamedTuple):
    """Columns of SCALE-Sim's reports without memory stalls: percent and elements."""

    total_cycles: Int64s
    mapping_efficiency: Floats
    compute_util: Floats
    sram_ifmap_reads: Int64s
    sram_filter_reads: Int64s
    sram_ofmap_writes: Int64s


class Memory(NamedTuple):
    """What SCALE-Sim's memory makes of one matmul."""

    total_cycles: int
    stall_cycles: int
    dram_ifmap_reads: int
    dram_filter_reads: int
    dram_ofmap_writes: int


def counts(m: Int64s | int, n: Int64s | int, k: Int64s | int, *, rows: int, cols: int, dataflow: str) -> Counts:
    """SCALE-Sim's columns of each [m, k] x [k, n]; ValueError as `gemm_cycles`."""
    m, n, k = (np.atleast_1d(np.asarray(x, np.int64)) for x in (m, n, k))
    cycles = gemm_cycles(m, n, k, rows=rows, cols=cols, dataflow=dataflow, mode="scalesim")
    f = fold(m, n, k, rows, cols, dataflow)
    folds = f.row_folds * f.col_folds
    used = ((f.row_folds - 1) * rows + f.edge_rows) * ((f.col_folds - 1) * cols + f.edge_cols)
    mapping = 100 * used / (folds * rows * cols)
    # the skew of the columns is in the cycles of a fold, and SCALE-Sim adds it once more unless outputs are stationary
    busy = (cycles + 1) // folds + (0 if dataflow == "os" else cols - 1)
    ifmap = m * k if dataflow == "is" else m * k * f.col_folds
    weights = k * n if dataflow == "ws" else k * n * (f.row_folds if dataflow == "os" else f.col_folds)
    outputs = m * n + folds * (rows + cols) if dataflow == "os" else m * n * f.row_folds
    return Counts(cycles, mapping, mapping * f.streamed / busy, ifmap, weights, outputs)


def overall_util(m: int, n: int, k: int, *, rows: int, cols: int, total_cycles: int) -> float:
    """Percent of the array's MACs that were used in `total_cycles`, which contain the stalls."""
    return 100 * m * n * k / (total_cycles * rows * cols) if total_cycles else 0.0


def memory(m: int, n: int, k: int, *, rows: int, cols: int, dataflow: str, ifmap_bytes: int, filter_bytes: int, ofmap_bytes: int,
           words_per_cycle: int | None = None, version: int = 2) -> Memory:
    """Stalls and DRAM counts of one matmul, with SRAMs of these bytes (a word is a byte).

    Without `words_per_cycle` nothing stalls (SCALE-Sim's CALC mode); with it, each operand has a port of that width.
    `version` 3 counts a wait for data twice, as SCALE-Sim 3.0.0 does.
    """
    if min(ifmap_bytes, filter_bytes, ofmap_bytes) < 100:
        raise ValueError(f"an SRAM of {min(ifmap_bytes, filter_bytes, ofmap_bytes)} bytes is too small. SCALE-Sim needs at least 100.")
    if words_per_cycle is not None and words_per_cycle < 1:
        raise ValueError(f"{words_per_cycle} words per cycle: expected at least 1.")
    if max(m * k, k * n, m * n) > MOST_ELEMENTS:
        raise ValueError(f"{m} x {n} x {k} has more than {MOST_ELEMENTS:,} elements in one operand, too many to run request by request.")
    cycles = int(gemm_cycles(m, n, k, rows=rows, cols=cols, dataflow=dataflow, mode="scalesim")[0])
    sr, sc, streamed = {"ws": (k, n, m), "is": (k, m, n), "os": (m, n, k)}[dataflow]
    fr, fc = -(-sr // rows), -(-sc // cols)
    array = np.array([rows, cols, sr, sc, streamed, fr, fc, dataflow == "os"], np.int64)
    lines = (cycles + 1) // (fr * fc)
    on_rows = (1, rows, 0, sr, streamed, 0 if dataflow == "os" else rows)
    on_cols = (1, cols, 1, sc, streamed, 0) if dataflow == "os" else (0, cols, 1, sc, sr, 0)
    ops = np.array([on_cols, on_rows] if dataflow == "is" else [on_rows, on_cols], np.int64)
    buffers = list(zip(ops, (ifmap_bytes, filter_bytes), (m * k, k * n), strict=True))
    if words_per_cycle is None:
        reads = [_flushing_reads(op, array, lines, 50 * (size // 100), elements) for op, size, elements in buffers]
        sets, windows = [np.zeros(0, np.int32)] * 2, np.zeros((2, 6), np.int64)
    else:
        sets = [_sets(op, array, -(-size // 100), elements) for op, size, elements in buffers]
        windows = np.array([_window(op, size, elements, words_per_cycle, fr, fc) for op, size, elements in buffers], np.int64)
    out = np.zeros(5, np.int64)
    kernels.memory_kernel(array, ops, lines, ofmap_bytes, words_per_cycle or cols, words_per_cycle is not None, version >= 3, windows,
                          sets[0], sets[1], out)
    total, stalls, ifmap_reads, filter_reads, writes = (int(x) for x in out)
    if words_per_cycle is None:
        ifmap_reads, filter_reads = reads
    return Memory(total, stalls, ifmap_reads, filter_reads, writes)


def _flushing_reads(op: Int64s, array: Int64s, lines: int, capacity: int, elements: int) -> int:
    """DRAM reads of an operand whose buffer is emptied when it is full; what never fills it is read once."""
    if elements < capacity:
        return elements
    return int(kernels.flushing_reads_kernel(op, array, lines, capacity, np.zeros(elements, np.int32)))


def _sets(op: Int64s, array: Int64s, per_set: int, elements: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    sets = np.zeros(elements, np.int32)
    kernels.fetch_sets_kernel(op, array, per_set, sets)
    return sets


def _window(op: Int64s, size: int, elements: int, words: int, row_folds: int, col_folds: int) -> tuple[int, ...]:
    """Sets, sets in the active window, sets of a step, words and cycles of a step, words of the first fill."""
    half = -(-size // 2)
    per_set = -(-size // 100)
    number = elements // per_set + 1
    active = min(number, -(-half // per_set))
    step = min(number - active, -(-(size - half) // per_set))
    refill = -(-(size - half) // words)
    padded = int(op[kernels.LENGTH] * op[kernels.LANES]) * (col_folds if op[kernels.COLUMN] else row_folds)
    return number, active, step, words * refill, refill + 1, words * min(-(-half // words), -(-padded // words))
