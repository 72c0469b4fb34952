"""Systolic arrays: weight-, output- and input-stationary matmuls on R x C cells, several arrays under one memory.

An array of R rows and C columns keeps one operand tile in place and streams T vectors past it. With Sr on the rows and
Sc on the columns there are ceil(Sr/R) x ceil(Sc/C) tiles:

    dataflow   Sr  Sc  T
    ws         K   N   M
    is         K   M   N
    os         M   N   K
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gemvane.workloads.ops import BITS, CODE, Rows

from ..costs import Costs, Floats, Int64s, Ledger
from ..schema import HardwareSpec, Systolic, Vector
from ..units import ps_to_s
from .precision import Rates, rates
from .vector import dram_bytes

DATAFLOWS = ("ws", "os", "is")
PARTIAL_SUM_BYTES = 4


class ResolvedSystolic(NamedTuple):
    freq_hz: int
    num_arrays: int
    rows: int
    cols: int
    cell: Rates
    dataflow: str
    double_buffer: bool
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
        num_arrays=unit.num_arrays,
        rows=unit.rows,
        cols=unit.cols,
        cell=rates(unit.macs_per_cell),
        dataflow=unit.dataflow,
        double_buffer=unit.weight_double_buffer,
        sram_bytes=unit.sram,
        memory_bytes_per_cycle=hardware.memory.bandwidth * hardware.memory.sustained / unit.clock,
        lanes_per_cycle=(max(lanes) if lanes else unit.cols * unit.clock) / unit.clock,
        overhead_cycles=ps_to_s(unit.op_overhead) * unit.clock,
    )


def fold(m: Int64s, n: Int64s, k: Int64s, rows: int, cols: int, dataflow: str) -> Folding:
    """The folding of each [m, k] x [k, n] on a rows x cols array."""
    sr, sc, streamed = {"ws": (k, n, m), "is": (k, m, n), "os": (m, n, k)}[dataflow]
    row_folds, col_folds = -(-sr // rows), -(-sc // cols)
    return Folding(row_folds, col_folds, sr - (row_folds - 1) * rows, sc - (col_folds - 1) * cols, streamed)


def gemm_cycles(m: Int64s | int, n: Int64s | int, k: Int64s | int, *, rows: int, cols: int, dataflow: str = "ws",
                mode: str = "pipelined", weight_double_buffer: bool = True) -> Int64s:
    """Cycles of each matmul on one array, first operand to last sum.

    `scalesim` is SCALE-Sim's count (v2 and v3: every fold serial, folds x (2R + C + T - 2) - 1, and R less a fold for
    output-stationary). `pipelined` is what a double-buffered array does: the next tile loads behind the stream of this
    one, edge tiles have their real size, one cold fill and one drain are paid.
    Raises ValueError for sizes under 1, an unknown dataflow or mode.
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
    if mode == "scalesim":
        per_fold = (1 if dataflow == "os" else 2) * rows + cols + f.streamed - 2
        return f.row_folds * f.col_folds * per_fold - 1
    fill, issue, drain = pipelined_parts(f, rows, cols, dataflow, weight_double_buffer)
    return fill + issue + drain


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
    """Matmuls that a row asks of the arrays: `products` alike of [m, k] x [k, n]."""

    products: Int64s
    m: Int64s
    n: Int64s
    k: Int64s


def cost(rows: Rows, array: ResolvedSystolic) -> Costs:
    """Costs of matmul and attention rows: time = overhead + max(array, softmax on the vector unit, memory)."""
    ledger = Ledger(rows.size)
    work = rows.work
    fill = np.zeros(rows.size, np.int64)
    issue, drain, sram = fill.copy(), fill.copy(), fill.copy()
    for index, parts in _products(rows, work):
        for part in parts:
            cycles = _on_arrays(part, array, BITS[rows.act_dtype[index]], array.cell.macs_per_cycle[rows.act_dtype[index]])
            for total, value in zip((fill, issue, drain, sram), cycles, strict=True):
                total[index] += value
    ideal = rows.macs / (array.num_arrays * array.rows * array.cols * array.cell.macs_per_cycle[rows.act_dtype])
    ideal = np.minimum(ideal, issue)
    softmax = rows.vector_ops / array.lanes_per_cycle
    moved = dram_bytes(rows, array.sram_bytes)
    memory = moved / array.memory_bytes_per_cycle
    busy = np.maximum(issue + fill + drain, softmax)
    overhead = np.full(rows.size, array.overhead_cycles)

    ledger.spend("ideal", ideal)
    ledger.spend("edge", issue - np.ceil(ideal))
    ledger.spend("fill", fill + drain)
    ledger.spend("edge", busy - (issue + fill + drain))
    ledger.spend("memory", memory - busy)
    ledger.spend("launch", overhead)
    ledger.count_macs(rows.macs, array.cell.used[rows.act_dtype])
    ledger.count("vector_op", rows.vector_ops)
    ledger.count("sram_bytes", sram)
    ledger.count_dram(moved)
    ledger.bind({"memory": memory, "compute": issue + fill + drain, "vector": softmax, "launch": overhead})
    return ledger.costs()


