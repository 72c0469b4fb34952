"""SCALE-Sim's whole report of one layer: cycles, utilisations, SRAM and DRAM counts and cycles, its memory's stalls (v2 and v3).

Utilisations and SRAM counts are closed forms over arrays of matmuls. The memory is SCALE-Sim's own algorithm, quirks
included, run over every request of one layer; it is not what a chip's memory does.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..costs import Floats, Int64s
from ..kernels import scalesim as kernels
from .systolic import fold, gemm_cycles

MOST_ELEMENTS = 10**9
MOST_WINDOW_ELEMENTS = 10**8
MOST_REQUESTS = 10**11
CALC_WORDS = 10
"""Words a cycle at which SCALE-Sim fills its read buffers before the first cycle where the bandwidth is not fixed."""

Int32s = np.ndarray[tuple[int], np.dtype[np.int32]]
Span = tuple[int, int]


class Gemm(NamedTuple):
    """[m, k] x [k, n]."""

    m: int
    n: int
    k: int


class Convolution(NamedTuple):
    """One image through `filters` filters; as a matmul, m output pixels, n filters and k weights of a filter.

    As in SCALE-Sim, the last window of a row or column may hang over the edge: it counts, but asks for no pixel out there.
    """

    height: int
    width: int
    filter_height: int
    filter_width: int
    channels: int
    filters: int
    stride_height: int
    stride_width: int

    @property
    def output_height(self) -> int:
        return -(-(self.height - self.filter_height) // self.stride_height) + 1

    @property
    def output_width(self) -> int:
        return -(-(self.width - self.filter_width) // self.stride_width) + 1

    @property
    def m(self) -> int:
        return self.output_height * self.output_width

    @property
    def n(self) -> int:
        return self.filters

    @property
    def k(self) -> int:
        return self.filter_height * self.filter_width * self.channels

    def addresses(self) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
        """Ifmap element (height, width, channels) that each window [m] has at each weight [k]; -1 over the edge."""
        down = (np.arange(self.output_height) * self.stride_height)[:, None] + np.arange(self.filter_height)
        across = (np.arange(self.output_width) * self.stride_width)[:, None] + np.arange(self.filter_width)
        rows, cols = down[:, None, :, None, None], across[None, :, None, :, None]
        address = ((rows * self.width + cols) * self.channels + np.arange(self.channels)).astype(np.int32)
        return np.where((rows < self.height) & (cols < self.width), address, np.int32(-1)).reshape(self.m, self.k)


class Counts(NamedTuple):
    """Columns of SCALE-Sim's reports without memory stalls: percent and elements."""

    total_cycles: Int64s
    mapping_efficiency: Floats
    compute_util: Floats
    sram_ifmap_reads: Int64s
    sram_filter_reads: Int64s
    sram_ofmap_writes: Int64s


class Memory(NamedTuple):
    """What SCALE-Sim's memory makes of one layer."""

    total_cycles: int
    stall_cycles: int
    dram_ifmap_reads: int
    dram_filter_reads: int
    dram_ofmap_writes: int


class Spans(NamedTuple):
    """First and last cycle at which each SRAM and each DRAM port served a request; negative before the first operand enters."""

    sram_ifmap: Span
    sram_filter: Span
    sram_ofmap: Span
    dram_ifmap: Span
    dram_filter: Span
    dram_ofmap: Span


class Run(NamedTuple):
    """One layer through SCALE-Sim's memory."""

    memory: Memory
    spans: Spans


def columns(*values: Int64s | int) -> tuple[Int64s, ...]:
    """Each as an array of at least one number."""
    return tuple(np.atleast_1d(np.asarray(value, np.int64)) for value in values)


def counts(m: Int64s | int, n: Int64s | int, k: Int64s | int, *, rows: int, cols: int, dataflow: str) -> Counts:
    """SCALE-Sim's columns of each [m, k] x [k, n]; ValueError as `gemm_cycles`."""
    m, n, k = columns(m, n, k)
    cycles = gemm_cycles(m, n, k, rows=rows, cols=cols, dataflow=dataflow, mode="scalesim")
    f = fold(m, n, k, rows, cols, dataflow)
    folds = f.row_folds * f.col_folds
    used = ((f.row_folds - 1) * rows + f.edge_rows) * ((f.col_folds - 1) * cols + f.edge_cols)
    mapping = 100 * (used / (folds * rows * cols))
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
    """Stalls and DRAM counts of one matmul; `run` with a port of `words_per_cycle` for each operand."""
    words = None if words_per_cycle is None else (words_per_cycle,) * 3
    return run(Gemm(m, n, k), rows=rows, cols=cols, dataflow=dataflow, ifmap_bytes=ifmap_bytes, filter_bytes=filter_bytes,
               ofmap_bytes=ofmap_bytes, words_per_cycle=words, version=version).memory


