"""Decode as TensorRT-LLM dispatches it: which kernel runs, in how many parts, and how long its blocks take.

XQA runs heads that share keys, with a kernel of its own for an fp8 cache on Hopper; MMHA runs all others and shares nothing. Rules:
NVIDIA/TensorRT-LLM, cpp/tensorrt_llm/kernels/decoderMaskedMultiheadAttention: decoderXQAImplCommon.h (parts),
decoderXQAImplJIT/{decoderXQAImplJIT,kernelUtils}.cpp (which kernel), decoderMaskedMultiheadAttentionLaunch.h (threads and parts of MMHA).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..calibration import XqaCondition
from ..costs import Floats
from .gpu_attention import Heads, traffic
from .gpu_machine import SHARED_BYTES, Parts, ResolvedGpu

Mask = NDArray[np.bool_]

MAX_GROUP = 32
"""Query heads of one KV head that XQA takes; beyond, and at one, MMHA runs."""
PART_KEYS = 128
"""Least keys of a part of XQA."""
FEW_PARTS = 4
"""MMHA runs where XQA would not even have one part for so many SMs; not with an fp8 cache on Hopper (read off the rows)."""
MOST_WAVES = 8
"""Blocks a SM beyond which XQA makes fewer parts."""
REDUCED = 8.0
"""XQA makes no more parts than the square root of so many times those of PART_KEYS, since all are added up at the end."""
MOST_PARTS = 6000
"""Parts of all sequences that XQA's workspace holds."""
PAGE_KEYS = 64
"""XQA loads whole tiles of so many keys."""
ROWS = 8
"""Query heads that XQA multiplies at once: the narrow side of a matrix instruction."""
BLOCK_BYTES, WIDTH_BYTES, ROW_BYTES = 30 * 1024, 300, 4
"""Shared memory of a block of Hopper's XQA: fixed, of each element of a head, and of each element of a query (guess, from how many
blocks run at once: of 64-wide heads four on an SM, of 128 three, of 256 two, with 32 query heads two and one)."""
MMHA_THREADS, MMHA_PLACES = 256, 4
"""Threads of a small block of MMHA, and how many of them an SM's registers hold; where there are fewer blocks, a block gets 512 or
1,024. Heads that are padded to a power of two take more registers: half as many (read off the rows)."""
UNROLLED = 8
"""Keys that a group of MMHA's threads, each with 16 bytes of a key, takes in one loop."""
SCORE_BYTES = 6
"""Of a key in MMHA's shared memory: its score in 32 bits, its logit in 16."""


class Grid(NamedTuple):
    """Columns: which kernel runs, and its blocks."""

    shared: Mask
    """XQA; else MMHA."""
    pairs: Floats
    """Of a sequence and a head, or heads that share a block."""
    parts: Floats
    """Blocks of each pair."""
    keys: Floats
    """Of a block, in the mean; a window leaves some blocks without."""
    longest: Floats
    """Keys of the block that has most."""
    places: Floats
    """Blocks that an SM holds at once."""
    loop: Floats
    """Keys that a block of MMHA takes at once."""


def grid_of(heads: Heads, held: Floats, hopper: bool, num_sms: int) -> Grid:
    """The kernel of each row and its blocks. `held`: keys of a sequence, also those that a window hides, by which parts are made;
    `hopper`: whether the kernel for an fp8 cache on Hopper runs."""
    group = heads.heads_q / heads.heads_kv
    pairs = heads.batch * heads.heads_kv
    most = np.maximum(1.0, np.floor(held / PART_KEYS))
    shared = (group > 1) & (group <= MAX_GROUP) & (hopper | (FEW_PARTS * pairs * most >= num_sms))
    parts = np.minimum(most, np.round(np.sqrt(most * REDUCED)))
    parts = np.floor(parts / np.maximum(pairs * parts / num_sms / MOST_WAVES, 1.0))
    parts = np.maximum(1.0, np.minimum(parts, np.floor(MOST_PARTS / heads.batch)))
    places = np.ones(group.size)
    if hopper:  # blocks of which a window hides all keys are left out
        hidden = heads.kv_len < held
        parts = np.where(hidden, np.minimum(parts, np.ceil(heads.kv_len * parts / held) + 1), parts)
        block_bytes = BLOCK_BYTES + heads.width * (WIDTH_BYTES + ROW_BYTES * ROWS * np.ceil(group / ROWS))
        places = np.maximum(1.0, np.floor(SHARED_BYTES / block_bytes))
    alone = _mmha(heads, held, num_sms)
    pairs, parts, places = (np.where(shared, *both) for both in zip((pairs, parts, places), alone[:3], strict=True))
    return Grid(shared, pairs, parts, np.ceil(heads.kv_len / parts), np.minimum(np.ceil(held / parts), heads.kv_len), places, alone[3])


