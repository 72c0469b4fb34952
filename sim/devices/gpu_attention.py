"""Attention on a GPU as the kernels that run it: fused prefill, decode over split keys, and the unfused form."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..calibration import DecodeCondition, GemmCondition, PrefillCondition
from ..costs import Floats
from .gpu_gemm import CUBLAS, Shape, Types, gemm
from .gpu_machine import Parts, ResolvedGpu

QUERY_ROWS = 128
"""Query rows of one thread block in FlashAttention-2 and -3 (arXiv 2307.08691 section 3.3, 2407.08608)."""
KEY_TILE = 128
"""Keys that a block takes at once, of heads up to 128 wide; wider heads take fewer."""
MAX_KEY_SPLITS = 32
"""Parts into which the keys of one sequence are split at most (guess)."""
SHARED_HEADS = 64
"""Query heads of one KV head that fit the tile of a decode block (guess)."""
LONG_KEYS = 1024
"""Keys of one decode block beyond which a sequence is split although the SMs are filled (guess)."""
MAX_SHARED_TRTLLM = 32
"""TensorRT-LLM's grouped decode kernel (XQA) takes up to 32 query heads a KV head; beyond, and at one, a kernel without sharing runs."""

OVERLAP_BLOCKS = 6.0
"""Decode blocks a SM at which half of the overlap is reached: the first block of an SM has no other one to hide behind (guess)."""
MHA_BLOCKS, SHARED_BLOCKS = 3.0, 16.0
"""Decode blocks of one SM that hide each other's latency: few of the kernel without sharing, which fills registers (guess)."""


class AttentionKernel(NamedTuple):
    """Which kernel: `packs` query heads of one KV head into the rows of a tile; `splits` keys over blocks where SMs are
    idle, `fixed_splits` of them where above 0, or in equal shares of all work (`stream`); `separate_mha`: a kernel of its
    own where heads share no keys."""

    fused: bool = True
    packs: bool = True
    splits: bool = True
    fixed_splits: int = 0
    stream: bool = False
    separate_mha: bool = False


FLASH2 = AttentionKernel(packs=False, splits=False)
FLASH3 = AttentionKernel()
SPLIT_KV = AttentionKernel()
LEAN = AttentionKernel(stream=True)
UNFUSED = AttentionKernel(fused=False)
TRTLLM = AttentionKernel(packs=False, splits=False, separate_mha=True)
NAMED = {"flash2": FLASH2, "flash3": FLASH3, "split-kv": SPLIT_KV, "fixed-split": AttentionKernel(fixed_splits=8), "lean": LEAN,
         "unfused": UNFUSED}
"""Kernels that the column `kernel` of a table may name. fixed-split: eight parts, whatever the grid (FlashDecoding)."""
OF_FRAMEWORK = {"trtllm": TRTLLM, "triton": FLASH2}


class Heads(NamedTuple):
    """Columns of one attention: sequences, heads, widths, lengths (of the longest sequence), and what all sequences do together."""

    batch: Floats
    heads_q: Floats
    heads_kv: Floats
    head_dim: Floats
    value_dim: Floats
    q_len: Floats
    kv_len: Floats
    window: Floats
    pairs: Floats
    """Visible (query, key) pairs of all sequences, of one head."""
    key_bytes: Floats
    """Of one element of the cache."""
    cache_bytes: Floats
    query_bytes: Floats
    """Queries and results."""
    cold: Floats
    """1 where the cache comes from memory in any case; 0 where the row is repeated on the same one."""

    @property
    def width(self) -> Floats:
        return (self.head_dim + self.value_dim) / 2

    @property
    def unevenness(self) -> Floats:
        """Visible pairs over those of `batch` causal sequences of the longest one's length: 2 where nothing is hidden."""
        reach = np.where(self.window > 0, np.minimum(self.window, self.kv_len), self.kv_len)
        full = np.clip(self.kv_len - reach, 0, self.q_len)
        growing = self.q_len - full
        causal = full * reach + growing * reach - growing * (growing - 1) / 2
        share: Floats = self.pairs / np.maximum(self.batch * causal, 1)
        return share


def _traffic(heads: Heads, bytes_: Floats, gpu: ResolvedGpu, read_factor: float) -> tuple[Floats, Floats]:
    """Time in us of reading once, and the bytes that come from memory."""
    stays = np.where(heads.cold > 0, 0.0, gpu.resident(bytes_))
    rate = min(gpu.memory_bytes_per_us, gpu.read_bytes_per_us * read_factor)
    return bytes_ * ((1 - stays) / rate + stays / gpu.tile_bytes_per_us), bytes_ * (1 - stays)


