"""GPU: thread-block tiles in waves over SMs, under tensor-core, L2 and HBM ceilings, with a floor for every kernel."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gemvane.workloads.ops import BITS, CODE, Rows

from ..costs import Costs, Floats, Int64s, Ledger
from ..dram.stream import bytes_per_s
from ..schema import Gpu, HardwareSpec
from ..units import ps_to_s
from .precision import Rates, rates

TILES = np.array([(256, 128), (128, 256), (256, 64), (64, 256), (192, 128), (128, 128), (128, 64), (64, 128), (64, 64), (64, 32),
                  (32, 64), (16, 128)], np.int64)
"""Output tiles (rows, columns) that GPU matmul libraries compile: the usual CUTLASS menu."""
MAX_SPLIT_K = 8
ATTENTION_ROWS = 128
"""Query rows of one thread block in FlashAttention-2 (arXiv 2307.08691, section 3.3)."""
DECODE_ROWS = 16
"""Rows of the smallest tensor-core tile: a decode pads its query heads of one KV head to it."""
DECODE_KERNELS = 2
"""Split-KV decode: the partial products, then their combination."""


class ResolvedGpu(NamedTuple):
    """Rates per clock of one GPU, all SMs together."""

    freq_hz: int
    num_sms: int
    tensor: Rates
    tensor_sustained: float
    vector_ops_per_cycle: float
    l2_bytes_per_cycle: float
    memory_bytes_per_cycle: float
    floor_cycles: float


def resolve(name: str, unit: Gpu, hardware: HardwareSpec) -> ResolvedGpu:
    return ResolvedGpu(
        freq_hz=unit.clock,
        num_sms=unit.num_sms,
        tensor=rates({d: unit.tensor_peak[d] / 2 / unit.clock for d in unit.tensor_peak}),
        tensor_sustained=unit.tensor_sustained,
        vector_ops_per_cycle=unit.vector_peak / unit.clock,
        l2_bytes_per_cycle=unit.l2_bandwidth / unit.clock,
        memory_bytes_per_cycle=bytes_per_s(hardware.memory) / unit.clock,
        floor_cycles=ps_to_s(unit.kernel_floor) * unit.clock,
    )


def cost(rows: Rows, gpu: ResolvedGpu) -> Costs:
    """Costs of rows of every class but collectives.

    time = floor + max(compute, memory): loads, stores and arithmetic of a kernel overlap, its start and end do not.
    """
    work = rows.work
    ledger = Ledger(rows.size)
    compute = np.zeros(rows.size)
    kernels = np.where(work == 2, DECODE_KERNELS, 1)
    sram_bytes = np.zeros(rows.size, np.int64)
    for code, model in ((0, _matmul), (1, _attention_prefill), (2, _attention_decode)):
        index = np.flatnonzero(work == code)
        if index.size:
            compute[index], sram_bytes[index] = model(rows.take(index), gpu)
    compute = np.maximum(compute, rows.vector_ops / gpu.vector_ops_per_cycle)
    memory = rows.memory_bytes / gpu.memory_bytes_per_cycle
    floor = gpu.floor_cycles * kernels
    ideal = np.maximum(rows.macs / gpu.tensor.macs_per_cycle[rows.act_dtype], rows.vector_ops / gpu.vector_ops_per_cycle)

    ledger.spend("ideal", ideal)
    ledger.spend("edge", compute - ideal)
    ledger.spend("memory", memory - compute)
    ledger.spend("launch", floor)
    ledger.count_macs(rows.macs, gpu.tensor.used[rows.act_dtype])
    ledger.count("vector_op", rows.vector_ops)
    ledger.count("sram_bytes", sram_bytes)
    ledger.count("l2_bytes", rows.memory_bytes)
    ledger.count_dram(rows.memory_bytes)
    matrix = np.where(work <= 2, compute, 0)
    ledger.bind({"memory": memory, "compute": matrix, "vector": compute - matrix, "launch": floor})
    return ledger.costs()


def _matmul(rows: Rows, gpu: ResolvedGpu) -> tuple[Floats, Int64s]:
    """Cycles of the best tile, and bytes that its thread blocks load into shared memory.

    A wave is one thread block on every SM. Where the output has fewer tiles than there are SMs, the inner dimension is
    split over several blocks. Reading a tile's operands from L2 is a ceiling of its own.
    """
    grouped = rows.kind == CODE["grouped_gemm"]
    m = np.where(grouped, -(-rows.m // rows.batch), rows.m)[:, None]
    n, k, batch = rows.n[:, None], rows.k[:, None], rows.batch[:, None]
    tile_m, tile_n = TILES[:, 0], TILES[:, 1]
    operand_bytes = BITS[rows.act_dtype][:, None] / 8

    blocks = batch * -(-m // tile_m) * -(-n // tile_n)
    split = np.clip(gpu.num_sms // blocks, 1, MAX_SPLIT_K)
    waves = -(-blocks * split // gpu.num_sms)
    depth = k / split
    macs_per_sm = gpu.tensor.macs_per_cycle[rows.act_dtype][:, None] * gpu.tensor_sustained / gpu.num_sms
    issue = depth * tile_m * tile_n / macs_per_sm
    l2 = depth * (tile_m + tile_n) * operand_bytes / (gpu.l2_bytes_per_cycle / gpu.num_sms)
    cycles = waves * np.maximum(issue, l2)
    best = np.argmin(cycles, axis=1)
    chosen = np.arange(rows.size), best
    loaded = blocks * k * (tile_m + tile_n) * operand_bytes
    return cycles[chosen], loaded[chosen].astype(np.int64)


def _attention_prefill(rows: Rows, gpu: ResolvedGpu) -> tuple[Floats, Int64s]:
    """Fused attention: one thread block takes 128 queries of one head and walks over the keys that they may see."""
    blocks = rows.batch * rows.heads_q * -(-rows.q_len // ATTENTION_ROWS)
    fullness = blocks / (-(-blocks // gpu.num_sms) * gpu.num_sms)
    diagonal = rows.m * rows.heads_q * (ATTENTION_ROWS // 2) * (rows.head_dim + rows.value_dim)
    macs_per_cycle = gpu.tensor.macs_per_cycle[rows.act_dtype] * gpu.tensor_sustained
    key_bytes = (rows.head_dim + rows.value_dim) * BITS[rows.kv_dtype] // 8
    loaded = rows.pairs * rows.heads_q * key_bytes // ATTENTION_ROWS
    return (rows.macs + diagonal) / macs_per_cycle / fullness, loaded


def _attention_decode(rows: Rows, gpu: ResolvedGpu) -> tuple[Floats, Int64s]:
    """Split-KV decode: query heads of one KV head share its keys and fill a tile of 16 rows; the cache is read once."""
    group = rows.heads_q // np.maximum(rows.heads_kv, 1)
    padding = DECODE_ROWS * -(-group // DECODE_ROWS) / np.maximum(group, 1)
    macs_per_cycle = gpu.tensor.macs_per_cycle[rows.act_dtype] * gpu.tensor_sustained
    return rows.macs * padding / macs_per_cycle, rows.kv_read_bytes
