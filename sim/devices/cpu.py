"""CPU: cores with matrix and vector units, under the bandwidth of every cache level and of main memory."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gemvane.workloads.ops import BITS, CODE, DTYPES, FORMS, KIND_FORM, WORK, Rows

from ..costs import Costs, Floats, Int64s, Ledger
from ..dram.stream import bytes_per_s, scattered
from ..schema import Cpu, HardwareSpec
from ..units import ps_to_s
from .precision import Rates, rates

OPERANDS = 3
"""Blocks of a matmul that share a cache: one of each factor and one of the product."""


KEY_BLOCK = 512
"""Keys that attention over a prompt takes at a time (PyTorch's CPU kernel); a block that the diagonal cuts is computed whole."""


class ResolvedCpu(NamedTuple):
    """Rates per clock of all cores together."""

    freq_hz: int
    num_cores: int
    matrix: Rates
    sustained: Rates
    """The part of `matrix` that whole tiles reach."""
    lanes: float
    overlap: float
    tile_rows: int
    tile_cols: int
    cache_bytes: tuple[int, ...]
    """Of one cache of each level, L1 first."""
    cache_bytes_per_cycle: tuple[float, ...]
    memory_bytes_per_cycle: float
    overhead_cycles: float
    part: str | None
    """Of the main memory."""


def resolve(name: str, unit: Cpu, hardware: HardwareSpec) -> ResolvedCpu:
    matrix = rates({d: rate * unit.num_cores for d, rate in unit.macs_per_core.items()})
    levels = [level for level in (unit.l1, unit.l2, unit.l3) if level is not None]
    return ResolvedCpu(
        freq_hz=unit.clock,
        num_cores=unit.num_cores,
        matrix=matrix,
        sustained=rates({d: rate * unit.num_cores * unit.sustained.get(d, 1.0) for d, rate in unit.macs_per_core.items()}),
        overlap=unit.overlap,
        lanes=float(matrix.macs_per_cycle[DTYPES.index("fp32")]) * unit.vector_sustained,
        tile_rows=unit.tile.rows,
        tile_cols=unit.tile.cols,
        cache_bytes=tuple(level.size for level in levels),
        cache_bytes_per_cycle=tuple(level.bandwidth / unit.clock for level in levels),
        memory_bytes_per_cycle=bytes_per_s(hardware.memory) / unit.clock,
        overhead_cycles=ps_to_s(unit.op_overhead) * unit.clock,
        part=hardware.memory.part,
    )


def cost(rows: Rows, cpu: ResolvedCpu) -> Costs:
    """Costs of rows of every class but collectives: overhead + max(arithmetic, slowest level), and the part that does not overlap.

    Operands start in main memory; a level's time is its bytes over its bandwidth. Matrix and vector instructions of an
    operator take turns on the same cores.
    """
    ledger = Ledger(rows.size)
    vector = rows.vector_ops / cpu.lanes
    ideal = np.maximum(rows.macs / cpu.matrix.macs_per_cycle[rows.act_dtype], vector)
    cut = _cut_blocks(rows)
    multiply, vector = _multiply(rows, cpu) * cut, vector * cut
    compute = np.maximum(multiply + vector, ideal)
    traffic = level_bytes(rows, cpu)
    slower = scattered(rows.run_bytes, cpu.part)
    caches = [moved / rate for moved, rate in zip(traffic[:-1], cpu.cache_bytes_per_cycle, strict=True)]
    memory = np.max([*caches, traffic[-1] / cpu.memory_bytes_per_cycle * slower], axis=0)
    exposed = (1 - cpu.overlap) * np.minimum(compute, memory)
    overhead = np.full(rows.size, cpu.overhead_cycles)
    ledger.spend("ideal", ideal)
    ledger.spend("edge", compute - ideal)
    ledger.spend("memory", np.maximum(memory - compute, 0) + exposed)
    ledger.spend("launch", overhead)
    ledger.count_macs(rows.macs, cpu.matrix.used[rows.act_dtype])
    ledger.count("vector_op", rows.vector_ops)
    ledger.count("sram_bytes", np.sum(traffic[:-1], axis=0).astype(np.int64))
    ledger.count_dram(traffic[-1].astype(np.int64))
    ledger.bind({"memory": memory, "compute": np.where(multiply >= vector, compute, 0),
                 "vector": np.where(multiply < vector, compute, 0), "launch": overhead})
    return ledger.costs()


def _multiply(rows: Rows, cpu: ResolvedCpu) -> Floats:
    """Cycles of the multiply-adds: padded to register tiles on the matrix units, or without padding on the vector units.

    Whole tiles are dealt out over the cores, so a last wave may leave some idle.
    """
    attention, scan = rows.work > 0, KIND_FORM[rows.kind] == FORMS.index("scan")
    m = np.where(attention, np.where(scan, rows.k, rows.q_len), _rows_each(rows))
    count = np.where(attention, rows.batch * np.maximum(rows.heads_q, 1), rows.batch)
    columns = np.where(attention, 1, -(-rows.n // cpu.tile_cols))
    tile_rows = -(-m // cpu.tile_rows)
    tasks = np.maximum(count * tile_rows * columns, 1)
    fullness = tasks / (-(-tasks // cpu.num_cores) * cpu.num_cores)
    padding = tile_rows * cpu.tile_rows / np.maximum(m, 1)
    padding = np.where(attention, padding, padding * columns * cpu.tile_cols / np.maximum(rows.n, 1))
    tiled = rows.macs * padding / cpu.sustained.macs_per_cycle[rows.act_dtype] / fullness
    # What is neither a matmul nor attention multiplies on the vector units.
    lanes = rows.macs / cpu.lanes
    cycles: Floats = np.where(rows.work > WORK.index("attention_decode"), lanes, np.minimum(tiled, lanes))
    return cycles


def _cut_blocks(rows: Rows) -> Floats:
    """Query-key pairs computed over pairs visible: 1 but for attention over a prompt."""
    pairs = np.maximum(rows.pairs, 1)
    hidden = np.maximum(rows.m * rows.kv_len - rows.pairs, 0)
    extra = np.minimum(rows.m * np.minimum(KEY_BLOCK, rows.kv_len) / 2, hidden)
    computed: Floats = np.where(rows.work == 1, 1 + extra / pairs, 1.0)
    return computed


def _rows_each(rows: Rows) -> Int64s:
    """Rows of one product of a matmul: those of one expert where they are shared out."""
    return np.where(rows.kind == CODE["grouped_gemm"], -(-rows.m // np.maximum(rows.batch, 1)), rows.m)


def level_bytes(rows: Rows, cpu: ResolvedCpu) -> list[Floats]:
    """Bytes that cross out of each level: L1, L2, L3 where there is one, main memory.

    Every operand crosses once. A matmul works on square blocks, three of which fill the level above, and reads them anew
    for each block of the product: 2 x multiply-adds x width / side bytes, which is the least within a constant factor
    (Hong and Kung, STOC 1981); above L1 stand the register tiles.
    """
    width = BITS[rows.act_dtype] / 8
    matmul = rows.work == 0
    least = rows.memory_bytes.astype(np.float64)
    # A product may be smaller than a block.
    high, wide = np.maximum(_rows_each(rows), 1), np.maximum(rows.n, 1)
    sides = [(np.minimum(cpu.tile_rows, high), np.minimum(cpu.tile_cols, wide))]
    for size in cpu.cache_bytes:
        side = np.sqrt(size / (OPERANDS * width))
        sides.append((np.minimum(side, high), np.minimum(side, wide)))
    blocked = [rows.macs * width * (1 / rows_ + 1 / cols) for rows_, cols in sides]
    return [np.where(matmul, np.maximum(bytes_, least), least) for bytes_ in blocked]