def _other_heads(heads: Heads, other_us: float, padded_us: float) -> Floats:
    width = heads.head_dim
    extra: Floats = other_us * (width != QUERY_ROWS) + padded_us * (np.log2(width) % 1 > 0)
    return extra


def prefill(heads: Heads, arithmetic: int, gpu: ResolvedGpu, kernel: AttentionKernel, condition: PrefillCondition) -> Parts:
    """Fused attention over a prompt: a block takes 128 query rows of a head and walks over the keys that they may see.

    All blocks together take at least their mean work a SM; the longest one, which sees all keys, ends last.
    """
    share = np.where(kernel.packs, heads.heads_q / heads.heads_kv, 1.0)
    grid = heads.batch * np.where(kernel.packs, heads.heads_kv, heads.heads_q)
    key_tile = np.where(heads.width >= 256, KEY_TILE // 2, np.where(heads.width >= 192, KEY_TILE * 3 // 4, KEY_TILE)).astype(np.float64)
    tiles = np.ceil(heads.q_len * share / QUERY_ROWS)
    step = QUERY_ROWS / share
    window = np.where((heads.window > 0) & (heads.window < heads.kv_len), heads.window, np.inf)
    before = heads.kv_len - heads.q_len
    widest = np.minimum(heads.kv_len, window + step)
    growing = np.minimum(tiles, np.ceil(np.maximum(widest - before, step) / step))
    last = np.minimum(before + growing * step, widest)
    keys = growing * (last + np.minimum(before + np.minimum(step, heads.q_len), widest)) / 2 + (tiles - growing) * widest
    masked = np.where(np.isfinite(window), condition.window_keys, 0.0)
    keys = (keys + tiles * (key_tile / 2 + masked)) * heads.unevenness
    longest = np.ceil(np.minimum(heads.kv_len, widest) / key_tile) * key_tile

    rate = gpu.macs_per_us(arithmetic, condition.tensor_factor) / gpu.num_sms
    key_us = QUERY_ROWS * ((heads.head_dim + heads.value_dim) / rate + 1 / (condition.score_rate * gpu.mhz))
    block_us = condition.block_clocks / gpu.mhz
    mean = grid * (keys * key_us + tiles * block_us) / gpu.num_sms
    slowest = longest * key_us + block_us
    blocks = grid * tiles
    compute = np.maximum(slowest, mean + condition.tail * slowest * np.minimum(blocks / gpu.num_sms, 1.0))
    if kernel.splits:
        parts = np.minimum(np.maximum(np.floor(gpu.num_sms / blocks), 1.0), np.maximum(1.0, longest / key_tile / 2))
        parts = np.minimum(parts, MAX_KEY_SPLITS)
        partial = blocks * parts * QUERY_ROWS * heads.value_dim * 4 * 2 / gpu.tile_bytes_per_us
        split = np.maximum(longest / parts * key_us + block_us + condition.combine_us + partial, mean)
        compute = np.where(parts > 1, np.minimum(compute, split), compute)
    memory, moved = _traffic(heads, heads.query_bytes + heads.cache_bytes, gpu, 1.0)
    around, moved_around = _traffic(heads, condition.append_passes * (heads.query_bytes / 2 + heads.cache_bytes), gpu, 1.0)
    fixed = gpu.floor_us + condition.extra_us + _other_heads(heads, condition.other_head_us, condition.padded_head_us)
    loaded = grid * keys * (heads.head_dim + heads.value_dim) * heads.key_bytes
    busy = gpu.overlapped(compute, memory, gpu.physics.overlap) + around
    return Parts(fixed, compute, memory + around, busy, moved + moved_around, loaded)


def decode(heads: Heads, arithmetic: int, gpu: ResolvedGpu, kernel: AttentionKernel, condition: DecodeCondition) -> Parts:
    """One query over the cache: a block for each (sequence, KV head), and for each part where the keys are split.

    Blocks wait for memory rather than compute: a tile of keys takes a block its latency, and all tiles their bytes.
    """
    group = heads.heads_q / heads.heads_kv
    alone = (group == 1) | (group > MAX_SHARED_TRTLLM) if kernel.separate_mha else np.zeros(group.size, bool)
    keys = np.where((heads.window > 0) & (heads.window < heads.kv_len), heads.window, heads.kv_len)
    grid = heads.batch * np.where(alone, heads.heads_q, heads.heads_kv * np.ceil(group / SHARED_HEADS))
    tiles = np.ceil(keys / KEY_TILE)
    if kernel.fixed_splits:
        parts = np.minimum(tiles, float(kernel.fixed_splits))
    elif kernel.splits or kernel.separate_mha:
        parts = np.floor(gpu.num_sms / grid)
        if kernel.separate_mha:
            parts = np.maximum(parts, np.where(alone, 1.0, np.floor(keys / LONG_KEYS)))
        parts = np.clip(parts, 1.0, tiles)
    else:
        parts = np.ones(group.size)
    if kernel.stream:
        parts = np.clip(gpu.num_sms / grid, 1.0, tiles)
    blocks = grid * parts / gpu.num_sms
    wide = 1 + condition.block_width * (heads.width / KEY_TILE - 1)
    shared = 1 + condition.group_width * np.where(alone, 0.0, np.maximum(np.ceil(group / 8) - 1, 0))
    each = np.where(alone, condition.mha_block_clocks, condition.block_clocks) * np.maximum(wide, 0.1) * shared
    waves = blocks if kernel.stream else (blocks + np.ceil(blocks)) / 2
    ends = ((condition.latency_clocks**4 + (each * waves) ** 4) ** 0.25) / gpu.mhz
    taken = keys / parts if kernel.stream else np.minimum(keys, np.ceil(tiles / parts) * KEY_TILE)
    tile_clocks = np.where(alone, condition.mha_tile_clocks, condition.tile_clocks) * shared
    taken = taken + np.where((heads.window > 0) & (heads.window <= heads.kv_len), KEY_TILE / 2, 0.0)  # a window ends inside a tile
    per_key = tile_clocks / KEY_TILE / gpu.mhz * (0.5 + 0.25 * heads.width * heads.key_bytes / KEY_TILE)
    issue = heads.batch * heads.heads_q * keys * (heads.head_dim + heads.value_dim) / gpu.macs_per_us(arithmetic, 1.0)
    resident_waves = np.where(alone, MHA_BLOCKS, SHARED_BLOCKS)
    compute = np.maximum(ends + per_key * taken * np.maximum(1.0, waves / resident_waves), issue)
    bytes_ = heads.cache_bytes + heads.query_bytes
    memory, moved = _traffic(heads, bytes_, gpu, condition.read_factor)
    memory = np.where(alone & (group > 1), np.maximum(memory, bytes_ * group / gpu.tile_bytes_per_us), memory)
    fixed = gpu.floor_us + condition.extra_us + _other_heads(heads, 0.0, condition.padded_head_us)
    fixed = fixed + np.where(parts > 1, condition.combine_us, 0.0)
    overlap = condition.overlap * blocks / (blocks + OVERLAP_BLOCKS)
    return Parts(fixed, compute, memory, gpu.overlapped(compute, memory, overlap), moved, bytes_)


def unfused(heads: Heads, arithmetic: int, act_bytes: float, gpu: ResolvedGpu) -> Parts:
    """Three kernels with the score matrix in memory between them: scores, softmax over whole rows, values."""
    grid, ones = heads.batch * heads.heads_q, np.ones(heads.batch.size)
    types = Types(arithmetic, act_bytes, act_bytes, act_bytes, 0.0)
    score = gemm(Shape(grid, heads.q_len, heads.kv_len, heads.head_dim, ones), types, gpu, CUBLAS, GemmCondition(), False)
    value = gemm(Shape(grid, heads.q_len, heads.value_dim, heads.kv_len, ones), types, gpu, CUBLAS, GemmCondition(), False)
    matrix = grid * heads.q_len * heads.kv_len * act_bytes
    passes = 2 * matrix
    stays = gpu.resident(matrix)
    softmax = passes * ((1 - stays) / gpu.read_bytes_per_us + stays / gpu.tile_bytes_per_us)
    fixed = score.fixed + value.fixed + gpu.floor_us
    return Parts(fixed, score.compute + value.compute, score.memory + value.memory + softmax, score.busy + value.busy + softmax,
                 score.dram_bytes + value.dram_bytes + passes * (1 - stays), score.tile_bytes + value.tile_bytes)
