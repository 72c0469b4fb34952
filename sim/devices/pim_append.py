"""New keys and values on their way into the rows where PIM wants them: rows opened, and time by a closed count.

Keys are whole rows of one bank. Values lie along the tokens, so one token's values are an element in each of as many rows as it has
values, over all banks (NeuPIMs' layouts; the closed count is ours). A prompt's values fill their rows together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gemvane.workloads.ops import BITS, Rows
from gemvane.workloads.trace import Requests

from ..costs import Int64s, Ledger
from ..dram.pimpart import PimPart
from .pim_channel import Key, engine_part
from .pim_place import place

ATTACC_SLICE_BYTES = 64
"""Guess: what a bank of AttAcc keeps of one key or value, a quarter of 128 elements of 16 bits."""


class Written(NamedTuple):
    """Rows that an append opens in a channel, requests written into each, and banks over which they lie."""

    rows: Int64s
    writes: Int64s
    banks: Int64s


def written(part: PimPart, tokens: Int64s, width: int, bits: int) -> tuple[Written, Written]:
    """Keys and values of `tokens` new tokens of a request, `width` elements of each a token."""
    row, request = part.row_bytes * 8 // bits, part.request_bytes * 8 // bits
    if part.pim.style == "attacc":
        pieces = -(-width * bits // (8 * ATTACC_SLICE_BYTES))
        writes = np.full_like(tokens, -(-ATTACC_SLICE_BYTES // part.request_bytes))
        slices = Written(tokens * pieces, writes, np.minimum(tokens * 4, part.banks))
        return slices, slices
    if part.pim.style == "hbm-pim":
        return _column_major(part, tokens, width)
    chunks = -(-width // row)
    keys = Written(tokens * chunks, np.full_like(tokens, -(-min(width, row) // request)), np.minimum(tokens, part.banks))
    filled = -(-tokens // row)
    values = Written(width * filled, -(-np.minimum(tokens, row) // request), np.full_like(tokens, min(width, part.banks)))
    return keys, values


def _column_major(part: PimPart, tokens: Int64s, width: int) -> tuple[Written, Written]:
    """HBM-PIM: a column is one dimension of a unit's tokens for keys, and one token's dimensions for values."""
    lanes, columns = part.pim.lanes, part.row_bytes // part.request_bytes
    units = part.banks // part.pim.banks_per_unit
    inputs, taken = columns // part.pim.accumulators, -(-tokens // lanes)
    spread = np.minimum(taken, units)
    rows = -(-width // inputs) * spread * -(-taken // (units * part.pim.accumulators))
    keys = Written(rows, -(-width * taken // rows), np.minimum(part.pim.banks_per_unit * spread, part.banks))
    pieces = -(-width // lanes)
    values = Written(pieces * -(-tokens // columns), np.minimum(tokens, columns), np.full_like(tokens, min(pieces, units)))
    return keys, values


def append_cycles(part: PimPart, w: Written) -> Int64s:
    """The most of: row cycles of a bank one after another, activation windows, and the data bus."""
    n = part.timings
    cycle = np.maximum(n["nRC"], n["nRCDWR"] + (w.writes - 1) * n["nCCDL"] + n["nCWL"] + n["nBL"] + n["nWR"] + n["nRP"])
    window = -(-w.rows * n["nFAW"] // (4 * part.ranks))
    longest: Int64s = np.maximum(np.maximum(-(-w.rows // w.banks) * cycle, window), w.rows * w.writes * n["nBL"])
    return longest


def cost(ledger: Ledger, index: Int64s, rows: Rows, key: Key, channels: int, requests: Requests, *, whole: bool) -> None:
    """Costs of kv_append rows: keys, then values of the fullest channel, with whole requests on channels by their work, or else all
    channels alike (heads or tokens of a request lie on many).

    Bytes are those of the new tokens; what is opened is counted by the row. Refresh is left out: appends are short.
    """
    part = engine_part(key)
    for i in range(rows.size):
        parts, of_channel = spread(rows.take(np.array([i])), key, channels, requests, whole=whole)
        mean, fullest = int(of_channel.sum()) // channels, int(of_channel.max())
        data = min(mean, int(sum((w.rows * w.writes).sum() for w in parts)) * part.timings["nBL"] // channels)
        at = index[i : i + 1]
        for cause, spent in (("memory", data), ("row", mean - data), ("imbalance", fullest - mean)):
            ledger.spend(cause, np.array([spent]), at)
        ledger.count("dram_activate_bytes", np.array([sum(int(w.rows.sum()) for w in parts) * part.row_bytes]), at)
    for action in ("dram_array_bytes", "dram_move_bytes", "dram_tsv_bytes", "dram_io_bytes"):
        ledger.count(action, rows.kv_write_bytes, index)
    ledger.count("sram_bytes", rows.input_bytes, index)


def spread(row: Rows, key: Key, channels: int, requests: Requests, *, whole: bool) -> tuple[tuple[Written, Written], Int64s]:
    """Keys and values that one kv_append row writes, and [channel] cycles that they take there."""
    part = engine_part(key)
    prompts = requests.prompt[requests.sub_batch == row.sub_batch[0]]
    if row.phase[0] == 1 or not prompts.size:
        prompts = np.ones(int(row.m[0]), np.int64)
    parts = written(part, prompts, -(-int(row.n[0]) // 2), int(BITS[row.kv_dtype[0]]))
    cycles = np.sum([append_cycles(part, w) for w in parts], axis=0)
    if not whole:
        each, more = divmod(int(cycles.sum()), channels)
        return parts, each + (np.arange(channels) < more).astype(np.int64)
    of_item = place("greedy", cycles, channels).channel
    return parts, np.bincount(of_item, cycles, channels).astype(np.int64)
