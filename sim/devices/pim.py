"""Processing in memory: attention over the cache as tiles of all-bank dot products, with legal timing.

A tile opens one row in every bank of a channel, multiplies it with vectors from the channel's global buffer, and closes
it. A K row holds whole keys of several heads, one token a bank; a V row holds many tokens of one value dimension, one
dimension a bank (the layouts of NeuPIMs, arXiv 2403.00579, section 5). Query heads of one KV head share the open row: the vector
buffer is taken to hold all their vectors.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gemvane.workloads.ops import BITS, CODE, Rows
from gemvane.workloads.trace import Requests

from ..costs import Costs, Floats, Int64s, Ledger
from ..schema import HardwareSpec, Pim

LANE_BITS = 16
"""Width of one lane; narrower elements are packed."""


class ResolvedPim(NamedTuple):
    """One PIM memory. Times are cycles of its clock."""

    freq_hz: int
    channels: int
    banks: int
    row_bytes: int
    lanes: int
    step: int
    min_steps: int
    open_cycles: int
    """From the tile's header to its first dot product."""
    close_cycles: int
    """From the end of the last dot product to the next header."""
    gwrite: int
    refresh_cycles: int
    refresh_interval: int
    by_head: bool


class Tiles(NamedTuple):
    """Work of one request (or of one of its KV heads) in one operator; all columns alike in shape."""

    tiles: Int64s
    passes_cycles: Int64s
    gwrites: Int64s
    steps: Int64s
    chunks: Int64s
    """Sets of tiles that read the same vectors."""


