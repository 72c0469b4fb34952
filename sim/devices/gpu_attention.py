"""Attention on a GPU as the kernels that run it: fused prefill, decode over split keys, and the unfused form."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..calibration import DecodeCondition, GemmCondition, PrefillCondition
from ..costs import Floats
from .gpu_gemm import CUBLAS, Setting, Types, gemm
from .gpu_machine import Parts, ResolvedGpu, Shape

Mask = NDArray[np.bool_]

QUERY_ROWS = 128
"""Query rows of one thread block in FlashAttention-2 and -3 (arXiv 2307.08691 section 3.3, 2407.08608)."""
KEY_TILE = 128
"""Keys that a block takes at once, of heads up to 128 wide; wider heads take fewer."""
MAX_KEY_SPLITS = 32
"""Parts into which the keys of one sequence are split at most (guess)."""
SHARED_HEADS = 64
"""Query heads of one KV head that fit the tile of a decode block (guess)."""
OVERLAP_BLOCKS = 6.0
"""Decode blocks a SM at which half of the overlap is reached: the first block of an SM has no other one to hide behind (guess)."""
SHARED_BLOCKS = 16.0
"""Decode blocks of one SM that hide each other's latency (guess)."""


FLASH_FILLED, FLASH_WORTH = 0.8, 0.85
"""FlashAttention-2 does not split where the grid fills this share of its places, and takes the fewest parts that come this near to the
best filling (Dao-AILab/flash-attention, num_splits_heuristic)."""
FLASH_BLOCKS = 2
"""Blocks of 128 threads that it counts on for each SM (the same source)."""
MAX_DECODE_SPLITS = 128
"""Parts that its second kernel can add up (the same source)."""
SYNCHRONOUS_SHARE = 0.63
"""Of the peak, for matrix instructions of the generation before on a GPU with asynchronous ones (arXiv 2402.13499: mma on H100, from
memory)."""
FIXED_SHARE = 0.25
"""Of an SM's time for a tile of 128 x 128, that does not depend on the heads' width: the softmax (guess)."""
GRAPH_SPLITS = 32
"""vLLM's limit on the parts of a decode that is captured in a CUDA graph (its default, from memory; the rows of 32,768 keys and more
grow as 32 parts do)."""
FIXUP_TRIPS, L2_TRIP_CLOCKS = 4, 407
"""To the L2 and back for each part that is handed over inside a kernel: the part, its flag, and both read (guess); clocks of one on an
A100 (te42kyfo/gpu-benches, gpu-latency)."""
PAGE_CLOCKS = 16.0
"""To look a page up and make its addresses (guess)."""


class AttentionKernel(NamedTuple):
    """Which kernel runs an attention."""

    fused: bool = True
    wide_rows: int = QUERY_ROWS
    """Query rows of a prefill's block, of heads wider than 256."""
    hidden_share: float = 0.0
    """What a key that a window hides costs a prefill, over one that is seen: kernels that go over all keys and mask."""
    packs: bool = True
    """Query heads of one KV head share the rows of a prefill's tile."""
    splits: bool = True
    """Keys are split over blocks where SMs are idle."""
    fixed_splits: int = 0
    """A decode's keys are split into so many parts, whatever the grid."""
    most_splits: int = 0
    """Parts beyond which a decode's keys are not split; 0: no limit."""
    flash_splits: bool = False
    """A decode's keys are split as FlashAttention-2 splits them."""
    stream: bool = False
    """A decode's keys are dealt out in equal shares of all work; a share may end inside a sequence (stream-K)."""
    shares: bool = True
    """Query heads of one KV head share a block of a decode."""
    rows: int = 0
    """Query rows that a decode's matrix instructions multiply, most of them empty; 0: no more than what was fitted."""
    synchronous: bool = False
    """Its matrix instructions are of the kind that waits for its operands."""
    page: int = 0
    """Keys of a page of the cache; 0: a sequence's keys lie in one piece."""


