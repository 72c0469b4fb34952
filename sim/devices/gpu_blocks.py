"""Thread blocks of a GPU kernel one by one: for grids of unequal blocks, which the closed form of gpu_attention sees as equal ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gemvane.workloads.ops import Int64s

from ..calibration import DecodeCondition, PrefillCondition
from ..costs import Floats
from ..kernels.blocks import blocks_kernel
from . import gpu_attention
from .gpu_attention import FLASH_BLOCKS, KEY_TILE, QUERY_ROWS, AttentionKernel, Heads
from .gpu_machine import ResolvedGpu


class Sms(NamedTuple):
    """What a grid runs on. `inf` where something does not limit."""

    num_sms: int
    slots: int
    """Blocks that an SM holds at once."""
    abreast: float = 1.0
    """Blocks that an SM computes at once at full speed: 1 where one keeps its matrix unit busy, more where each waits for its loads."""
    latency_us: float = 0.0
    """From a block's entry to its first work."""
    issue_us: float = 0.0
    """Between two blocks that begin on an SM."""
    dram_bytes_per_us: float = np.inf
    l2_bytes_per_us: float = np.inf
    block_dram_bytes_per_us: float = np.inf
    block_l2_bytes_per_us: float = np.inf


class Blocks(NamedTuple):
    """Work of each block of a grid, in the order in which they enter; columns."""

    compute_us: Floats
    """Of an SM that computes nothing else."""
    dram_bytes: Floats
    l2_bytes: Floats


class BlockTimes(NamedTuple):
    """When each block entered its SM and when it left, in us, and which SM that was."""

    enter_us: Floats
    end_us: Floats
    sm: Int64s

    @property
    def total_us(self) -> float:
        return float(self.end_us.max())


def run(blocks: Blocks, on: Sms) -> BlockTimes:
    """Every block of a grid in time, event by event (`sim.kernels.blocks`).

    The blocks of an SM share its arithmetic, all blocks share memory and L2, each alike. ValueError for a grid without blocks,
    columns that do not fit, and numbers below zero.
    """
    work = np.stack(np.broadcast_arrays(*(np.atleast_1d(np.asarray(column, np.float64)) for column in blocks)), axis=1)
    if work.size == 0:
        raise ValueError("the grid has no blocks. Expected at least one.")
    bad = np.argwhere(~((work >= 0) & np.isfinite(work)))
    if bad.size:
        block, column = bad[0].tolist()
        raise ValueError(f"block {block}: {Blocks._fields[column]} is {work[block, column]:g}. Expected a number of at least 0.")
    for name, value in zip(Sms._fields, on, strict=True):
        wish, fits = ("a number above 0", value > 0)
        if name in ("num_sms", "slots"):
            wish, fits = ("at least 1", value >= 1)
        elif name in ("latency_us", "issue_us"):
            wish, fits = ("a number of at least 0", value >= 0)
        if not fits:
            raise ValueError(f"{name} is {value:g}. Expected {wish}.")
    most = np.finfo(np.float64).max  # inf / inf is no number
    rates = np.array([min(rate, most) for rate in (on.abreast, on.latency_us, on.issue_us, on.dram_bytes_per_us, on.l2_bytes_per_us,
                                                   on.block_dram_bytes_per_us, on.block_l2_bytes_per_us)])
    span, sm = np.empty((work.shape[0], 2)), np.empty(work.shape[0], np.int64)
    blocks_kernel(np.ascontiguousarray(work), rates, on.num_sms, on.slots, span, sm)
    return BlockTimes(span[:, 0], span[:, 1], sm)


class Ragged(NamedTuple):
    """Causal attention over sequences of unequal lengths: all over a prompt, or all over a cache."""

    q_len: Int64s
    """Queries of each sequence, the last of its keys; of a decode all 1."""
    kv_len: Int64s
    heads_q: int
    heads_kv: int
    head_dim: int
    key_bytes: float = 2.0
    """Of an element of the cache; queries and results have 2."""


def heads_of(ragged: Ragged) -> Heads:
    """All sequences in one row, as the closed forms see them: as many of the longest one's length."""
    q, kv = (np.asarray(column, np.float64) for column in ragged[:2])
    if q.size == 0 or q.shape != kv.shape or not ((q >= 1) & (q <= kv)).all():
        raise ValueError(f"q_len is {ragged.q_len}, kv_len is {ragged.kv_len}. Expected as many of both, and 1 <= q_len <= kv_len.")
    if ragged.heads_kv < 1 or ragged.heads_q % ragged.heads_kv:
        raise ValueError(f"heads_q is {ragged.heads_q}, heads_kv {ragged.heads_kv}. Expected a multiple of heads_kv.")
    cache = 2 * kv.sum() * ragged.heads_kv * ragged.head_dim * ragged.key_bytes
    columns = (q.size, ragged.heads_q, ragged.heads_kv, ragged.head_dim, ragged.head_dim, q.max(), kv.max(), 0,
               (q * kv - q * (q - 1) / 2).sum(), ragged.key_bytes, cache, 4 * q.sum() * ragged.heads_q * ragged.head_dim, 1)
    return Heads(*(np.array([float(column)]) for column in columns))