def resolve(name: str, unit: Pim, hardware: HardwareSpec) -> ResolvedPim:
    """The tile's fixed parts.

    Activations of one rank are a tFAW window apart when they fill it, ranks interleave on the command bus one cycle
    apart; a row may close read-to-precharge after the start of the last step, one command a bank, and precharge must
    have ended when the next tile activates.
    """
    banks = unit.ranks * unit.bank_groups * unit.banks_per_group
    commands = banks // unit.activate_banks
    per_rank = max(1, commands // unit.ranks)
    opening = 1 + (per_rank - 1) * unit.n_faw + (min(unit.ranks, commands) - 1) + unit.n_rcd
    closing = max(0, unit.n_rtp - unit.step_cycles) + max(unit.precharge_commands, unit.n_rp)
    return ResolvedPim(
        freq_hz=unit.clock, channels=unit.channels, banks=banks, row_bytes=unit.row, lanes=unit.lanes, step=unit.step_cycles,
        min_steps=unit.min_steps, open_cycles=opening, close_cycles=closing, gwrite=unit.gwrite_cycles,
        refresh_cycles=unit.n_rfc, refresh_interval=unit.n_refi, by_head=unit.placement == "head",
    )


def score_tiles(tokens: Int64s, heads_kv: Int64s, group: Int64s, dim: Int64s, bits: Int64s, pim: ResolvedPim) -> Tiles:
    """q . K: tokens over banks, keys of neighbouring heads in one row; a key longer than a row is cut into pieces."""
    row_elements = pim.row_bytes * 8 // bits
    pieces = -(-dim // row_elements)
    heads_per_row = np.maximum(1, row_elements // dim)
    rows = pieces * -(-heads_kv // heads_per_row)
    piece = -(-dim // pieces)
    steps = np.maximum(-(-piece * bits // (pim.lanes * LANE_BITS)), pim.min_steps)
    token_tiles = -(-tokens // pim.banks)
    passes = token_tiles * heads_kv * pieces * group
    return Tiles(token_tiles * rows, passes * pim.step * (steps + 1), rows * group, passes * steps, rows)


def value_tiles(tokens: Int64s, heads_kv: Int64s, group: Int64s, dim: Int64s, bits: Int64s, pim: ResolvedPim) -> Tiles:
    """p . V: value dimensions over banks, tokens along a row."""
    row_elements = pim.row_bytes * 8 // bits
    chunks = -(-tokens // row_elements)
    per_step = pim.lanes * LANE_BITS // bits
    last = tokens - (chunks - 1) * row_elements
    steps = (chunks - 1) * np.maximum(row_elements // per_step, pim.min_steps) + np.maximum(-(-last // per_step), pim.min_steps)
    dim_tiles = -(-dim // pim.banks)
    return Tiles(heads_kv * chunks * dim_tiles, heads_kv * dim_tiles * group * pim.step * (steps + chunks), heads_kv * chunks * group,
                 heads_kv * dim_tiles * group * steps, heads_kv * chunks)


def tile_cycles(t: Tiles, pim: ResolvedPim) -> Int64s:
    """Cycles without refresh."""
    return t.tiles * (pim.open_cycles + pim.close_cycles) + t.passes_cycles + t.gwrites * pim.gwrite


def place(weights: Int64s, channels: int) -> Int64s:
    """Channel of each item: heaviest first, each to the least loaded channel (NeuPIMs, Algorithm 2)."""
    if weights.size and weights.min() == weights.max():
        return np.arange(weights.size) % channels
    load = np.zeros(channels)
    channel = np.empty(weights.size, np.int64)
    for item in np.argsort(-weights, kind="stable"):
        channel[item] = int(np.argmin(load))
        load[channel[item]] += weights[item]
    return channel


def cost(rows: Rows, pim: ResolvedPim, requests: Requests) -> Costs:
    """Costs of attention_score and attention_value rows: the fullest channel's cycles, stretched by refresh."""
    ledger = Ledger(rows.size)
    cycles, opening, refresh = np.zeros(rows.size), np.zeros(rows.size), np.zeros(rows.size)
    for kind, model in (("attention_score", score_tiles), ("attention_value", value_tiles)):
        of_kind = np.flatnonzero(rows.kind == CODE[kind])
        together = np.stack([rows.sub_batch, rows.batch, rows.heads_kv], axis=1)[of_kind]
        for group in np.unique(together, axis=0):
            index = of_kind[(together == group).all(axis=1)]
            r = rows.take(index)
            seen, channel = _items(r, pim, requests.prompt[requests.sub_batch == group[0]])
            heads_kv = np.ones_like(r.heads_kv) if pim.by_head else r.heads_kv
            dim = r.head_dim if kind == "attention_score" else r.value_dim
            heads, share, dims, bits = (c[:, None] for c in (heads_kv, r.heads_q // r.heads_kv, dim, BITS[r.kv_dtype]))
            tiles = model(seen, heads, share, dims, bits, pim)
            worst, open_share = _fullest_channel(tiles, channel, pim)
            cycles[index], opening[index] = worst, worst * open_share
            refresh[index] = worst * _refresh_stretch(tiles, pim)
            _count(ledger, index, tiles, r, pim)
    ideal = cycles - opening
    ledger.spend("ideal", ideal)
    ledger.spend("row", opening)
    ledger.spend("refresh", refresh)
    ledger.count("pim_mac", rows.macs)
    ledger.bind({"pim": cycles})
    return ledger.costs()


def _items(rows: Rows, pim: ResolvedPim, prompts: Int64s) -> tuple[Int64s, Int64s]:
    """Cached tokens [row, item] and the channel of each item. An item is a request, or one KV head of one.

    A kernel table has no requests: each row then stands for `batch` sequences of its own length.
    """
    heads = int(rows.heads_kv[0]) if pim.by_head else 1
    if prompts.size == 0:
        items = int(rows.batch[0]) * heads
        return np.repeat(rows.kv_len[:, None], items, axis=1), place(np.zeros(items, np.int64), pim.channels)
    seen = prompts[None, :] + rows.generated[:, None]
    seen = np.where(rows.window[:, None] > 0, np.minimum(seen, rows.window[:, None]), seen)
    return np.repeat(seen, heads, axis=1), place(np.repeat(prompts, heads), pim.channels)


def _fullest_channel(tiles: Tiles, channel: Int64s, pim: ResolvedPim) -> tuple[Int64s, Floats]:
    """Cycles of the busiest channel of each row, and the share of them that opens and closes rows."""
    cycles = tile_cycles(tiles, pim)
    load = np.zeros((cycles.shape[0], pim.channels), np.int64)
    for c in np.unique(channel):
        load[:, c] = cycles[:, channel == c].sum(axis=1)
    opening = (tiles.tiles * (pim.open_cycles + pim.close_cycles)).sum(axis=1) / np.maximum(cycles.sum(axis=1), 1)
    return load.max(axis=1), opening


def _refresh_stretch(tiles: Tiles, pim: ResolvedPim) -> Floats:
    """Extra time per useful cycle: no tile runs across a refresh, so what whole tiles leave over of an interval is lost.

    The vector loads of a chunk first fill what the tiles before have left over; what is left of them shares an interval with
    the first tiles. A tile longer than an interval takes as many whole ones as it needs.
    """
    columns = (tile_cycles(tiles, pim), tiles.tiles, tiles.chunks, tiles.gwrites)
    work, count, chunks, gwrites = (np.maximum(column.sum(axis=1), 1) for column in columns)
    period, each = (work - gwrites * pim.gwrite) / count, count / chunks
    usable = pim.refresh_interval - pim.refresh_cycles
    fitting = np.maximum(usable // period, 1)
    spans = np.maximum(np.ceil((period + pim.refresh_cycles) / pim.refresh_interval), 1)
    loads = np.maximum(gwrites * pim.gwrite / chunks - np.maximum(spans * usable - fitting * period, 0), 0)
    begun = loads % usable
    shared = np.minimum((usable - begun) // period, each) * (begun > 0)
    crowded = loads // usable + (begun > 0) + (each - shared) * spans / fitting
    packed = np.where(work / chunks <= usable, each / fitting, crowded)
    stretch: Floats = np.maximum(packed * chunks, work / usable) * pim.refresh_interval / work - 1
    return stretch


def _count(ledger: Ledger, index: Int64s, tiles: Tiles, rows: Rows, pim: ResolvedPim) -> None:
    step_bytes = pim.banks * pim.lanes * LANE_BITS // 8
    ledger.count("dram_activate_bytes", tiles.tiles.sum(axis=1) * pim.banks * pim.row_bytes, index)
    ledger.count("dram_array_bytes", tiles.steps.sum(axis=1) * step_bytes, index)
    ledger.count("pim_buffer_bytes", tiles.gwrites.sum(axis=1) * pim.row_bytes, index)
    for action in ("dram_move_bytes", "dram_tsv_bytes", "dram_io_bytes"):
        ledger.count(action, rows.input_bytes + rows.output_bytes, index)