def _mmha(heads: Heads, held: Floats, num_sms: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Pairs, parts, places and loop of MMHA: a block has 256, 512 or 1,024 threads, more where there are fewer blocks."""
    pairs = heads.batch * heads.heads_q
    padded = 2 ** np.ceil(np.log2(heads.width))
    most = np.where(padded > heads.width, MMHA_PLACES // 2, MMHA_PLACES)
    factor = np.minimum(np.ceil(num_sms * most / pairs), most)
    factor = np.where(factor == MMHA_PLACES - 1, MMHA_PLACES // 2, factor)
    loop = MMHA_THREADS * factor * UNROLLED / (padded / 8)
    parts = np.minimum(np.ceil(num_sms / pairs), np.ceil((held + 1) / loop))
    fitting = np.maximum(1.0, np.floor(SHARED_BYTES / (SCORE_BYTES * heads.kv_len)))
    places = np.where(parts > 1, 1.0, np.minimum(np.floor(MMHA_PLACES / factor), fitting))
    return pairs, parts, places, loop


def decode(heads: Heads, held: Floats, gpu: ResolvedGpu, condition: XqaCondition) -> Parts:
    """One query a sequence over the cache, wave by wave: a wave takes its blocks' time or that of its bytes; the last is partly filled."""
    hopper = bool(gpu.asynchronous and (heads.key_bytes == 1).all())
    grid = grid_of(heads, held, hopper, gpu.num_sms)
    blocks = grid.pairs * grid.parts
    waves = blocks / (gpu.num_sms * grid.places)
    group = heads.heads_q / heads.heads_kv
    block_us = np.where(grid.shared, _xqa_block(heads, grid, blocks, condition, gpu), _mmha_block(heads, grid, condition)) / gpu.mhz

    tile = np.where(grid.shared, PAGE_KEYS, 1)
    read = heads.cache_bytes * np.ceil(grid.longest / tile) * tile / grid.longest
    memory, moved = traffic(heads, read + heads.query_bytes, gpu, condition.read_factor)
    loaded = read * np.where(grid.shared, 1.0, group)
    memory = np.where(grid.shared, memory, np.maximum(memory, loaded / gpu.tile_bytes_per_us))
    overlap = np.where(grid.shared, condition.overlap, condition.mmha_overlap)
    full = np.floor(waves)
    busy = full * gpu.overlapped(block_us, memory / waves, overlap)
    busy = busy + gpu.overlapped(block_us * (waves > full), memory * (1 - full / waves), overlap)

    joined = grid.shared & (grid.parts > 1)
    summed = grid.parts * condition.part_clocks / gpu.mhz * np.ceil(group / ROWS) * heads.value_dim / 128
    fixed = np.where(grid.shared, condition.extra_us, condition.mmha_extra_us) + joined * (condition.combine_us + summed)
    fixed = gpu.floor_us + fixed + condition.rope_us * (grid.shared & hopper & (heads.width == 64))
    return Parts(fixed, np.ceil(waves) * block_us, memory, busy, moved, loaded)


def _xqa_block(heads: Heads, grid: Grid, blocks: Floats, condition: XqaCondition, gpu: ResolvedGpu) -> Floats:
    """Clocks of a wave of XQA's blocks."""
    more = np.ceil(heads.heads_q / heads.heads_kv / ROWS) - 1
    wide = 1 + condition.block_width * (heads.width / 128 - 1)
    together = np.minimum(np.ceil(blocks / gpu.num_sms), grid.places)
    start = (condition.latency_clocks**4 + (condition.block_clocks * together) ** 4) ** 0.25 * wide * (1 + condition.block_group * more)
    of_sm = condition.sm_key_clocks * heads.width * heads.key_bytes / 128 * (1 + condition.sm_group * more) * together
    key = np.maximum(condition.key_clocks * wide * (1 + condition.key_group * more), of_sm)
    waves = np.maximum(1.0, np.ceil(blocks / gpu.num_sms / grid.places))
    keys = np.maximum(np.ceil(grid.keys / PAGE_KEYS), np.ceil(grid.longest / PAGE_KEYS) / waves) * PAGE_KEYS
    clocks: Floats = start + keys * key
    return clocks


def _mmha_block(heads: Heads, grid: Grid, condition: XqaCondition) -> Floats:
    """Clocks of a wave of MMHA's blocks."""
    wide = 1 + condition.mmha_width * (heads.width / 128 - 1)
    first = condition.mmha_first_clocks * np.minimum(1.0, grid.keys / (grid.loop / UNROLLED))
    further = condition.mmha_loop_clocks * np.maximum(grid.keys / grid.loop - 1, 0)
    clocks: Floats = wide * (condition.mmha_block_clocks + first + further + condition.mmha_split_clocks * (grid.parts > 1))
    return clocks