def decode_us(ragged: Ragged, arithmetic: int, gpu: ResolvedGpu, kernel: AttentionKernel, condition: DecodeCondition) -> float:
    """Time in us of one query a sequence over a cold cache, with the grid and the numbers of `gpu_attention.decode`.

    Splits are chosen for the longest sequence, as kernels do. ValueError for lengths or heads that make no attention.
    """
    heads = heads_of(ragged)
    grid = gpu_attention.decode_grid(heads, gpu, kernel)
    each = gpu_attention.decode_blocks(heads, arithmetic, gpu, kernel, condition, grid.alone)
    pairs = int(grid.pairs[0])
    keys = _streamed(ragged, pairs, gpu) if kernel.stream else _split(ragged, pairs, int(grid.parts[0]))
    bytes_ = keys * float((heads.cache_bytes + heads.query_bytes)[0]) / keys.sum()
    key_us, matrix_us = float(max(each.key[0], each.matrix[0])), float(each.matrix[0])
    resident = float(each.resident[0])
    on = Sms(gpu.num_sms, int(resident), min(resident, key_us / matrix_us) if matrix_us else resident,
             condition.latency_clocks / gpu.mhz, float(each.start[0]),
             dram_bytes_per_us=min(gpu.memory_bytes_per_us, gpu.read_bytes_per_us * condition.read_factor))
    total = run(Blocks(keys * key_us, bytes_, np.zeros(1)), on).total_us
    joining = gpu_attention.joining_us(heads, grid, gpu, kernel, condition)
    return float(gpu_attention.decode_fixed_us(heads, gpu, condition)[0] + total + joining[0])


def _split(ragged: Ragged, pairs: int, parts: int) -> Floats:
    """Keys of each block where every sequence's tiles are dealt out to at most so many parts."""
    out = []
    for keys in np.asarray(ragged.kv_len).tolist():
        tiles = -(-keys // KEY_TILE)
        step = -(-tiles // parts) * KEY_TILE
        ends = np.minimum(np.arange(step, keys + step, step), keys)
        out.append(np.repeat(np.diff(ends, prepend=0), pairs // len(ragged.kv_len)))
    return np.concatenate(out).astype(np.float64)


def _streamed(ragged: Ragged, pairs: int, gpu: ResolvedGpu) -> Floats:
    """Keys of each block where all work is dealt out in equal shares."""
    total = float(np.sum(ragged.kv_len)) * pairs / len(ragged.kv_len)
    count = min(gpu.num_sms * FLASH_BLOCKS, int(np.ceil(total / KEY_TILE)))
    return np.full(count, total / count)


def prefill_us(ragged: Ragged, arithmetic: int, gpu: ResolvedGpu, kernel: AttentionKernel, condition: PrefillCondition) -> float:
    """Time in us of fused attention over prompts without a window, with the numbers of `gpu_attention.prefill`.

    A block has 128 query rows of a head; those that see most keys enter first. ValueError as `decode_us`.
    """
    heads = heads_of(ragged)
    key_us, block_us = gpu_attention.prefill_block(heads, arithmetic, gpu, kernel, condition)
    share = ragged.heads_q // ragged.heads_kv if kernel.packs else 1
    keys = []
    for q, kv in zip(np.asarray(ragged.q_len).tolist(), np.asarray(ragged.kv_len).tolist(), strict=True):
        last = np.minimum(np.arange(1, -(-q * share // QUERY_ROWS) + 1) * QUERY_ROWS / share, q)
        keys.append(np.repeat(np.ceil((kv - q + last) / KEY_TILE) * KEY_TILE, ragged.heads_q // share))
    longest_first = -np.sort(-np.concatenate(keys))
    moved = np.full(longest_first.size, float((heads.query_bytes + heads.cache_bytes)[0]) / longest_first.size)
    on = Sms(gpu.num_sms, 1, dram_bytes_per_us=gpu.read_bytes_per_us)
    total = run(Blocks(longest_first * key_us + block_us, moved, np.zeros(1)), on).total_us
    return float(gpu_attention.prefill_fixed_us(heads, gpu, condition)[0] + total)
