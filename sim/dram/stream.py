"""What long streams get from a memory: a share of the peak, from the command-level replay of its part."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..schema import Memory
from .part import load
from .replay import replay

REQUESTS = 40_000
"""Several refresh intervals of every bundled part."""
RANDOM_REQUESTS = 20_000


@lru_cache(maxsize=64)
def stream_share(part: str) -> float:
    """Bandwidth over peak of reads that walk through pseudochannels, bank groups, columns, banks, then rows, refresh included.

    The order in which weights and caches are laid out: neighbours lie in different bank groups, and a row is used up before it closes.
    """
    return _share(part, np.arange(REQUESTS))


@lru_cache(maxsize=256)
def random_share(part: str, run_bytes: int) -> float:
    """Bandwidth over peak, in bytes that are wanted, of reads of `run_bytes` in a row each at a random place of such a stream.

    A run takes whole bursts; its neighbours lie where those of a stream do, so it opens a row in every bank that it touches.
    """
    burst = load(part).request_bytes
    bursts = -(-run_bytes // burst)
    runs = -(-RANDOM_REQUESTS // bursts)
    start = np.random.default_rng(0).integers(0, 2**40, runs) // bursts * bursts
    return _share(part, (start[:, None] + np.arange(bursts)).reshape(-1)) * run_bytes / (bursts * burst)


def _share(part: str, place: NDArray[np.int64]) -> float:
    """Bandwidth over peak of reads at these places, burst by burst."""
    loaded = load(part)
    counts = dict(zip(("pc", "ra", "bg", "ba"), (int(n) for n in loaded.resolved.counts), strict=True))
    counts |= {"co": loaded.columns, "ro": loaded.rows}
    rest, requests = place, {"rw": np.zeros(place.size, np.int64)}
    for field in ("pc", "bg", "co", "ba", "ra", "ro"):
        rest, requests[field] = np.divmod(rest, counts[field])
    requests["ro"] %= loaded.rows
    done = replay(requests, loaded)
    return done.bandwidth_bytes_per_s / done.peak_bytes_per_s


def bytes_per_s(memory: Memory) -> float:
    """What the best long streams reach: the stated share of the peak, else that of the memory's part, else all of it."""
    if memory.sustained is not None:
        return memory.bandwidth * memory.sustained
    return memory.bandwidth * (stream_share(memory.part) if memory.part else 1.0)


def scattered(run_bytes: NDArray[np.int64], part: str | None) -> NDArray[np.float64]:
    """How many times longer than a stream reads take whose runs of so many bytes lie at random places; 1 where there are none (0).

    Without a part the memory's bursts are not known, and places cost nothing.
    """
    factor = np.ones(run_bytes.size)
    for size in np.unique(run_bytes[run_bytes > 0]).tolist() if part is not None else ():
        assert part is not None
        factor[run_bytes == size] = max(1.0, stream_share(part) / random_share(part, size))
    return factor
