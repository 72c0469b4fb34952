"""Processing in memory: attention over the cache, and matrices times few vectors, in time of the command-level engine.

A channel does the scores (or the values) of its requests one after another; the fullest channel decides. Softmax runs on the vector
unit, but in AttAcc's stacks, which have one of their own. Keys, values and vectors are taken to have the type of the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gemvane.workloads.ops import BITS, CODE, DTYPES, Rows
from gemvane.workloads.trace import Requests

from ..costs import CAUSES, Costs, Int64s, Ledger
from ..pimschema import Pim
from ..schema import Gpu, HardwareSpec, Vector
from . import pim_append
from .pim_channel import COUNTS, NOTHING, Channel, Key, Load, Shape, Stack, channel, engine_part, key_of, softmax_outside, step_ticks, units
from .pim_place import Placed, alg1_weights, place, split_tokens

ALIKE = ("kind", "sub_batch", "batch", "cross", "m", "k", "heads_q", "heads_kv", "head_dim", "value_dim", "kv_dtype")
"""Columns in which rows agree that differ only in the length of the cache (and matrices in their outputs)."""


MOST_VECTORS = 16
"""Vectors of a matmul that meet a row while it is open; what has more reads its weights again (a choice of ours, not a limit of a part)."""


class ResolvedPim(NamedTuple):
    """One PIM memory. Times are cycles of its command clock."""

    name: str
    freq_hz: int
    channels: int
    key: Key
    placement: str
    by_head: bool
    operands: dict[str, float]
    peak_macs_per_cycle: float
    """Of all channels, in operands of 16 bits."""
    adds_per_cycle: float
    """Of the unit that adds the partial results of channels."""

    @property
    def whole_requests(self) -> bool:
        """Whether a request lies in one channel with all its heads and tokens."""
        return not self.by_head and self.placement != "split"


def resolve(name: str, unit: Pim, hardware: HardwareSpec) -> ResolvedPim:
    """ValueError naming the unit's field for a part without PIM commands, or one that has not what the unit asks of it."""
    key = key_of(unit)
    where = f"{hardware.name}: units.{name}"
    try:
        part = engine_part(key)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    freq_hz = round(10**12 / part.tick_ps)
    adds = [u.num_lanes * u.clock for u in hardware.units.values() if isinstance(u, Vector)]
    adds += [u.vector_peak // 2 for u in hardware.units.values() if isinstance(u, Gpu)]
    return ResolvedPim(
        where, freq_hz, unit.channels, key, unit.placement, unit.whole == "head", {str(k): v for k, v in unit.operands.items()},
        unit.channels * units(key) * part.pim.lanes / step_ticks(key), max(adds, default=freq_hz) / freq_hz,
    )  # fmt: skip


def cost(rows: Rows, pim: ResolvedPim, requests: Requests) -> Costs:
    """Costs of attention over the cache, of matmuls and of appends to the cache: the mean of the channels by cause, and `imbalance`
    up to the fullest. ValueError for a type of the cache that the lanes do not take.
    """
    ledger = Ledger(rows.size)
    columns = np.stack([getattr(rows, name) for name in ALIKE])
    matmul, append = rows.work == 0, rows.kind == CODE["kv_append"]
    prefill = rows.kind == CODE["attention_prefill"]
    for index in _alike(columns, np.flatnonzero(~matmul & ~append & ~prefill)):
        _attention(ledger, index, rows.take(index), pim, requests)
    for row in np.flatnonzero(prefill).tolist():
        _prefill(ledger, row, rows.take(np.array([row])), pim, requests)
    for row in np.flatnonzero(matmul).tolist():
        _matmul(ledger, row, rows.take(np.array([row])), pim)
    if append.any():
        index = np.flatnonzero(append)
        pim_append.cost(ledger, index, rows.take(index), pim.key, pim.channels, requests, whole=pim.whole_requests)
    ledger.count("vector_op", rows.vector_ops)
    ledger.count("pim_mac", rows.macs)
    ledger.bind({"pim": ledger.cycles.sum(axis=1)})
    return ledger.costs()


def packing(pim: ResolvedPim, dtype: int) -> tuple[float, float]:
    """Elements of a type in the place of one of 16 bits, and a lane's multiply-adds in a step. ValueError where it does not take it."""
    name = DTYPES[dtype]
    if name not in pim.operands:
        raise ValueError(f"{pim.name}: operands has no {name}, the type of what it should multiply. "
                         f"Use --kv-dtype {' or '.join(pim.operands)}.")
    return 16 / float(BITS[dtype]), pim.operands[name]


def _alike(columns: Int64s, index: Int64s) -> list[Int64s]:
    if not index.size:
        return []
    _, group = np.unique(columns[:, index], axis=1, return_inverse=True)
    group = group.reshape(-1)
    return [index[group == number] for number in range(int(group.max()) + 1)]


class _Held(NamedTuple):
    """Attention rows alike but for the lengths: what solves them, and the tokens of the items of each channel."""

    one: Channel | Stack
    items: list[list[tuple[int, ...]]]
    """[row][channel], longest first"""
    merged: Int64s
    """[row] additions of the partial results of channels."""
    least: bool


def _attention(ledger: Ledger, index: Int64s, rows: Rows, pim: ResolvedPim, requests: Requests) -> None:
    """Rows alike but for the lengths: steps between which no item grows into new work are solved once."""
    held = _held(rows, pim, requests)
    known: dict[tuple[tuple[int, ...], ...], tuple[Int64s, Int64s]] = {}
    for row, of_row in zip(index, held.items, strict=True):
        loads = tuple(of_row)
        if loads not in known:
            known[loads] = _together([held.one.load(items) for items in loads])
        causes, counts = known[loads]
        ledger.cycles[row] += causes
        _count(ledger, row, counts)
    _ideal(ledger, index, rows.macs, pim, packing(pim, int(rows.kv_dtype[0]))[1])
    ledger.spend("vector", held.merged / pim.adds_per_cycle, index)
    ledger.count("vector_op", held.merged, index)
    _outside(ledger, index, rows, pim)


def _held(rows: Rows, pim: ResolvedPim, requests: Requests) -> _Held:
    kind = next(name for name, code in CODE.items() if code == rows.kind[0])
    one = channel(pim.key, _shape(kind, rows, pim))
    seen, prompts = _seen(rows, requests)
    merged = np.zeros(rows.size, np.int64)
    least = True
    if pim.placement == "split":
        seen = -np.sort(-seen, axis=1)
        parts = [split_tokens(tokens, engine_part(pim.key).banks, pim.channels) for tokens in seen]
        if kind != "attention_score":
            partial = np.array([int(((tokens > 0).sum(axis=1) - 1).sum()) for tokens in parts])
            merged = partial * rows.heads_q * rows.value_dim
        lists = [[of_channel[of_channel > 0] for of_channel in _whole(tokens, one.granule).T] for tokens in parts]
    else:
        placed = _placed(rows, pim, prompts)
        least = placed.least
        items = _whole(np.repeat(seen, rows.heads_kv[0], axis=1) if pim.by_head else seen, one.granule)
        where = [np.flatnonzero(placed.channel == c) for c in range(pim.channels)]
        lists = [[tokens[of_channel] for of_channel in where] for tokens in items]
    return _Held(one, [[tuple(sorted(tokens.tolist(), reverse=True)) for tokens in of_row] for of_row in lists], merged, least)


def channel_cycles(rows: Rows, pim: ResolvedPim, requests: Requests) -> tuple[Int64s, bool]:
    """[row, channel] cycles of each channel, and whether no placement of the cache has a smaller fullest channel."""
    out = np.zeros((rows.size, pim.channels), np.int64)
    least = True
    columns = np.stack([getattr(rows, name) for name in ALIKE])
    cached = np.isin(rows.kind, [CODE[kind] for kind in ("attention_score", "attention_value", "attention_decode")])
    for index in _alike(columns, np.flatnonzero(cached)):
        held = _held(rows.take(index), pim, requests)
        out[index] = [[held.one.load(items).cycles for items in of_row] for of_row in held.items]
        least &= held.least
    for row in np.flatnonzero(~cached).tolist():
        one = rows.take(np.array([row]))
        if one.work[0] == 0:
            out[row] = sum(passes * np.array([load.cycles for load in loads]) for loads, passes in _matmul_loads(one, pim))
        elif one.kind[0] == CODE["attention_prefill"]:
            out[row] = [load.cycles for load in _prefill_loads(one, pim, requests)]
        else:
            out[row] = pim_append.spread(one, pim.key, pim.channels, requests, whole=pim.whole_requests)[1]
    return out, least


def _prefill(ledger: Ledger, row: int, rows: Rows, pim: ResolvedPim, requests: Requests) -> None:
    """Prompts token by token, as CENT's: each token's attention over what it sees of the cache, with its softmax between."""
    causes, counts = _together(_prefill_loads(rows, pim, requests))
    index = np.array([row])
    ledger.cycles[row] += causes
    _count(ledger, row, counts)
    _ideal(ledger, index, rows.macs, pim, packing(pim, int(rows.kv_dtype[0]))[1])
    if softmax_outside(pim.key):
        ledger.spend("vector", rows.vector_ops / pim.adds_per_cycle, index)
    _outside(ledger, index, rows, pim)


def _prefill_loads(rows: Rows, pim: ResolvedPim, requests: Requests) -> list[Load]:
    """What each channel does for one row."""
    prompts = requests.prompt[requests.sub_batch == rows.sub_batch[0]]
    if prompts.sum() != rows.m[0] or prompts.max() != rows.q_len[0]:
        # A kernel table, an encoder beside the decoder, or windows that see themselves alone.
        prompts = np.repeat(rows.q_len, int(rows.batch[0]))
    window = int(rows.window[0]) or int(prompts.max())
    causal = int(rows.pairs[0]) < int((prompts * np.minimum(prompts, window)).sum())
    kinds = ("attention_score", "attention_value") if softmax_outside(pim.key) else ("attention_decode",)
    solvers = [channel(pim.key, _shape(kind, rows, pim)) for kind in kinds]
    of_length: dict[int, Load] = {}
    for prompt in set(prompts.tolist()):
        seen = np.minimum(np.arange(1, prompt + 1) if causal else np.full(prompt, prompt), window)
        seen = np.full(prompt, rows.kv_len[0]) if rows.cross[0] else seen
        of_length[prompt] = _sum([one.load((int(tokens),)).times(int(times)) for one in solvers
                                  for tokens, times in zip(*np.unique(_whole(seen, one.granule), return_counts=True), strict=True)])
    items = [of_length[n] for n in np.repeat(prompts, int(rows.heads_kv[0]) if pim.by_head else 1).tolist()]
    of_item = place("greedy", np.array([item.cycles for item in items]), pim.channels).channel
    return [_sum([items[i] for i in np.flatnonzero(of_item == c)]) for c in range(pim.channels)]


def _shape(kind: str, rows: Rows, pim: ResolvedPim) -> Shape:
    heads_kv = max(1, int(rows.heads_kv[0]))
    dim = int(rows.value_dim[0] if kind == "attention_value" else rows.head_dim[0])
    queries = int(rows.heads_q[0]) // heads_kv * (1 if rows.kind[0] == CODE["attention_prefill"] else max(1, int(rows.q_len[0])))
    return Shape(kind, 1 if pim.by_head else heads_kv, queries, dim, *packing(pim, int(rows.kv_dtype[0])))


def _whole(tokens: Int64s, granule: int) -> Int64s:
    """Rounded up to where the work grows."""
    whole: Int64s = -(-tokens // granule) * granule
    return whole


def _seen(rows: Rows, requests: Requests) -> tuple[Int64s, Int64s]:
    """Cached tokens [row, request] that the step's queries see, and the prompt of each request.

    A kernel table has no requests: each row then stands for `batch` sequences of its own length.
    """
    prompts = requests.prompt[requests.sub_batch == rows.sub_batch[0]]
    if prompts.size == 0 or rows.cross[0]:
        # Cross-attention reads what an encoder made of each request, which does not grow; of unequal lengths the longest stands for all.
        count = int(rows.batch[0])
        return np.repeat(rows.kv_len[:, None], count, axis=1), np.repeat(rows.kv_len[0], count)
    seen = prompts[None, :] + rows.generated[:, None]
    return np.where(rows.window[:, None] > 0, np.minimum(seen, rows.window[:, None]), seen), prompts


def _placed(rows: Rows, pim: ResolvedPim, prompts: Int64s) -> Placed:
    """The channel of each request, or of each KV head of each request, for the whole run: weighed by its prompt's scores and values."""
    heads = int(rows.heads_kv[0]) if pim.by_head else 1
    if pim.placement == "round-robin":
        return place("round-robin", np.repeat(prompts, heads), pim.channels)
    lengths, which = np.unique(prompts, return_inverse=True)
    if pim.placement == "neupims-alg1":
        part = engine_part(pim.key)
        each = alg1_weights(lengths, int(rows.heads_kv[0]) // heads, int(rows.head_dim[0]), part.row_bytes // part.pim.element, part.banks)
    else:
        kinds = ("attention_decode",) if rows.kind[0] == CODE["attention_decode"] else ("attention_score", "attention_value")
        kinds = kinds if rows.value_dim[0] else ("attention_score",)  # scores that pick what attention reads have no values
        solvers = [channel(pim.key, _shape(kind, rows, pim)) for kind in kinds]
        each = np.array([sum(one.load((int(_whole(n, one.granule)),)).cycles for one in solvers) for n in lengths])
    order = np.argsort(-prompts, kind="stable")  # requests alike in weight but not in length: the same whatever their order
    placed = place("balance" if pim.placement == "balance" else "greedy", np.repeat(each[which][order], heads), pim.channels)
    of_item = np.empty((prompts.size, heads), np.int64)
    of_item[order] = placed.channel.reshape(-1, heads)
    return placed._replace(channel=of_item.reshape(-1))


def _sum(loads: list[Load]) -> Load:
    """Loads one after another."""
    causes = sum((load.causes for load in loads), NOTHING.causes)
    return Load(sum(load.cycles for load in loads), causes, sum((load.counts for load in loads), NOTHING.counts))


def _together(loads: list[Load]) -> tuple[Int64s, Int64s]:
    """Cycles by cause: means of the channels rounded down, and the rest up to the fullest as `imbalance`; counts of all channels."""
    causes: Int64s = np.sum([load.causes for load in loads], axis=0) // len(loads)
    causes[CAUSES.index("imbalance")] += max(load.cycles for load in loads) - causes.sum()
    counts: Int64s = np.sum([load.counts for load in loads], axis=0)
    return causes, counts


def _ideal(ledger: Ledger, index: Int64s, macs: Int64s, pim: ResolvedPim, packed: float) -> None:
    """Of the cycles of dot products, those that their multiply-adds take at peak."""
    at_peak = np.floor(macs / (pim.peak_macs_per_cycle * packed)).astype(np.int64)
    edge = ledger.cycles[index, CAUSES.index("edge")]
    ideal = np.minimum(at_peak, edge)
    ledger.cycles[index, CAUSES.index("ideal")] += ideal
    ledger.cycles[index, CAUSES.index("edge")] -= ideal


def _count(ledger: Ledger, row: int, counts: Int64s) -> None:
    of = dict(zip(COUNTS, counts, strict=True))
    names = {"activate_bytes": "dram_activate_bytes", "array_bytes": "dram_array_bytes", "buffer_bytes": "pim_buffer_bytes",
             "move_bytes": "dram_move_bytes", "tsv_bytes": "dram_tsv_bytes", "io_bytes": "dram_io_bytes"}
    for name, action in names.items():
        ledger.count(action, of[name], np.array([row]))


def _outside(ledger: Ledger, index: Int64s, rows: Rows, pim: ResolvedPim) -> None:
    """What passes the pins beside the commands: Newton's vectors, written into a row first; AttAcc's queries and outputs."""
    style = engine_part(pim.key).pim.style
    if style == "newton":
        for action in ("dram_move_bytes", "dram_tsv_bytes", "dram_io_bytes"):
            ledger.count(action, rows.input_bytes, index)
    elif style == "attacc":
        ledger.count("dram_io_bytes", rows.input_bytes + rows.output_bytes, index)


def _matmul(ledger: Ledger, row: int, rows: Rows, pim: ResolvedPim) -> None:
    """Weights with their outputs divided over the channels, which open their rows for MOST_VECTORS vectors at a time."""
    for loads, passes in _matmul_loads(rows, pim):
        causes, counts = _together(loads)
        ledger.cycles[row] += causes * passes
        _count(ledger, row, counts * passes)
    index = np.array([row])
    _ideal(ledger, index, rows.macs, pim, _matmul_packing(rows, pim)[1])
    _outside(ledger, index, rows, pim)


def _matmul_packing(rows: Rows, pim: ResolvedPim) -> tuple[float, float]:
    return packing(pim, int(rows.weight_dtype[0] if rows.weight_bytes[0] else rows.act_dtype[0]))


def _matmul_loads(rows: Rows, pim: ResolvedPim) -> Iterator[tuple[list[Load], int]]:
    """What each channel does for one row, and how often."""
    m, n, products = int(rows.m[0]), int(rows.n[0]), int(rows.batch[0])
    if rows.kind[0] == CODE["grouped_gemm"]:
        m = -(-m // products)
    packed = _matmul_packing(rows, pim)
    shares = np.array([n // pim.channels + (c < n % pim.channels) for c in range(pim.channels)])
    for vectors, passes in ((MOST_VECTORS, m // MOST_VECTORS), (m % MOST_VECTORS, 1)):
        if vectors and passes:
            one = channel(pim.key, Shape("matmul", 1, vectors, int(rows.k[0]), *packed))
            yield [one.load((share,) * products if share else ()) for share in _whole(shares, one.granule).tolist()], passes
