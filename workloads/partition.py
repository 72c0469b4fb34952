"""Which request goes to which sub-batch, by named policies."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .ops import Int64s

Bins = Int64s
"""[request] number of the bin that it goes to."""


def lightest_first(weights: Int64s, bins: int) -> Bins:
    """The heaviest first, each to the bin that is lightest so far, the first of those (LPT; NeuPIMs, ASPLOS'24, Algorithm 2)."""
    load = np.zeros(bins, np.int64)
    out = np.empty(weights.size, np.int64)
    for item in np.argsort(-weights, kind="stable").tolist():
        out[item] = int(np.argmin(load))
        load[out[item]] += weights[item]
    return out


def dealt(lengths: Int64s, parts: int, channels: int = 1) -> Bins:
    """The longest first, to one part after the other: neighbours in length go to different parts, and counts are equal."""
    out = np.empty(lengths.size, np.int64)
    out[np.argsort(-lengths, kind="stable")] = np.arange(lengths.size) % parts
    return out


def halves(lengths: Int64s, parts: int, channels: int = 1) -> Bins:
    """Each channel's list of requests is cut into equal pieces; odd ones go to the parts in turn, channel after channel.

    NeuPIMs, ASPLOS'24, Algorithm 3, for any number of parts. Channels are filled greedily; their lists are in the requests' own order.
    """
    channel = lightest_first(lengths, channels)
    out = np.empty(lengths.size, np.int64)
    turn = 0
    for c in range(channels):
        held = np.flatnonzero(channel == c)
        count, odd = divmod(held.size, parts)
        sizes = count + ((np.arange(parts) - turn) % parts < odd)
        out[held] = np.repeat(np.arange(parts), sizes)
        turn = (turn + odd) % parts
    return out


def greedy(lengths: Int64s, parts: int, channels: int = 1) -> Bins:
    """The longest first, each to the part with the fewest tokens."""
    return lightest_first(lengths, parts)


def balanced(lengths: Int64s, parts: int, channels: int = 1) -> Bins:
    """Two parts whose tokens, and so whose attention work, differ as little as they can; more parts: as `greedy`.

    Of neighbours in length one goes to either part if some choice of sides does as well as any partition: counts are then equal.
    """
    if parts != 2:
        return greedy(lengths, parts)
    order = np.argsort(-lengths, kind="stable")
    longer, shorter = order[0::2], order[1::2]
    gaps = lengths[longer].copy()
    gaps[: shorter.size] -= lengths[shorter]
    swapped = nearest_half(gaps)
    out = np.empty(lengths.size, np.int64)
    out[longer] = swapped
    out[shorter] = ~swapped[: shorter.size]
    difference = abs(int(gaps.sum()) - 2 * int(gaps[swapped].sum()))
    if difference > 1:
        out[order] = ~nearest_half(lengths[order])
    return out


def nearest_half(weights: Int64s) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """A subset whose sum comes nearest to half of the whole from below: exact, by every sum that is reached (O(items x sum))."""
    half = int(weights.sum()) // 2
    by = np.full(half + 1, -1, np.int64)
    by[0] = weights.size
    for item, weight in enumerate(weights.tolist()):
        if 0 < weight <= half:
            fresh = np.flatnonzero((by[weight:] < 0) & (by[: half + 1 - weight] >= 0)) + weight
            by[fresh] = item
    chosen = np.zeros(weights.size, np.bool_)
    rest = int(np.flatnonzero(by >= 0)[-1])
    while rest:
        chosen[by[rest]] = True
        rest -= int(weights[by[rest]])
    return chosen


PARTITIONS: dict[str, Callable[[Int64s, int, int], Bins]] = {"dealt": dealt, "halves": halves, "greedy": greedy, "balanced": balanced}
"""By the name in the schedule of a hardware file: lengths, parts, channels -> part of each request."""