def run(layer: Gemm | Convolution, *, rows: int, cols: int, dataflow: str, ifmap_bytes: int, filter_bytes: int, ofmap_bytes: int,
        words_per_cycle: tuple[int, int, int] | None = None, version: int = 2) -> Run:
    """Stalls, DRAM counts and the cycles of accesses of one layer, with SRAMs of these bytes (a word is a byte).

    Without `words_per_cycle` nothing stalls (SCALE-Sim's CALC mode); with it, ifmap, filter and ofmap have ports of these widths.
    `version` 3 counts a wait for data twice, as SCALE-Sim 3.0.0 does. Windows of a convolution share the pixels where they
    overlap. Raises ValueError for SRAMs under 100 bytes, no bandwidth, and layers that are too large to run request by request.
    """
    if min(ifmap_bytes, filter_bytes, ofmap_bytes) < 100:
        raise ValueError(f"an SRAM of {min(ifmap_bytes, filter_bytes, ofmap_bytes)} bytes is too small. SCALE-Sim needs at least 100.")
    if words_per_cycle is not None and min(words_per_cycle) < 1:
        raise ValueError(f"{min(words_per_cycle)} words per cycle: expected at least 1.")
    _check_size(layer, rows, cols, dataflow)
    m, n, k = layer.m, layer.n, layer.k
    cycles = int(gemm_cycles(m, n, k, rows=rows, cols=cols, dataflow=dataflow, mode="scalesim")[0])
    sr, sc, streamed = {"ws": (k, n, m), "is": (k, m, n), "os": (m, n, k)}[dataflow]
    fr, fc = -(-sr // rows), -(-sc // cols)
    array = np.array([rows, cols, sr, sc, streamed, fr, fc, dataflow == "os"], np.int64)
    lines = (cycles + 1) // (fr * fc)
    on_rows = (1, rows, 0, sr, streamed, 0 if dataflow == "os" else rows)
    on_cols = (1, cols, 1, sc, streamed, 0) if dataflow == "os" else (0, cols, 1, sc, sr, 0)
    ops = np.array([on_cols, on_rows] if dataflow == "is" else [on_rows, on_cols], np.int64)
    address = _addresses(layer, dataflow)
    buffers = [_Buffer(ops[0], ifmap_bytes, m * k, address), _Buffer(ops[1], filter_bytes, k * n, _NO_ADDRESS)]

    out, starts = np.zeros(15, np.int64), _NO_ADDRESS
    sets, windows = [_NO_ADDRESS] * 2, np.zeros((2, 6), np.int64)
    if words_per_cycle is not None:
        fetched = [_sets(buffer, array) for buffer in buffers]
        windows = np.array([_window(buffer, count, words, fr, fc)
                            for buffer, (count, _), words in zip(buffers, fetched, words_per_cycle[:2], strict=True)])
        sets = [of_element for _, of_element in fetched]
        if address.size:
            starts, sets[0] = _by_address(address, sets[0])
    kernels.memory_kernel(array, ops, lines, ofmap_bytes, words_per_cycle[2] if words_per_cycle else cols, version >= 3, windows,
                          address, starts, sets[0], sets[1], out)
    total, stalls, ifmap_reads, filter_reads, writes = (int(x) for x in out[:5])
    sram = [(int(out[at]), int(out[at + 1])) for at in (5, 7, 9)]
    if words_per_cycle is None:
        ifmap_reads, ifmap = _flushing_reads(buffers[0], array, lines, sram[0][0] - 1)
        filter_reads, weights = _flushing_reads(buffers[1], array, lines, sram[1][0] - 1)
    else:
        ifmap, weights = ((-int(windows[i, 5]) // words_per_cycle[i], int(out[11 + i])) for i in range(2))
    return Run(Memory(total, stalls, ifmap_reads, filter_reads, writes),
               Spans(sram[0], sram[1], sram[2], ifmap, weights, (int(out[13]), int(out[14]))))


_NO_ADDRESS: Int32s = np.zeros(0, np.int32)


class _Buffer(NamedTuple):
    """A read buffer: its operand as the kernels want it, bytes, elements, and their addresses where some share one."""

    op: Int64s
    size: int
    elements: int
    address: Int32s


def _check_size(layer: Gemm | Convolution, rows: int, cols: int, dataflow: str) -> None:
    m, n, k = layer.m, layer.n, layer.k
    if max(m * k, k * n, m * n) > MOST_ELEMENTS:
        raise ValueError(f"{m} x {n} x {k} has more than {MOST_ELEMENTS:,} elements in one operand, too many to run request by request.")
    if isinstance(layer, Convolution) and max(m * k, layer.height * layer.width * layer.channels) > MOST_WINDOW_ELEMENTS:
        raise ValueError(f"image or windows have more than {MOST_WINDOW_ELEMENTS:,} elements, too many to run request by request.")
    of_layer = counts(m, n, k, rows=rows, cols=cols, dataflow=dataflow)
    requests = int(of_layer.total_cycles[0] + of_layer.sram_ifmap_reads[0] + of_layer.sram_filter_reads[0] + of_layer.sram_ofmap_writes[0])
    if requests > MOST_REQUESTS:
        raise ValueError(f"{m} x {n} x {k} on a {rows} x {cols} array makes {requests:,} requests, too many to run one by one.")


def _addresses(layer: Gemm | Convolution, dataflow: str) -> Int32s:
    """The address of each ifmap element in the kernels' order; empty where every element has its own."""
    if isinstance(layer, Gemm):
        return _NO_ADDRESS
    address = layer.addresses()
    return np.ascontiguousarray(address if dataflow == "os" else address.T).ravel()


def _flushing_reads(buffer: _Buffer, array: Int64s, lines: int, first: int) -> tuple[int, Span]:
    """DRAM reads of an operand whose buffer is emptied when it is full, and their first and last cycle.

    What never fills the buffer is read once. SCALE-Sim reads the first half before cycle `first` (the operand's first request),
    CALC_WORDS a cycle, and what follows as late as it can: until the buffer was full for the last time.
    """
    per_set = buffer.size // 100
    distinct = _distinct(buffer)
    if distinct < 50 * per_set:
        sets = -(-distinct // per_set)
        return distinct, (-sets * per_set // CALC_WORDS, -1)
    seen = np.zeros(max(buffer.elements, int(buffer.address.max(initial=0)) + 1), np.int32)
    reads, full = kernels.flushing_reads_kernel(buffer.op, array, lines, 50 * per_set, buffer.address, seen)
    return int(reads), (first + -50 * per_set // CALC_WORDS, int(full) + 1)


def _distinct(buffer: _Buffer) -> int:
    if not buffer.address.size:
        return buffer.elements
    return int(np.count_nonzero(np.bincount(buffer.address[buffer.address >= 0])))


def _sets(buffer: _Buffer, array: Int64s) -> tuple[int, Int32s]:
    """Elements that are fetched, and the set of each."""
    sets = np.zeros(buffer.elements, np.int32)
    return int(kernels.fetch_sets_kernel(buffer.op, array, -(-buffer.size // 100), buffer.address, sets)), sets


def _by_address(address: Int32s, sets: Int32s) -> tuple[Int32s, Int32s]:
    """Where the sets of each address start, and the sets by address."""
    real = address >= 0
    starts = np.concatenate([[0], np.cumsum(np.bincount(address[real]))]).astype(np.int32)
    return starts, sets[real][np.argsort(address[real], kind="stable")]


def _window(buffer: _Buffer, elements: int, words: int, row_folds: int, col_folds: int) -> tuple[int, ...]:
    """Sets, sets in the active window, sets of a step, words and cycles of a step, words of the first fill."""
    op, size = buffer.op, buffer.size
    half = -(-size // 2)
    per_set = -(-size // 100)
    number = elements // per_set + 1
    active = min(number, -(-half // per_set))
    step = min(number - active, -(-(size - half) // per_set))
    refill = -(-(size - half) // words)
    padded = int(op[kernels.LENGTH] * op[kernels.LANES]) * (col_folds if op[kernels.COLUMN] else row_folds)
    return number, active, step, words * refill, refill + 1, words * min(-(-half // words), -(-padded // words))
