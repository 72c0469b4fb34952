"""Which PIM channel keeps what: policies by name."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..costs import Int64s

MOST_ITEMS = 64
"""Items up to which `balance` searches; beyond, it is greedy."""
MOST_NODES = 20_000
"""Partial placements that the exact search looks at before it leaves the greedy one as it is."""
ALG1_GWRITE, ALG1_GEMV = 100, 184
"""Cycles of a vector load and of a tile in NeuPIMs' estimate (casys-kaist/NeuPIMs f299af3, `_gwrite_latency` and `_gemv_latency`)."""


class Placed(NamedTuple):
    """Channel of each item, and whether no other placement has a smaller fullest channel."""

    channel: Int64s
    least: bool


def place(policy: str, weights: Int64s, channels: int) -> Placed:
    """Items on channels by `round-robin` (item i on channel i mod channels), `greedy` (heaviest first, each to the least loaded:
    NeuPIMs, Algorithm 2) or `balance` (the least possible maximum where the search proves one, else greedy; `least` says which).
    """
    channel = np.arange(weights.size) % channels if policy == "round-robin" else _greedy(weights, channels)
    bound = least_maximum(weights, channels)
    if _fullest(weights, channel, channels) <= bound:
        return Placed(channel, True)
    if policy == "balance" and weights.size <= MOST_ITEMS:
        return _search(weights, channels, channel, bound)
    return Placed(channel, False)


def least_maximum(weights: Int64s, channels: int) -> int:
    """No placement's fullest channel is below this: the mean, the heaviest item, or two that must share (items outnumber channels)."""
    if not weights.size:
        return 0
    heavy = np.sort(weights)[::-1]
    pair = int(heavy[channels - 1] + heavy[channels]) if weights.size > channels else 0
    return max(int(-(-weights.sum() // channels)), int(heavy[0]), pair)


def alg1_weights(tokens: Int64s, heads: int, dim: int, row_elements: int, banks: int) -> Int64s:
    """NeuPIMs' estimate of the cycles of each request (Algorithm 1): a constant for a vector load, one for a tile of either kind."""
    keys = -(-heads * dim // row_elements) * (ALG1_GWRITE + ALG1_GEMV * -(-tokens // banks))
    values: Int64s = -(-tokens // row_elements) * heads * (ALG1_GWRITE + ALG1_GEMV * -(-dim // banks))
    return keys + values


def split_tokens(tokens: Int64s, unit: int, channels: int) -> Int64s:
    """[request, channel] tokens: pieces of `unit` tokens dealt out in turn, each request where the one before it ended."""
    pieces = -(-tokens // unit)
    start = np.cumsum(pieces) - pieces
    turn = (np.arange(channels)[None, :] - start[:, None]) % channels
    held = pieces[:, None] // channels + (turn < pieces[:, None] % channels)
    last = turn == (pieces[:, None] - 1) % channels
    out: Int64s = held * unit - last * (pieces * unit - tokens)[:, None]
    return out


def _fullest(weights: Int64s, channel: Int64s, channels: int) -> int:
    return int(np.bincount(channel, weights, channels).max(initial=0))


def _greedy(weights: Int64s, channels: int) -> Int64s:
    if weights.size and weights.min() == weights.max():
        return np.arange(weights.size) % channels
    load = np.zeros(channels, np.int64)
    channel = np.empty(weights.size, np.int64)
    for item in np.argsort(-weights, kind="stable").tolist():
        channel[item] = least = int(np.argmin(load))
        load[least] += weights[item]
    return channel


class _Search:
    """Branch and bound, heaviest item first, over channels whose load differs, emptiest first."""

    def __init__(self, heavy: list[int], channels: int, fullest: int, bound: int) -> None:
        self._heavy, self._bound = heavy, bound
        self._load, self._chosen = [0] * channels, [0] * len(heavy)
        self.best: list[int] | None = None
        self.fullest, self.nodes = fullest, 0

    @property
    def over(self) -> bool:
        return self.fullest <= self._bound or self.nodes >= MOST_NODES

    def visit(self, depth: int) -> None:
        """Place item `depth` and all after it, unless a channel would get as full as the fullest of the best placement so far."""
        if depth == len(self._heavy):
            self.best, self.fullest = self._chosen.copy(), max(self._load)
            return
        weight = self._heavy[depth]
        for load, channel in sorted({load: channel for channel, load in enumerate(self._load)}.items()):
            if self.over or load + weight >= self.fullest:
                return
            self.nodes += 1
            self._load[channel] += weight
            self._chosen[depth] = channel
            self.visit(depth + 1)
            self._load[channel] -= weight


def _search(weights: Int64s, channels: int, known: Int64s, bound: int) -> Placed:
    """The least fullest channel, or the known placement where MOST_NODES do not find one that is less."""
    order = np.argsort(-weights, kind="stable")
    search = _Search(weights[order].tolist(), channels, _fullest(weights, known, channels), bound)
    search.visit(0)
    channel = known.copy()
    if search.best is not None:
        channel[order] = search.best
    return Placed(channel, search.fullest <= bound or search.nodes < MOST_NODES)