FLASH3 = AttentionKernel()
SPLIT_KV = AttentionKernel()
LEAN = AttentionKernel(stream=True, rows=64)
UNFUSED = AttentionKernel(fused=False)
TRTLLM = AttentionKernel(packs=False, splits=False)
FLASH2 = AttentionKernel(packs=False, splits=False, shares=False, rows=128, synchronous=True)
NAMED = {
    "flash2": FLASH2, "flash3": FLASH3,
    "split-kv": AttentionKernel(packs=False, splits=False, flash_splits=True, rows=64, synchronous=True),
    "fixed-split": AttentionKernel(fixed_splits=8, rows=64), "lean": LEAN, "paged": AttentionKernel(page=16), "unfused": UNFUSED,
}
"""Kernels that a row (column `kernel`) or a GPU (`attention`) may name.

flash2: one block a (sequence, query head), its one query in a tile of 128 rows. split-kv: FlashDecoding, FlashAttention-2's kernel for a
cache, which splits where places are left. fixed-split: eight parts, whatever the grid. lean: LeanAttention (arXiv 2405.10480). flash3:
grouped heads share a tile, keys are split where SMs are left. paged: the same on pages of 16 keys (vLLM's default). unfused: scores in
memory. Tiles of 64 and 128 rows: Dao-AILab/flash-attention, launch templates; of lean: guess."""
OF_FRAMEWORK = {"trtllm": TRTLLM, "triton": AttentionKernel(packs=False, splits=False, wide_rows=32, hidden_share=0.25),
                "vllm": AttentionKernel(most_splits=GRAPH_SPLITS)}
"""Triton: SGLang's own kernels (sgl-project/sglang, extend_attention.py: blocks of 128 and 32 rows, from memory; the
share of hidden keys is between those that fit its three types, 0.2 to 0.3)."""
DECODE_OF_FRAMEWORK = {name: kernel for name, kernel in OF_FRAMEWORK.items() if name != "trtllm"}
"""Of a decode; TensorRT-LLM's own kernels are those of gpu_trtllm."""


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
        full = np.clip(np.maximum(self.kv_len, self.q_len) - reach, 0, self.q_len)
        growing = self.q_len - full
        causal = full * reach + growing * reach - growing * (growing - 1) / 2
        share: Floats = self.pairs / np.maximum(self.batch * causal, 1)
        return share


def traffic(heads: Heads, bytes_: Floats, gpu: ResolvedGpu, read_factor: float) -> tuple[Floats, Floats]:
    """Time in us of reading once, and the bytes that come from memory."""
    stays = np.where(heads.cold > 0, 0.0, gpu.resident(bytes_))
    rate = min(gpu.memory_bytes_per_us, gpu.read_bytes_per_us * read_factor)
    return bytes_ * ((1 - stays) / rate + stays / gpu.tile_bytes_per_us), bytes_ * (1 - stays)


def prefill_fixed_us(heads: Heads, gpu: ResolvedGpu, condition: PrefillCondition) -> Floats:
    """Before and after a prefill's blocks."""
    return gpu.floor_us + condition.extra_us + _other_heads(heads, condition.other_head_us, condition.padded_head_us)


def decode_fixed_us(heads: Heads, gpu: ResolvedGpu, condition: DecodeCondition) -> Floats:
    """Before and after a decode's blocks, without joining their parts."""
    return gpu.floor_us + condition.extra_us + _other_heads(heads, 0.0, condition.padded_head_us)


def _other_heads(heads: Heads, other_us: float, padded_us: float) -> Floats:
    width = heads.head_dim
    extra: Floats = other_us * (width != QUERY_ROWS) + padded_us * (np.log2(width) % 1 > 0)
    return extra


def query_rows(heads: Heads, kernel: AttentionKernel) -> Floats:
    """Query rows of a block of a prefill."""
    return np.where(heads.width > 256, float(kernel.wide_rows), QUERY_ROWS)


def prefill_block(heads: Heads, arithmetic: int, gpu: ResolvedGpu, kernel: AttentionKernel,
                  condition: PrefillCondition) -> tuple[Floats, Floats]:
    """Time in us of a key through a block of a prefill, whose SM it has for itself, and of the block before and after its keys."""
    rate = gpu.macs_per_us(arithmetic, condition.tensor_factor * _pace(kernel, gpu)) / gpu.num_sms
    rows = query_rows(heads, kernel)
    wide = np.where(heads.width > 128, condition.wide_factor, 1.0)
    key_us = wide * rows * ((heads.head_dim + heads.value_dim) / rate + 1 / (condition.score_rate * gpu.mhz))
    key_us = key_us + condition.convert_clocks / gpu.mhz * heads.width / 128
    if kernel.page:
        key_us = key_us + PAGE_CLOCKS / kernel.page / gpu.mhz
    share = heads.heads_q / heads.heads_kv if kernel.packs else 1.0
    empty = 1 - np.minimum(1.0, heads.q_len * share / rows)
    return key_us, condition.block_clocks * (1 - condition.row_share * empty) / gpu.mhz


