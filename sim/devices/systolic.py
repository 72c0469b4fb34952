"""Systolic arrays: weight-, output- and input-stationary matmuls on R x C cells, several arrays under one memory.

An array of R rows and C columns keeps one operand tile in place and streams T vectors past it. With Sr on the rows and
Sc on the columns there are ceil(Sr/R) x ceil(Sc/C) tiles:

    dataflow   Sr  Sc  T
    ws         K   N   M
    is         K   M   N
    os         M   N   K

Compressed N:M weights stay in the array as their kept values, so K is what is kept of it: N/M as many folds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemvane.workloads.ops import BITS, CODE, FORMS, GROUP, INDEX_BITS, KEPT, KIND_FORM, Rows

from ..costs import Costs, Int64s, Ledger
from ..dram.stream import bytes_per_s
from ..schema import HardwareSpec, Systolic, Vector
from ..units import ps_to_s
from .precision import Rates, rates
from .tiling import DATAFLOWS, Matmuls, Plans, Scratchpad, search
from .vector import dram_bytes

PARTIAL_SUM_BYTES = 4


class ResolvedSystolic(NamedTuple):
    freq_hz: int
    cell: Rates
    pad: Scratchpad
    sram_bytes: int
    memory_bytes_per_cycle: float
    lanes_per_cycle: float
    overhead_cycles: float


class Folding(NamedTuple):
    """How a matmul lies on an array: full folds and edges in both directions, and the vectors that stream."""

    row_folds: Int64s
    col_folds: Int64s
    edge_rows: Int64s
    edge_cols: Int64s
    streamed: Int64s


def resolve(name: str, unit: Systolic, hardware: HardwareSpec) -> ResolvedSystolic:
    lanes = [u.num_lanes * u.clock for u in hardware.units.values() if isinstance(u, Vector)]
    return ResolvedSystolic(
        freq_hz=unit.clock,
        cell=rates(unit.macs_per_cell),
        pad=scratchpad(unit),
        sram_bytes=unit.sram,
        memory_bytes_per_cycle=bytes_per_s(hardware.memory) / unit.clock,
        lanes_per_cycle=(max(lanes) if lanes else unit.cols * unit.clock) / unit.clock,
        overhead_cycles=ps_to_s(unit.op_overhead) * unit.clock,
    )


def scratchpad(unit: Systolic) -> Scratchpad:
    """The array and its buffers as the search for tiles sees them."""
    flows = DATAFLOWS if unit.dataflow == "auto" else (unit.dataflow,)
    most = {} if unit.buffers is None else {f"most_{name}": size for name, size in unit.buffers}
    return Scratchpad(unit.rows, unit.cols, unit.num_arrays, unit.weight_double_buffer, unit.accumulators or 0, dataflows=flows, **most)


def fold(m: Int64s, n: Int64s, k: Int64s, rows: int, cols: int, dataflow: str) -> Folding:
    """The folding of each [m, k] x [k, n] on a rows x cols array."""
    sr, sc, streamed = {"ws": (k, n, m), "is": (k, m, n), "os": (m, n, k)}[dataflow]
    row_folds, col_folds = -(-sr // rows), -(-sc // cols)
    return Folding(row_folds, col_folds, sr - (row_folds - 1) * rows, sc - (col_folds - 1) * cols, streamed)


def gemm_cycles(m: Int64s | int, n: Int64s | int, k: Int64s | int, *, rows: int, cols: int, dataflow: str = "ws",
                mode: str = "pipelined", weight_double_buffer: bool = True, loaded: bool = False) -> Int64s:
    """Cycles of each matmul on one array, first operand to last sum.

    `scalesim` is SCALE-Sim's count (v2 and v3: every fold serial, folds x (2R + C + T - 2) - 1, and R less a fold for
    output-stationary). `pipelined` is what a double-buffered array does: the next tile loads behind the stream of this
    one, edge tiles have their real size, one cold fill and one drain are paid. `loaded` (pipelined, ws or is): the stationary tile
    is already in the array, so nothing is filled; more vectors follow at one a cycle.
    Raises ValueError for sizes under 1, an unknown dataflow or mode, and for a stationary operand of several tiles that is `loaded`.
    """
    m, n, k = (np.atleast_1d(np.asarray(x, np.int64)) for x in (m, n, k))
    if min(rows, cols) < 1 or min(m.min(), n.min(), k.min()) < 1:
        raise ValueError(f"m, n, k, rows and cols must be at least 1, got an array of {rows} x {cols} and sizes from "
                         f"{min(m.min(), n.min(), k.min())}.")
    if dataflow not in DATAFLOWS:
        raise ValueError(f"dataflow {dataflow!r} is unknown. Expected one of {', '.join(DATAFLOWS)}.")
    if mode not in ("pipelined", "scalesim"):
        raise ValueError(f"mode {mode!r} is unknown. Expected pipelined or scalesim.")
    f = fold(m, n, k, rows, cols, dataflow)
    if loaded and (mode == "scalesim" or dataflow == "os" or (f.row_folds * f.col_folds).max() > 1):
        raise ValueError(f"only a single stationary tile can be loaded already, in mode pipelined with ws or is; got mode {mode}, "
                         f"{dataflow}, up to {(f.row_folds * f.col_folds).max()} tiles of {rows} x {cols}.")
    if mode == "scalesim":
        per_fold = (1 if dataflow == "os" else 2) * rows + cols + f.streamed - 2
        return f.row_folds * f.col_folds * per_fold - 1
    fill, issue, drain = pipelined_parts(f, rows, cols, dataflow, weight_double_buffer)
    return issue + drain + (0 if loaded else fill)


def pipelined_parts(f: Folding, rows: int, cols: int, dataflow: str, double_buffer: bool) -> tuple[Int64s, Int64s, Int64s]:
    """Cold fill, issue (the tiles' streams, each at least as long as the next preload) and drain, in cycles.

    Column folds outer, row folds inner. The last sum may leave from the last tile, or from the last tile of the column
    fold before it when that one is wider.
    """
    t = f.streamed
    if dataflow == "os":
        fill = np.zeros_like(t)
        step_full = step_edge = np.maximum(t, rows) if double_buffer else t + rows
        tail = 2 * rows - 2
        first = step_full
    else:
        first_rows = np.where(f.row_folds > 1, rows, f.edge_rows)
        fill = first_rows
        load = np.maximum if double_buffer else np.add
        step_full, step_edge = load(t, rows), load(t, f.edge_rows)
        tail = rows - 2
        first = load(t, first_rows)
    before_last = f.col_folds * ((f.row_folds - 1) * step_full + step_edge) - first
    last_column = (f.row_folds - 1) * step_full + step_edge
    end = before_last + t + tail + f.edge_cols
    wider = np.where(f.col_folds > 1, before_last - last_column + t + tail + cols, 0)
    issue = before_last + t
    return fill, issue, np.maximum(end, wider) - issue


class _Work(NamedTuple):
    """Matmuls that a row asks of the arrays: `products` alike of [m, k] x [k, n].

    Of N:M weights k counts what is kept; each kept weight has its index beside it, and M / N activations go past it.
    """

    products: Int64s
    m: Int64s
    n: Int64s
    k: Int64s
    input_bits: Int64s
    """Of an element of the first operand, for each element of k."""
    weight_bits: Int64s
    """Of an element of the second operand."""
    resident: NDArray[np.bool_]
    """Whether the first operand and the result stay on the chip."""
    space: Int64s


class _Sums(NamedTuple):
    """What the matmuls of each row come to, in cycles and bytes."""

    fill: Int64s
    streaming: Int64s
    preload: Int64s
    drain: Int64s
    sram_bytes: Int64s
    again_bytes: Int64s
    """DRAM bytes beyond every operand once: fetched again, or sums that left before they were complete."""
    first_bytes: Int64s
    """What must come from DRAM before the first multiply-add."""


def cost(rows: Rows, array: ResolvedSystolic) -> Costs:
    """Costs of matmul and attention rows: time = overhead + first operands + max(array, softmax on the vector unit, memory)."""
    ledger = Ledger(rows.size)
    sums = _Sums(*(np.zeros(rows.size, np.int64) for _ in _Sums._fields))
    for index, work, machine in _products(rows, array):
        plans, of_row = _planned(work, machine, rows.act_dtype[index])
        ledger.chose(DATAFLOWS, plans.dataflow, index)
        for total, value in zip(sums, of_row, strict=True):
            total[index] += value
    pad = array.pad
    issue = sums.streaming + sums.preload
    macs = rows.useful_macs
    ideal = np.minimum(macs / (pad.arrays * pad.rows * pad.cols * array.cell.macs_per_cycle[rows.act_dtype]), sums.streaming)
    softmax = rows.vector_ops / array.lanes_per_cycle
    moved = dram_bytes(rows, array.sram_bytes) + sums.again_bytes
    first = np.minimum(sums.first_bytes, moved) / array.memory_bytes_per_cycle
    memory = moved / array.memory_bytes_per_cycle
    working = sums.fill + issue + sums.drain
    busy = np.maximum(working, softmax)
    overhead = np.full(rows.size, array.overhead_cycles)

    ledger.spend("ideal", ideal)
    ledger.spend("edge", sums.streaming - np.ceil(ideal))
    ledger.spend("fill", sums.fill + first)
    ledger.spend("preload", sums.preload)
    ledger.spend("drain", sums.drain)
    ledger.spend("vector", busy - working)
    ledger.spend("memory", memory - first - busy)
    ledger.spend("launch", overhead)
    ledger.count_macs(macs, array.cell.used[rows.act_dtype])
    ledger.count("vector_op", rows.vector_ops)
    ledger.count("sram_bytes", sums.sram_bytes)
    ledger.count_dram(moved)
    ledger.bind({"memory": memory - first, "compute": working, "vector": softmax, "launch": overhead})
    return ledger.costs()


def _products(rows: Rows, array: ResolvedSystolic) -> list[tuple[Int64s, _Work, ResolvedSystolic]]:
    """Each row as matmuls, and the array with the dataflows that it may use for them.

    Attention loads K, then V, as the stationary operand and streams the queries of its group.
    A key is streamed past by the queries that see it: pairs / keys of them on average, for every query head of a KV head.
    Scores and weights of attention never leave the chip.
    """
    half, work = array.sram_bytes // 2, rows.work
    matmul, attention = np.flatnonzero(work == 0), np.flatnonzero((work == 1) | (work == 2))
    out = []
    compressed = rows.sparsity[matmul] > 0
    stationary = array._replace(pad=array.pad._replace(dataflows=("ws",)))
    for index, machine in ((matmul[~compressed], array), (matmul[compressed], stationary)):
        if index.size == 0:
            continue
        r = rows.take(index)
        m = np.where(r.kind == CODE["grouped_gemm"], -(-r.m // r.batch), r.m)
        activations = r.input_bytes + r.output_bytes
        resident = activations <= half
        space = np.where(resident, array.sram_bytes - activations, array.sram_bytes)
        input_bits = BITS[r.act_dtype] * GROUP[r.sparsity] // KEPT[r.sparsity]
        weight_bits = BITS[np.where(r.weight_bytes > 0, r.weight_dtype, r.act_dtype)] + INDEX_BITS[r.sparsity]
        out.append((index, _Work(r.batch, m, r.n, r.kept_k, input_bits, weight_bits, resident, space), machine))
    is_scan = KIND_FORM[rows.kind[attention]] == FORMS.index("scan")
    out += _scans(rows, attention[is_scan], array)
    attention = attention[~is_scan]
    if attention.size:
        r = rows.take(attention)
        sequences = np.maximum(r.batch, 1)
        keys = -(-r.n // sequences)
        group = -(-r.heads_q // np.maximum(r.heads_kv, 1))
        queries = np.maximum(1, -(-r.pairs * group // np.maximum(r.n, 1)))
        count, bits = sequences * r.heads_kv, BITS[r.kv_dtype]
        stays, space, act_bits = np.ones(r.size, np.bool_), np.full(r.size, half, np.int64), BITS[r.act_dtype]
        score = _Work(count, queries, keys, r.head_dim, act_bits, bits, stays, space)
        value = _Work(count, queries, r.value_dim, keys, act_bits, bits, stays, space)
        for part, other in ((score, "attention_value"), (value, "attention_score")):
            has = r.kind != CODE[other]
            out.append((attention[has], _Work(*(c[has] for c in part)), array))
    return out


def _scans(rows: Rows, index: Int64s, array: ResolvedSystolic) -> list[tuple[Int64s, _Work, ResolvedSystolic]]:
    """The matmuls of chunked scans: scores of each chunk, their product with the values, the state updated and read; of a delta rule the
    products of keys with keys and with the inverse too. Chunks and states stay on the chip."""
    if not index.size:
        return []
    r = rows.take(index)
    chunk = np.minimum(r.k, np.maximum(r.m // np.maximum(r.batch, 1), 1))
    chunks, d, v, act = -(-r.m // chunk), r.head_dim, r.value_dim, BITS[r.act_dtype]
    keys, heads = chunks * r.heads_kv, chunks * r.heads_q
    stays, space = np.ones(r.size, np.bool_), np.full(r.size, array.sram_bytes // 2, np.int64)
    every, delta = stays, r.kind == CODE["delta_scan"]
    parts = [(every, keys, chunk, chunk, d), (every, heads, chunk, v, chunk), (every, heads, d, v, chunk), (every, heads, chunk, v, d),
             (delta, keys, chunk, chunk, d), (delta, heads, chunk, d + v, chunk), (delta, heads, chunk, v, d)]
    works = [(has, _Work(count, m, n, k, act, act, stays, space)) for has, count, m, n, k in parts if has.any()]
    return [(index[has], _Work(*(column[has] for column in work)), array) for has, work in works]


def _planned(w: _Work, array: ResolvedSystolic, act_dtype: Int64s) -> tuple[Plans, _Sums]:
    """The best tiles of each row's matmuls, and what they come to."""
    act_bits, in_dram = BITS[act_dtype], (~w.resident).astype(np.int64)
    matmuls = Matmuls(w.m, w.n, w.k, w.input_bits, w.weight_bits, act_bits, in_dram, in_dram, w.space, w.products)
    plans = search(matmuls, array.pad, array.memory_bytes_per_cycle, array.cell.macs_per_cycle[act_dtype])
    input_bytes, weight_bytes = w.m * w.k * w.input_bits // 8, w.k * w.n * w.weight_bits // 8
    once = -(-w.k * w.n * w.weight_bits // 8) + in_dram * (-(-w.m * w.k * w.input_bits // 8) + -(-w.m * w.n * act_bits // 8))
    rows, cols = array.pad.rows, array.pad.cols
    is_flow = [plans.dataflow == i for i in range(len(DATAFLOWS))]  # ws, os, is
    k_folds = -(-w.k // rows)
    input_reads = np.select(is_flow, [-(-w.n // cols), -(-w.n // cols), plans.chunks])
    weight_reads = np.select(is_flow, [plans.chunks, -(-w.m // rows), -(-w.m // cols)])
    partials = np.select(is_flow, [2 * k_folds - 1, 2 * plans.chunks - 1, 2 * k_folds - 1])
    sram = input_reads * input_bytes + weight_reads * weight_bytes + partials * w.m * w.n * PARTIAL_SUM_BYTES
    return plans, _Sums(plans.fill, plans.streaming, plans.issue - plans.streaming, plans.drain, w.products * sram,
                        w.products * (plans.moved_bytes - once), plans.first_bytes)