def _products(rows: Rows, work: Int64s) -> list[tuple[Int64s, list[_Work]]]:
    """Each row as matmuls. Attention loads K, then V, as the stationary operand and streams the queries of its group.

    A key is streamed past by the queries that see it: pairs / keys of them on average, for every query head of a KV head.
    """
    matmul, attention = np.flatnonzero(work == 0), np.flatnonzero((work == 1) | (work == 2))
    out = []
    if matmul.size:
        r = rows.take(matmul)
        m = np.where(r.kind == CODE["grouped_gemm"], -(-r.m // r.batch), r.m)
        out.append((matmul, [_Work(r.batch, m, r.n, r.k)]))
    if attention.size:
        r = rows.take(attention)
        sequences = np.maximum(r.batch, 1)
        keys = -(-r.n // sequences)
        group = -(-r.heads_q // np.maximum(r.heads_kv, 1))
        queries = np.maximum(1, -(-r.pairs * group // np.maximum(r.n, 1)))
        count = sequences * r.heads_kv
        score, value = _Work(count, queries, keys, r.head_dim), _Work(count, queries, r.value_dim, keys)
        has_score, has_value = r.kind != CODE["attention_value"], r.kind != CODE["attention_score"]
        out.append((attention[has_score], [_Work(*(c[has_score] for c in score))]))
        out.append((attention[has_value], [_Work(*(c[has_value] for c in value))]))
    return out


def _on_arrays(w: _Work, array: ResolvedSystolic, act_bits: Int64s, macs_per_cell: Floats) -> tuple[Int64s, Int64s, Int64s, Int64s]:
    """Fill, issue and drain cycles with the tiles shared out evenly over the arrays, and SRAM bytes."""
    flows = DATAFLOWS if array.dataflow == "auto" else (array.dataflow,)
    plans = [_plan(w, array, flow, macs_per_cell) for flow in flows]
    best = np.argmin(np.stack([fill + issue + drain for fill, issue, drain, _, _ in plans]), axis=0)
    chosen = np.arange(w.m.size)
    fill, issue, drain, words, partials = (np.stack(column)[best, chosen] for column in zip(*plans, strict=True))
    return fill, issue, drain, words * act_bits // 8 + partials * PARTIAL_SUM_BYTES


def _plan(w: _Work, array: ResolvedSystolic, flow: str, macs_per_cell: Floats) -> tuple[Int64s, Int64s, Int64s, Int64s, Int64s]:
    f = fold(w.m, w.n, w.k, array.rows, array.cols, flow)
    tiles = w.products * f.row_folds * f.col_folds
    copies = np.maximum(1, array.num_arrays // tiles)
    streamed = np.ceil(-(-f.streamed // copies) / macs_per_cell).astype(np.int64)
    fill, issue, drain = pipelined_parts(f._replace(streamed=streamed), array.rows, array.cols, flow, array.double_buffer)
    # Several products and several arrays: the tiles of all products follow one another, an even share on each array.
    issue = -(-w.products * issue // np.minimum(array.num_arrays, tiles))
    issue = np.maximum(issue, streamed)
    stationary, streaming, out = {"ws": (w.k * w.n, w.m * w.k, w.m * w.n), "is": (w.k * w.m, w.n * w.k, w.m * w.n),
                                  "os": (np.zeros_like(w.m), w.m * w.k, w.m * w.n)}[flow]
    reread = f.row_folds * w.k * w.n if flow == "os" else np.zeros_like(w.m)
    passes = np.ones_like(w.m) if flow == "os" else 2 * f.row_folds - 1
    return fill, issue, drain, w.products * (stationary + streaming * f.col_folds + reread), w.products * out * passes