def prefill(heads: Heads, arithmetic: int, gpu: ResolvedGpu, kernel: AttentionKernel, condition: PrefillCondition) -> Parts:
    """Fused attention over a prompt: a block takes 128 query rows of a head and walks over the keys that they may see.

    All blocks together take at least their mean work a SM; the longest one, which sees all keys, ends last.
    """
    share = np.where(kernel.packs, heads.heads_q / heads.heads_kv, 1.0)
    grid = heads.batch * np.where(kernel.packs, heads.heads_kv, heads.heads_q)
    key_tile = np.where(heads.width >= 256, KEY_TILE // 2, np.where(heads.width >= 192, KEY_TILE * 3 // 4, KEY_TILE)).astype(np.float64)
    rows = query_rows(heads, kernel)
    tiles = np.ceil(heads.q_len * share / rows)
    step = rows / share
    window = np.where((heads.window > 0) & (heads.window < heads.kv_len), heads.window, np.inf)
    before = np.maximum(heads.kv_len - heads.q_len, 0)  # queries on fewer keys: cross-attention
    widest = np.minimum(heads.kv_len, window + step)
    growing = np.minimum(tiles, np.ceil(np.maximum(widest - before, step) / step))
    last = np.minimum(before + growing * step, widest)
    keys = growing * (last + np.minimum(before + np.minimum(step, heads.q_len), widest)) / 2 + (tiles - growing) * widest
    masked = np.where(np.isfinite(window), condition.window_keys, 0.0)
    keys = (keys + tiles * (key_tile / 2 + masked)) * heads.unevenness
    longest = np.ceil(np.minimum(heads.kv_len, widest) / key_tile) * key_tile
    if kernel.hidden_share:
        keys = keys + kernel.hidden_share * np.maximum(tiles * (before + (tiles + 1) / 2 * step) - keys, 0)
        longest = longest + kernel.hidden_share * (heads.kv_len - np.minimum(heads.kv_len, widest))

    key_us, block_us = prefill_block(heads, arithmetic, gpu, kernel, condition)
    mean = grid * (keys * key_us + tiles * block_us) / gpu.num_sms
    slowest = longest * key_us + block_us
    blocks = grid * tiles
    compute = np.maximum(slowest, mean + condition.tail * slowest * np.minimum(blocks / gpu.num_sms, 1.0))
    if kernel.splits:
        parts = np.minimum(np.maximum(np.floor(gpu.num_sms / blocks), 1.0), np.maximum(1.0, longest / key_tile / 2))
        parts = np.minimum(parts, MAX_KEY_SPLITS)
        partial = blocks * parts * rows * heads.value_dim * 4 * 2 / gpu.tile_bytes_per_us
        split = np.maximum(longest / parts * key_us + block_us + condition.combine_us + partial, mean)
        compute = np.where(parts > 1, np.minimum(compute, split), compute)
    memory, moved = traffic(heads, heads.query_bytes + heads.cache_bytes, gpu, 1.0)
    around, moved_around = traffic(heads, condition.append_passes * (heads.query_bytes / 2 + heads.cache_bytes), gpu, 1.0)
    fixed = prefill_fixed_us(heads, gpu, condition)
    loaded = grid * keys * (heads.head_dim + heads.value_dim) * heads.key_bytes
    busy = gpu.overlapped(compute, memory, gpu.physics.overlap) + around
    return Parts(fixed, compute, memory + around, busy, moved + moved_around, loaded)


class DecodeGrid(NamedTuple):
    """What blocks a decode has; columns."""

    alone: Mask
    """Heads share no block."""
    keys: Floats
    """That a query sees."""
    tiles: Floats
    pairs: Floats
    """Of a sequence and a head (or heads that share a block)."""
    parts: Floats
    """Blocks of each pair; of stream-K a share of one, where a block takes several pairs."""
    joined: Mask
    """Several blocks work on one pair."""


def decode_grid(heads: Heads, gpu: ResolvedGpu, kernel: AttentionKernel) -> DecodeGrid:
    """The blocks of a decode, by the rules of its kernel."""
    group = heads.heads_q / heads.heads_kv
    alone = np.full(group.size, not kernel.shares)
    keys = np.where((heads.window > 0) & (heads.window < heads.kv_len), heads.window, heads.kv_len)
    rows = np.ceil(heads.q_len * np.where(alone, 1.0, group) / SHARED_HEADS)
    pairs = heads.batch * np.where(alone, heads.heads_q, heads.heads_kv) * rows
    tiles = np.ceil(keys / KEY_TILE)
    if kernel.stream:
        parts = np.minimum(gpu.num_sms * FLASH_BLOCKS / pairs, tiles)
    elif kernel.fixed_splits:
        parts = np.minimum(tiles, float(kernel.fixed_splits))
    elif kernel.flash_splits:
        parts = _flash_splits(pairs, tiles, gpu.num_sms * FLASH_BLOCKS)
    elif kernel.splits:
        parts = np.floor(gpu.num_sms / pairs)
        parts = np.clip(parts, 1.0, np.minimum(tiles, float(kernel.most_splits or np.inf)))
    else:
        parts = np.ones(group.size)
    return DecodeGrid(alone, keys, tiles, pairs, parts, (parts > 1) | (1 / parts % 1 > 0))


def _flash_splits(pairs: Floats, tiles: Floats, places: int) -> Floats:
    """Parts that FlashAttention-2 splits the keys of each pair into."""
    splits = np.arange(1.0, MAX_DECODE_SPLITS + 1)
    most = np.minimum(tiles, min(places, MAX_DECODE_SPLITS))[:, None]
    each = np.ceil(tiles[:, None] / splits)
    new = np.concatenate([np.ones((tiles.size, 1), bool), each[:, 1:] != each[:, :-1]], axis=1)
    waves = pairs[:, None] * splits / places
    filled = np.where(new & (splits <= most), waves / np.ceil(waves), 0.0)
    first: Floats = splits[np.argmax(filled >= FLASH_WORTH * filled.max(axis=1, keepdims=True), axis=1)]
    return np.where(pairs >= FLASH_FILLED * places, 1.0, first)


def _pace(kernel: AttentionKernel, gpu: ResolvedGpu) -> float:
    return SYNCHRONOUS_SHARE if kernel.synchronous and gpu.asynchronous else 1.0


class DecodeBlocks(NamedTuple):
    """What a block of a decode costs; columns, in us."""

    start: Floats
    """Of SM and memory system, a block."""
    key: Floats
    """A key through one block, with a latency that others hide."""
    matrix: Floats
    """A key of an SM's time, which its other blocks wait for: matrix unit, softmax, conversions of the cache."""
    resident: Floats
    """Blocks that hide each other's latency."""


def decode_blocks(heads: Heads, arithmetic: int, gpu: ResolvedGpu, kernel: AttentionKernel, condition: DecodeCondition,
                  alone: Mask) -> DecodeBlocks:
    """What the blocks of a decode cost."""
    group = heads.heads_q / heads.heads_kv
    wide = 1 + condition.block_width * (heads.width / KEY_TILE - 1)
    shared = 1 + condition.group_width * np.where(alone, 0.0, np.maximum(np.ceil(heads.q_len * group / 8) - 1, 0))
    each = condition.block_clocks * np.maximum(wide, 0.1) * shared
    tile_clocks = condition.tile_clocks * shared
    key = tile_clocks / KEY_TILE / gpu.mhz * (0.5 + 0.25 * heads.width * heads.key_bytes / KEY_TILE)
    if kernel.page:
        key = key + PAGE_CLOCKS / kernel.page / gpu.mhz
    rate = gpu.macs_per_us(arithmetic, _pace(kernel, gpu)) / gpu.num_sms
    of_sm = condition.sm_tile_clocks * shared * (FIXED_SHARE + (1 - FIXED_SHARE) * heads.width / KEY_TILE)
    of_sm = of_sm * np.where(heads.width > KEY_TILE, condition.sm_wide, 1.0) / KEY_TILE / gpu.mhz
    return DecodeBlocks(each / gpu.mhz, key, np.maximum(kernel.rows * (heads.head_dim + heads.value_dim) / rate, of_sm),
                        np.full(group.size, SHARED_BLOCKS))


def joining_us(heads: Heads, grid: DecodeGrid, gpu: ResolvedGpu, kernel: AttentionKernel, condition: DecodeCondition) -> Floats:
    """Time to join the parts of a sequence, where it has several: a second kernel, or inside the first where it streams."""
    if not kernel.stream:
        return np.where(grid.joined, condition.combine_us, 0.0)
    handed = np.ceil(grid.parts) * heads.value_dim * 4 / (gpu.tile_bytes_per_us / gpu.num_sms)  # 32-bit results
    return np.where(grid.joined, FIXUP_TRIPS * L2_TRIP_CLOCKS / gpu.mhz + handed, 0.0)


def decode(heads: Heads, arithmetic: int, gpu: ResolvedGpu, kernel: AttentionKernel, condition: DecodeCondition) -> Parts:
    """One query over the cache: a block for each (sequence, KV head), and for each part where the keys are split.

    Blocks wait for memory rather than compute: a tile of keys takes a block its latency, and all tiles their bytes.
    """
    group = heads.heads_q / heads.heads_kv
    grid = decode_grid(heads, gpu, kernel)
    alone, keys, tiles, pairs, parts, _ = grid
    each = decode_blocks(heads, arithmetic, gpu, kernel, condition, alone)
    blocks = pairs * parts / gpu.num_sms
    waves = blocks if kernel.stream else (blocks + np.ceil(blocks)) / 2
    ends = ((condition.latency_clocks / gpu.mhz) ** 4 + (each.start * waves) ** 4) ** 0.25
    taken = keys * heads.unevenness / parts if kernel.stream else np.minimum(keys, np.ceil(tiles / parts) * KEY_TILE)
    taken = taken + np.where((heads.window > 0) & (heads.window <= heads.kv_len), KEY_TILE / 2, 0.0)  # a window ends inside a tile
    issue = heads.batch * heads.heads_q * heads.q_len * keys * (heads.head_dim + heads.value_dim) / gpu.macs_per_us(arithmetic, 1.0)
    walk = np.maximum(each.key * np.maximum(1.0, waves / each.resident), each.matrix * np.maximum(1.0, waves * heads.unevenness))
    compute = np.maximum(ends + walk * taken, issue)
    bytes_ = heads.cache_bytes + heads.query_bytes
    memory, moved = traffic(heads, bytes_, gpu, condition.read_factor)
    memory = np.where(alone & (group > 1), np.maximum(memory, bytes_ * group / gpu.tile_bytes_per_us), memory)
    fixed = decode_fixed_us(heads, gpu, condition)
    fixed = fixed + joining_us(heads, grid, gpu, kernel, condition)
    overlap = condition.overlap * blocks / (blocks + OVERLAP_BLOCKS)
    return Parts(fixed, compute, memory, gpu.overlapped(compute, memory, overlap), moved, bytes_)


def unfused(heads: Heads, arithmetic: int, act_bytes: float, gpu: ResolvedGpu) -> Parts:
    """Three kernels with the score matrix in memory between them: scores, softmax over whole rows, values."""
    grid, ones = heads.batch * heads.heads_q, np.ones(heads.batch.size)
    types, plain = Types(arithmetic, act_bytes, act_bytes, act_bytes, 0.0), Setting(CUBLAS, GemmCondition())
    score = gemm(Shape(grid, heads.q_len, heads.kv_len, heads.head_dim, ones), types, gpu, plain)
    value = gemm(Shape(grid, heads.q_len, heads.value_dim, heads.kv_len, ones), types, gpu, plain)
    matrix = grid * heads.q_len * heads.kv_len * act_bytes
    passes = 2 * matrix
    stays = gpu.resident(matrix)
    softmax = passes * ((1 - stays) / gpu.read_bytes_per_us + stays / gpu.tile_bytes_per_us)
    fixed = score.fixed + value.fixed + gpu.floor_us
    return Parts(fixed, score.compute + value.compute, score.memory + value.memory + softmax, score.busy + value.busy + softmax,
                 score.dram_bytes + value.dram_bytes + passes * (1 - stays), score.tile_bytes + value.tile_bytes)
